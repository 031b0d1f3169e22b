//! What both cookies of the login hold: an attempt until the browser is back, then who it turned out to be.

use aws_lc_rs::{constant_time, digest, rand};

use super::error::AuthError;
use super::principal::Principal;
use super::seal::Seal;
use crate::wire::jose::{decode_base64url, encode_base64url};

/// How long a browser may take from `/login` until it is back, seconds.
pub const ATTEMPT_LIFE: u64 = 600;
/// Longest life of a login, seconds.
pub const LOGIN_LIFE_MAX: u64 = 8 * 3600;
/// Longest path that is returned to: both cookies must fit what browsers keep (RFC 6265 section 6.1: 4096 bytes).
const RETURN_PATH_MAX: usize = 1024;

/// A login that was begun (RFC 6749 section 4.1.1, RFC 7636, OpenID Connect Core section 3.1.2.1). Kept by the browser
/// alone, sealed: whoever begins a million logins costs no memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Text of 256 random bits, as are the next two.
    pub state: String,
    /// The proof key, RFC 7636 section 4.1.
    pub verifier: String,
    pub nonce: String,
    /// Path and query, of ours alone.
    pub return_to: String,
    /// Unix seconds.
    pub expires: u64,
}

impl Attempt {
    /// `None`: the system has no random bytes.
    pub fn begin(return_to: &str, now: u64) -> Option<Attempt> {
        let (state, verifier, nonce) = (random_text::<32>()?, random_text::<32>()?, random_text::<32>()?);
        let return_to = if is_local_path(return_to) { return_to } else { "/" }.to_owned();
        Some(Attempt { state, verifier, nonce, return_to, expires: now + ATTEMPT_LIFE })
    }

    pub fn seal(&self, seal: &Seal) -> Option<String> {
        let Attempt { state, verifier, nonce, return_to, expires } = self;
        seal.seal(&serde_json::to_vec(&(state, verifier, nonce, return_to, expires)).ok()?)
    }

    /// `None`: not ours.
    pub fn open(seal: &Seal, sealed: &str) -> Option<Attempt> {
        let (state, verifier, nonce, return_to, expires) = serde_json::from_slice(&seal.open(sealed)?).ok()?;
        Some(Attempt { state, verifier, nonce, return_to, expires })
    }

    pub fn is_answered_by(&self, state: &str) -> bool {
        constant_time::verify_slices_are_equal(self.state.as_bytes(), state.as_bytes()).is_ok()
    }

    /// `code_challenge` by S256 (RFC 7636 section 4.2).
    pub fn challenge(&self) -> String {
        encode_base64url(digest::digest(&digest::SHA256, self.verifier.as_bytes()).as_ref())
    }
}

/// Which login it was: what a logout ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginMark {
    pub id: [u8; 16],
    /// Unix seconds.
    pub begun: u64,
}

/// Somebody who logged in. `principal.expires` is always said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub principal: Principal,
    pub mark: LoginMark,
}

impl Login {
    /// A new one, for as long as `principal.expires` says, at most 8 h. `None`: the system has no random
    /// bytes.
    pub fn begin(principal: Principal, now: u64) -> Option<Login> {
        let mut id = [0; 16];
        rand::fill(&mut id).ok()?;
        let latest = now + LOGIN_LIFE_MAX;
        let expires = Some(principal.expires.map_or(latest, |expires| expires.min(latest)));
        Some(Login { principal: Principal { expires, ..principal }, mark: LoginMark { id, begun: now } })
    }

    pub fn expires(&self) -> u64 {
        self.principal.expires.unwrap_or(0)
    }

    pub fn seal(&self, seal: &Seal) -> Option<String> {
        let Principal { issuer, subject, scopes, .. } = &self.principal;
        let id = encode_base64url(&self.mark.id);
        let told = (&**issuer, &**subject, scopes.join(" "), self.expires(), self.mark.begun, id);
        seal.seal(&serde_json::to_vec(&told).ok()?)
    }

    /// # Errors
    /// Not ours, or over at `now` (unix seconds).
    pub fn open(seal: &Seal, sealed: &str, now: u64) -> Result<Login, AuthError> {
        let text = seal.open(sealed).ok_or(AuthError::Cookie)?;
        let (issuer, subject, scopes, expires, begun, id): (String, String, String, u64, u64, String) =
            serde_json::from_slice(&text).map_err(|_| AuthError::Cookie)?;
        let id = decode_base64url(&id).and_then(|id| id.try_into().ok()).ok_or(AuthError::Cookie)?;
        let scopes = scopes.split(' ').filter(|scope| !scope.is_empty()).map(Box::from).collect();
        let principal = Principal::new(issuer.into(), &subject, scopes, Some(expires));
        if !principal.is_current(now) {
            return Err(AuthError::Expired);
        }
        Ok(Login { principal, mark: LoginMark { id, begun } })
    }
}

/// Whether a browser that is sent there stays here, whatever it makes of slashes, backslashes and controls.
pub fn is_local_path(path: &str) -> bool {
    let plain = path.len() <= RETURN_PATH_MAX && path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    plain && path.starts_with('/') && !path.starts_with("//")
}

/// base64url of `N` random bytes.
fn random_text<const N: usize>() -> Option<String> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok()?;
    Some(encode_base64url(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::NOW;

    #[test]
    fn attempts_come_back_as_they_went() {
        let seal = Seal::new(b"login").unwrap();
        let attempt = Attempt::begin("/mcp?x=1&y=%2F", NOW).unwrap();
        let sealed = attempt.seal(&seal).unwrap();
        assert!(Attempt::open(&seal, &sealed).unwrap() == attempt);
        assert!(attempt.is_answered_by(&attempt.state) && !attempt.is_answered_by("") && !attempt.is_answered_by("x"));
        let other = Attempt::begin("/", NOW).unwrap();
        assert!(other.state != attempt.state && other.verifier != attempt.verifier && other.nonce != attempt.nonce);
        let longest = Attempt::begin(&format!("/{}", "x".repeat(1023)), NOW).unwrap().seal(&seal).unwrap();
        assert!(longest.len() < 2048, "{}", longest.len());
    }

    #[test]
    fn proof_keys_are_those_of_the_rfc() {
        // RFC 7636 appendix B.
        let attempt = Attempt {
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(),
            ..Attempt::begin("/", NOW).unwrap()
        };
        assert_eq!(attempt.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert_eq!(Attempt::begin("/", NOW).unwrap().verifier.len(), 43);
    }

    #[test]
    fn logins_end_when_they_say() {
        let seal = Seal::new(b"session").unwrap();
        let principal = |expires| Principal::new("https://idp.example".into(), "al\u{e9}", vec!["a".into()], expires);
        let login = Login::begin(principal(Some(NOW + 60)), NOW).unwrap();
        let sealed = login.seal(&seal).unwrap();
        assert_eq!(Login::open(&seal, &sealed, NOW + 59), Ok(login));
        assert_eq!(Login::open(&seal, &sealed, NOW + 60), Err(AuthError::Expired));
        assert_eq!(Login::open(&seal, &sealed[1..], NOW), Err(AuthError::Cookie));
        for expires in [None, Some(u64::MAX)] {
            assert_eq!(Login::begin(principal(expires), NOW).unwrap().expires(), NOW + LOGIN_LIFE_MAX);
        }
    }

    #[test]
    fn only_paths_of_our_own_are_returned_to() {
        for local in ["/", "/mcp", "/a?b=c&d=//e", "/%2F%2Fevil.example", "/./"] {
            assert!(is_local_path(local), "{local}");
        }
        for elsewhere in [
            "",
            "mcp",
            "//evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "https://evil.example",
            "javascript:x",
            "/\t/evil.example",
            "/\r\nSet-Cookie: a=b",
            "/caf\u{e9}",
            " /",
            "/a b",
            "/a\\b",
        ] {
            assert!(!is_local_path(elsewhere), "{elsewhere}");
            assert_eq!(Attempt::begin(elsewhere, NOW).unwrap().return_to, "/");
        }
        assert!(!is_local_path(&format!("/{}", "x".repeat(1024))));
    }
}
