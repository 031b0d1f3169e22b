//! Who asks, and whether that one may: credentials to a [`Caller`], and what a request needs to a yes or no.
//!
//! Verdicts on tokens are remembered: for a connection, whose next request nearly always carries the same token, and for
//! the worker. They die with the token and with the generation of the keys that they were made with; those on cookies
//! of logins, with the login.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;

use super::connection::Client;
use super::guard::Request;
use super::refusal::Refusal;
use super::shared::View;
use super::{Worker, cookies, envelope};
use crate::config::plan::{AuthPlan, Provider, RulePlan};
use crate::identity::id_token::{self, Expected};
use crate::identity::{
    self, ApiKeys, AuthError, Checked, Introspect, Keyring, Keys, Login, LoginMark, Logins, Principal,
};
use crate::net::within;
use crate::wire::http1::head::Name;
use crate::wire::json::Peek;

/// Verdicts that a worker remembers; beyond, it starts its memory anew.
const REMEMBERED_MAX: usize = 8_192;
/// How long a request waits for keys, or for an answer about its token.
const PATIENCE: Duration = Duration::from_secs(10);

/// What credentials are verified with: built by control, one for all workers.
pub struct Gate {
    /// `None`: no tokens are taken.
    pub keys: Option<Arc<Keys>>,
    pub api_keys: ApiKeys,
    /// What the owner of a client certificate may do.
    pub certificate_scopes: Vec<Box<str>>,
    /// `None`: browsers do not log in here.
    pub logins: Option<Arc<Logins>>,
}

/// Who asks.
#[derive(Clone, Default)]
pub enum Caller {
    /// Nobody asked who it is.
    #[default]
    Anonymous,
    Known(Rc<Known>),
}

/// A principal, as a verdict that can be remembered.
pub struct Known {
    pub principal: Principal,
    /// Its scopes as one text, as upstream is told of them.
    pub scopes: Box<str>,
    /// Tells this user from all others, for rate limits.
    pub identity: Box<[u8]>,
    /// What rate limits remember of this user, so that a request costs no hash; theirs alone.
    pub counted: Cell<Counted>,
    generation: u64,
    /// It is a browser that logged in.
    login: Option<LoginMark>,
}

/// A user's place in the tables of rate limits; 0 for what is not known yet.
#[derive(Clone, Copy, Default)]
pub struct Counted {
    pub key: u64,
    /// The round in which metrics were told of the name.
    pub told: u64,
}

impl Known {
    fn new(principal: Principal, generation: u64) -> Rc<Known> {
        let identity = principal.binding().as_bytes().as_slice().into();
        let scopes = principal.scopes.join(" ").into();
        Rc::new(Known { principal, scopes, identity, counted: Cell::default(), generation, login: None })
    }

    fn logged_in(login: Login) -> Rc<Known> {
        let Login { principal, mark } = login;
        let identity = principal.binding().as_bytes().as_slice().into();
        let scopes = principal.scopes.join(" ").into();
        Rc::new(Known { principal, scopes, identity, counted: Cell::default(), generation: 0, login: Some(mark) })
    }
}

impl Caller {
    pub fn known(&self) -> Option<&Known> {
        match self {
            Caller::Anonymous => None,
            Caller::Known(known) => Some(known),
        }
    }

    /// Whether it is the same verdict, not only the same user.
    pub fn is(&self, other: &Caller) -> bool {
        match (self, other) {
            (Caller::Anonymous, Caller::Anonymous) => true,
            (Caller::Known(one), Caller::Known(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }

    pub fn principal(&self) -> Option<&Principal> {
        self.known().map(|known| &known.principal)
    }
}

/// The verdict on the token, or cookie, that a connection sent last.
pub type Memo = RefCell<Option<(Box<[u8]>, Rc<Known>)>>;

/// The verdict on the certificate of a connection, and who gave it.
pub type Certified = RefCell<Option<(Arc<Gate>, Result<Rc<Known>, AuthError>)>>;

/// Verdicts on tokens, by SHA-256.
#[derive(Default)]
pub struct Remembered(RefCell<HashMap<[u8; 32], Rc<Known>>>);

/// Where RFC 9728 section 3.1 puts the metadata; a resource's own path may follow.
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// The public URL of `path`, as RFC 9728 section 1.2 names a resource.
fn url(plan: &AuthPlan, client: &Client, host: &[u8], path: &str) -> String {
    let configured = plan.resource.as_ref().and_then(|resource| url::Url::parse(resource).ok());
    match configured {
        Some(own) => format!("{}{path}", own.origin().ascii_serialization()),
        None => {
            let scheme = if client.stream.is_tls() { "https" } else { "http" };
            format!("{scheme}://{}{path}", String::from_utf8_lossy(host))
        }
    }
}

/// `WWW-Authenticate` (RFC 6750 section 3, RFC 9728 section 5.1).
fn challenge(
    plan: &AuthPlan,
    client: &Client,
    request: &Request<'_>,
    error: Option<&str>,
    scopes: &[String],
) -> Box<str> {
    let path = request.path_text();
    let path = if path == "/" { "" } else { &path };
    let metadata = url(plan, client, request.host, &format!("{METADATA_PATH}{path}"));
    let mut text = String::from("Bearer ");
    if let Some(error) = error {
        text.push_str(&format!("error=\"{error}\", "));
    }
    if !scopes.is_empty() {
        text.push_str(&format!("scope=\"{}\", ", scopes.join(" ")));
    }
    text.push_str(&format!("resource_metadata=\"{metadata}\""));
    text.into()
}

/// What a request shows of its sender.
enum Credential<'a> {
    Bearer(&'a [u8]),
    Key(&'a [u8]),
    Login(&'a str),
}

/// Who asks.
///
/// # Errors
/// 401 with a challenge; 400 for credentials that are ambiguous or stand where they are seen by others; 503 while
/// nobody can tell.
pub async fn identify(worker: &Worker, view: &View, client: &Client, request: &Request<'_>) -> Result<Caller, Refusal> {
    let (Some(plan), Some(gate)) = (&view.plan.auth, &view.gate) else { return Ok(Caller::Anonymous) };
    let path = request.path_text();
    if plan.is_public(&path) {
        return Ok(Caller::Anonymous);
    }
    if plan.closed {
        return Err(Refusal::AUTH_CLOSED);
    }
    let keys = request.fields_named(plan.api_key_header.as_bytes());
    if request.head.fields.all(Name::Authorization).count() + keys.count() > 1 {
        return Err(Refusal::CREDENTIALS);
    }
    if has_token_in_query(request.path_and_query()) {
        return Err(Refusal::TOKEN_IN_QUERY);
    }
    match verify(worker, plan, gate, client, request).await {
        Ok(known) if known.login.is_none() => Ok(Caller::Known(known)),
        Ok(known) if plan.login.as_ref().is_some_and(|login| cookies::may_count(login, request)) => {
            Ok(Caller::Known(known))
        }
        Ok(_) => Err(Refusal::CROSS_SITE),
        Err(error) => {
            worker.cells.denied(error.reason());
            tracing::info!(peer = %client.peer, %path, reason = error.reason(), %error, "refused a credential");
            if error.is_ours() {
                return Err(Refusal::AUTH_UNAVAILABLE);
            }
            let no_token = matches!(error, AuthError::Missing | AuthError::Cookie | AuthError::LoggedOut);
            let said = (!no_token).then_some("invalid_token");
            Err(Refusal::unauthorized(challenge(plan, client, request, said, &plan.scopes)))
        }
    }
}

/// RFC 6750 section 2.3, in whatever way it is spelt.
fn has_token_in_query(path_and_query: &[u8]) -> bool {
    let query = memchr::memchr(b'?', path_and_query).map_or(&b""[..], |at| &path_and_query[at + 1..]);
    url::form_urlencoded::parse(query).any(|(name, _)| name == "access_token")
}

/// Ask the providers in their order. The first that knows the credential decides; if none does, the first that could
/// say something of it says why.
async fn verify(
    worker: &Worker,
    plan: &AuthPlan,
    gate: &Arc<Gate>,
    client: &Client,
    request: &Request<'_>,
) -> Result<Rc<Known>, AuthError> {
    let credential = credential(plan, request)?;
    let mut refused = AuthError::Missing;
    for provider in &plan.providers {
        let verdict = match (provider, &credential, &gate.keys) {
            (Provider::OAuth2, Some(Credential::Bearer(token)), Some(keys)) => {
                bearer(worker, plan, keys, client, token).await
            }
            (Provider::OAuth2, Some(Credential::Login(cookie)), _) => match &gate.logins {
                Some(logins) => logged_in(logins, client, cookie),
                None => continue,
            },
            (Provider::ApiKey, Some(Credential::Bearer(key)), _) => api_key(gate, key),
            (Provider::ApiKey, Some(Credential::Key(key)), _) => api_key(gate, key),
            (Provider::Mtls, ..) => certificate(gate, client),
            _ => continue,
        };
        match verdict {
            Ok(known) => return Ok(known),
            Err(error) if matches!(refused, AuthError::Missing | AuthError::UnknownKey) => refused = error,
            Err(_) => {}
        }
    }
    Err(refused)
}

fn credential<'a>(plan: &AuthPlan, request: &Request<'a>) -> Result<Option<Credential<'a>>, AuthError> {
    if let Some(key) = request.fields_named(plan.api_key_header.as_bytes()).next() {
        return Ok(Some(Credential::Key(key)));
    }
    let Some(field) = request.find(Name::Authorization) else {
        let cookie = if plan.login.is_some() { cookies::find(request, cookies::SESSION) } else { Ok(None) };
        return cookie.map(|cookie| cookie.map(Credential::Login));
    };
    let (scheme, token) = field.split_at(memchr::memchr(b' ', field).unwrap_or(field.len()));
    Ok(scheme.eq_ignore_ascii_case(b"Bearer").then(|| Credential::Bearer(token.trim_ascii())))
}

fn api_key(gate: &Gate, key: &[u8]) -> Result<Rc<Known>, AuthError> {
    gate.api_keys.verify(key).map(|principal| Known::new(principal.clone(), 0))
}

/// The owner of the client's certificate, which TLS verified; read once a connection.
fn certificate(gate: &Arc<Gate>, client: &Client) -> Result<Rc<Known>, AuthError> {
    let read = || {
        let leaf = client.stream.peer_certificate().ok_or(AuthError::Missing)?;
        identity::certificate::principal(&leaf, &gate.certificate_scopes).map(|principal| Known::new(principal, 0))
    };
    let mut verdict = client.certificate.borrow_mut();
    let known = match &*verdict {
        Some((by, known)) if Arc::ptr_eq(by, gate) => known.clone(),
        _ => verdict.insert((gate.clone(), read())).1.clone(),
    }?;
    if known.principal.is_current(unix_seconds()) { Ok(known) } else { Err(AuthError::Expired) }
}

/// Whom the cookie of a login names.
fn logged_in(logins: &Logins, client: &Client, cookie: &str) -> Result<Rc<Known>, AuthError> {
    let now = unix_seconds();
    let is_open = |known: &Rc<Known>| known.login.is_some_and(|mark| !logins.has_ended(&mark));
    let fresh = |known: &Rc<Known>| is_open(known) && known.principal.is_current(now);
    if let Some((_, known)) =
        client.memo.borrow().as_ref().filter(|(last, known)| **last == *cookie.as_bytes() && fresh(known))
    {
        return Ok(known.clone());
    }
    let known = Known::logged_in(Login::open(&logins.sessions, cookie, now)?);
    if !is_open(&known) {
        return Err(AuthError::LoggedOut);
    }
    client.memo.replace(Some((cookie.as_bytes().into(), known.clone())));
    Ok(known)
}

async fn bearer(
    worker: &Worker,
    plan: &AuthPlan,
    keys: &Keys,
    client: &Client,
    token: &[u8],
) -> Result<Rc<Known>, AuthError> {
    let now = unix_seconds();
    let generation = keys.current().generation;
    // A cookie shown as a token is none.
    let fresh =
        |known: &Rc<Known>| known.login.is_none() && known.generation == generation && known.principal.is_current(now);
    if let Some((_, known)) = client.memo.borrow().as_ref().filter(|(last, known)| **last == *token && fresh(known)) {
        return Ok(known.clone());
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    let found = worker.remembered.0.borrow().get(&hash).filter(|known| fresh(known)).cloned();
    let known = match found {
        Some(known) => known,
        None => {
            let text = std::str::from_utf8(token).map_err(|_| AuthError::Malformed("not ASCII"))?;
            let (principal, generation) = ask(plan, keys, text, now).await?;
            let known = Known::new(principal, generation);
            let mut remembered = worker.remembered.0.borrow_mut();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(hash, known.clone());
            known
        }
    };
    client.memo.replace(Some((token.into(), known.clone())));
    Ok(known)
}

/// Verify a token that nobody remembers.
async fn ask(plan: &AuthPlan, keys: &Keys, token: &str, now: u64) -> Result<(Principal, u64), AuthError> {
    let (checked, generation) = checked(keys, |keyring| identity::verify(token, keyring, now)).await?;
    match checked {
        Checked::Verified(principal) => Ok((principal, generation)),
        Checked::Introspect(whom) => {
            let principal = introspect(keys, token, whom).await?;
            let believed = now.saturating_add(plan.introspection_cache.as_secs());
            let expires = Some(principal.expires.map_or(believed, |expires| expires.min(believed)));
            Ok((Principal { expires, ..principal }, generation))
        }
    }
}

/// Verify, and once more after the key was looked for, if it is not known; with the generation of the keys.
async fn checked<T>(keys: &Keys, verify: impl Fn(&Keyring) -> Result<T, AuthError>) -> Result<(T, u64), AuthError> {
    let check = || {
        let keyring = keys.current();
        (verify(&keyring), keyring.generation)
    };
    let mut checked = check();
    if let (Err(AuthError::UnknownKid { issuer }), _) = checked
        && let Some(fetched) = keys.unknown_kid(issuer)
    {
        let _ = within(PATIENCE, fetched).await;
        checked = check();
    }
    Ok((checked.0?, checked.1))
}

async fn introspect(keys: &Keys, token: &str, whom: Introspect) -> Result<Principal, AuthError> {
    let answer = within(PATIENCE, keys.introspect(token, whom)).await;
    answer.ok().and_then(Result::ok).unwrap_or(Err(AuthError::IntrospectionUnavailable))
}

/// Whom an access token names that is verified with keys; `Ok(None)`: only introspection knows.
pub(super) async fn verified_jwt(keys: &Keys, token: &str, now: u64) -> Result<Option<Principal>, AuthError> {
    Ok(match checked(keys, |keyring| identity::verify(token, keyring, now)).await?.0 {
        Checked::Verified(principal) => Some(principal),
        Checked::Introspect(_) => None,
    })
}

/// Whom an access token names, according to the issuer where browsers log in, which is the first.
pub(super) async fn introspected(keys: &Keys, token: &str) -> Result<Principal, AuthError> {
    introspect(keys, token, Introspect::Issuer(0)).await
}

/// Whom an ID token names.
pub(super) async fn verified_id_token(
    keys: &Keys,
    token: &str,
    expected: &Expected<'_>,
    now: u64,
) -> Result<Principal, AuthError> {
    Ok(checked(keys, |keyring| id_token::verify(token, keyring, expected, now)).await?.0)
}

/// Whether the caller may do this.
///
/// # Errors
/// 403 with the scopes that it needs; 400 for a batch and 413 for a body too long to be looked into, where rules ask
/// for methods or tools.
pub fn authorize(
    view: &View,
    client: &Client,
    request: &Request<'_>,
    peek: &Peek,
    whole: bool,
    caller: &Caller,
) -> Result<(), Refusal> {
    let (Some(plan), Some(principal)) = (&view.plan.auth, caller.principal()) else { return Ok(()) };
    let insufficient =
        |scopes: &[String]| Refusal::forbidden(challenge(plan, client, request, Some("insufficient_scope"), scopes));
    if !plan.scopes.is_empty() && !principal.has_any_scope(&plan.scopes) {
        return Err(insufficient(&plan.scopes));
    }
    if plan.rules.is_empty() {
        return Ok(());
    }
    if plan.rules.iter().any(|rule| rule.method.is_some() || rule.tool.is_some()) {
        envelope::must_be_seen(request, peek, whole)?;
    }
    let path = request.path_text();
    let method = peek.method().and_then(|method| std::str::from_utf8(method).ok());
    let tool = peek.name().filter(|_| method == Some("tools/call")).and_then(|tool| std::str::from_utf8(tool).ok());
    let forbids = |rule: &RulePlan| rule.covers(&path, method, tool) && !principal.has_all_scopes(&rule.scopes);
    match plan.rules.iter().position(forbids) {
        Some(at) => {
            let refusal = insufficient(&to_be_asked_for(plan, principal, &plan.rules[at].scopes));
            Err(refusal.by_rule(u16::try_from(at + 1).ok()))
        }
        None => Ok(()),
    }
}

/// What the next token needs for everything that this one was good for and for what is `missing`: clients ask for just
/// what a challenge names, and would lose the rest.
fn to_be_asked_for(plan: &AuthPlan, principal: &Principal, missing: &[String]) -> Vec<String> {
    let known = plan.scopes.iter().chain(plan.rules.iter().flat_map(|rule| &rule.scopes));
    let mut scopes: Vec<String> = Vec::new();
    for scope in known.filter(|scope| principal.has_scope(scope)).chain(missing) {
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    scopes
}

/// The metadata of the protected resource at `path` (RFC 9728 section 2).
pub(super) fn metadata(plan: &AuthPlan, keyring: &Keyring, client: &Client, host: &[u8], path: &str) -> Vec<u8> {
    let issuers: Vec<&str> = keyring.issuers.iter().filter_map(|issuer| Some(&**issuer.name.text()?)).collect();
    let document = serde_json::json!({
        "resource": url(plan, client, host, path),
        "authorization_servers": issuers,
        "scopes_supported": plan.scopes,
        "bearer_methods_supported": ["header"],
    });
    document.to_string().into_bytes()
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
