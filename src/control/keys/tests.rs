//! Keys as they come, go and stay away, from an authorization server on loopback.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::mpsc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;

use super::super::testing::{Asked, FakeIdp, wait_for, wait_until};
use super::*;
use crate::config;
use crate::identity::testing::{NOW, Signer, claims, jwks};
use crate::identity::{AuthError, Checked, Introspect, Principal, verify};

const QUICK: Timing = Timing {
    refresh: Duration::from_secs(3600),
    stale_max: Duration::from_secs(3600),
    rest: Duration::from_secs(30),
    retry_min: Duration::from_millis(5),
    retry_max: Duration::from_millis(20),
};

/// A plan of this file.
fn plan(text: &str) -> Plan {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = config::Sources { file: Some(file.path().to_owned()), ..Default::default() };
    config::load(&sources).unwrap_or_else(|errors| panic!("{errors}")).plan
}

fn with_auth(lines: &str) -> Plan {
    plan(&format!("[auth]\naudience = \"https://proxy.example\"\nalgorithms = [\"ES256\"]\n{lines}"))
}

fn given_keys(idp: &FakeIdp) -> Plan {
    with_auth(&format!("issuer = \"{0}\"\njwks_url = \"{0}/jwks\"", idp.url))
}

fn publish(signers: Vec<Signer>) -> impl Fn(&Asked) -> (u16, String) {
    let text = jwks(&signers);
    move |asked| if asked.path == "/jwks" { (200, text.clone()) } else { (404, String::new()) }
}

fn token(signer: &Signer, idp: &FakeIdp) -> String {
    signer.token(&json!({ "iss": idp.url }))
}

fn check(keys: &Keys, token: &str) -> Result<Principal, AuthError> {
    verify(token, &keys.current(), NOW).map(|checked| match checked {
        Checked::Verified(principal) => principal,
        Checked::Introspect(_) => panic!("keys are there"),
    })
}

#[test]
fn keys_are_there_when_a_start_returns() {
    let signer = Signer::p256("a");
    let idp = FakeIdp::start(|_| (404, String::new()));
    let text = jwks([&signer]);
    idp.play(move |asked| if asked.path == "/jwks" { (200, text.clone()) } else { (404, String::new()) });
    let keys = start(&given_keys(&idp)).unwrap();
    assert_eq!(&*check(&keys, &token(&signer, &idp)).unwrap().subject, "alice");
    assert_eq!(idp.asked("/jwks").len(), 1);
}

#[test]
fn keys_are_discovered_in_every_place_that_the_rfcs_have() {
    for (issuer_path, place) in [
        ("", "/.well-known/oauth-authorization-server"),
        ("", "/.well-known/openid-configuration"),
        ("/t/1", "/.well-known/oauth-authorization-server/t/1"),
        ("/t/1", "/.well-known/openid-configuration/t/1"),
        ("/t/1", "/t/1/.well-known/openid-configuration"),
    ] {
        let signer = Signer::p256("a");
        let idp = FakeIdp::start(|_| (404, String::new()));
        let (issuer, keys) = (format!("{}{issuer_path}", idp.url), jwks([&signer]));
        let metadata = json!({"issuer": issuer, "jwks_uri": format!("{}/keys", idp.url)}).to_string();
        idp.play(move |asked| match asked.path.as_str() {
            "/keys" => (200, keys.clone()),
            path if path == place => (200, metadata.clone()),
            _ => (404, String::new()),
        });
        let keys = start_with(&with_auth(&format!("issuer = \"{issuer}\"")), Some(QUICK)).unwrap();
        let principal = check(&keys, &signer.token(&json!({ "iss": issuer }))).unwrap();
        assert_eq!(*principal.issuer, *issuer, "{place}");
    }
}

#[test]
fn metadata_of_another_issuer_or_with_keys_elsewhere_inside_is_not_used() {
    let signer = Signer::p256("a");
    let inside = FakeIdp::start(publish(vec![]));
    for (issuer, jwks_uri) in [("https://evil.example", None), ("", Some(inside.url.replace("127.0.0.1", "localhost")))]
    {
        let idp = FakeIdp::start(|_| (404, String::new()));
        let named = if issuer.is_empty() { idp.url.clone() } else { issuer.to_owned() };
        let jwks_uri = jwks_uri.map_or(format!("{}/jwks", idp.url), |host| format!("{host}/jwks"));
        let metadata = json!({"issuer": named, "jwks_uri": jwks_uri}).to_string();
        let keys = jwks([&signer]);
        idp.play(move |asked| if asked.path == "/jwks" { (200, keys.clone()) } else { (200, metadata.clone()) });
        let keys = start_with(&with_auth(&format!("issuer = \"{}\"", idp.url)), Some(QUICK)).unwrap();
        assert_eq!(check(&keys, &token(&signer, &idp)), Err(AuthError::KeysUnavailable));
        assert!(idp.asked("/jwks").is_empty());
    }
    assert!(inside.asked("/jwks").is_empty());
}

#[test]
fn without_an_issuer_the_metadata_names_it_or_the_origin_of_the_keys_does() {
    let signer = Signer::p256("a");
    for named in [true, false] {
        let idp = FakeIdp::start(|_| (404, String::new()));
        let metadata = json!({"issuer": format!("{}/", idp.url)}).to_string();
        let keys = jwks([&signer]);
        idp.play(move |asked| match asked.path.as_str() {
            "/jwks" => (200, keys.clone()),
            _ if named => (200, metadata.clone()),
            _ => (404, String::new()),
        });
        let keys = start_with(&with_auth(&format!("jwks_url = \"{}/jwks\"", idp.url)), Some(QUICK)).unwrap();
        let of = |iss: String| check(&keys, &signer.token(&json!({ "iss": iss }))).map(drop);
        assert_eq!(of(format!("{}/", idp.url)), Ok(()));
        let other = of(format!("{}/realm", idp.url));
        assert_eq!(other, if named { Err(AuthError::Issuer) } else { Ok(()) });
        assert_eq!(of("https://evil.example".into()), Err(AuthError::Issuer));
    }
}

#[test]
fn a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_dies() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let idp = FakeIdp::start(|_| (404, String::new()));
    let text = jwks([&old]);
    idp.play(move |_| (200, text.clone()));
    let keys = start_with(&given_keys(&idp), Some(QUICK)).unwrap();
    let (old_token, new_token) = (token(&old, &idp), token(&new, &idp));
    check(&keys, &old_token).unwrap();
    let before = keys.current().generation;
    let text = jwks([&new]);
    idp.play(move |_| (200, text.clone()));
    let Err(AuthError::UnknownKid { issuer }) = check(&keys, &new_token) else { panic!("it is not there yet") };
    let _ = wait_for(keys.unknown_kid(issuer).expect("a fetch"));
    check(&keys, &new_token).unwrap();
    assert!(keys.current().generation > before, "remembered verdicts must die");
    assert_eq!(check(&keys, &old_token), Err(AuthError::UnknownKid { issuer }));
    assert!(keys.unknown_kid(issuer).is_none(), "the issuer rests");
    assert_eq!(idp.asked("/jwks").len(), 2);
}

#[test]
fn keys_are_fetched_regularly_and_an_unchanged_set_keeps_its_generation() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let idp = FakeIdp::start(|_| (404, String::new()));
    let text = jwks([&old]);
    idp.play(move |_| (200, text.clone()));
    let timing = Timing { refresh: Duration::from_millis(10), ..QUICK };
    let keys = start_with(&given_keys(&idp), Some(timing)).unwrap();
    let generation = keys.current().generation;
    wait_until("several fetches", || idp.asked("/jwks").len() > 3);
    assert_eq!(keys.current().generation, generation);
    let text = jwks([&old, &new]);
    idp.play(move |_| (200, text.clone()));
    wait_until("the new key", || check(&keys, &token(&new, &idp)).is_ok());
    check(&keys, &token(&old, &idp)).unwrap();
}

#[test]
fn a_flood_of_unknown_keys_costs_a_handful_of_fetches_and_good_tokens_pass_meanwhile() {
    let signer = Signer::p256("good");
    let idp = FakeIdp::start(|_| (404, String::new()));
    let text = jwks([&signer]);
    idp.play(move |_| (200, text.clone()));
    let keys = start_with(&given_keys(&idp), Some(QUICK)).unwrap();
    let good = token(&signer, &idp);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (keys, idp, good) = (&keys, &idp, &good);
            scope.spawn(move || {
                let stranger = Signer::p256("stranger");
                for n in 0..75 {
                    let claims = claims(&json!({ "iss": idp.url })).to_string();
                    let header = json!({"alg": "ES256", "kid": format!("{thread}-{n}")}).to_string();
                    let forged = stranger.sign(stranger.algorithm(), &header, &claims);
                    let Err(AuthError::UnknownKid { issuer }) = check(keys, &forged) else { panic!("a stranger") };
                    if let Some(told) = keys.unknown_kid(issuer) {
                        let _ = wait_for(told);
                        assert!(check(keys, &forged).is_err());
                    }
                    check(keys, good).unwrap();
                }
            });
        }
    });
    // One at the start, one for the flood.
    assert_eq!(idp.asked("/jwks").len(), 2);
}

#[test]
fn many_who_wait_share_one_fetch_and_not_all_may_wait() {
    let signer = Signer::p256("a");
    let idp = FakeIdp::start(|_| (404, String::new()));
    let text = jwks([&signer]);
    idp.play(move |_| (200, text.clone()));
    let keys = start_with(&given_keys(&idp), Some(QUICK)).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (released, text) = (Mutex::new(released), jwks([&signer]));
    idp.play(move |_| {
        let _ = released.lock().unwrap().recv();
        (200, text.clone())
    });
    let first = keys.unknown_kid(0).expect("a fetch");
    wait_until("the fetch", || idp.asked("/jwks").len() == 2);
    let waiting: Vec<_> = (0..1000).map_while(|_| keys.unknown_kid(0)).collect();
    assert!(!waiting.is_empty() && waiting.len() < 100, "{}", waiting.len());
    drop(release);
    for told in waiting.into_iter().chain([first]) {
        let _ = wait_for(told);
    }
    assert_eq!(idp.asked("/jwks").len(), 2);
}

#[test]
fn an_issuer_that_rested_may_be_asked_again() {
    let signer = Signer::p256("a");
    let idp = FakeIdp::start(|_| (404, String::new()));
    let text = jwks([&signer]);
    idp.play(move |_| (200, text.clone()));
    let timing = Timing { rest: Duration::from_millis(5), ..QUICK };
    let keys = start_with(&given_keys(&idp), Some(timing)).unwrap();
    for fetches in 2..5 {
        wait_until("the end of the rest", || keys.unknown_kid(0).map(wait_for).is_some());
        wait_until("another fetch", || idp.asked("/jwks").len() >= fetches);
    }
}

#[test]
fn old_keys_outlive_an_outage_and_not_for_ever() {
    let signer = Signer::p256("a");
    let idp = FakeIdp::start(|_| (404, String::new()));
    let text = jwks([&signer]);
    idp.play(move |_| (200, text.clone()));
    let timing = Timing { refresh: Duration::from_millis(10), stale_max: Duration::from_millis(1500), ..QUICK };
    let keys = start_with(&given_keys(&idp), Some(timing)).unwrap();
    let good = token(&signer, &idp);
    let generation = keys.current().generation;
    idp.play(|_| (500, String::new()));
    let before = idp.asked("/jwks").len();
    wait_until("failed fetches", || idp.asked("/jwks").len() > before + 3);
    check(&keys, &good).unwrap();
    assert_eq!(keys.current().generation, generation);
    wait_until("the end of the keys", || check(&keys, &good) == Err(AuthError::KeysUnavailable));
    assert!(keys.current().generation > generation, "remembered verdicts must die");
    let text = jwks([&signer]);
    idp.play(move |_| (200, text.clone()));
    wait_until("the keys again", || check(&keys, &good).is_ok());
}

#[test]
fn answers_that_are_no_keys_leave_the_old_ones_in_place() {
    let signer = Signer::p256("a");
    let idp = FakeIdp::start(|_| (404, String::new()));
    let text = jwks([&signer]);
    idp.play(move |_| (200, text.clone()));
    let timing = Timing { refresh: Duration::from_millis(10), ..QUICK };
    let keys = start_with(&given_keys(&idp), Some(timing)).unwrap();
    for (status, body) in
        [(200, "<html>".into()), (302, String::new()), (200, " ".repeat(600_000)), (204, String::new())]
    {
        idp.play(move |_| (status, String::clone(&body)));
        let before = idp.asked("/jwks").len();
        wait_until("fetches", || idp.asked("/jwks").len() > before + 2);
        check(&keys, &token(&signer, &idp)).unwrap();
    }
    // An issuer that takes its keys back is believed.
    idp.play(|_| (200, r#"{"keys":[]}"#.into()));
    wait_until("no keys", || check(&keys, &token(&signer, &idp)).is_err());
}

#[test]
fn the_threads_end_with_the_last_owner() {
    let idp = FakeIdp::start(publish(vec![]));
    let keys = start_with(&given_keys(&idp), Some(QUICK)).unwrap();
    let board = Arc::downgrade(keys.board());
    drop(keys);
    wait_until("the end of the threads", || board.strong_count() == 0);
}

#[test]
fn private_authorities_are_trusted_by_ca_path_alone() {
    let signer = Signer::p256("a");
    let (pem, config) = authority_and_server();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let text = jwks([&signer]);
    let idp = FakeIdp::start_tls(config, move |_| (200, text.clone()));
    let lines = format!("issuer = \"{0}\"\njwks_url = \"{0}/jwks\"\n", idp.url);
    let trusted = format!("{lines}ca_path = \"{}\"\n", file.path().display());
    let keys = start_with(&with_auth(&trusted), Some(QUICK)).unwrap();
    check(&keys, &token(&signer, &idp)).unwrap();
    let keys = start_with(&with_auth(&lines), Some(QUICK)).unwrap();
    assert_eq!(check(&keys, &token(&signer, &idp)), Err(AuthError::KeysUnavailable));
}

fn authority_and_server() -> (String, Arc<ServerConfig>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (ca_certificate.pem(), Arc::new(config))
}

// --- introspection ---------------------------------------------------------------------------------------------------

fn introspecting(idp: &FakeIdp) -> Plan {
    with_auth(&format!(
        "issuer = \"{0}\"\nintrospection_url = \"{0}/introspect\"\nclient_id = \"us\"\nclient_secret = \"a b\"",
        idp.url
    ))
}

#[test]
fn opaque_tokens_are_asked_about() {
    let idp = FakeIdp::start(|_| (404, String::new()));
    let issuer = idp.url.clone();
    idp.play(move |asked| {
        let fits = asked.body == "token=opaque&token_type_hint=access_token";
        let mut answer = json!({ "active": fits });
        if fits {
            answer =
                json!({"active": true, "iss": issuer, "sub": "bob", "aud": "https://proxy.example", "scope": "read"});
        }
        (200, answer.to_string())
    });
    let keys = start_with(&introspecting(&idp), Some(QUICK)).unwrap();
    let ask = |token: &str, whom| wait_for(keys.introspect(token, whom)).unwrap();
    for whom in [Introspect::Any, Introspect::Issuer(0)] {
        let principal = ask("opaque", whom).unwrap();
        assert_eq!((&*principal.subject, &*principal.issuer), ("bob", idp.url.as_str()));
    }
    assert_eq!(ask("other", Introspect::Any), Err(AuthError::Inactive));
    assert_eq!(ask("opaque", Introspect::Issuer(7)), Err(AuthError::Opaque));
    // us:a+b
    assert_eq!(idp.asked("/introspect")[0].authorization.as_deref(), Some("Basic dXM6YSti"));
    assert!(idp.asked("/jwks").is_empty());
}

#[test]
fn the_next_issuer_is_asked_if_one_does_not_know_a_token() {
    let one = FakeIdp::start(|_| (200, r#"{"active":false}"#.into()));
    let two = FakeIdp::start(|_| (200, r#"{"active":true,"sub":"bob","aud":"https://proxy.example"}"#.into()));
    let text = format!(
        "introspection_url = \"{}/i\"\n[[auth.issuers]]\nissuer = \"https://two.example\"\nintrospection_url = \"{}/i\"\n",
        one.url, two.url
    );
    let keys = start_with(&with_auth(&text), Some(QUICK)).unwrap();
    let ask = || wait_for(keys.introspect("opaque", Introspect::Any)).unwrap();
    assert_eq!(&*ask().unwrap().issuer, "https://two.example");
    one.play(|_| (500, String::new()));
    assert_eq!(&*ask().unwrap().subject, "bob");
    two.play(|_| (200, r#"{"active":false}"#.into()));
    let refused = ask().unwrap_err();
    assert_eq!(refused, AuthError::IntrospectionUnavailable, "the one that is down may have known it");
}

#[test]
fn an_endpoint_that_is_down_is_left_alone_and_nonsense_does_not_bring_it_down() {
    let idp = FakeIdp::start(|_| (400, String::new()));
    let keys = start_with(&introspecting(&idp), Some(QUICK)).unwrap();
    let ask = || wait_for(keys.introspect("opaque", Introspect::Any)).unwrap();
    assert_eq!(ask(), Err(AuthError::Inactive));
    idp.play(|_| (200, "<html>".into()));
    assert_eq!(ask(), Err(AuthError::IntrospectionAnswer));
    idp.play(|_| (401, String::new()));
    assert_eq!(ask(), Err(AuthError::IntrospectionUnavailable));
    let before = idp.asked("/introspect").len();
    for _ in 0..20 {
        assert_eq!(ask(), Err(AuthError::IntrospectionUnavailable));
    }
    assert!(idp.asked("/introspect").len() <= before + 1);
}

#[test]
fn tokens_beyond_the_queue_are_refused_at_once() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let idp = FakeIdp::start(move |_| {
        let _ = released.lock().unwrap().recv();
        (200, r#"{"active":false}"#.into())
    });
    let keys = start_with(&introspecting(&idp), Some(QUICK)).unwrap();
    let asked: Vec<_> = (0..300).map(|_| keys.introspect("opaque", Introspect::Any)).collect();
    drop(release);
    let answers: Vec<_> = asked.into_iter().map(|answer| wait_for(answer).unwrap()).collect();
    let busy = answers.iter().filter(|answer| **answer == Err(AuthError::Busy)).count();
    let inactive = answers.iter().filter(|answer| **answer == Err(AuthError::Inactive)).count();
    assert!(busy > 0 && inactive >= 256 && busy + inactive == 300, "{busy} {inactive}");
}

// --- credentials of upstreams ----------------------------------------------------------------------------------------

#[test]
fn upstreams_get_the_credential_that_is_configured_for_them() {
    let idp = FakeIdp::start(|_| (200, r#"{"access_token":"t1","token_type":"Bearer","expires_in":3600}"#.into()));
    let text = format!(
        "[[upstreams]]\nname = \"plain\"\nurl = \"http://a\"\n\
         [[upstreams]]\nname = \"fixed\"\nurl = \"http://b\"\nbearer_token = \"s\"\n\
         [[upstreams]]\nname = \"field\"\nurl = \"http://c\"\ncredential_header = \"X-Key\"\ncredential = \"k\"\n\
         [[upstreams]]\nname = \"grant\"\nurl = \"http://d\"\ntoken_url = \"{}/token\"\nclient_id = \"us\"\n\
         client_secret = \"pw\"\nscopes = [\"a\", \"b\"]\nresource = \"https://d.example/mcp\"\n",
        idp.url
    );
    let keys = start(&plan(&text)).unwrap();
    let sent = |at| keys.credential(at).map(|c| c.map(|c| (c.field.to_string(), c.value.expose().to_owned())));
    let field = |name: &str, value: &str| Ok(Some((name.to_owned(), value.to_owned())));
    assert_eq!(sent(0), Ok(None));
    assert_eq!(sent(1), field("Authorization", "Bearer s"));
    assert_eq!(sent(2), field("X-Key", "k"));
    wait_until("a token", || sent(3).is_ok());
    assert_eq!(sent(3), field("Authorization", "Bearer t1"));
    assert_eq!(sent(9), Ok(None));
    let asked = &idp.asked("/token")[0];
    assert_eq!(asked.authorization.as_deref(), Some("Basic dXM6cHc="));
    let form = "grant_type=client_credentials&scope=a+b&resource=https%3A%2F%2Fd.example%2Fmcp";
    assert_eq!(asked.body, form);
    // Fresh from the server: a refusal now would not be mended by another one.
    keys.credential_refused(3);
    assert_eq!(idp.asked("/token").len(), 1);
}

#[test]
fn tokens_for_upstreams_are_renewed_before_they_expire_and_given_up_when_they_have() {
    let idp = FakeIdp::start(|_| (200, r#"{"access_token":"t1","token_type":"Bearer","expires_in":2}"#.into()));
    let text = format!(
        "[[upstreams]]\nurl = \"http://d\"\ntoken_url = \"{}/token\"\nclient_id = \"us\"\nclient_secret = \"pw\"\n",
        idp.url
    );
    let keys = start(&plan(&text)).unwrap();
    let sent = || keys.credential(0).map(|credential| credential.map(|c| c.value.expose().to_owned()));
    wait_until("a token", || sent().is_ok());
    idp.play(|_| (200, r#"{"access_token":"t2","token_type":"Bearer","expires_in":2}"#.into()));
    wait_until("the next token", || {
        assert!(sent().is_ok(), "there is a token all the time");
        sent() == Ok(Some("Bearer t2".into()))
    });
    idp.play(|_| (500, String::new()));
    wait_until("its end", || sent().is_err());
}
