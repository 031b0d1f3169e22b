//! Browsers log in: `/login`, the page that they come back to, `/logout`.
//!
//! The authorization code flow (RFC 6749 section 4.1) with PKCE S256 (RFC 7636), `iss` (RFC 9207), `resource` (RFC 8707)
//! and, for servers that know OpenID Connect, `nonce`. What must be remembered until the browser is back, it carries
//! itself, sealed.

use std::borrow::Cow;
use std::time::Duration;

use url::Url;
use url::form_urlencoded;

use super::connection::Client;
use super::guard::Request;
use super::refusal::Refusal;
use super::shared::View;
use super::{Worker, auth, cookies, outbound, page};
use crate::config::plan::{AuthPlan, IssuerPlan, LoginPlan};
use crate::identity::id_token::Expected;
use crate::identity::{
    ATTEMPT_LIFE, Attempt, AuthError, AuthorizationServer, Keys, Login, LoginError, Logins, Principal, Standing, Tokens,
};
use crate::net::{Buffer, within};
use crate::telemetry::account::Account;
use crate::wire::http1::encode;
use crate::wire::http1::framing::BodyLength;
use crate::wire::http1::head::{Method, Name};

pub const START: &str = "/login";
pub const LOGOUT: &str = "/logout";
/// How long a browser waits for its code to be exchanged. Control gives up before.
const PATIENCE: Duration = Duration::from_secs(25);

/// A path that is ours while browsers may log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Start,
    Callback,
    Logout,
    /// A page that needs a login was asked for.
    Invitation,
}

/// What pages of the login need, all of it there once it is configured.
struct Desk<'a> {
    plan: &'a AuthPlan,
    login: &'a LoginPlan,
    logins: &'a Logins,
    keys: &'a Keys,
}

impl<'a> Desk<'a> {
    fn of(view: &'a View) -> Option<Desk<'a>> {
        let (plan, gate) = (view.plan.auth.as_ref()?, view.gate.as_ref()?);
        Some(Desk { plan, login: plan.login.as_ref()?, logins: gate.logins.as_ref()?, keys: gate.keys.as_deref()? })
    }
}

pub fn find(view: &View, request: &Request<'_>) -> Option<Page> {
    let desk = Desk::of(view)?;
    match request.path() {
        path if path == START.as_bytes() => Some(Page::Start),
        path if path == LOGOUT.as_bytes() => Some(Page::Logout),
        path if path == desk.login.callback_path.as_bytes() => Some(Page::Callback),
        _ => None,
    }
}

/// Whether somebody who looks at a page was refused for want of a login: they are sent to it. Programs are told 401.
pub fn invites(view: &View, request: &Request<'_>, refusal: &Refusal) -> Option<Page> {
    let desk = Desk::of(view)?;
    let is_page = |field: &[u8]| contains(field, b"text/html") && !contains(field, b"text/event-stream");
    let says = |name: &[u8], word: &[u8]| cookies::fetch_metadata(request, name).is_none_or(|said| said == word);
    let navigates = refusal.status == 401
        && request.method() == Method::Get
        && request.body() == BodyLength::Empty
        && request.find(Name::Accept).is_some_and(is_page)
        && says(b"sec-fetch-mode", b"navigate")
        && says(b"sec-fetch-dest", b"document");
    let shows_nothing = request.find(Name::Authorization).is_none()
        && request.fields_named(desk.plan.api_key_header.as_bytes()).next().is_none();
    (navigates && shows_nothing).then_some(Page::Invitation)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// What a browser is answered.
struct Answer {
    status: u16,
    location: Option<String>,
    cookies: Vec<String>,
    page: String,
    retry_after: bool,
    referrer_policy: &'static [u8],
}

impl Answer {
    fn page(status: u16, page: String) -> Answer {
        let (retry_after, referrer_policy) = (status == 503, b"no-referrer");
        Answer { status, location: None, cookies: Vec::new(), page, retry_after, referrer_policy }
    }

    /// `location` is a URL that was parsed, or a local path.
    fn redirect(status: u16, location: String) -> Answer {
        Answer { location: Some(location), ..Answer::page(status, String::new()) }
    }

    fn with_cookie(mut self, cookie: String) -> Answer {
        self.cookies.push(cookie);
        self
    }
}

/// Answer it; whether the connection may go on.
pub async fn answer(
    worker: &Worker,
    view: &View,
    client: &Client,
    request: &Request<'_>,
    page: Page,
    account: &Account,
) -> bool {
    let keep = request.keep_alive() && request.body() == BodyLength::Empty && !worker.is_draining();
    let Some(desk) = Desk::of(view) else { return false };
    let allowed: &[u8] = if page == Page::Logout { b"GET, POST" } else { b"GET" };
    let answer = match (page, request.method()) {
        (Page::Start, Method::Get) => start(&desk, request).unwrap_or_else(|error| failed(worker, client, error, "/")),
        (Page::Callback, Method::Get) => Box::pin(come_back(worker, &desk, client, request)).await,
        (Page::Logout, Method::Get | Method::Post) => log_out(&desk, client, request),
        (Page::Invitation, _) => invitation(request),
        _ => Answer::page(405, page::render("Not here", &["This page is asked for with GET."], "")),
    };
    let mut out = Buffer::from_vec(Vec::with_capacity(8192));
    outbound::own_head(out.vec(), answer.status, page::CONTENT_TYPE, answer.page.len(), keep, |out| {
        encode::field(out, b"Cache-Control", b"no-store");
        encode::field(out, b"Referrer-Policy", answer.referrer_policy);
        encode::field(out, b"Content-Security-Policy", page::POLICY);
        encode::field(out, b"X-Content-Type-Options", b"nosniff");
        if answer.status == 405 {
            encode::field(out, b"Allow", allowed);
        }
        if answer.retry_after {
            encode::field(out, b"Retry-After", b"5");
        }
        if let Some(location) = &answer.location {
            encode::field(out, b"Location", location.as_bytes());
        }
        for cookie in &answer.cookies {
            encode::field(out, b"Set-Cookie", cookie.as_bytes());
        }
    });
    if request.method() != Method::Head {
        out.vec().extend_from_slice(answer.page.as_bytes());
    }
    account.status.set(answer.status);
    account.sent_client(out.len());
    matches!(within(view.plan.timeouts.write, client.stream.write_all(out)).await, Ok((Ok(()), _))) && keep
}

/// The page of a login that failed, with a way to try again.
fn failed(worker: &Worker, client: &Client, error: LoginError, return_to: &str) -> Answer {
    failed_with(worker, client, error, return_to, &[])
}

fn failed_with(worker: &Worker, client: &Client, error: LoginError, return_to: &str, details: &[&str]) -> Answer {
    worker.cells.login(error.outcome());
    tracing::info!(peer = %client.peer, outcome = error.outcome(), %error, "a login failed");
    let message = error.to_string();
    let paragraphs: Vec<&str> = std::iter::once(&*message).chain(details.iter().copied()).collect();
    let again = page::link(&start_at(return_to), "Log in again");
    Answer::page(error.status(), page::render("Login failed", &paragraphs, &again))
}

// --- there -----------------------------------------------------------------------------------------------------------

fn start(desk: &Desk<'_>, request: &Request<'_>) -> Result<Answer, LoginError> {
    let standing = desk.logins.standing();
    let server = match &**standing {
        Standing::Known(server) => server,
        Standing::NoProofKeys => return Err(LoginError::NoProofKeys),
        Standing::Unknown => return Err(LoginError::Unknown),
    };
    let wanted = parameters(request, &["return_to"]).and_then(|[to]| to).unwrap_or_else(|| "/".into());
    let path = wanted.split(['?', '#']).next().unwrap_or_default();
    let is_ours = [START, LOGOUT, &desk.login.callback_path].contains(&path);
    let return_to = if is_ours { "/" } else { &*wanted };
    let attempt = Attempt::begin(return_to, auth::unix_seconds()).ok_or(LoginError::NoRandom)?;
    let sealed = attempt.seal(&desk.logins.attempts).ok_or(LoginError::NoRandom)?;
    let url = authorization_url(desk, server, &attempt).ok_or(LoginError::Unknown)?;
    let cookie = cookies::set(cookies::LOGIN, Some(&sealed), ATTEMPT_LIFE);
    Ok(Answer::redirect(302, url).with_cookie(cookie))
}

/// RFC 6749 section 4.1.1; a query that the endpoint has already stays (section 3.1).
fn authorization_url(desk: &Desk<'_>, server: &AuthorizationServer, attempt: &Attempt) -> Option<String> {
    let mut url = Url::parse(&server.authorization_url).ok()?;
    url.set_fragment(None);
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("response_type", "code");
        query.append_pair("client_id", &desk.login.client_id);
        query.append_pair("redirect_uri", &desk.login.redirect_uri);
        let scopes = scopes(desk.plan, server);
        if !scopes.is_empty() {
            query.append_pair("scope", &scopes.join(" "));
        }
        query.append_pair("state", &attempt.state);
        // Servers ignore what they do not know.
        query.append_pair("nonce", &attempt.nonce);
        query.append_pair("code_challenge", &attempt.challenge());
        query.append_pair("code_challenge_method", "S256");
        if let Some(resource) = &desk.plan.resource {
            query.append_pair("resource", resource);
        }
    }
    Some(url.into())
}

/// Whether we can read ID tokens: not of an issuer that is only asked about tokens.
fn reads_id_tokens(plan: &AuthPlan) -> bool {
    plan.issuers.first().is_some_and(IssuerPlan::has_keys)
}

/// What is asked for: what is configured, and `openid` where that is known, so that somebody is named even by servers
/// whose access tokens are not for us to read.
fn scopes<'a>(plan: &'a AuthPlan, server: &AuthorizationServer) -> Vec<&'a str> {
    let mut scopes: Vec<&str> = plan.scopes.iter().map(String::as_str).collect();
    if server.is_openid && reads_id_tokens(plan) && !scopes.contains(&"openid") {
        scopes.insert(0, "openid");
    }
    scopes
}

/// `/login` that comes back to this path.
fn start_at(path: &str) -> String {
    let encoded: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
    format!("{START}?return_to={encoded}")
}

fn invitation(request: &Request<'_>) -> Answer {
    Answer::redirect(302, start_at(&String::from_utf8_lossy(request.path_and_query())))
}

/// The values of these parameters of the query, decoded; `None`: one of them stands there twice.
fn parameters<'a, const N: usize>(request: &Request<'a>, names: &[&str; N]) -> Option<[Option<Cow<'a, str>>; N]> {
    let target = request.path_and_query();
    let query = memchr::memchr(b'?', target).map_or(&b""[..], |at| &target[at + 1..]);
    let mut found = [const { None }; N];
    for (name, value) in form_urlencoded::parse(query) {
        if let Some(at) = names.iter().position(|known| *known == name)
            && found[at].replace(value).is_some()
        {
            return None;
        }
    }
    Some(found)
}

// --- and back --------------------------------------------------------------------------------------------------------

async fn come_back(worker: &Worker, desk: &Desk<'_>, client: &Client, request: &Request<'_>) -> Answer {
    let (code, attempt, server) = match returned(desk, request) {
        Ok(Returned::Code(code, attempt, server)) => (code, attempt, server),
        Ok(Returned::Denied(attempt, said)) => {
            let said: Vec<&str> = said.iter().map(String::as_str).collect();
            let answer = failed_with(worker, client, LoginError::Denied, &attempt.return_to, &said);
            return answer.with_cookie(cookies::set(cookies::LOGIN, None, 0));
        }
        Err(error) => return failed(worker, client, error, "/"),
    };
    let done = complete(desk, &code, &attempt, &server).await;
    let answer = match done {
        Ok((login, cookie)) => {
            worker.cells.login("success");
            tracing::info!(peer = %client.peer, user = %login.principal.name, "logged in");
            Answer::redirect(303, attempt.return_to).with_cookie(cookie)
        }
        Err(error) => failed(worker, client, error, &attempt.return_to),
    };
    // Used, whatever became of it.
    answer.with_cookie(cookies::set(cookies::LOGIN, None, 0))
}

enum Returned {
    Code(String, Attempt, AuthorizationServer),
    /// What the server said, to be shown.
    Denied(Attempt, Vec<String>),
}

/// What the browser brings, held against what it was sent away with.
fn returned(desk: &Desk<'_>, request: &Request<'_>) -> Result<Returned, LoginError> {
    let names = ["state", "code", "iss", "error", "error_description"];
    let [state, code, iss, error, description] = parameters(request, &names).ok_or(LoginError::Malformed)?;
    let sealed = cookies::find(request, cookies::LOGIN).ok().flatten().ok_or(LoginError::NoAttempt)?;
    let attempt = Attempt::open(&desk.logins.attempts, sealed).ok_or(LoginError::NoAttempt)?;
    if !attempt.is_answered_by(&state.ok_or(LoginError::State)?) {
        return Err(LoginError::State);
    }
    if attempt.expires <= auth::unix_seconds() {
        return Err(LoginError::Expired);
    }
    let standing = desk.logins.standing();
    let Standing::Known(server) = &**standing else { return Err(LoginError::Unknown) };
    match (&iss, &server.issuer) {
        (Some(iss), Some(issuer)) if **iss != **issuer => return Err(LoginError::Issuer),
        (None, _) if server.sends_iss => return Err(LoginError::Issuer),
        _ => {}
    }
    match (code, error) {
        (Some(code), None) if !code.is_empty() => Ok(Returned::Code(code.into_owned(), attempt, server.clone())),
        (None, Some(error)) => {
            let said = [Some(error), description].into_iter().flatten().map(|text| shortened(&text));
            Ok(Returned::Denied(attempt, said.collect()))
        }
        _ => Err(LoginError::Malformed),
    }
}

/// No more than fits a page that says somebody else's words.
fn shortened(text: &str) -> String {
    text.chars().take(500).collect()
}

/// The code becomes tokens, the tokens somebody, and they a cookie.
async fn complete(
    desk: &Desk<'_>,
    code: &str,
    attempt: &Attempt,
    server: &AuthorizationServer,
) -> Result<(Login, String), LoginError> {
    let exchanged = within(PATIENCE, desk.logins.exchange(code, attempt)).await;
    let tokens = exchanged.ok().and_then(Result::ok).unwrap_or(Err(LoginError::Unavailable))?;
    let now = auth::unix_seconds();
    let principal = principal(desk, attempt, server, &tokens, now).await?;
    let login = Login::begin(principal, now).ok_or(LoginError::NoRandom)?;
    // Else the browser would be sent back and forth without end.
    if login.expires() <= now {
        return Err(LoginError::Token(AuthError::Expired));
    }
    let sealed = login.seal(&desk.logins.sessions).ok_or(LoginError::NoRandom)?;
    if cookies::SESSION.len() + 1 + sealed.len() > cookies::BYTES_MAX {
        return Err(LoginError::TooLarge);
    }
    let cookie = cookies::set(cookies::SESSION, Some(&sealed), login.expires().saturating_sub(now));
    Ok((login, cookie))
}

/// Who logged in. An ID token must be right if there is one. Then the access token says it, if it is one that we would
/// take from anybody; else the ID token, with the scopes that were granted; else introspection.
async fn principal(
    desk: &Desk<'_>,
    attempt: &Attempt,
    server: &AuthorizationServer,
    tokens: &Tokens,
    now: u64,
) -> Result<Principal, LoginError> {
    let expected =
        Expected { issuer: server.issuer.as_deref(), client_id: &desk.login.client_id, nonce: &attempt.nonce };
    let id = match tokens.id_token.as_ref().filter(|_| reads_id_tokens(desk.plan)) {
        Some(token) => {
            let verified = auth::verified_id_token(desk.keys, token.expose(), &expected, now).await;
            Some(verified.map_err(LoginError::Token)?)
        }
        None => None,
    };
    let is_theirs = |principal: &Principal| server.issuer.as_ref().is_none_or(|issuer| *issuer == principal.issuer);
    let access_token = tokens.access_token.expose();
    match (auth::verified_jwt(desk.keys, access_token, now).await, id) {
        (Ok(Some(principal)), _) if is_theirs(&principal) => Ok(principal),
        (_, Some(id)) => {
            let asked = || scopes(desk.plan, server).into_iter().map(Box::from).collect();
            let scopes = tokens.scopes.clone().unwrap_or_else(asked);
            Ok(Principal { scopes, expires: tokens.expires_in.map(|life| now.saturating_add(life)), ..id })
        }
        (Ok(Some(_)), None) => Err(LoginError::Token(AuthError::Issuer)),
        (Ok(None), None) => auth::introspected(desk.keys, access_token).await.map_err(LoginError::Token),
        (Err(error), None) => Err(LoginError::Token(error)),
    }
}

// --- and out ---------------------------------------------------------------------------------------------------------

/// Nothing changes unless it was our own page, or the user, that asked: an image elsewhere logs nobody out.
fn log_out(desk: &Desk<'_>, client: &Client, request: &Request<'_>) -> Answer {
    let now = auth::unix_seconds();
    let cookie = cookies::find(request, cookies::SESSION);
    let login = match cookie {
        Ok(Some(cookie)) => Login::open(&desk.logins.sessions, cookie, now).ok(),
        _ => None,
    };
    let login = login.filter(|login| !desk.logins.has_ended(&login.mark));
    let own = matches!(cookies::fetch_metadata(request, b"sec-fetch-site"), Some(b"same-origin" | b"none"));
    let asked = cookies::may_count(desk.login, request) && (own || request.method() == Method::Post);
    let Some(login) = login else {
        if asked && request.method() == Method::Post {
            return cleared(Answer::redirect(303, LOGOUT.to_owned()));
        }
        let again = page::link(START, "Log in");
        return Answer::page(200, page::render("Logged out", &["You are not logged in here."], &again));
    };
    if !asked {
        let paragraph = format!("You are logged in as {}.", login.principal.name);
        let question = Answer::page(200, page::render("Log out", &[&paragraph], &page::button(LOGOUT, "Log out")));
        // A form of a page without referrers is posted with `Origin: null` (Fetch standard, "append a request Origin").
        return Answer { referrer_policy: b"same-origin", ..question };
    }
    desk.logins.end(&login, now);
    tracing::info!(peer = %client.peer, user = %login.principal.name, "logged out");
    cleared(Answer::redirect(303, end_session_url(desk).unwrap_or_else(|| LOGOUT.to_owned())))
}

fn cleared(answer: Answer) -> Answer {
    [cookies::SESSION, cookies::LOGIN].into_iter().fold(answer, |a, name| a.with_cookie(cookies::set(name, None, 0)))
}

/// OpenID Connect RP-Initiated Logout section 2. The ID token is not kept, so the server asks its user.
fn end_session_url(desk: &Desk<'_>) -> Option<String> {
    let standing = desk.logins.standing();
    let Standing::Known(AuthorizationServer { end_session_url: Some(url), .. }) = &**standing else { return None };
    let mut url = Url::parse(url).ok()?;
    url.query_pairs_mut().append_pair("client_id", &desk.login.client_id);
    Some(url.into())
}
