//! An authorization server: publishes keys, signs what it is told, and counts who asks for what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use shadowcat::wire::jose::encode_base64url;

use super::tls;
use super::upstream::{Conversation, FakeUpstream};

/// What each connection is answered with.
type Script = Box<dyn Fn(&mut Conversation) + Send + Sync>;

pub struct Idp {
    scheme: &'static str,
    pub server: FakeUpstream,
    keys: Arc<Mutex<Vec<Key>>>,
    /// What the introspection endpoint says, whatever it is asked.
    introspected: Arc<Mutex<Value>>,
    says: Arc<Mutex<Says>>,
}

/// What it says to those who log in.
#[derive(Clone, Default)]
pub struct Says {
    /// Laid over the metadata; `null` takes a key out.
    pub metadata: Value,
    /// Laid over the claims of ID tokens.
    pub id_token: Value,
    /// Laid over the answer of the token endpoint.
    pub tokens: Value,
    /// The token endpoint answers so.
    pub token_status: Option<u16>,
}

struct Key {
    kid: String,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(kid: &str) -> Key {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Key { kid: kid.to_owned(), pair }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let parts = [header, claims].map(|part| encode_base64url(part.to_string().as_bytes()));
        let signed = parts.join(".");
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", encode_base64url(signature.as_ref()))
    }

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (encode_base64url(&point[1..33]), encode_base64url(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y})
    }
}

impl Idp {
    /// With one key, `one`.
    pub fn start() -> Idp {
        Idp::serving("http", FakeUpstream::new)
    }

    /// Over TLS, as `localhost`; with the PEM of its authority.
    pub fn start_over_tls() -> (Idp, String) {
        let (pem, config) = tls::authority_and_server("localhost");
        (Idp::serving("https", |script| tls::upstream(config, script)), pem)
    }

    fn serving(scheme: &'static str, serve: impl FnOnce(Script) -> FakeUpstream) -> Idp {
        let keys = Arc::new(Mutex::new(vec![Key::new("one")]));
        let introspected = Arc::new(Mutex::new(json!({"active": false})));
        let says: Arc<Mutex<Says>> = Arc::default();
        let (published, answer, told) = (keys.clone(), introspected.clone(), says.clone());
        let codes: Mutex<HashMap<String, HashMap<String, String>>> = Mutex::default();
        let server = serve(Box::new(move |conversation| {
            while let Some(request) = conversation.request() {
                let host = request.head.one("host").unwrap_or_default().to_owned();
                let issuer = format!("{scheme}://{host}");
                let says = told.lock().expect("what it says").clone();
                let (path, query) = request.head.target().split_once('?').unwrap_or((request.head.target(), ""));
                let (status, body) = match path {
                    "/jwks" => {
                        let keys: Vec<Value> = published.lock().expect("keys").iter().map(Key::public).collect();
                        (200, json!({ "keys": keys }))
                    }
                    "/introspect" => (200, answer.lock().expect("answer").clone()),
                    "/.well-known/oauth-authorization-server" => (200, metadata(&issuer, &says)),
                    "/authorize" => {
                        let (code, location) = authorized(&issuer, query);
                        codes.lock().expect("codes").insert(code, form(query));
                        conversation.respond(302, &format!("Location: {location}\r\n"), "");
                        continue;
                    }
                    "/token" => {
                        let asked = form(&request.text());
                        let asker = request.head.one("authorization").map(str::to_owned);
                        match (says.token_status, asked.get("code")) {
                            (Some(status), _) => (status, json!({"error": "server_error"})),
                            (None, None) => (
                                200,
                                json!({"access_token": "ours-at-upstream", "token_type": "Bearer", "expires_in": 600}),
                            ),
                            (None, Some(code)) => {
                                let granted = codes.lock().expect("codes").remove(code);
                                let keys = published.lock().expect("keys");
                                let given = granted.and_then(|granted| redeemed(&granted, &asked, asker.as_deref()));
                                match given {
                                    Some(granted) => (200, tokens(&issuer, &granted, &says, &keys[0])),
                                    None => (400, json!({"error": "invalid_grant"})),
                                }
                            }
                        }
                    }
                    _ => {
                        conversation.respond(404, "", "");
                        continue;
                    }
                };
                conversation.respond(status, "Content-Type: application/json\r\n", &body.to_string());
            }
        }));
        Idp { scheme, server, keys, introspected, says }
    }

    /// What it says to those who log in from here on.
    pub fn says(&self, says: Says) {
        *self.says.lock().expect("what it says") = says;
    }

    pub fn issuer(&self) -> String {
        if self.scheme == "https" {
            format!("https://localhost:{}", self.server.address.port())
        } else {
            self.server.url()
        }
    }

    /// How often this path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.server.requests().iter().filter(|request| request.head.target() == path).count()
    }

    pub fn rotate(&self, kid: &str) {
        *self.keys.lock().expect("keys") = vec![Key::new(kid)];
    }

    pub fn introspects(&self, answer: Value) {
        *self.introspected.lock().expect("answer") = answer;
    }

    /// Claims that are taken: for `audience`, by `subject`, for an hour.
    pub fn claims(&self, subject: &str) -> Value {
        json!({
            "iss": self.issuer(), "aud": "https://mcp.example.com", "sub": subject, "scope": "read write",
            "iat": now(), "exp": now() + 3600,
        })
    }

    /// A token with these claims, signed with the first key.
    pub fn sign(&self, claims: &Value) -> String {
        let kid = self.keys.lock().expect("keys")[0].kid.clone();
        self.sign_with(&json!({"alg": "ES256", "typ": "at+jwt", "kid": kid}), claims)
    }

    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.keys.lock().expect("keys")[0].sign(header, claims)
    }

    pub fn token(&self, subject: &str) -> String {
        self.sign(&self.claims(subject))
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

// --- logins ----------------------------------------------------------------------------------------------------------

/// The client that logs browsers in, and its secret as `client_secret_basic` sends it.
pub const CLIENT: &str = "proxy";
pub const SECRET: &str = "hunter2 hunter2";
const BASIC: &str = "Basic cHJveHk6aHVudGVyMitodW50ZXIy";

fn metadata(issuer: &str, says: &Says) -> Value {
    let good = json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/jwks"), "token_endpoint": format!("{issuer}/token"),
        "authorization_endpoint": format!("{issuer}/authorize?tenant=a%20b"),
        "end_session_endpoint": format!("{issuer}/end"),
        "authorization_response_iss_parameter_supported": true,
        "code_challenge_methods_supported": ["S256"], "scopes_supported": ["openid", "read", "write"],
    });
    overlaid(good, &says.metadata)
}

/// A code, and where the browser is sent with it. The user is whoever `login_hint` says, else alice.
fn authorized(issuer: &str, query: &str) -> (String, String) {
    let asked = form(query);
    let of = |name: &str| asked.get(name).cloned().unwrap_or_default();
    assert_eq!((&*of("response_type"), &*of("code_challenge_method"), &*of("tenant")), ("code", "S256", "a b"));
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    let code = encode_base64url(&bytes);
    let mut location = url::Url::parse(&of("redirect_uri")).expect("a redirection");
    location.query_pairs_mut().append_pair("code", &code).append_pair("state", &of("state")).append_pair("iss", issuer);
    (code, location.into())
}

/// What was granted, if whoever asks proves to be who began (RFC 7636 section 4.6).
fn redeemed(
    granted: &HashMap<String, String>,
    asked: &HashMap<String, String>,
    asker: Option<&str>,
) -> Option<HashMap<String, String>> {
    let verifier = asked.get("code_verifier")?;
    let challenge = encode_base64url(digest::digest(&digest::SHA256, verifier.as_bytes()).as_ref());
    let same = |name: &str| asked.get(name) == granted.get(name);
    let is_client = asker == Some(BASIC) && !asked.contains_key("client_id");
    let fits = granted.get("code_challenge") == Some(&challenge) && same("redirect_uri") && same("resource");
    (fits && is_client && granted.get("client_id")? == CLIENT).then(|| granted.clone())
}

fn tokens(issuer: &str, granted: &HashMap<String, String>, says: &Says, key: &Key) -> Value {
    let user = granted.get("login_hint").map_or("alice", String::as_str);
    let access = json!({
        "iss": issuer, "sub": user, "aud": granted.get("resource"), "scope": "read write", "client_id": CLIENT,
        "iat": now(), "exp": now() + 3600,
    });
    let id = overlaid(
        json!({
            "iss": issuer, "sub": user, "aud": CLIENT, "nonce": granted.get("nonce"), "iat": now(), "exp": now() + 60,
        }),
        &says.id_token,
    );
    let good = json!({
        "access_token": key.sign(&json!({"alg": "ES256", "typ": "at+jwt", "kid": key.kid}), &access),
        "id_token": key.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": key.kid}), &id),
        "token_type": "Bearer", "expires_in": 3600, "scope": "openid read write",
    });
    overlaid(good, &says.tokens)
}

fn form(text: &str) -> HashMap<String, String> {
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

fn overlaid(mut base: Value, changes: &Value) -> Value {
    let map = base.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(map.remove(name)),
            value => drop(map.insert(name.clone(), value.clone())),
        }
    }
    base
}
