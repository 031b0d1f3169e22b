//! An authorization server: publishes keys, signs what it is told, and counts who asks for what.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use shadowcat::wire::jose::encode_base64url;

use super::upstream::FakeUpstream;

pub struct Idp {
    pub server: FakeUpstream,
    keys: Arc<Mutex<Vec<Key>>>,
    /// What the introspection endpoint says, whatever it is asked.
    introspected: Arc<Mutex<Value>>,
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

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (encode_base64url(&point[1..33]), encode_base64url(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y})
    }
}

impl Idp {
    /// With one key, `one`.
    pub fn start() -> Idp {
        let keys = Arc::new(Mutex::new(vec![Key::new("one")]));
        let introspected = Arc::new(Mutex::new(json!({"active": false})));
        let (published, answer) = (keys.clone(), introspected.clone());
        let server = FakeUpstream::new(move |conversation| {
            while let Some(request) = conversation.request() {
                let host = request.head.one("host").unwrap_or_default().to_owned();
                let issuer = format!("http://{host}");
                let body = match request.head.target() {
                    "/jwks" => {
                        let keys: Vec<Value> = published.lock().expect("keys").iter().map(Key::public).collect();
                        json!({ "keys": keys })
                    }
                    "/introspect" => answer.lock().expect("answer").clone(),
                    "/.well-known/oauth-authorization-server" => json!({
                        "issuer": issuer, "jwks_uri": format!("{issuer}/jwks"), "token_endpoint": format!("{issuer}/token"),
                    }),
                    "/token" => json!({"access_token": "ours-at-upstream", "token_type": "Bearer", "expires_in": 600}),
                    _ => {
                        conversation.respond(404, "", "");
                        continue;
                    }
                };
                conversation.respond(200, "Content-Type: application/json\r\n", &body.to_string());
            }
        });
        Idp { server, keys, introspected }
    }

    pub fn issuer(&self) -> String {
        self.server.url()
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
        let parts = [header, claims].map(|part| encode_base64url(part.to_string().as_bytes()));
        let signed = parts.join(".");
        let keys = self.keys.lock().expect("keys");
        let signature = keys[0].pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", encode_base64url(signature.as_ref()))
    }

    pub fn token(&self, subject: &str) -> String {
        self.sign(&self.claims(subject))
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
