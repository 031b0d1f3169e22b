//! Verification of one bearer token (RFC 6750) against the keys at hand: JWT access tokens (RFC 7519, RFC 9068), with
//! the advice of RFC 8725. Nothing that a token says chooses an algorithm, a key's place or an issuer that is not
//! configured; `jku`, `x5u`, `jwk` and `x5c` in its header are not read.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::claims;
use super::error::AuthError;
use super::json::{self, Refused};
use super::keyring::{Issuer, Keyring};
use super::keyset::NotFound;
use super::principal::Principal;
use crate::wire::jose::{Algorithm, Compact};

/// Longest token that is looked at, bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What can be said of a token without asking anybody.
#[derive(Debug, PartialEq, Eq)]
pub enum Checked {
    Verified(Principal),
    /// Only an introspection endpoint knows: hand this to [`super::Keys::introspect`].
    Introspect(Introspect),
}

/// Whom to ask about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introspect {
    Issuer(usize),
    /// The token is opaque: every issuer that can be asked, in the order of the configuration.
    Any,
}

/// Verify a token as it stood after `Bearer `; `now` in unix seconds.
///
/// # Errors
/// Why it is not taken. `UnknownKid`: call [`super::Keys::unknown_kid`], and try once more if that says so.
pub fn verify(token: &str, keyring: &Keyring, now: u64) -> Result<Checked, AuthError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(AuthError::TooLong);
    }
    if !is_b64token(token) {
        return Err(AuthError::Malformed("not the characters of a token"));
    }
    match Compact::parse(token) {
        Some(parts) if parts.header.first() == Some(&b'{') => verify_jwt(&parts, keyring, now),
        _ if keyring.introspects() => Ok(Checked::Introspect(Introspect::Any)),
        _ => Err(AuthError::Opaque),
    }
}

fn verify_jwt(token: &Compact<'_>, keyring: &Keyring, now: u64) -> Result<Checked, AuthError> {
    let header = Header::parse(&token.header)?;
    let claims = object(&token.payload, "its claims are no JSON object")?;
    claims::refuse_other_tokens(&claims)?;
    let named = claims.get("iss").and_then(Value::as_str).ok_or(AuthError::Issuer)?;
    let (at, issuer) = keyring.find(named).ok_or(AuthError::Issuer)?;
    if !issuer.policy.has_keys {
        return Ok(Checked::Introspect(Introspect::Issuer(at)));
    }
    if !issuer.policy.algorithms.contains(&header.algorithm) {
        return Err(AuthError::Algorithm);
    }
    // Before the signature, which costs most: only tokens that would pass make us look for keys.
    claims::check_audience(&claims, &issuer.policy.audiences)?;
    if !header.says_access_token {
        claims::refuse_plain_id_tokens(&claims, &issuer.policy)?;
    }
    let expires = claims::check_times(&claims, now, issuer.policy.leeway)?.ok_or(AuthError::NoExpiry)?;
    check_signature(token, &header, issuer, at)?;
    claims::principal(&claims, Arc::from(named), Some(expires)).map(Checked::Verified)
}

/// Whether a key of this issuer, the one at `at`, signed it.
pub(super) fn check_signature(
    token: &Compact<'_>,
    header: &Header,
    issuer: &Issuer,
    at: usize,
) -> Result<(), AuthError> {
    let keys = issuer.keys.as_deref().ok_or(AuthError::KeysUnavailable)?;
    let candidates = keys.find(header.kid.as_deref(), header.algorithm).map_err(|why| match why {
        NotFound::UnknownKid => AuthError::UnknownKid { issuer: at },
        NotFound::Ambiguous => AuthError::NoKid,
        NotFound::Algorithm => AuthError::Algorithm,
    })?;
    let signed = candidates.iter().any(|key| key.verify_sig(token.signed, &token.signature).is_ok());
    if signed { Ok(()) } else { Err(AuthError::Signature) }
}

/// What of a header matters.
pub(super) struct Header {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// `typ` is `at+jwt`, which no ID token has.
    pub says_access_token: bool,
}

impl Header {
    pub fn parse(text: &[u8]) -> Result<Header, AuthError> {
        let header = object(text, "its header is no JSON object")?;
        let string = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(AuthError::Malformed("a parameter of its header is no text")),
        };
        let algorithm = string("alg")?.and_then(Algorithm::parse).ok_or(AuthError::Algorithm)?;
        if header.contains_key("crit") {
            return Err(AuthError::Critical);
        }
        let says_access_token = match string("typ")? {
            None => false,
            Some(typ) => is_access_token(typ)?,
        };
        Ok(Header { algorithm, kid: string("kid")?.map(str::to_owned), says_access_token })
    }
}

/// Whether `typ` is `at+jwt` (RFC 9068 section 2.1) or but `JWT`, as media types with or without their `application/`.
///
/// # Errors
/// It is something else.
fn is_access_token(typ: &str) -> Result<bool, AuthError> {
    let plain = match typ.get(..12) {
        Some(prefix) if prefix.eq_ignore_ascii_case("application/") => &typ[12..],
        _ => typ,
    };
    match plain {
        _ if plain.eq_ignore_ascii_case("at+jwt") => Ok(true),
        _ if plain.eq_ignore_ascii_case("jwt") => Ok(false),
        _ => Err(AuthError::Type),
    }
}

pub(super) fn object(text: &[u8], otherwise: &'static str) -> Result<Map<String, Value>, AuthError> {
    json::object(text).map_err(|refused| match refused {
        Refused::DuplicateKey => AuthError::DuplicateKey,
        Refused::NotAnObject => AuthError::Malformed(otherwise),
    })
}

/// RFC 6750 section 2.1.
fn is_b64token(token: &str) -> bool {
    let digits = token.trim_end_matches('=');
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/'))
}
