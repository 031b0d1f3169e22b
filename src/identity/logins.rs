//! Where workers and the control side meet over logins of browsers. Nothing here waits for a lock.
//!
//! ```text
//! control --publish--> Standing: where browsers are sent, and what the answer must say
//! worker  --exchange--> bounded channel --> a few threads: state used once, code for tokens --oneshot--> worker
//! worker  --end-------> Ended, swapped whole: what a logout ended is refused by every worker at once
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use crossbeam::channel::{Receiver, Sender, bounded};
use futures_channel::oneshot;

use super::attempt::{Attempt, Login, LoginMark};
use super::error::AuthError;
use super::seal::Seal;
use crate::base::Secret;

/// Codes that may wait to be exchanged; more get [`LoginError::Busy`].
const EXCHANGES_MAX: usize = 64;
/// Logins that are remembered as ended, until they would have ended by themselves. Beyond, the oldest end for everybody.
const ENDED_MAX: usize = 32_768;

/// What is known of the authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its metadata could not be had yet.
    Unknown,
    /// It does not say that it knows S256, and `pkce_required` wants it to.
    NoProofKeys,
    Known(AuthorizationServer),
}

/// What of it matters to browsers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationServer {
    /// What `iss` must say, verbatim (RFC 9207 section 2.4); `None`: nothing names it.
    pub issuer: Option<Arc<str>>,
    pub authorization_url: String,
    pub end_session_url: Option<String>,
    /// It says that its answers carry `iss`.
    pub sends_iss: bool,
    /// It knows the scope `openid`.
    pub is_openid: bool,
}

/// A code to be exchanged (RFC 6749 section 4.1.3).
pub struct CodeExchange {
    pub code: Secret,
    pub verifier: Secret,
    /// Of the attempt: used once.
    pub state: String,
    /// Unix seconds until when `state` must be remembered.
    pub expires: u64,
    pub answer: oneshot::Sender<Result<Tokens, LoginError>>,
}

/// What the token endpoint gave (RFC 6749 section 5.1, OpenID Connect Core section 3.1.3.3).
pub struct Tokens {
    pub access_token: Secret,
    pub id_token: Option<Secret>,
    /// `None`: those that were asked for.
    pub scopes: Option<Vec<Box<str>>>,
    /// Life of the access token, seconds.
    pub expires_in: Option<u64>,
}

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("The authorization server could not be asked where to log in. Try again in a moment.")]
    Unknown,
    #[error("The authorization server does not say that it supports PKCE with S256 (see auth.pkce_required).")]
    NoProofKeys,
    #[error("This browser has no login under way here. It may keep no cookies, or came under another name.")]
    NoAttempt,
    #[error("The login took too long.")]
    Expired,
    #[error("The answer belongs to another login than the one that this browser began last.")]
    State,
    #[error("This login was completed already.")]
    Replayed,
    #[error("The answer comes from another authorization server than the one that was asked.")]
    Issuer,
    #[error("The answer of the authorization server is not valid.")]
    Malformed,
    #[error("The authorization server refused the login.")]
    Denied,
    #[error("The authorization server did not take the code that it gave.")]
    Code,
    #[error("The token endpoint gave no token.")]
    TokenEndpoint,
    #[error("The token endpoint could not be reached. Try again in a moment.")]
    Unavailable,
    #[error("Too many logins are under way. Try again in a moment.")]
    Busy,
    #[error("The token that the authorization server gave was not taken: {0}.")]
    Token(AuthError),
    #[error("The login does not fit into a cookie: too many scopes.")]
    TooLarge,
    #[error("The system has no random bytes.")]
    NoRandom,
}

impl LoginError {
    /// The label `outcome` in metrics, and in the log.
    pub fn outcome(self) -> &'static str {
        match self {
            LoginError::Unknown | LoginError::Unavailable => "unavailable",
            LoginError::NoProofKeys => "no_pkce",
            LoginError::NoAttempt => "no_attempt",
            LoginError::Expired => "expired",
            LoginError::State => "state",
            LoginError::Replayed => "replayed",
            LoginError::Issuer => "issuer",
            LoginError::Malformed => "malformed",
            LoginError::Denied => "denied",
            LoginError::Code => "code",
            LoginError::TokenEndpoint => "token_endpoint",
            LoginError::Busy => "busy",
            LoginError::Token(_) => "token",
            LoginError::TooLarge => "too_large",
            LoginError::NoRandom => "no_random",
        }
    }

    /// The status of the page that says so.
    pub fn status(self) -> u16 {
        match self {
            LoginError::Unknown | LoginError::Unavailable | LoginError::Busy | LoginError::NoRandom => 503,
            LoginError::Token(error) if error.is_ours() => 503,
            LoginError::NoProofKeys | LoginError::TokenEndpoint | LoginError::Token(_) | LoginError::TooLarge => 502,
            _ => 400,
        }
    }
}

/// The workers' side. Shared by all of them.
pub struct Logins {
    board: Arc<LoginBoard>,
    exchanges: Sender<CodeExchange>,
    /// Keys of their own, so that the cookie that everybody gets for the asking wears out none that says who somebody is.
    pub attempts: Seal,
    pub sessions: Seal,
}

/// What the control side publishes.
pub struct LoginBoard {
    standing: ArcSwap<Standing>,
    ended: ArcSwap<Ended>,
}

/// The control side's end. What it holds is gone when [`Logins`] is.
pub struct LoginDesk {
    pub board: Arc<LoginBoard>,
    pub exchanges: Receiver<CodeExchange>,
}

impl Logins {
    /// Both ends.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new() -> Result<(Logins, LoginDesk), &'static str> {
        let (exchanges, asked) = bounded(EXCHANGES_MAX);
        let standing = ArcSwap::from_pointee(Standing::Unknown);
        let board = Arc::new(LoginBoard { standing, ended: ArcSwap::default() });
        let desk = LoginDesk { board: board.clone(), exchanges: asked };
        let (attempts, sessions) = (Seal::new(b"shadowcat login")?, Seal::new(b"shadowcat session")?);
        Ok((Logins { board, exchanges, attempts, sessions }, desk))
    }

    pub fn standing(&self) -> Guard<Arc<Standing>> {
        self.board.standing.load()
    }

    /// Have a code exchanged. Resolves to [`LoginError::Busy`] at once if too many wait; a sender that is gone means
    /// [`LoginError::Unavailable`].
    pub fn exchange(&self, code: &str, attempt: &Attempt) -> oneshot::Receiver<Result<Tokens, LoginError>> {
        let (answer, answered) = oneshot::channel();
        let question = CodeExchange {
            code: Secret::new(code),
            verifier: Secret::new(attempt.verifier.as_str()),
            state: attempt.state.clone(),
            expires: attempt.expires,
            answer,
        };
        if let Err(refused) = self.exchanges.try_send(question) {
            let _ = refused.into_inner().answer.send(Err(LoginError::Busy));
        }
        answered
    }

    /// From here on no worker takes this login. `now` in unix seconds.
    pub fn end(&self, login: &Login, now: u64) {
        self.board.ended.rcu(|old| old.with(login.mark, login.expires(), now));
    }

    pub fn has_ended(&self, mark: &LoginMark) -> bool {
        self.board.ended.load().contains(mark)
    }
}

impl LoginBoard {
    pub fn publish(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
    }
}

/// Logins that were ended before their time.
#[derive(Debug, Default)]
struct Ended {
    /// When it was begun and when it is over anyhow, unix seconds.
    logins: HashMap<[u8; 16], (u64, u64)>,
    /// All that were begun until then have ended: there were too many to tell them apart.
    until: u64,
}

impl Ended {
    fn contains(&self, mark: &LoginMark) -> bool {
        mark.begun <= self.until || self.logins.contains_key(&mark.id)
    }

    fn with(&self, mark: LoginMark, expires: u64, now: u64) -> Ended {
        self.with_room(mark, expires, now, ENDED_MAX)
    }

    fn with_room(&self, mark: LoginMark, expires: u64, now: u64, max: usize) -> Ended {
        let mut logins = self.logins.clone();
        let mut until = self.until;
        logins.insert(mark.id, (mark.begun, expires));
        if logins.len() > max {
            logins.retain(|_, (_, expires)| *expires > now);
        }
        if logins.len() > max {
            let mut begun: Vec<u64> = logins.values().map(|(begun, _)| *begun).collect();
            let middle = begun.len() / 2;
            until = until.max(*begun.select_nth_unstable(middle).1);
            logins.retain(|_, (begun, _)| *begun > until);
        }
        Ended { logins, until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::NOW;

    fn mark(n: u8, begun: u64) -> LoginMark {
        LoginMark { id: [n; 16], begun }
    }

    #[test]
    fn what_ended_stays_ended_in_bounded_memory() {
        let mut ended = Ended::default();
        for n in 0..200 {
            ended = ended.with_room(mark(n, NOW + u64::from(n)), NOW + 10_000, NOW, 16);
            assert!(ended.logins.len() <= 16);
            for before in 0..=n {
                assert!(ended.contains(&mark(before, NOW + u64::from(before))), "{before} of {n}");
            }
        }
        assert!(!ended.contains(&mark(201, NOW + 200)), "a newer login goes on");
    }

    #[test]
    fn what_is_over_anyhow_is_forgotten_first() {
        let mut ended = Ended::default();
        for n in 0..16 {
            ended = ended.with_room(mark(n, NOW), NOW + 1, NOW, 16);
        }
        ended = ended.with_room(mark(99, NOW), NOW + 10, NOW + 5, 16);
        assert_eq!((ended.logins.len(), ended.until), (1, 0));
    }

    #[test]
    fn a_full_queue_is_told_at_once() {
        let (logins, _desk) = Logins::new().unwrap();
        let attempt = Attempt::begin("/", NOW).unwrap();
        let waiting: Vec<_> = (0..EXCHANGES_MAX).map(|_| logins.exchange("c", &attempt)).collect();
        assert!(matches!(logins.exchange("c", &attempt).try_recv(), Ok(Some(Err(LoginError::Busy)))));
        for mut one in waiting {
            assert!(matches!(one.try_recv(), Ok(None)));
        }
    }
}
