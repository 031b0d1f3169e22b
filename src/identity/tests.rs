//! Tokens that are good, and every way to forge one that we know of.

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::testing::{AUDIENCE, ISSUER, NOW, Signer, claims, jwks, keyring, policy};
use super::*;
use crate::wire::jose::{Algorithm, encode_base64url};

const USUAL: [Algorithm; 2] = [Algorithm::Rs256, Algorithm::Es256];

fn refusal(token: &str, keyring: &Keyring) -> AuthError {
    match verify(token, keyring, NOW) {
        Err(error) => error,
        Ok(checked) => panic!("{checked:?}"),
    }
}

fn verified(token: &str, keyring: &Keyring) -> Principal {
    match verify(token, keyring, NOW) {
        Ok(Checked::Verified(principal)) => principal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_tokens_of_every_algorithm_are_taken() {
    let rsa = Signer::rsa("r");
    let (p256, p384, ed) = (Signer::p256("e"), Signer::p384("f"), Signer::ed25519("d"));
    let ring = keyring(&[&rsa, &p256, &p384, &ed], &Algorithm::ALL);
    for signer in [&rsa, &p256, &p384, &ed] {
        let principal = verified(&signer.token(&json!({})), &ring);
        assert_eq!((&*principal.issuer, &*principal.subject), (ISSUER, "alice"));
        assert_eq!(principal.expires, Some(NOW + 300 + 60));
        assert!(principal.has_all_scopes(&["read", "write"]));
    }
    for algorithm in Algorithm::ALL.into_iter().take(6) {
        let header = json!({"alg": algorithm.name(), "kid": "r"}).to_string();
        verified(&rsa.sign(algorithm, &header, &claims(&json!({})).to_string()), &ring);
    }
}

#[test]
fn refuses_alg_none_in_every_spelling() {
    let signer = Signer::p256("a");
    let ring = keyring(&[&signer], &USUAL);
    let body = encode_base64url(claims(&json!({})).to_string().as_bytes());
    for alg in [json!("none"), json!("None"), json!("nOnE"), json!(""), json!(null), json!(["none"]), json!(0)] {
        let header = encode_base64url(json!({"alg": alg, "typ": "JWT"}).to_string().as_bytes());
        for signature in ["", "AAAA"] {
            let refused = refusal(&format!("{header}.{body}.{signature}"), &ring);
            assert!(matches!(refused, AuthError::Algorithm | AuthError::Malformed(_)), "{alg}: {refused}");
        }
    }
    let header = encode_base64url(br#"{"typ":"JWT"}"#);
    assert_eq!(refusal(&format!("{header}.{body}."), &ring), AuthError::Algorithm);
    // The right header with no signature at all.
    let good = signer.token(&json!({}));
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert_eq!(refusal(&format!("{signed}."), &ring), AuthError::Signature);
}

#[test]
fn refuses_a_public_key_used_as_a_secret() {
    let signer = Signer::rsa("a");
    let ring = keyring(&[&signer], &Algorithm::ALL);
    for secret in [signer.public_bytes(), signer.jwk().to_string().into_bytes(), Vec::new()] {
        for alg in ["HS256", "RS256"] {
            let header = encode_base64url(json!({"alg": alg, "kid": "a"}).to_string().as_bytes());
            let signed = format!("{header}.{}", encode_base64url(claims(&json!({})).to_string().as_bytes()));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
            let token = format!("{signed}.{}", encode_base64url(tag.as_ref()));
            let expected = if alg == "HS256" { AuthError::Algorithm } else { AuthError::Signature };
            assert_eq!(refusal(&token, &ring), expected);
        }
    }
}

#[test]
fn algorithms_are_those_of_the_issuer_and_of_the_keys_type() {
    let (rsa, ec) = (Signer::rsa("r"), Signer::p256("e"));
    let ring = keyring(&[&rsa, &ec], &USUAL);
    // Good signatures by an algorithm that is not configured.
    for algorithm in [Algorithm::Rs512, Algorithm::Ps256] {
        let header = json!({"alg": algorithm.name(), "kid": "r"}).to_string();
        let token = rsa.sign(algorithm, &header, &claims(&json!({})).to_string());
        assert_eq!(refusal(&token, &ring), AuthError::Algorithm);
    }
    // A key of one type named with the algorithm of another.
    let crossed = [(&rsa, "ES256", "r"), (&ec, "RS256", "e"), (&ec, "ES256", "r"), (&rsa, "RS256", "e")];
    for (signer, alg, kid) in crossed {
        let token = signer.token_with_header(&json!({"alg": alg, "kid": kid}));
        assert_eq!(refusal(&token, &ring), AuthError::Algorithm, "{alg} {kid}");
    }
}

#[test]
fn refuses_wrong_issuers_and_audiences() {
    let signer = Signer::p256("a");
    let ring = keyring(&[&signer], &USUAL);
    for iss in [
        json!(null),
        json!("https://idp.example/"),
        json!("https://evil.example"),
        json!("HTTPS://idp.example"),
        json!([ISSUER]),
        json!(""),
    ] {
        assert_eq!(refusal(&signer.token(&json!({"iss": iss})), &ring), AuthError::Issuer, "{iss}");
    }
    for aud in [
        json!(null),
        json!("https://proxy.example/"),
        json!(["x"]),
        json!([]),
        json!({AUDIENCE: 1}),
        json!("https://proxy.example.evil"),
    ] {
        assert_eq!(refusal(&signer.token(&json!({"aud": aud})), &ring), AuthError::Audience, "{aud}");
    }
    verified(&signer.token(&json!({"aud": ["x", AUDIENCE]})), &ring);
}

#[test]
fn an_origin_answers_for_the_resources_below_it() {
    let signer = Signer::p256("a");
    let mut ring = keyring(&[&signer], &USUAL);
    let audiences = vec!["https://proxy.example/".into(), "https://other.example/mcp/".into(), "urn:x/".into()];
    ring.issuers[0].policy = Policy { audiences, ..policy(&USUAL) }.into();
    for aud in ["https://proxy.example/", "https://proxy.example/mcp", "https://proxy.example/a/b?c", "urn:x/"] {
        verified(&signer.token(&json!({ "aud": aud })), &ring);
    }
    for aud in [
        "https://proxy.example.evil/mcp",
        "https://proxy.example@evil/",
        "https://proxy.example:8443/mcp",
        "http://proxy.example/mcp",
        "https://other.example/mcp/x",
        "urn:x/y",
        "",
    ] {
        assert_eq!(refusal(&signer.token(&json!({ "aud": aud })), &ring), AuthError::Audience, "{aud}");
    }
}

#[test]
fn an_issuer_cannot_speak_for_another() {
    let (one, other) = (Signer::p256("same"), Signer::p256("same"));
    let mut ring = keyring(&[&one], &USUAL);
    let mut second = keyring(&[&other], &USUAL).issuers.remove(0);
    second.name = IssuerName::Exactly("https://other.example".into());
    ring.issuers.push(second);
    assert_eq!(
        &*verified(&other.token(&json!({"iss": "https://other.example"})), &ring).issuer,
        "https://other.example"
    );
    assert_eq!(refusal(&other.token(&json!({})), &ring), AuthError::Signature);
    assert_eq!(refusal(&one.token(&json!({"iss": "https://other.example"})), &ring), AuthError::Signature);
}

#[test]
fn times_are_held_to_within_the_leeway() {
    let signer = Signer::p256("a");
    let ring = keyring(&[&signer], &USUAL);
    let refused = |changes: Value| refusal(&signer.token(&changes), &ring);
    assert_eq!(refused(json!({"exp": null})), AuthError::NoExpiry);
    assert_eq!(refused(json!({"exp": NOW - 60})), AuthError::Expired);
    assert_eq!(refused(json!({"exp": 0})), AuthError::Expired);
    assert_eq!(refused(json!({"exp": -1})), AuthError::Expired);
    assert_eq!(refused(json!({"nbf": NOW + 61})), AuthError::NotYetValid);
    assert_eq!(refused(json!({"iat": NOW + 61})), AuthError::IssuedInFuture);
    for wrong in [json!("1800000300"), json!(true), json!([])] {
        assert!(matches!(refused(json!({"exp": wrong})), AuthError::Malformed(_)));
    }
    let last = verified(&signer.token(&json!({"exp": NOW - 59, "nbf": NOW + 60, "iat": NOW + 60})), &ring);
    assert!(last.is_current(NOW) && !last.is_current(NOW + 1));
    verified(&signer.token(&json!({"exp": NOW as f64 + 0.5, "nbf": null, "iat": null})), &ring);
    // Numbers beyond all times neither wrap nor panic.
    verified(&signer.token(&json!({"exp": u64::MAX})), &ring);
    verified(&signer.token(&json!({"exp": 1e300})), &ring);
}

#[test]
fn refuses_tokens_of_other_kinds() {
    let signer = Signer::p256("a");
    let ring = keyring(&[&signer], &USUAL);
    for claim in ["nonce", "at_hash", "c_hash"] {
        assert_eq!(refusal(&signer.token(&json!({ claim: "x" })), &ring), AuthError::IdToken);
    }
    assert_eq!(refusal(&signer.token(&json!({"cnf": {"jkt": "x"}})), &ring), AuthError::SenderConstrained);
    for typ in ["dpop+jwt", "logout+jwt", "secevent+jwt", "", "at+jwt ", "application/", "id+jwt"] {
        assert_eq!(refusal(&signer.token_with_header(&json!({ "typ": typ })), &ring), AuthError::Type, "{typ}");
    }
    for typ in [json!("JWT"), json!("jwt"), json!("application/at+JWT"), json!(null)] {
        verified(&signer.token_with_header(&json!({ "typ": typ })), &ring);
    }
    for crit in [json!(["exp"]), json!([]), json!(["b64"])] {
        assert_eq!(refusal(&signer.token_with_header(&json!({ "crit": crit })), &ring), AuthError::Critical);
    }
}

#[test]
fn refuses_id_tokens_that_have_no_mark_of_their_own() {
    let signer = Signer::p256("a");
    let mut ring = keyring(&[&signer], &USUAL);
    let ours = Policy { audiences: vec![AUDIENCE.into(), "us".into()], client_id: Some("us".into()), ..policy(&USUAL) };
    ring.issuers[0].policy = ours.into();
    let id_token = claims(&json!({"aud": "us", "scope": null, "client_id": null}));
    let signed =
        |header: Value, claims: &Value| signer.sign(Algorithm::Es256, &header.to_string(), &claims.to_string());
    let plain = json!({"alg": "ES256", "kid": "a"});
    assert_eq!(refusal(&signed(plain.clone(), &id_token), &ring), AuthError::IdToken);
    assert_eq!(
        refusal(&signed(json!({"alg": "ES256", "kid": "a", "typ": "JWT"}), &id_token), &ring),
        AuthError::IdToken
    );
    // A client whose id is a URL below our own: its ID tokens are for it, not for us as a resource.
    let url = "https://proxy.example/client.json";
    let mut by_url = keyring(&[&signer], &USUAL);
    let audiences = vec!["https://proxy.example/".into(), url.into()];
    by_url.issuers[0].policy = Policy { audiences, client_id: Some(url.into()), ..policy(&USUAL) }.into();
    let for_url = claims(&json!({"aud": url, "scope": null, "client_id": null}));
    assert_eq!(refusal(&signed(plain.clone(), &for_url), &by_url), AuthError::IdToken);
    // What says that it is an access token, grants something, or is for us as a resource.
    verified(&signed(json!({"alg": "ES256", "kid": "a", "typ": "at+jwt"}), &id_token), &ring);
    for changes in
        [json!({"aud": "us", "client_id": null}), json!({"aud": ["us", AUDIENCE], "scope": null, "client_id": null})]
    {
        verified(&signed(plain.clone(), &claims(&changes)), &ring);
    }
}

#[test]
fn keys_that_a_token_brings_along_are_ignored() {
    let (ours, evil) = (Signer::p256("a"), Signer::p256("evil"));
    let ring = keyring(&[&ours], &USUAL);
    let injected = json!({
        "jwk": evil.jwk(), "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x", "x5c": ["AAAA"],
    });
    let mut with_our_kid = injected.clone();
    with_our_kid["kid"] = json!("a");
    assert_eq!(refusal(&evil.token_with_header(&with_our_kid), &ring), AuthError::Signature);
    assert_eq!(refusal(&evil.token_with_header(&injected), &ring), AuthError::UnknownKid { issuer: 0 });
    // And do no harm to a token that is good.
    verified(&ours.token_with_header(&injected), &ring);
}

#[test]
fn keys_are_chosen_by_their_name_alone() {
    let (one, two, stranger) = (Signer::p256("one"), Signer::p256("two"), Signer::p256("one"));
    let ring = keyring(&[&one, &two], &USUAL);
    verified(&two.token(&json!({})), &ring);
    assert_eq!(refusal(&stranger.token(&json!({})), &ring), AuthError::Signature);
    for kid in ["three", "", "../one", "one\0", "ONE", "' or 1=1"] {
        let token = one.token_with_header(&json!({ "kid": kid }));
        assert_eq!(refusal(&token, &ring), AuthError::UnknownKid { issuer: 0 }, "{kid}");
    }
    let without = json!({ "kid": null });
    assert_eq!(refusal(&one.token_with_header(&without), &ring), AuthError::NoKid);
    verified(&one.token_with_header(&without), &keyring(&[&one], &USUAL));
    assert_eq!(refusal(&two.token_with_header(&without), &keyring(&[&one], &USUAL)), AuthError::Signature);
    assert_eq!(refusal(&one.token_with_header(&without), &keyring(&[], &USUAL)), AuthError::NoKid);
    assert!(matches!(refusal(&one.token_with_header(&json!({ "kid": 7 })), &ring), AuthError::Malformed(_)));
}

#[test]
fn refuses_what_is_no_token() {
    let signer = Signer::p256("a");
    let ring = keyring(&[&signer], &USUAL);
    assert_eq!(refusal(&signer.token(&json!({"pad": "x".repeat(8192)})), &ring), AuthError::TooLong);
    assert_eq!(refusal(&"a".repeat(8193), &ring), AuthError::TooLong);
    for bad in ["", "=", "a b", "a,b", "caf\u{e9}", "a\r\nb"] {
        assert!(matches!(refusal(bad, &ring), AuthError::Malformed(_)), "{bad}");
    }
    assert_eq!(refusal("opaque", &ring), AuthError::Opaque);
    assert_eq!(refusal("AAAA.BBBB.CCCC", &ring), AuthError::Opaque);
    let good = signer.token(&json!({}));
    // One token has one spelling.
    for odd in [format!("{good}="), format!("{good}.AAAA"), good.replacen('.', "..", 1)] {
        assert_eq!(refusal(&odd, &ring), AuthError::Opaque, "{odd}");
    }
    let twice = [
        (r#"{"alg":"ES256","kid":"a"}"#, r#"{"iss":"https://idp.example","iss":"https://idp.example"}"#),
        (r#"{"alg":"ES256","kid":"a","alg":"none"}"#, "{}"),
    ];
    for (header, body) in twice {
        assert_eq!(refusal(&signer.sign(Algorithm::Es256, header, body), &ring), AuthError::DuplicateKey);
    }
    for body in ["", "[]", "null", "{"] {
        let token = signer.sign(Algorithm::Es256, r#"{"alg":"ES256","kid":"a"}"#, body);
        assert!(matches!(refusal(&token, &ring), AuthError::Malformed(_)));
    }
    assert_eq!(refusal(&signer.token(&json!({"sub": null, "client_id": null})), &ring), AuthError::Subject);
}

#[test]
fn every_changed_byte_is_noticed() {
    let signer = Signer::p256("a");
    let ring = keyring(&[&signer], &USUAL);
    let good = signer.token(&json!({}));
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(bytes).unwrap();
        assert!(verify(&forged, &ring, NOW).is_err(), "byte {at}");
    }
}

#[test]
fn without_keys_nobody_passes_and_nobody_is_blamed() {
    let signer = Signer::p256("a");
    let mut ring = keyring(&[&signer], &USUAL);
    ring.issuers[0].keys = None;
    let refused = refusal(&signer.token(&json!({})), &ring);
    assert_eq!(refused, AuthError::KeysUnavailable);
    assert!(refused.is_ours() && refused.may_pass_later());
    assert_eq!(refusal(&signer.token(&json!({"aud": "x"})), &ring), AuthError::Audience);
}

#[test]
fn only_issuers_that_are_configured_so_are_asked() {
    let signer = Signer::p256("a");
    let mut ring = keyring(&[&signer], &USUAL);
    let name = IssuerName::Origin("https://other.example".into());
    let asks = Policy { has_keys: false, introspects: true, ..policy(&USUAL) };
    ring.issuers.push(Issuer { policy: asks.into(), name, keys: None });
    assert_eq!(verify("opaque", &ring, NOW), Ok(Checked::Introspect(Introspect::Any)));
    let theirs = signer.token(&json!({"iss": "https://other.example/realm"}));
    assert_eq!(verify(&theirs, &ring, NOW), Ok(Checked::Introspect(Introspect::Issuer(1))));
    for iss in [
        "https://other.example@evil/",
        "https://other.example.evil",
        "http://other.example",
        "https://other.example\\x",
    ] {
        assert_eq!(refusal(&signer.token(&json!({ "iss": iss })), &ring), AuthError::Issuer, "{iss}");
    }
    verified(&signer.token(&json!({})), &ring);
}

#[test]
fn errors_tell_reasons_apart_and_repeat_nothing() {
    let signer = Signer::p256("a");
    let ring = keyring(&[&signer], &USUAL);
    let token = signer.token(&json!({"sub": "s3cr3t", "aud": "s3cr3t"}));
    let error = refusal(&token, &ring);
    assert!(!format!("{error} {error:?}").contains("s3cr3t"));
    assert_eq!(error.reason(), "audience");
    let keys = Keys::new(ring, &[]).0;
    let question = keys.introspect("s3cr3t", Introspect::Any);
    assert!(!format!("{question:?}").contains("s3cr3t"));
    assert!(!format!("{:?}", Credential::bearer("s3cr3t")).contains("s3cr3t"));
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_peer_sends_panics(header in ".{0,60}", claims in ".{0,60}", tail in "[A-Za-z0-9._=-]{0,20}", text in ".*") {
        let ring = Keyring::new(vec![]);
        let token = format!("{}.{}.{tail}", encode_base64url(header.as_bytes()), encode_base64url(claims.as_bytes()));
        proptest::prop_assert!(verify(&token, &ring, NOW).is_err());
        proptest::prop_assert!(verify(&text, &ring, NOW).is_err());
        let _ = KeySet::parse(text.as_bytes(), &Algorithm::ALL);
    }
}

// --- key sets --------------------------------------------------------------------------------------------------------

#[test]
fn key_sets_leave_out_what_must_not_verify() {
    let good = Signer::p256("good");
    let changed = |signer: &Signer, changes: Value| {
        let mut jwk = signer.jwk();
        changes.as_object().unwrap().iter().for_each(|(name, value)| jwk[name] = value.clone());
        jwk
    };
    let short = json!({"kty": "RSA", "kid": "short", "e": "AQAB", "n": encode_base64url(&[0x81; 128])});
    let weak = json!({"kty": "RSA", "kid": "weak", "e": "AQ", "n": encode_base64url(&[0x81; 256])});
    let padded = json!({"kty": "RSA", "kid": "padded", "e": "AQAB", "n": encode_base64url(&[&[0; 128][..], &[0x81; 128]].concat())});
    let refused = [
        json!({"kty": "oct", "kid": "secret", "k": "AAAA"}),
        short,
        weak,
        padded,
        changed(&good, json!({"use": "enc"})),
        changed(&good, json!({"key_ops": ["sign"]})),
        changed(&good, json!({"key_ops": "verify"})),
        changed(&good, json!({"alg": "ES384"})),
        changed(&good, json!({"alg": "HS256"})),
        changed(&good, json!({"crv": "P-384"})),
        changed(&good, json!({"crv": "secp256k1"})),
        changed(&good, json!({"x": good.jwk()["y"]})),
        changed(&good, json!({"kid": 7})),
        changed(&Signer::p384("not configured"), json!({})),
        json!(null),
        json!({}),
    ];
    for jwk in &refused {
        let set = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes(), &USUAL).unwrap();
        assert!(set.is_empty() && set.skipped() == 1, "{jwk}");
    }
    let fine = changed(&good, json!({"alg": "ES256", "use": "sig", "key_ops": ["verify"]}));
    let mut all = refused.to_vec();
    all.push(fine);
    let set = KeySet::parse(json!({ "keys": all }).to_string().as_bytes(), &USUAL).unwrap();
    assert_eq!((set.len(), set.skipped()), (1, refused.len()));
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
        assert!(KeySet::parse(text.as_bytes(), &USUAL).is_err(), "{text}");
    }
}

#[test]
fn generations_follow_the_keys() {
    let (one, two) = (Signer::p256("one"), Signer::p256("two"));
    let ring = keyring(&[&one], &USUAL);
    let with = |signers: &[&Signer]| {
        let keys = KeySet::parse(jwks(signers.iter().copied()).as_bytes(), &USUAL).unwrap();
        Issuer { keys: Some(keys.into()), ..ring.issuers[0].clone() }
    };
    let before = ring.generation;
    assert_eq!(ring.with(0, with(&[&one])).generation, before);
    let named = IssuerName::Exactly("https://x".into());
    for changed in [
        with(&[&one, &two]),
        with(&[&two]),
        Issuer { keys: None, ..ring.issuers[0].clone() },
        Issuer { name: named, ..ring.issuers[0].clone() },
    ] {
        assert!(ring.with(0, changed).generation > before);
    }
    assert_ne!(keyring(&[&one], &USUAL).generation, keyring(&[&one], &USUAL).generation, "two plans");
}

// --- introspection ---------------------------------------------------------------------------------------------------

#[test]
fn answers_about_tokens_are_held_to_the_same_rules() {
    let name = IssuerName::Exactly(ISSUER.into());
    let asks = Policy { has_keys: false, introspects: true, ..policy(&USUAL) };
    let issuer = Issuer { policy: asks.into(), name, keys: None };
    let read = |changes: Value| {
        let mut answer = claims(&changes);
        if changes.get("active").is_none() {
            answer["active"] = json!(true);
        }
        introspection::read(answer.to_string().as_bytes(), &issuer, "https://idp.example/introspect", NOW)
    };
    let principal = read(json!({"token_type": "Bearer"})).unwrap();
    assert_eq!((&*principal.subject, principal.expires), ("alice", Some(NOW + 360)));
    assert_eq!(principal.binding(), Principal::new(ISSUER.into(), "alice", vec![], None).binding());
    assert_eq!(read(json!({"iss": null})).unwrap().binding(), principal.binding());
    assert_eq!(read(json!({"exp": null})).unwrap().expires, None);
    assert_eq!(&*read(json!({"sub": null})).unwrap().subject, "client_id:app");
    for (changes, expected) in [
        (json!({"active": false}), AuthError::Inactive),
        (json!({"active": "true"}), AuthError::IntrospectionAnswer),
        (json!({"active": 1}), AuthError::IntrospectionAnswer),
        (json!({"exp": NOW - 61}), AuthError::Expired),
        (json!({"nbf": NOW + 61}), AuthError::NotYetValid),
        (json!({"iss": "https://evil.example"}), AuthError::Issuer),
        (json!({"aud": "x"}), AuthError::Audience),
        (json!({"aud": null}), AuthError::Audience),
        (json!({"token_type": "refresh_token"}), AuthError::Type),
        (json!({"token_use": "refresh"}), AuthError::Type),
        (json!({"token_type": "DPoP"}), AuthError::SenderConstrained),
        (json!({"cnf": {}}), AuthError::SenderConstrained),
        (json!({"nonce": "x"}), AuthError::IdToken),
    ] {
        assert_eq!(read(changes.clone()), Err(expected), "{changes}");
    }
    // Our own client's token is ours without an audience.
    assert!(read(json!({"aud": null, "client_id": AUDIENCE, "token_type": "Bearer"})).is_ok());
    // What may be its refresh token is not.
    assert_eq!(read(json!({"aud": null, "client_id": AUDIENCE})), Err(AuthError::Audience));
    for text in ["", "[]", r#"{"active":false,"active":true}"#] {
        let read = introspection::read(text.as_bytes(), &issuer, "e", NOW);
        assert_eq!(read, Err(AuthError::IntrospectionAnswer), "{text}");
    }
}
