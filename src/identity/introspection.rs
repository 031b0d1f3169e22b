//! Answers of introspection endpoints (RFC 7662 section 2.2).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::claims;
use super::error::AuthError;
use super::json;
use super::keyring::Issuer;
use super::principal::Principal;

/// Who an active token belongs to. `endpoint` stands for the issuer where neither the answer nor the configuration
/// names one; `now` in unix seconds.
///
/// # Errors
/// The token is not active, not for us, not an access token; or the answer is none.
pub fn read(answer: &[u8], issuer: &Issuer, endpoint: &str, now: u64) -> Result<Principal, AuthError> {
    let claims = json::object(answer).map_err(|_| AuthError::IntrospectionAnswer)?;
    match claims.get("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err(AuthError::Inactive),
        _ => return Err(AuthError::IntrospectionAnswer),
    }
    refuse_other_tokens(&claims)?;
    let name = issuer_of(&claims, issuer, endpoint)?;
    check_audience(&claims, issuer)?;
    let expires = claims::check_times(&claims, now, issuer.policy.leeway)?;
    claims::principal(&claims, name, expires)
}

/// A refresh token is active as well, and none of our business.
fn refuse_other_tokens(claims: &Map<String, Value>) -> Result<(), AuthError> {
    claims::refuse_other_tokens(claims)?;
    for (name, fine) in [("token_type", ["bearer", "access_token"]), ("token_use", ["access", "access_token"])] {
        match claims.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(kind)) if fine.iter().any(|fine| kind.eq_ignore_ascii_case(fine)) => {}
            Some(Value::String(kind)) if kind.eq_ignore_ascii_case("dpop") => return Err(AuthError::SenderConstrained),
            Some(_) => return Err(AuthError::Type),
        }
    }
    Ok(())
}

fn issuer_of(claims: &Map<String, Value>, issuer: &Issuer, endpoint: &str) -> Result<Arc<str>, AuthError> {
    match (claims.get("iss"), issuer.name.text()) {
        (None | Some(Value::Null), Some(name)) => Ok(name.clone()),
        (None | Some(Value::Null), None) => Ok(endpoint.into()),
        (Some(Value::String(named)), None) => Ok(named.as_str().into()),
        (Some(Value::String(named)), Some(_)) if issuer.name.matches(named) => Ok(named.as_str().into()),
        _ => Err(AuthError::Issuer),
    }
}

/// `aud` is optional in an answer; an access token that our own client was given is ours without it. That it is one must
/// be said then: of a refresh token some servers say but that it is active, and whose.
fn check_audience(claims: &Map<String, Value>, issuer: &Issuer) -> Result<(), AuthError> {
    let audiences = &issuer.policy.audiences;
    let client = claims.get("client_id").and_then(Value::as_str);
    let is_ours = || client.is_some_and(|client| audiences.iter().any(|own| **own == *client));
    match (claims.get("aud"), claims.get("token_type")) {
        (None | Some(Value::Null), Some(Value::String(_))) if is_ours() => Ok(()),
        _ => claims::check_audience(claims, audiences),
    }
}
