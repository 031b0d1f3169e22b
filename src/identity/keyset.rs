//! Key sets of issuers (RFC 7517), reduced to the keys that may verify what the issuer is configured to sign with.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use serde_json::{Map, Value};

use super::json;
use crate::wire::jose::{Algorithm, decode_base64url};

/// More keys than any issuer has at a time.
const KEYS_MAX: usize = 64;
/// Shorter RSA keys are refused (RFC 7518 section 3.3), and longer ones cost too much to verify with.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Longest exponent, bytes. A larger one makes every verification slow; 65537 has three.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// The usable public keys of one issuer.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Keys that were there and cannot be used: of another type, too short, not for signatures.
    skipped: usize,
    digest: [u8; 32],
}

#[derive(Debug)]
struct Key {
    kid: Option<Box<str>>,
    /// One for each algorithm that the issuer, the key's type and the key itself allow; never empty.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// What a token's header chose.
#[derive(Debug, PartialEq, Eq)]
pub enum NotFound {
    UnknownKid,
    /// No `kid`, and not exactly one key.
    Ambiguous,
    /// The key is there and is not for this algorithm.
    Algorithm,
}

impl KeySet {
    /// The keys that work with one of the `allowed` algorithms. Symmetric keys, keys for encryption, short RSA keys and
    /// what cannot be read are skipped.
    ///
    /// # Errors
    /// Not a key set at all.
    pub fn parse(text: &[u8], allowed: &[Algorithm]) -> Result<KeySet, &'static str> {
        let document = json::object(text).map_err(|_| "not a JSON object")?;
        let Some(Value::Array(entries)) = document.get("keys") else { return Err("no `keys` in it") };
        let mut seen = digest::Context::new(&digest::SHA256);
        let mut keys = Vec::new();
        for entry in entries.iter().take(KEYS_MAX) {
            let Some(key) = entry.as_object().and_then(|jwk| Key::parse(jwk, allowed)) else { continue };
            key.digest(&mut seen);
            keys.push(key);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(seen.finish().as_ref());
        Ok(KeySet { skipped: entries.len() - keys.len(), keys, digest })
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Whether both verify the same.
    pub fn is_same(&self, other: &KeySet) -> bool {
        self.digest == other.digest
    }

    /// The keys that a header with this `kid` and `alg` may mean; without `kid` the only key of the set.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<&ParsedPublicKey>, NotFound> {
        let named: Vec<&Key> = match (kid, &self.keys[..]) {
            (Some(kid), keys) => keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).collect(),
            (None, [only]) => vec![only],
            (None, _) => return Err(NotFound::Ambiguous),
        };
        if named.is_empty() {
            return Err(NotFound::UnknownKid);
        }
        // Keys of different types may share a `kid` (RFC 7517 section 4.5).
        let verifiers = named.into_iter().flat_map(|key| &key.verifiers);
        let found: Vec<_> = verifiers.filter(|(own, _)| *own == algorithm).map(|(_, verifier)| verifier).collect();
        if found.is_empty() { Err(NotFound::Algorithm) } else { Ok(found) }
    }
}

impl Key {
    /// `None`: no key for us.
    fn parse(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Option<Key> {
        if !is_for_signatures(jwk) {
            return None;
        }
        let pinned = match jwk.get("alg") {
            None => None,
            Some(name) => Some(Algorithm::parse(name.as_str()?)?),
        };
        let may_be = |algorithm: &Algorithm| pinned.is_none_or(|pinned| pinned == *algorithm);
        let candidates = allowed.iter().copied().filter(may_be);
        let verifiers: Vec<(Algorithm, ParsedPublicKey)> = match text(jwk, "kty")? {
            "RSA" => {
                let (n, e) = rsa_components(jwk)?;
                let components = RsaPublicKeyComponents { n: &n, e: &e };
                let parse = |algorithm| components.to_parsed_public_key(rsa(algorithm)?).ok();
                candidates.filter_map(|algorithm| Some((algorithm, parse(algorithm)?))).collect()
            }
            "EC" => {
                let curve = text(jwk, "crv")?;
                let point = ec_point(jwk, curve)?;
                let parse = |algorithm| ParsedPublicKey::new(ec(algorithm, curve)?, &point).ok();
                candidates.filter_map(|algorithm| Some((algorithm, parse(algorithm)?))).collect()
            }
            "OKP" if text(jwk, "crv")? == "Ed25519" => {
                let x = decode_base64url(text(jwk, "x")?).filter(|x| x.len() == 32)?;
                let key = ParsedPublicKey::new(&signature::ED25519, &x).ok()?;
                candidates.filter(|algorithm| *algorithm == Algorithm::EdDsa).map(|a| (a, key.clone())).collect()
            }
            _ => return None,
        };
        let kid = match jwk.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str()?.into()),
        };
        (!verifiers.is_empty()).then_some(Key { kid, verifiers })
    }

    fn digest(&self, into: &mut digest::Context) {
        let mut part = |bytes: &[u8]| {
            into.update(&(bytes.len() as u64).to_be_bytes());
            into.update(bytes);
        };
        part(self.kid.as_deref().map_or(b"-", |kid| kid.as_bytes()));
        for (algorithm, key) in &self.verifiers {
            part(algorithm.name().as_bytes());
            part(key.as_ref());
        }
    }
}

fn text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Option<&'j str> {
    jwk.get(name)?.as_str()
}

/// `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3) allow to verify signatures.
fn is_for_signatures(jwk: &Map<String, Value>) -> bool {
    let by_use = jwk.get("use").is_none_or(|usage| usage == "sig");
    let by_operations = match jwk.get("key_ops") {
        None => true,
        Some(Value::Array(operations)) => operations.iter().any(|operation| operation == "verify"),
        Some(_) => false,
    };
    by_use && by_operations
}

/// Modulus and exponent, big-endian without leading zeros.
fn rsa_components(jwk: &Map<String, Value>) -> Option<(Vec<u8>, Vec<u8>)> {
    let number = |name| {
        let bytes = decode_base64url(text(jwk, name)?)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes[zeros..].to_vec())
    };
    let (n, e) = (number("n")?, number("e")?);
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    // An even exponent is none, and with 1 every message is its own signature.
    let odd = e.last()? % 2 == 1 && e != [1];
    (RSA_BITS.contains(&bits) && odd && e.len() <= RSA_EXPONENT_BYTES_MAX).then_some((n, e))
}

/// The uncompressed point of SEC 1 section 2.3.3; that it lies on the curve is checked where it is parsed.
fn ec_point(jwk: &Map<String, Value>, curve: &str) -> Option<Vec<u8>> {
    let length = match curve {
        "P-256" => 32,
        "P-384" => 48,
        _ => return None,
    };
    // RFC 7518 section 6.2.1.2: full length, leading zeros included.
    let coordinate = |name| decode_base64url(text(jwk, name)?).filter(|bytes| bytes.len() == length);
    let mut point = vec![4];
    point.extend(coordinate("x")?);
    point.extend(coordinate("y")?);
    Some(point)
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// Each with its own curve only (RFC 7518 section 3.4).
fn ec(algorithm: Algorithm, curve: &str) -> Option<&'static dyn VerificationAlgorithm> {
    match (algorithm, curve) {
        (Algorithm::Es256, "P-256") => Some(&signature::ECDSA_P256_SHA256_FIXED),
        (Algorithm::Es384, "P-384") => Some(&signature::ECDSA_P384_SHA384_FIXED),
        _ => None,
    }
}
