//! Where workers and the control side meet: workers read what was published and ask, the control side fetches.
//! Nothing here waits, and no worker ever waits for a lock.
//!
//! ```text
//! worker --unknown_kid--> bounded channel --> a thread an issuer: discovery, keys --publish--> Keyring
//! worker --introspect---> bounded channel --> a few threads: RFC 7662 --oneshot--> worker, which remembers
//! worker --credential---> what a thread for each grant published
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use crossbeam::channel::{Receiver, Sender, bounded};
use futures_channel::oneshot;

use super::bearer::Introspect;
use super::error::AuthError;
use super::keyring::{Issuer, Keyring};
use super::principal::Principal;
use crate::base::Secret;

/// Requests that may wait for one fetch of an issuer's keys; the others are refused at once.
const WAITERS_MAX: usize = 64;
/// Tokens that may wait for introspection; more get [`AuthError::Busy`].
const QUESTIONS_MAX: usize = 256;

/// Refused credentials that nobody looked at yet.
const RENEWALS_MAX: usize = 64;

/// The workers' side. Shared by all of them.
pub struct Keys {
    board: Arc<Board>,
    waiters: Vec<Sender<oneshot::Sender<()>>>,
    questions: Sender<Question>,
    renewals: Sender<usize>,
}

/// What the control side publishes.
pub struct Board {
    keyring: ArcSwap<Keyring>,
    /// By issuer: its keys were fetched lately because of an unknown key, and are not again so soon.
    resting: Vec<AtomicBool>,
    /// By upstream.
    credentials: Vec<Slot>,
}

struct Slot {
    is_configured: bool,
    credential: ArcSwapOption<Credential>,
}

/// The control side's end. What it holds is gone when the last [`Keys`] is.
pub struct Desk {
    pub board: Arc<Board>,
    /// By issuer. Who waits for its keys; dropping one wakes it as well.
    pub waiters: Vec<Receiver<oneshot::Sender<()>>>,
    pub questions: Receiver<Question>,
    /// Upstreams that refused their credential.
    pub renewals: Receiver<usize>,
}

/// A token that only its issuer knows.
pub struct Question {
    pub token: Secret,
    pub whom: Introspect,
    pub answer: oneshot::Sender<Result<Principal, AuthError>>,
}

/// A field that goes to an upstream with every request. `Debug` hides its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Name of the field, such as `Authorization`.
    pub field: Box<str>,
    pub value: Secret,
}

impl Credential {
    pub fn bearer(token: &str) -> Credential {
        Credential { field: "Authorization".into(), value: Secret::new(format!("Bearer {token}")) }
    }
}

impl Keys {
    /// Both ends. `configured`: by upstream, whether a credential goes to it.
    pub fn new(keyring: Keyring, configured: &[bool]) -> (Keys, Desk) {
        let issuers = keyring.issuers.len();
        let (waiters, waiting) = (0..issuers).map(|_| bounded(WAITERS_MAX)).unzip();
        let (renewals, renewing) = bounded(RENEWALS_MAX);
        let (questions, asked) = bounded(QUESTIONS_MAX);
        let slot = |is_configured: &bool| Slot { is_configured: *is_configured, credential: ArcSwapOption::empty() };
        let board = Arc::new(Board {
            keyring: ArcSwap::from_pointee(keyring),
            resting: (0..issuers).map(|_| AtomicBool::new(false)).collect(),
            credentials: configured.iter().map(slot).collect(),
        });
        let desk = Desk { board: board.clone(), waiters: waiting, questions: asked, renewals: renewing };
        (Keys { board, waiters, questions, renewals }, desk)
    }

    /// What was published so far, for the control side.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The keys to verify with now. Cheap; hold it for one verification.
    pub fn current(&self) -> Guard<Arc<Keyring>> {
        self.board.keyring.load()
    }

    /// A token named a key that this issuer (an index, out of [`AuthError::UnknownKid`]) does not publish. `Some`: its
    /// keys are being fetched; verify once more when this resolves, to whatever. `None`: they were fetched lately, or
    /// too many wait: refuse the token.
    pub fn unknown_kid(&self, issuer: usize) -> Option<oneshot::Receiver<()>> {
        if self.board.resting.get(issuer)?.load(Ordering::Acquire) {
            return None;
        }
        let (tell, told) = oneshot::channel();
        self.waiters.get(issuer)?.try_send(tell).ok().map(|()| told)
    }

    /// Ask about a token. Resolves to [`AuthError::Busy`] at once if too many wait; a sender that is gone means
    /// [`AuthError::IntrospectionUnavailable`].
    pub fn introspect(&self, token: &str, whom: Introspect) -> oneshot::Receiver<Result<Principal, AuthError>> {
        let (answer, answered) = oneshot::channel();
        let question = Question { token: Secret::new(token), whom, answer };
        if let Err(refused) = self.questions.try_send(question) {
            let _ = refused.into_inner().answer.send(Err(AuthError::Busy));
        }
        answered
    }

    /// What goes to this upstream (by its place in the plan). `Ok(None)`: nothing is configured.
    ///
    /// # Errors
    /// Something is, and it could not be had yet: 503.
    pub fn credential(&self, upstream: usize) -> Result<Option<Arc<Credential>>, CredentialMissing> {
        match self.board.credentials.get(upstream) {
            Some(slot) if slot.is_configured => slot.credential.load_full().map(Some).ok_or(CredentialMissing),
            _ => Ok(None),
        }
    }

    /// The upstream answered 401 to its credential: get another one soon, if it is one that can be had.
    pub fn credential_refused(&self, upstream: usize) {
        // A full queue tells it already.
        let _ = self.renewals.try_send(upstream);
    }
}

/// The authorization server gave no token for this upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no credential for this upstream: its authorization server gave none")]
pub struct CredentialMissing;

impl Board {
    pub fn keyring(&self) -> Arc<Keyring> {
        self.keyring.load_full()
    }

    /// Replace one issuer.
    pub fn publish(&self, at: usize, issuer: &Issuer) {
        // Issuers publish beside each other.
        self.keyring.rcu(|old| old.with(at, issuer.clone()));
    }

    pub fn set_resting(&self, issuer: usize, resting: bool) {
        if let Some(flag) = self.resting.get(issuer) {
            flag.store(resting, Ordering::Release);
        }
    }

    /// `None`: there is none any more.
    pub fn set_credential(&self, upstream: usize, credential: Option<Credential>) {
        if let Some(slot) = self.credentials.get(upstream) {
            slot.credential.store(credential.map(Arc::new));
        }
    }
}
