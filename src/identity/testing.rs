//! Keys and tokens for tests: a signer stands for an issuer's private key.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};

use super::{Issuer, IssuerName, KeySet, Keyring, Policy};
use crate::wire::jose::{Algorithm, encode_base64url};

/// The time at which the tokens of tests are looked at, unix seconds.
pub const NOW: u64 = 1_800_000_000;
pub const ISSUER: &str = "https://idp.example";
pub const AUDIENCE: &str = "https://proxy.example";

/// A private key with its name.
pub struct Signer {
    pub kid: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    pub fn rsa(kid: &str) -> Signer {
        let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
        Signer { kid: kid.into(), pair: Pair::Rsa(pair) }
    }

    pub fn p256(kid: &str) -> Signer {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Signer { kid: kid.into(), pair: Pair::P256(pair) }
    }

    pub fn p384(kid: &str) -> Signer {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
        Signer { kid: kid.into(), pair: Pair::P384(pair) }
    }

    pub fn ed25519(kid: &str) -> Signer {
        Signer { kid: kid.into(), pair: Pair::Ed25519(Ed25519KeyPair::generate().expect("a key")) }
    }

    /// The public half as a JWK.
    pub fn jwk(&self) -> Value {
        let text = encode_base64url;
        match &self.pair {
            Pair::Rsa(pair) => {
                let (n, e) = integers(pair.public_key().as_ref());
                json!({"kty": "RSA", "kid": self.kid, "use": "sig", "n": text(n), "e": text(e)})
            }
            Pair::P256(pair) | Pair::P384(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "kid": self.kid, "crv": curve, "x": text(x), "y": text(y)})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "kid": self.kid, "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        }
    }

    /// What an HMAC forger takes as a secret: the public key as published.
    pub fn public_bytes(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::P256(pair) | Pair::P384(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// A token with this header and these claims, signed as `algorithm` says.
    pub fn sign(&self, algorithm: Algorithm, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode_base64url(header.as_bytes()), encode_base64url(claims.as_bytes()));
        let random = SystemRandom::new();
        let message = signed.as_bytes();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(algorithm), &random, message, &mut signature).expect("a signature");
                signature
            }
            Pair::P256(pair) | Pair::P384(pair) => pair.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        };
        format!("{signed}.{}", encode_base64url(&signature))
    }

    /// The algorithm that such a key is used with, unless a test says otherwise.
    pub fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Rsa(_) => Algorithm::Rs256,
            Pair::P256(_) => Algorithm::Es256,
            Pair::P384(_) => Algorithm::Es384,
            Pair::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// An access token that is good, with `changes` laid over its claims (`null` takes one out).
    pub fn token(&self, changes: &Value) -> String {
        let header = json!({"alg": self.algorithm().name(), "typ": "at+jwt", "kid": self.kid});
        self.sign(self.algorithm(), &header.to_string(), &claims(changes).to_string())
    }

    /// The same with `changes` laid over its header.
    pub fn token_with_header(&self, changes: &Value) -> String {
        let good = json!({"alg": self.algorithm().name(), "typ": "at+jwt", "kid": self.kid});
        let header = overlaid(good, changes).to_string();
        self.sign(self.algorithm(), &header, &claims(&json!({})).to_string())
    }
}

/// Claims that are good at [`NOW`], with `changes` laid over them.
pub fn claims(changes: &Value) -> Value {
    let good = json!({
        "iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "scope": "read write", "client_id": "app",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 300,
    });
    overlaid(good, changes)
}

fn overlaid(mut base: Value, changes: &Value) -> Value {
    let map = base.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(map.remove(name)),
            value => drop(map.insert(name.clone(), value.clone())),
        }
    }
    base
}

pub fn jwks<'s>(signers: impl IntoIterator<Item = &'s Signer>) -> String {
    json!({"keys": signers.into_iter().map(Signer::jwk).collect::<Vec<_>>()}).to_string()
}

pub fn policy(algorithms: &[Algorithm]) -> Policy {
    Policy {
        audiences: vec![AUDIENCE.into()],
        client_id: None,
        algorithms: algorithms.to_vec(),
        leeway: 60,
        has_keys: true,
        introspects: false,
    }
}

/// One issuer with these keys.
pub fn keyring(signers: &[&Signer], algorithms: &[Algorithm]) -> Keyring {
    let keys = KeySet::parse(jwks(signers.iter().copied()).as_bytes(), algorithms).expect("a key set");
    let name = IssuerName::Exactly(ISSUER.into());
    let issuer = Issuer { policy: policy(algorithms).into(), name, keys: Some(keys.into()) };
    Keyring::new(vec![issuer])
}

fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
        _ => &signature::RSA_PKCS1_SHA256,
    }
}

/// The two integers of an RSAPublicKey (RFC 8017 appendix A.1.1), without leading zeros.
fn integers(der: &[u8]) -> (&[u8], &[u8]) {
    let (sequence, _) = element(der);
    let (n, rest) = element(sequence);
    let (e, _) = element(rest);
    (n.strip_prefix(&[0]).unwrap_or(n), e)
}

/// The content of a DER element, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, start) = match usize::from(der[1]) {
        short if short < 128 => (short, 2),
        long => {
            let digits = &der[2..2 + (long & 127)];
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), 2 + digits.len())
        }
    };
    der[start..].split_at(length)
}
