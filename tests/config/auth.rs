//! `[auth]`: what holds where little is said, and what is refused with its place.

use std::io::Write;
use std::process::{Command, Stdio};

use shadowcat::config::plan::{AuthPlan, CredentialPlan, Provider};
use shadowcat::config::{self, Loaded};
use shadowcat::identity::{ApiKeys, AuthError};

use crate::{from_file, root, run, text_file};

fn load(text: &str) -> Result<Loaded, String> {
    let (_keep, path) = text_file(text);
    config::load(&from_file(&path)).map_err(|errors| errors.to_string())
}

fn auth(text: &str) -> AuthPlan {
    load(text).unwrap_or_else(|errors| panic!("{errors}")).plan.auth.expect("it is on")
}

#[test]
fn it_is_off_until_the_section_says_something() {
    assert!(load("").unwrap().plan.auth.is_none());
    assert!(load("[auth]\n").unwrap().plan.auth.is_none());
    assert!(load("[auth]\nenabled = false\nissuer = \"https://a\"\n").unwrap().plan.auth.is_none());
}

#[test]
fn without_a_key_source_it_loads_loudly_and_fails_closed() {
    for text in ["[auth]\nenabled = true\nprovider = \"oauth2\"\n", "[auth]\nclient_id = \"x\"\n"] {
        let loaded = load(text).unwrap();
        assert!(loaded.plan.auth.unwrap().closed);
        assert!(loaded.warnings.iter().any(|w| w.contains("every request but those of probes")), "{text}");
    }
    let none = load("[auth]\nprovider = \"api_key\"\n").unwrap();
    assert!(none.plan.auth.unwrap().closed && none.warnings.len() == 2);
    let (configmap, complete) = ("tests/fixtures/guide/configmap.toml", "tests/fixtures/guide/complete.toml");
    let closed = |path| config::check(&from_file(&root().join(path))).unwrap().plan.auth.unwrap().closed;
    assert!(closed(configmap) && !closed(complete));
}

#[test]
fn the_guides_example_says_for_whom_tokens_must_be() {
    let loaded = config::check(&from_file(&root().join("tests/fixtures/guide/complete.toml"))).unwrap();
    let auth = loaded.plan.auth.unwrap();
    let issuer = &auth.issuers[0];
    assert_eq!(issuer.issuer, None);
    assert_eq!(issuer.audiences, ["https://proxy.example.com", "id", "https://proxy.example.com/"]);
    assert_eq!(issuer.algorithms.iter().map(|a| a.name()).collect::<Vec<_>>(), ["RS256", "ES256"]);
    assert_eq!(issuer.leeway.as_secs(), 60);
    assert_eq!(auth.resource.as_deref(), Some("https://proxy.example.com"));
    assert_eq!(auth.scopes, ["read", "write"]);
    let login = auth.login.unwrap();
    assert_eq!((login.redirect_uri.as_str(), login.pkce_required), ("https://proxy.example.com/callback", true));
}

#[test]
fn browsers_log_in_where_all_of_it_is_said() {
    let with = |more: &str| {
        load(&format!("[auth]\nissuer = \"https://a.example\"\nclient_id = \"us\"\n{more}")).map(|loaded| {
            let warnings = loaded.warnings.join("\n");
            (loaded.plan.auth.clone().unwrap().login, warnings)
        })
    };
    let login = with("redirect_uri = \"https://p.example/back?x=1\"\n").unwrap().0.unwrap();
    let seen = (login.callback_path.as_str(), login.origin.as_str(), login.redirect_uri.as_str());
    assert_eq!(seen, ("/back", "https://p.example", "https://p.example/back?x=1"));
    assert!(with("audience = \"x\"\n").unwrap().0.is_none(), "no redirect_uri");
    let keys = "redirect_uri = \"https://p.example/back\"\nprovider = \"api_key\"\n[[auth.api_keys]]\nname = \"a\"\n";
    let hash = format!("hash = \"sha256:{}\"\n", "0".repeat(64));
    assert!(with(&format!("{keys}{hash}")).unwrap().0.is_none(), "no tokens are taken");
    let (login, warnings) = with("redirect_uri = \"http://127.0.0.1:8080/back\"\n").unwrap();
    assert!(login.is_some() && warnings.contains("plain http"), "{warnings}");
    for taken in ["/", "", "/login", "/logout", "/health", "/.well-known/oauth-protected-resource", "/back#x"] {
        let errors = with(&format!("redirect_uri = \"https://p.example{taken}\"\n")).unwrap_err().to_string();
        assert!(errors.contains("auth.redirect_uri: "), "{taken}: {errors}");
    }
}

#[test]
fn several_issuers_take_from_the_section_what_they_do_not_say() {
    let plan = auth(
        "[auth]\nissuer = \"https://a.example\"\naudience = [\"https://p.example/mcp\", \"api\"]\nleeway = 5\n\
         [[auth.issuers]]\nissuer = \"https://b.example\"\n\
         [[auth.issuers]]\njwks_url = \"https://c.example/jwks\"\naudience = \"c\"\nalgorithms = \"EdDSA\"\n\
         [[auth.issuers]]\nissuer = \"https://d.example\"\nintrospection_url = \"https://d.example/i\"\n",
    );
    let names: Vec<_> = plan.issuers.iter().map(|issuer| issuer.issuer.as_deref()).collect();
    assert_eq!(names, [Some("https://a.example"), Some("https://b.example"), None, Some("https://d.example")]);
    assert_eq!(plan.issuers[1].audiences, ["https://p.example/mcp", "api"]);
    assert_eq!(plan.issuers[2].audiences, ["c"]);
    assert_eq!(plan.issuers[2].algorithms.len(), 1);
    assert!(plan.issuers.iter().all(|issuer| issuer.leeway.as_secs() == 5));
    let has_keys: Vec<_> = plan.issuers.iter().map(|issuer| issuer.has_keys()).collect();
    assert_eq!(has_keys, [true, true, true, false]);
    assert_eq!(plan.resource.as_deref(), Some("https://p.example/mcp"));
}

#[test]
fn providers_are_asked_in_the_order_of_the_file() {
    let key = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let keys = format!("[[auth.api_keys]]\nname = \"ci\"\nhash = \"{key}\"\nscopes = [\"read\"]\n");
    let providers = |text: &str| auth(text).providers;
    assert_eq!(providers("[auth]\nclient_id = \"x\"\n"), [Provider::OAuth2]);
    assert_eq!(providers(&keys), [Provider::OAuth2, Provider::ApiKey]);
    assert_eq!(providers(&format!("[auth]\nprovider = \"api_key\"\n{keys}")), [Provider::ApiKey]);
    let both = format!("[auth]\nproviders = [\"api_key\", \"oauth2\", \"api_key\"]\n{keys}");
    assert_eq!(providers(&both), [Provider::ApiKey, Provider::OAuth2]);
    assert!(!auth(&keys).closed, "keys are a way in");
}

#[test]
fn what_cannot_work_is_refused_where_it_stands() {
    let hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let key = |name: &str, hash: &str| format!("[[auth.api_keys]]\nname = \"{name}\"\nhash = \"{hash}\"\n");
    let upstream = |more: &str| format!("[[upstreams]]\nurl = \"http://a\"\n{more}");
    for (text, said, place) in [
        ("[auth]\njwks_url = \"https://a/jwks\"\n".to_owned(), "nothing says for whom tokens must be", ":2:12"),
        (
            "[auth]\nclient_id = \"x\"\nissuer = \"http://a.example\"\n".into(),
            "auth.issuer: https:// is needed",
            ":3:10",
        ),
        ("[auth]\naudience = \"x\"\njwks_url = \"https://u:pw@a/\"\n".into(), "no user and no password", ":3:12"),
        ("[auth]\nprovider = \"mtls\"\n".into(), "mtls needs tls.client_ca_path", ":2:12"),
        ("[auth]\nproviders = []\n".into(), "name at least one", ":2:13"),
        ("[auth]\nprovider = \"mtls\"\nproviders = [\"oauth2\"]\n".into(), "are one setting", ":2:12"),
        ("[auth]\napi_key_header = \"a b\"\n".into(), "expected the name of a header field", ":2:18"),
        ("[auth]\napi_key_header = \"Host\"\n".into(), "belongs to the connection", ":2:18"),
        ("[auth]\naudience = \"x\"\n[[auth.issuers]]\nclient_id = \"x\"\n".into(), "without an `issuer`", ":3:1"),
        ("[[auth.issuers]]\nissuer = \"https://a\"\n".into(), "without an `audience`", ":2:10"),
        (
            "[auth]\nissuer = \"https://a\"\naudience = \"x\"\n[[auth.issuers]]\nissuer = \"https://a\"\n".into(),
            "this issuer is there already",
            ":5:10",
        ),
        (key("ci", "the key itself, not its hash"), "expected sha256:", ":3:8"),
        (format!("{}{}", key("ci", hash), key("ci", hash)), "two API keys are named `ci`", ":5:8"),
        (format!("{}{}", key("ci", hash), key("cd", hash)), "hash of another key", ":6:8"),
        (upstream("bearer_token = \"a\"\ncredential_header = \"X\"\ncredential = \"b\"\n"), "one credential", ":4:21"),
        (upstream("credential_header = \"X-Key\"\n"), "needs upstreams.credential", ":3:21"),
        (upstream("client_secret = \"x\"\n"), "needs upstreams.token_url", ":3:17"),
        (upstream("bearer_token = \"a\\r\\nb\"\n"), "expected visible ASCII", ":3:16"),
        (
            upstream("credential_header = \"Content-Length\"\ncredential = \"7\"\n"),
            "belongs to the connection",
            ":3:21",
        ),
        (
            upstream("token_url = \"http://a.example\"\nclient_id = \"x\"\nclient_secret = \"y\"\n"),
            "upstreams.token_url: https:// is needed",
            ":3:13",
        ),
    ] {
        let errors = load(&text).err().unwrap_or_else(|| panic!("it loads: {text}"));
        assert!(errors.contains(said) && errors.contains(place), "{text}\n{errors}");
        assert!(!errors.contains("the key itself") && !errors.contains("u:pw"), "{errors}");
    }
    assert!(load("[auth]\naudience = \"x\"\nissuer = \"http://127.0.0.1:9\"\n").is_ok(), "loopback needs no TLS");
}

#[test]
fn credentials_of_upstreams_stay_out_of_every_text() {
    let text = "[[upstreams]]\nurl = \"http://a\"\nbearer_token = \"hunter2\"\n[[upstreams]]\nurl = \"http://b\"\n\
                credential_header = \"X-Key\"\ncredential = \"hunter3\"\n";
    let loaded = load(text).unwrap();
    let shown = format!("{} {:?}", config::show(&loaded, true), loaded.plan);
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(matches!(&loaded.plan.upstreams[0].credential, Some(CredentialPlan::Field { name, value })
        if name == "Authorization" && value.expose() == "Bearer hunter2"));
}

#[test]
fn every_reason_is_explained() {
    let page = std::fs::read_to_string(root().join("docs/AUTHENTICATION.md")).unwrap();
    for reason in AuthError::REASONS {
        assert!(page.contains(&format!("`{reason}`")), "{reason}");
    }
}

#[test]
fn hash_key_reads_standard_input_and_what_it_prints_opens_the_door() {
    let hash_of = |input: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
        let command = command.args(["auth", "hash-key"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let made = String::from_utf8(run(&["auth", "hash-key", "--generate"], &[]).stdout).unwrap();
    let key = made.lines().find_map(|line| line.strip_prefix("key  ")).unwrap();
    let hash = made.lines().find_map(|line| line.strip_prefix("hash ")).unwrap();
    for ending in ["", "\n", "\r\n"] {
        assert_eq!(hash_of(&format!("{key}{ending}")).1.trim_end(), hash);
    }
    let plan = auth(&format!("[[auth.api_keys]]\nname = \"ci\"\nhash = \"{hash}\"\nscopes = [\"read\"]\n"));
    let scopes = |scopes: &[String]| scopes.iter().map(|scope| scope.as_str().into()).collect();
    let keys = ApiKeys::new(plan.api_keys.iter().map(|key| (key.name.clone(), key.hash, scopes(&key.scopes))));
    assert_eq!(keys.verify(key.as_bytes()).map(|principal| &*principal.name), Ok("ci"));
    let (code, out, err) = hash_of("hunter2");
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(!err.contains("hunter2"), "{err}");
    assert_eq!(run(&["auth", "hash-key", key], &[]).status.code(), Some(2), "a key is no argument");
}
