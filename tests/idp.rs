//! Keys, introspection, grants and logins against a real authorization server: npm oidc-provider. `binary` looks at the proxy
//! from outside, the tests here at what fetches.

#[path = "idp/binary.rs"]
mod binary;
#[expect(dead_code, unused_imports, reason = "made for all black-box tests, of which few are here")]
#[path = "support/mod.rs"]
mod support;

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use shadowcat::config::{self, Sources};
use shadowcat::control::keys;
use shadowcat::identity::{AuthError, Checked, Keys, Principal, verify};
use support::client::Response;
use support::{Driver, FakeUpstream, Proxy, RawClient, get, post, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const RESOURCE: &str = "https://proxy.example.com";

struct Idp {
    child: Child,
    origin: String,
    issuer: String,
}

impl Idp {
    fn start(path: &str, algorithm: &str) -> Idp {
        Idp::with(path, algorithm, 3600)
    }

    /// `ttl`: seconds that tokens live.
    fn with(path: &str, algorithm: &str, ttl: u64) -> Idp {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let peers = std::env::var_os("SHADOWCAT_PEERS_DIR").map_or(root.join("target/peers"), PathBuf::from);
        let done = Command::new("bash").arg(root.join("tests/peers/setup.sh")).arg(&peers).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let modules = peers.join("node_modules");
        let mut command = Command::new(modules.join("node/bin/node"));
        command.arg(root.join("tests/peers/idp.mjs")).env("IDP_MODULES", &modules);
        command.env("IDP_ISSUER_PATH", path).env("IDP_ALG", algorithm).env("IDP_TTL", ttl.to_string());
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("idp listening on ")).expect("it says where it is");
        thread::spawn(move || lines.for_each(drop));
        let origin = line.rsplit(' ').next().unwrap().to_owned();
        let issuer = format!("{origin}{path}");
        Idp { child, origin, issuer }
    }

    fn hook(&self, name: &str, body: &Value) -> Value {
        let mut answer = ureq::post(format!("{}/{name}", self.origin)).send(body.to_string()).unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    fn mint(&self, request: &Value) -> String {
        self.hook("mint", request)["token"].as_str().unwrap().to_owned()
    }

    fn asked(&self, path: &str) -> u64 {
        let mut answer = ureq::get(format!("{}/asked", self.origin)).call().unwrap();
        let counts: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
        counts[path].as_u64().unwrap_or(0)
    }

    /// The endpoint's answer to a client whose secret is its name and `-secret`.
    fn post(&self, path: &str, client: &str, form: &[(&str, &str)]) -> Value {
        let basic = base64(format!("{client}:{client}-secret").as_bytes());
        let url = format!("{}{path}", self.issuer);
        let request = ureq::post(url).header("Authorization", format!("Basic {basic}"));
        let form: Vec<(&str, &str)> = form.to_vec();
        let text = request.send_form(form).unwrap().body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    fn token(&self, client: &str) -> String {
        self.token_for(client, RESOURCE)
    }

    fn token_for(&self, client: &str, resource: &str) -> String {
        let form = [("grant_type", "client_credentials"), ("scope", "read"), ("resource", resource)];
        self.post("/token", client, &form)["access_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    let mut text = shadowcat::wire::jose::encode_base64url(bytes).replace('-', "+").replace('_', "/");
    text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    text
}

fn started(file: &str) -> Arc<Keys> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shadowcat.toml");
    std::fs::write(&path, file).unwrap();
    let loaded = config::load(&Sources { file: Some(path), ..Sources::default() });
    keys::start(&loaded.unwrap_or_else(|errors| panic!("{errors}")).plan).unwrap()
}

/// As a worker does it: once more after the keys were fetched, or after the issuer was asked.
fn admit(keys: &Keys, token: &str) -> Result<Principal, AuthError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let check = || verify(token, &keys.current(), now);
    let checked = match check() {
        Err(AuthError::UnknownKid { issuer }) => {
            let Some(told) = keys.unknown_kid(issuer) else { return Err(AuthError::UnknownKid { issuer }) };
            let _ = wait_for(told);
            check()?
        }
        checked => checked?,
    };
    match checked {
        Checked::Verified(principal) => Ok(principal),
        Checked::Introspect(whom) => wait_for(keys.introspect(token, whom)).expect("an answer"),
    }
}

fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn tokens_pass_over_rotation_and_forged_ones_do_not() {
    for (path, algorithm, next) in [("", "RS256", "ES256"), ("/realm", "EdDSA", "RS256")] {
        let idp = Idp::start(path, algorithm);
        let keys = started(&format!(
            "[auth]\nissuer = \"{}\"\naudience = \"{RESOURCE}\"\nalgorithms = [\"{algorithm}\", \"{next}\"]\n",
            idp.issuer
        ));
        let old = idp.token("robot");
        let principal = admit(&keys, &old).unwrap();
        assert_eq!((&*principal.issuer, &*principal.subject), (idp.issuer.as_str(), "robot"));
        assert!(principal.has_scope("read") && !principal.has_scope("write"));
        for (claims, expected) in [
            (json!({"exp": 1}), AuthError::Expired),
            (json!({"aud": "https://other.example"}), AuthError::Audience),
            (json!({"iss": "https://other.example"}), AuthError::Issuer),
            (json!({"nbf": 99_999_999_999_u64}), AuthError::NotYetValid),
            (json!({"nonce": "n"}), AuthError::IdToken),
        ] {
            assert_eq!(admit(&keys, &idp.mint(&json!({ "claims": claims }))), Err(expected));
        }
        idp.hook("rotate", &json!({"keep": false, "alg": next}));
        admit(&keys, &old).expect("it was not fetched since");
        assert_eq!(&*admit(&keys, &idp.token("robot")).unwrap().subject, "robot");
        assert_eq!(admit(&keys, &old), Err(AuthError::UnknownKid { issuer: 0 }));
        assert_eq!(idp.asked(&format!("{path}/jwks")), 2);
    }
}

#[test]
fn opaque_tokens_pass_until_they_are_revoked() {
    let idp = Idp::start("", "RS256");
    let keys = started(&format!(
        "[auth]\nissuer = \"{0}\"\naudience = \"{RESOURCE}\"\njwks_url = \"{0}/jwks\"\n\
         introspection_url = \"{0}/token/introspection\"\nclient_id = \"shadowcat\"\nclient_secret = \"shadowcat-secret\"\n",
        idp.issuer
    ));
    let token = idp.token("robot-opaque");
    let principal = admit(&keys, &token).unwrap();
    assert_eq!((&*principal.issuer, &*principal.subject), (idp.issuer.as_str(), "client_id:robot-opaque"));
    assert!(principal.has_scope("read") && principal.expires.is_some());
    assert_eq!(admit(&keys, "never-issued"), Err(AuthError::Inactive));
    admit(&keys, &idp.token("robot")).expect("JWTs are verified by keys beside");
    idp.post("/token/revocation", "robot-opaque", &[("token", &token)]);
    assert_eq!(admit(&keys, &token), Err(AuthError::Inactive));
    assert_eq!(idp.asked("/token/introspection"), 3);
}

#[test]
fn upstreams_get_tokens_of_their_own() {
    let idp = Idp::start("", "RS256");
    let keys = started(&format!(
        "[auth]\nissuer = \"{0}\"\naudience = \"https://mcp.example.com\"\n\
         [[upstreams]]\nurl = \"http://127.0.0.1:1\"\ntoken_url = \"{0}/token\"\nclient_id = \"upstream\"\n\
         client_secret = \"upstream-secret\"\nscopes = [\"mcp\"]\nresource = \"https://mcp.example.com\"\n",
        idp.issuer
    ));
    let deadline = std::time::Instant::now() + PATIENCE;
    let credential = loop {
        match keys.credential(0) {
            Ok(credential) => break credential.expect("it is configured"),
            Err(_) => assert!(std::time::Instant::now() < deadline, "no token"),
        }
        thread::yield_now();
    };
    let token = credential.value.expose().strip_prefix("Bearer ").unwrap().to_owned();
    let principal = admit(&keys, &token).unwrap();
    assert!(&*principal.subject == "upstream" && principal.has_scope("mcp"));
}

/// Cookies by name, of one origin.
#[derive(Default)]
struct Jar(Vec<(String, String)>);

impl Jar {
    fn ask(&mut self, client: &mut RawClient, request: impl FnOnce(&str) -> Vec<u8>) -> Response {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let field = if pairs.is_empty() { String::new() } else { format!("Cookie: {}\r\n", pairs.join("; ")) };
        let answer = client.ask(&request(&field));
        for cookie in answer.head.all("set-cookie") {
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').expect("a pair");
            self.0.retain(|(own, _)| own != name);
            if !value.is_empty() && !attributes.contains("Max-Age=0") {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }
}

/// Follow the server's own redirections until one leads away from it.
fn consent(idp: &Idp, start: &str) -> String {
    let (mut jar, mut to) = (Jar::default(), start.to_owned());
    let host = idp.origin.trim_start_matches("http://");
    for _ in 0..10 {
        let Some(path) = to.strip_prefix(&idp.origin).or(to.starts_with('/').then_some(&to)) else { return to };
        let mut client = RawClient::connect(host.parse().unwrap());
        let request = |cookies: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{cookies}\r\n").into_bytes();
        let answer = jar.ask(&mut client, request);
        let next = answer.one("location").unwrap_or_else(|| panic!("{answer:?} {}", answer.text())).to_owned();
        to = next;
    }
    panic!("it does not end: {to}");
}

/// A browser before the proxy logs in at the server, asks, and logs out.
fn logs_in_and_out(driver: Driver, issuer_path: &str, client: &str, resource: &str) {
    let (idp, upstream) = (Idp::start(issuer_path, "ES256"), FakeUpstream::answering("ok"));
    let secret = if client == "app" { String::new() } else { format!("client_secret = \"{client}-secret\"\n") };
    let config = format!(
        "[auth]\nissuer = \"{}\"\naudience = \"{resource}\"\nclient_id = \"{client}\"\n{secret}\
         redirect_uri = \"https://proxy.example.com/callback\"\nscopes = [\"read\"]\n",
        idp.issuer
    );
    let proxy = Proxy::before(driver, &[&upstream]).config(&config).start();
    wait_until("the server to be known", || proxy.ask(&get("/login", "")).status == 302);
    let mut jar = Jar::default();
    let mut ask =
        |path: &str| jar.ask(&mut proxy.connect(), |cookies| get(path, &format!("{cookies}Accept: text/html\r\n")));
    let sent = ask("/mcp?x=1");
    let to = ask(sent.one("location").expect("to the login"));
    let back = consent(&idp, to.one("location").expect("to the server"));
    let back = back.strip_prefix("https://proxy.example.com").unwrap_or_else(|| panic!("{back}"));
    let done = ask(back);
    assert_eq!((done.status, done.one("location")), (303, Some("/mcp?x=1")), "{} {}", done.text(), proxy.log());
    assert_eq!(ask("/mcp?x=1").status, 200);
    let seen = upstream.last_request().head;
    assert_eq!(seen.one("x-forwarded-user"), Some("alice"));
    assert!(seen.one("x-forwarded-scopes").unwrap().split(' ').any(|scope| scope == "read"), "{seen:?}");
    assert!(!seen.has("cookie"));
    assert_eq!(ask(back).status, 400, "a second time");
    let kept = jar.0.clone();
    let out = |cookies: &str| post("/logout", &format!("{cookies}Sec-Fetch-Site: same-origin\r\n"), b"");
    let ended = jar.ask(&mut proxy.connect(), out);
    let end = format!("{}/session/end?client_id={client}", idp.issuer);
    assert_eq!((ended.status, ended.one("location")), (303, Some(end.as_str())));
    let old = format!("Cookie: {}={}\r\n", kept[0].0, kept[0].1);
    assert_eq!(proxy.ask(&get("/mcp", &old)).status, 401);
}

#[test]
fn browsers_log_in_as_a_confidential_client() {
    logs_in_and_out(Driver::IoUring, "", "shadowcat", RESOURCE);
    logs_in_and_out(Driver::Epoll, "/realm", "shadowcat", RESOURCE);
}

#[test]
fn browsers_log_in_as_a_public_client() {
    logs_in_and_out(Driver::IoUring, "/realm", "app", RESOURCE);
    logs_in_and_out(Driver::Epoll, "", "app", RESOURCE);
}
