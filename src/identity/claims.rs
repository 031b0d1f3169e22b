//! What an issuer may say, and what claims must say to be taken (RFC 7519 section 4.1, RFC 9068 section 4).

use std::sync::Arc;

use serde_json::{Map, Value};
use url::Url;

use super::error::AuthError;
use super::principal::{self, Principal};
use crate::wire::jose::Algorithm;

/// What is asked of the tokens of one issuer. Never changes while a plan runs.
#[derive(Debug)]
pub struct Policy {
    /// A token is for us if it is for one of these (RFC 8707), or for a URL below one of these that is an origin with its
    /// slash. Never empty.
    pub audiences: Vec<Box<str>>,
    /// The one of them that is our own id as a client: what ID tokens are for as well.
    pub client_id: Option<Box<str>>,
    /// What its signatures may be made with.
    pub algorithms: Vec<Algorithm>,
    /// Seconds that clocks may differ.
    pub leeway: u64,
    /// Whether its JWTs are verified here, by its keys.
    pub has_keys: bool,
    /// Whether it can be asked about tokens (RFC 7662).
    pub introspects: bool,
}

/// What `iss` must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerName {
    /// This, compared verbatim (RFC 8414 section 3.3).
    Exactly(Arc<str>),
    /// Any issuer of this origin (`https://host[:port]`), where nothing says more.
    Origin(Arc<str>),
    /// Not known yet: discovery has not answered.
    Unknown,
}

impl IssuerName {
    pub fn matches(&self, issuer: &str) -> bool {
        match self {
            IssuerName::Exactly(name) => **name == *issuer,
            IssuerName::Origin(origin) => {
                // The parser forgives a lot that a comparison must not: spaces, backslashes, user names.
                let plain = issuer.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'@' | b'?' | b'#'));
                plain && Url::parse(issuer).is_ok_and(|url| url.origin().ascii_serialization() == **origin)
            }
            IssuerName::Unknown => false,
        }
    }

    /// What stands for the issuer where an answer about a token does not name it.
    pub fn text(&self) -> Option<&Arc<str>> {
        match self {
            IssuerName::Exactly(name) | IssuerName::Origin(name) => Some(name),
            IssuerName::Unknown => None,
        }
    }
}

/// Refuse tokens that were not made to be shown to a resource server.
pub(super) fn refuse_other_tokens(claims: &Map<String, Value>) -> Result<(), AuthError> {
    if ["nonce", "at_hash", "c_hash"].iter().any(|name| claims.contains_key(*name)) {
        return Err(AuthError::IdToken);
    }
    // RFC 7800: whoever shows it must also show a key, and the bearer scheme has no way to.
    if claims.contains_key("cnf") {
        return Err(AuthError::SenderConstrained);
    }
    Ok(())
}

/// Refuse what has all that an ID token has and nothing that only access tokens have: it is for us as a client alone,
/// and grants nothing. Not every ID token has the claims that [`refuse_other_tokens`] looks for.
pub(super) fn refuse_plain_id_tokens(claims: &Map<String, Value>, policy: &Policy) -> Result<(), AuthError> {
    let grants = ["scope", "scp", "client_id"].iter().any(|name| claims.contains_key(*name));
    if grants || names_one_of(claims, &policy.audiences, policy.client_id.as_deref()) {
        return Ok(());
    }
    Err(AuthError::IdToken)
}

/// Whether `aud`, one text or a list, names one of `audiences`.
pub(super) fn check_audience(claims: &Map<String, Value>, audiences: &[Box<str>]) -> Result<(), AuthError> {
    if names_one_of(claims, audiences, None) { Ok(()) } else { Err(AuthError::Audience) }
}

/// Whether `aud` names one of `audiences` with something else than `except`.
fn names_one_of(claims: &Map<String, Value>, audiences: &[Box<str>], except: Option<&str>) -> bool {
    let is_ours = |value: &Value| {
        value.as_str().is_some_and(|aud| Some(aud) != except && audiences.iter().any(|own| covers(own, aud)))
    };
    match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    }
}

/// Verbatim; and whoever answers for an origin, slash at its end, answers for the resources below it, which are what
/// our metadata names: clients ask for tokens for the URL that they call (RFC 9728 section 3.3).
fn covers(own: &str, audience: &str) -> bool {
    let is_origin =
        || own.strip_suffix('/').and_then(|own| own.split_once("://")).is_some_and(|(_, h)| !h.contains('/'));
    own == audience || (audience.starts_with(own) && is_origin())
}

/// Check `exp`, `nbf` and `iat` at `now` (unix seconds); when the token ends, leeway included; `None`: it says not.
pub(super) fn check_times(claims: &Map<String, Value>, now: u64, leeway: u64) -> Result<Option<u64>, AuthError> {
    let latest = now.saturating_add(leeway);
    let expires = seconds(claims, "exp")?.map(|expires| expires.saturating_add(leeway));
    if expires.is_some_and(|expires| expires <= now) {
        return Err(AuthError::Expired);
    }
    if seconds(claims, "nbf")?.is_some_and(|from| from > latest) {
        return Err(AuthError::NotYetValid);
    }
    if seconds(claims, "iat")?.is_some_and(|issued| issued > latest) {
        return Err(AuthError::IssuedInFuture);
    }
    Ok(expires)
}

/// A NumericDate (RFC 7519 section 2), which may have a fraction.
fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, AuthError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            // Saturates: negative times are 1970, and have passed.
            (None, Some(seconds)) => Ok(Some(seconds as u64)),
            (None, None) => Err(AuthError::Malformed("a time in it is no number")),
        },
        Some(_) => Err(AuthError::Malformed("a time in it is no number")),
    }
}

/// Who the claims are about, once they are known to be the issuer's.
pub(super) fn principal(
    claims: &Map<String, Value>,
    issuer: Arc<str>,
    expires: Option<u64>,
) -> Result<Principal, AuthError> {
    let subject = principal::subject(claims)?;
    Ok(Principal::new(issuer, &subject, principal::scopes(claims)?, expires))
}
