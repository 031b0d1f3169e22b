//! Asks issuers about tokens (RFC 7662), on a few threads. Answers are remembered by the workers, not here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::Receiver;

use super::fetch::{Client, ClientId, FetchError, FetchErrorKind, NamedBy};
use super::keys::spawn;
use crate::config::plan::IssuerPlan;
use crate::identity::{AuthError, Board, Introspect, Principal, Question, introspection};

/// Questions that are on their way at a time.
const THREADS: usize = 4;
/// An endpoint that could not be asked is left alone for this long: else those who wait would wait for it in turn.
const DOWN_TIME: Duration = Duration::from_secs(2);

/// Start the threads, if any issuer can be asked.
///
/// # Errors
/// There is no thread to be had.
pub fn start(
    issuers: &[IssuerPlan],
    client: &Client,
    board: &Arc<Board>,
    questions: Receiver<Question>,
) -> Result<(), String> {
    let endpoints: Vec<Option<Endpoint>> = issuers.iter().map(Endpoint::new).collect();
    if endpoints.iter().all(Option::is_none) {
        return Ok(());
    }
    let desk =
        Arc::new(Introspector { endpoints, client: client.clone(), board: board.clone(), started: Instant::now() });
    for at in 0..THREADS {
        let (desk, questions) = (desk.clone(), questions.clone());
        spawn(&format!("introspect-{at}"), move || questions.iter().for_each(|question| desk.answer(question)))?;
    }
    Ok(())
}

struct Introspector {
    /// By issuer.
    endpoints: Vec<Option<Endpoint>>,
    client: Client,
    board: Arc<Board>,
    started: Instant,
}

struct Endpoint {
    url: String,
    client: Option<ClientId>,
    /// Milliseconds since the start until when it is left alone.
    down_until: AtomicU64,
}

impl Endpoint {
    fn new(plan: &IssuerPlan) -> Option<Endpoint> {
        let client = plan.client_id.clone().map(|id| ClientId { id, secret: plan.client_secret.clone() });
        Some(Endpoint { url: plan.introspection_url.clone()?, client, down_until: AtomicU64::new(0) })
    }
}

impl Introspector {
    fn answer(&self, question: Question) {
        if question.answer.is_canceled() {
            return;
        }
        let verdict = match question.whom {
            Introspect::Issuer(at) => self.ask(at, question.token.expose()),
            Introspect::Any => self.ask_all(question.token.expose()),
        };
        // The client may be gone.
        let _ = question.answer.send(verdict);
    }

    /// The first that knows it. One that could not be asked counts only if nobody does.
    fn ask_all(&self, token: &str) -> Result<Principal, AuthError> {
        let mut refusal = AuthError::Opaque;
        for at in 0..self.endpoints.len() {
            if self.endpoints[at].is_none() {
                continue;
            }
            match self.ask(at, token) {
                Ok(principal) => return Ok(principal),
                Err(error) if !refusal.is_ours() => refusal = error,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn ask(&self, at: usize, token: &str) -> Result<Principal, AuthError> {
        let endpoint = self.endpoints.get(at).and_then(Option::as_ref).ok_or(AuthError::Opaque)?;
        let since_start = || self.started.elapsed().as_millis() as u64;
        if since_start() < endpoint.down_until.load(Ordering::Relaxed) {
            return Err(AuthError::IntrospectionUnavailable);
        }
        let form = [("token", token), ("token_type_hint", "access_token")];
        let post = || self.client.post(&endpoint.url, NamedBy::Configuration, endpoint.client.as_ref(), &form);
        let again = |error: FetchError| if error.kind == FetchErrorKind::Broken { post() } else { Err(error) };
        let answer = post().or_else(again).map_err(|error| {
            // Some servers answer so to what cannot be a token. It says nothing of the endpoint: whoever sends
            // nonsense must not get it left alone.
            if matches!(error.kind, FetchErrorKind::Status(400 | 404 | 422)) {
                return AuthError::Inactive;
            }
            tracing::warn!(%error, "a token could not be introspected");
            endpoint.down_until.store(since_start() + DOWN_TIME.as_millis() as u64, Ordering::Relaxed);
            AuthError::IntrospectionUnavailable
        })?;
        let keyring = self.board.keyring();
        let issuer = keyring.issuers.get(at).ok_or(AuthError::Opaque)?;
        introspection::read(&answer, issuer, &endpoint.url, unix_now())
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
