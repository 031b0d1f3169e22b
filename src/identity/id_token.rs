//! ID tokens (OpenID Connect Core section 3.1.3.7): who logged in, told to us as a client. Never a credential that
//! somebody may show: [`super::verify`] refuses them.

use std::sync::Arc;

use serde_json::Value;

use super::bearer::{Header, check_signature, object};
use super::claims;
use super::error::AuthError;
use super::keyring::Keyring;
use super::principal::Principal;
use super::{IssuerName, TOKEN_BYTES_MAX};
use crate::wire::jose::Compact;

/// What an ID token must say besides being signed and current.
pub struct Expected<'e> {
    /// Whose it is; `None`: any issuer of the keyring.
    pub issuer: Option<&'e str>,
    /// Our own id as a client.
    pub client_id: &'e str,
    pub nonce: &'e str,
}

/// Whom an ID token is about; `scopes` is empty and `expires` `None`, since it grants nothing. `now` in unix seconds.
///
/// # Errors
/// Why it is not taken. `UnknownKid`: call [`super::Keys::unknown_kid`], and try once more if that says so.
pub fn verify(token: &str, keyring: &Keyring, expected: &Expected<'_>, now: u64) -> Result<Principal, AuthError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(AuthError::TooLong);
    }
    let parts = Compact::parse(token).ok_or(AuthError::Malformed("an ID token is a JWT"))?;
    let header = Header::parse(&parts.header)?;
    if header.says_access_token {
        return Err(AuthError::Type);
    }
    let claims = object(&parts.payload, "its claims are no JSON object")?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let named = text("iss").ok_or(AuthError::Issuer)?;
    if expected.issuer.is_some_and(|issuer| issuer != named) {
        return Err(AuthError::Issuer);
    }
    let (at, issuer) = keyring.find(named).ok_or(AuthError::Issuer)?;
    if expected.issuer.is_none() && matches!(issuer.name, IssuerName::Unknown) {
        return Err(AuthError::Issuer);
    }
    if !issuer.policy.algorithms.contains(&header.algorithm) {
        return Err(AuthError::Algorithm);
    }
    claims::check_audience(&claims, &[expected.client_id.into()])?;
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|audiences| audiences.len() > 1);
    if (several || claims.contains_key("azp")) && text("azp") != Some(expected.client_id) {
        return Err(AuthError::Audience);
    }
    claims::check_times(&claims, now, issuer.policy.leeway)?.ok_or(AuthError::NoExpiry)?;
    // The nonce is ours and random, and known to this browser and the issuer alone: nothing to learn from how long it takes.
    if text("nonce") != Some(expected.nonce) {
        return Err(AuthError::Nonce);
    }
    if text("sub").is_none() {
        return Err(AuthError::Subject);
    }
    check_signature(&parts, &header, issuer, at)?;
    let principal = claims::principal(&claims, Arc::from(named), None)?;
    Ok(Principal { scopes: Vec::new(), ..principal })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::testing::{ISSUER, NOW, Signer, keyring};
    use crate::wire::jose::Algorithm;

    fn claims_with(changes: Value) -> Value {
        let mut claims = json!({
            "iss": ISSUER, "sub": "alice", "aud": "us", "nonce": "n", "exp": NOW + 60, "iat": NOW, "at_hash": "h",
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }

    #[test]
    fn id_tokens_are_taken_for_what_they_must_say() {
        let (signer, stranger) = (Signer::p256("a"), Signer::p256("a"));
        let ring = keyring(&[&signer], &[Algorithm::Es256]);
        let expected = Expected { issuer: Some(ISSUER), client_id: "us", nonce: "n" };
        let signed = |by: &Signer, header: Value, changes: Value| {
            let token = by.sign(Algorithm::Es256, &header.to_string(), &claims_with(changes).to_string());
            verify(&token, &ring, &expected, NOW)
        };
        let plain = || json!({"alg": "ES256", "kid": "a"});
        let good = signed(&signer, plain(), json!({"scope": "admin"})).unwrap();
        assert_eq!((&*good.subject, &*good.issuer, good.scopes.len(), good.expires), ("alice", ISSUER, 0, None));
        for (changes, refused) in [
            (json!({"nonce": "other"}), AuthError::Nonce),
            (json!({"nonce": null}), AuthError::Nonce),
            (json!({"nonce": 1}), AuthError::Nonce),
            (json!({"aud": "other"}), AuthError::Audience),
            (json!({"aud": ["us", "other"]}), AuthError::Audience),
            (json!({"aud": ["us", "other"], "azp": "other"}), AuthError::Audience),
            (json!({"azp": "other"}), AuthError::Audience),
            (json!({"iss": "https://idp.example/"}), AuthError::Issuer),
            (json!({"iss": null}), AuthError::Issuer),
            (json!({"exp": NOW - 60}), AuthError::Expired),
            (json!({"exp": null}), AuthError::NoExpiry),
            (json!({"iat": NOW + 61}), AuthError::IssuedInFuture),
            (json!({"sub": null, "client_id": "us"}), AuthError::Subject),
        ] {
            assert_eq!(signed(&signer, plain(), changes.clone()), Err(refused), "{changes}");
        }
        signed(&signer, plain(), json!({"aud": ["us", "other"], "azp": "us"})).unwrap();
        signed(&signer, plain(), json!({"aud": ["us"]})).unwrap();
        assert_eq!(signed(&stranger, plain(), json!({})), Err(AuthError::Signature));
        for (header, refused) in [
            (json!({"alg": "none"}), AuthError::Algorithm),
            (json!({"alg": "RS256", "kid": "a"}), AuthError::Algorithm),
            (json!({"alg": "ES256", "kid": "b"}), AuthError::UnknownKid { issuer: 0 }),
            (json!({"alg": "ES256", "kid": "a", "typ": "at+jwt"}), AuthError::Type),
            (json!({"alg": "ES256", "kid": "a", "crit": ["x"]}), AuthError::Critical),
        ] {
            assert_eq!(signed(&signer, header.clone(), json!({})), Err(refused), "{header}");
        }
        assert!(matches!(verify("opaque", &ring, &expected, NOW), Err(AuthError::Malformed(_))));
    }
}
