//! Logins of browsers, the part that asks the authorization server: what it says of itself, and codes for tokens
//! (RFC 6749 section 4.1.3).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use serde_json::{Map, Value};
use url::Url;

use super::discovery::{self, Metadata};
use super::fetch::{Client, ClientId, FetchError, FetchErrorKind, NamedBy};
use super::keys::{jittered, spawn};
use crate::base::Secret;
use crate::config::is_loopback;
use crate::config::plan::{AuthPlan, IssuerPlan, LoginPlan};
use crate::identity::{AuthorizationServer, CodeExchange, LoginBoard, LoginError, Logins, Standing, Tokens};

/// Codes that are on their way at a time.
const THREADS: usize = 4;
/// States that are remembered as used. Beyond, logins wait until some are too old to be used again.
const USED_MAX: usize = 100_000;
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Start the threads; `None`: browsers do not log in here. They end when the result is gone.
///
/// # Errors
/// `auth.ca_path` cannot be used, there is no thread to be had, or the system has no random bytes.
pub fn start(plan: &AuthPlan) -> Result<Option<Logins>, String> {
    let (Some(login), Some(issuer)) = (&plan.login, plan.issuers.first()) else { return Ok(None) };
    let (logins, desk) = Logins::new()?;
    let client = Client::new(plan.ca_path.as_deref())?;
    let office = Arc::new(Office {
        login: login.clone(),
        issuer: issuer.clone(),
        resource: plan.resource.clone(),
        client,
        board: desk.board,
        token_endpoint: Mutex::default(),
        used: Mutex::default(),
    });
    // Nothing is ever sent: the threads that exchange hold the other end, so that the one that discovers ends with them.
    let (alive, ended) = bounded::<()>(0);
    let refresh = plan.keys_refresh;
    let discovering = office.clone();
    spawn("login", move || discovering.keep_discovering(refresh, &ended))?;
    for at in 0..THREADS {
        let (office, exchanges, alive) = (office.clone(), desk.exchanges.clone(), alive.clone());
        spawn(&format!("login-{at}"), move || {
            exchanges.iter().for_each(|exchange| office.answer(exchange));
            drop(alive);
        })?;
    }
    Ok(Some(logins))
}

struct Office {
    login: LoginPlan,
    issuer: IssuerPlan,
    resource: Option<String>,
    client: Client,
    board: Arc<LoginBoard>,
    /// Of the latest discovery.
    token_endpoint: Mutex<Option<(String, NamedBy)>>,
    /// States that came back, and until when they must be remembered (unix seconds).
    used: Mutex<HashMap<String, u64>>,
}

// --- where browsers are sent -----------------------------------------------------------------------------------------

impl Office {
    fn keep_discovering(&self, refresh: Duration, ended: &Receiver<()>) {
        let mut failures = 0;
        let mut known = false;
        loop {
            let wait = match self.discover() {
                Ok(()) => {
                    (failures, known) = (0, true);
                    refresh
                }
                Err(why) => {
                    // Some have none, and the configuration says in full what it would.
                    if failures == 0 {
                        tracing::warn!(why, known, "the metadata of the authorization server could not be fetched");
                    }
                    let wait = RETRY_MIN.saturating_mul(1 << failures.min(16)).min(RETRY_MAX);
                    failures += 1;
                    wait
                }
            };
            if ended.recv_timeout(jittered(wait)) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// Fetch and publish. What the configuration says in full is published without it.
    fn discover(&self) -> Result<(), String> {
        let fetched = match (&self.issuer.issuer, self.origin()) {
            (Some(issuer), _) => discovery::of_issuer(&self.client, issuer),
            (None, Some(origin)) => discovery::of_origin(&self.client, &origin),
            (None, None) => Err("neither an issuer nor a URL of it".into()),
        };
        if let Ok(metadata) = &fetched
            && self.login.pkce_required
            && !metadata.has_proof_keys
        {
            tracing::error!("the authorization server does not name S256: nobody can log in (auth.pkce_required)");
            self.board.publish(Standing::NoProofKeys);
            return Ok(());
        }
        let in_full = self.login.auth_url.is_some() && self.login.token_url.is_some();
        if let Err(why) = &fetched {
            let never_known = self.token_endpoint().is_none();
            // Metadata that was had once is better than none.
            if !in_full || !never_known {
                return Err(why.clone());
            }
        }
        let server = self.server(fetched.as_ref().ok())?;
        self.board.publish(Standing::Known(server));
        fetched.map(drop)
    }

    fn server(&self, metadata: Option<&Metadata>) -> Result<AuthorizationServer, String> {
        let login = &self.login;
        let named = metadata.map(|metadata| metadata.issuer.as_str()).or(self.issuer.issuer.as_deref());
        let discovered = |pick: fn(&Metadata) -> &Option<String>| metadata.and_then(|metadata| pick(metadata).clone());
        let token = match (&login.token_url, discovered(|metadata| &metadata.token_endpoint)) {
            (Some(url), _) => (url.clone(), NamedBy::Configuration),
            (None, Some(url)) => {
                let by = discovery::named_by(named.unwrap_or_default(), &url);
                (url, by)
            }
            (None, None) => return Err("its metadata names no token_endpoint".into()),
        };
        let authorization_url = match &login.auth_url {
            Some(url) => url.clone(),
            None => discovered(|metadata| &metadata.authorization_endpoint)
                .filter(|url| is_for_browsers(url))
                .ok_or("its metadata names no authorization_endpoint that is https")?,
        };
        *self.token_endpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(AuthorizationServer {
            issuer: named.map(Arc::from),
            authorization_url,
            end_session_url: discovered(|metadata| &metadata.end_session_endpoint).filter(|url| is_for_browsers(url)),
            sends_iss: metadata.is_some_and(|metadata| metadata.sends_iss),
            is_openid: metadata.is_some_and(|metadata| metadata.is_openid),
        })
    }

    /// Where an issuer without a name keeps its metadata.
    fn origin(&self) -> Option<String> {
        let urls = [&self.issuer.jwks_url, &self.issuer.introspection_url, &self.login.token_url, &self.login.auth_url];
        let url = Url::parse(urls.into_iter().flatten().next()?).ok()?;
        Some(url.origin().ascii_serialization())
    }

    fn token_endpoint(&self) -> Option<(String, NamedBy)> {
        self.token_endpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A browser may be sent there with what is ours.
fn is_for_browsers(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback(&url),
        _ => false,
    })
}

// --- codes -----------------------------------------------------------------------------------------------------------

impl Office {
    fn answer(&self, exchange: CodeExchange) {
        if exchange.answer.is_canceled() {
            return;
        }
        let CodeExchange { code, verifier, state, expires, answer } = exchange;
        let tokens = self.use_up(state, expires, unix_now()).and_then(|()| self.redeem(&code, &verifier));
        // The browser may be gone.
        let _ = answer.send(tokens);
    }

    /// A state counts once, whatever becomes of the login.
    fn use_up(&self, state: String, expires: u64, now: u64) -> Result<(), LoginError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains_key(&state) {
            return Err(LoginError::Replayed);
        }
        if used.len() >= USED_MAX {
            used.retain(|_, expires| *expires >= now);
        }
        if used.len() >= USED_MAX {
            return Err(LoginError::Busy);
        }
        used.insert(state, expires);
        Ok(())
    }

    fn redeem(&self, code: &Secret, verifier: &Secret) -> Result<Tokens, LoginError> {
        let (url, by) = self.token_endpoint().ok_or(LoginError::Unavailable)?;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", &self.login.redirect_uri),
            ("code_verifier", verifier.expose()),
        ];
        if let Some(resource) = &self.resource {
            form.push(("resource", resource));
        }
        let us = ClientId { id: self.login.client_id.clone(), secret: self.login.client_secret.clone() };
        let post = || self.client.post(&url, by, Some(&us), &form);
        // A connection that was kept may have been closed meanwhile. If the code did arrive, it is refused the second time.
        let again = |error: FetchError| if error.kind == FetchErrorKind::Broken { post() } else { Err(error) };
        let answer = post().or_else(again).map_err(|error| {
            tracing::warn!(%error, "a code could not be exchanged");
            match error.kind {
                FetchErrorKind::Status(400) => LoginError::Code,
                FetchErrorKind::Status(500..) | FetchErrorKind::Broken | FetchErrorKind::Failed => {
                    LoginError::Unavailable
                }
                FetchErrorKind::Status(_) | FetchErrorKind::Refused => LoginError::TokenEndpoint,
            }
        })?;
        read(&answer).map_err(|why| {
            tracing::warn!(why, "the token endpoint answered something else than RFC 6749 has");
            LoginError::TokenEndpoint
        })
    }
}

/// The answer of RFC 6749 section 5.1.
fn read(text: &[u8]) -> Result<Tokens, &'static str> {
    let answer: Map<String, Value> = serde_json::from_slice(text).map_err(|_| "no JSON object")?;
    let string = |name: &str| match answer.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err("a value is no text"),
    };
    if !string("token_type")?.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err("no bearer token");
    }
    let access_token = string("access_token")?.filter(|token| !token.is_empty()).ok_or("no access_token")?;
    let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(Box::from).collect();
    let expires_in = match answer.get("expires_in") {
        // Some servers write it as text.
        Some(Value::String(text)) => Some(text.parse().map_err(|_| "its expires_in is no number")?),
        Some(Value::Number(number)) => Some(number.as_u64().ok_or("its expires_in is no number")?),
        _ => None,
    };
    Ok(Tokens {
        access_token: Secret::new(access_token),
        id_token: string("id_token")?.map(Secret::new),
        scopes: string("scope")?.map(words),
        expires_in,
    })
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_token_endpoints_are_read() {
        let tokens = read(
            br#"{"access_token":"a","token_type":"Bearer","id_token":"i","scope":"openid  read","expires_in":"60"}"#,
        )
        .unwrap();
        assert_eq!((tokens.access_token.expose(), tokens.expires_in), ("a", Some(60)));
        assert_eq!(tokens.id_token.unwrap().expose(), "i");
        assert_eq!(tokens.scopes.unwrap(), ["openid".into(), "read".into()]);
        let least = read(br#"{"access_token":"a","token_type":"bearer"}"#).unwrap();
        assert!(least.id_token.is_none() && least.scopes.is_none() && least.expires_in.is_none());
        for bad in [
            "[]",
            "{}",
            r#"{"access_token":"a"}"#,
            r#"{"access_token":"","token_type":"bearer"}"#,
            r#"{"access_token":"a","token_type":"DPoP"}"#,
            r#"{"access_token":"a","token_type":"bearer","scope":["a"]}"#,
            r#"{"access_token":"a","token_type":"bearer","expires_in":-1}"#,
            r#"{"access_token":1,"token_type":"bearer"}"#,
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn browsers_are_sent_to_web_pages_only() {
        for fine in ["https://idp.example/authorize", "http://127.0.0.1:1/authorize", "http://localhost/x"] {
            assert!(is_for_browsers(fine), "{fine}");
        }
        for bad in ["http://idp.example/authorize", "javascript:alert(1)", "data:text/html,x", "/authorize", ""] {
            assert!(!is_for_browsers(bad), "{bad}");
        }
    }
}
