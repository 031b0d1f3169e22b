//! Who asks, once that is proven.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::{Map, Value};

use super::error::AuthError;

/// Longest subject: OpenID Connect Core section 2 allows 255 characters.
const SUBJECT_BYTES_MAX: usize = 255;

/// Somebody who proved who they are. Made by the verifiers of this module alone, but for certificates, which TLS
/// verified already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Who says so: an issuer of tokens, or `api-key` or `mtls` (no URL, so never an issuer's name).
    pub issuer: Arc<str>,
    /// Whom it is about, unique at the issuer.
    pub subject: Box<str>,
    /// `subject` as logs, metrics and identity headers may carry it: visible ASCII, the rest percent-encoded.
    pub name: Box<str>,
    /// In the order of the token.
    pub scopes: Vec<Box<str>>,
    /// Unix seconds from which on it is no longer to be taken, leeway included; `None`: nothing says
    /// (API keys, and answers of introspection without `exp`).
    pub expires: Option<u64>,
}

impl Principal {
    pub fn new(issuer: Arc<str>, subject: &str, scopes: Vec<Box<str>>, expires: Option<u64>) -> Principal {
        Principal { issuer, subject: subject.into(), name: printable(subject).into(), scopes, expires }
    }

    /// What a session is bound to: the same for the same issuer and subject, whatever token they come with.
    pub fn binding(&self) -> Binding {
        let mut context = digest::Context::new(&digest::SHA256);
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        context.update(&(self.issuer.len() as u64).to_be_bytes());
        context.update(self.issuer.as_bytes());
        context.update(self.subject.as_bytes());
        let mut bytes = [0; Binding::LEN];
        bytes.copy_from_slice(&context.finish().as_ref()[..Binding::LEN]);
        Binding(bytes)
    }

    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| **own == *scope)
    }

    pub fn has_any_scope<S: AsRef<str>>(&self, scopes: &[S]) -> bool {
        scopes.iter().any(|scope| self.has_scope(scope.as_ref()))
    }

    pub fn has_all_scopes<S: AsRef<str>>(&self, scopes: &[S]) -> bool {
        scopes.iter().all(|scope| self.has_scope(scope.as_ref()))
    }

    /// Whether it is still to be taken at `now` (unix seconds).
    pub fn is_current(&self, now: u64) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// SHA-256 over issuer and subject: what a session remembers of its owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding([u8; Binding::LEN]);

impl Binding {
    pub const LEN: usize = 32;

    pub fn from_bytes(bytes: [u8; Binding::LEN]) -> Binding {
        Binding(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; Binding::LEN] {
        &self.0
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// The subject of claims (RFC 9068 section 2.2, RFC 7662 section 2.2): `sub`; without one the client itself.
pub(super) fn subject(claims: &Map<String, Value>) -> Result<String, AuthError> {
    let text = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= SUBJECT_BYTES_MAX => Ok(Some(text.clone())),
        Some(_) => Err(AuthError::Subject),
    };
    if let Some(subject) = text("sub")? {
        return Ok(subject);
    }
    // Named apart from every user: an authorization server might give a user this very id.
    let client = text("client_id")?.or(text("azp")?).ok_or(AuthError::Subject)?;
    Ok(format!("client_id:{client}"))
}

/// `scope` (space separated, RFC 8693 section 4.2), else `scp`, a list or text, as some issuers write it.
///
/// What cannot be a scope refuses the token: scopes go into header fields, and one that holds a space would read as two.
pub(super) fn scopes(claims: &Map<String, Value>) -> Result<Vec<Box<str>>, AuthError> {
    let words: Option<Vec<&str>> = match claims.get("scope").or_else(|| claims.get("scp")) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) => Some(text.split(' ').filter(|word| !word.is_empty()).collect()),
        Some(Value::Array(items)) => items.iter().map(Value::as_str).collect(),
        Some(_) => None,
    };
    let words = words.filter(|words| words.iter().all(|word| is_scope_token(word)));
    words.map(|words| words.into_iter().map(Box::from).collect()).ok_or(AuthError::Malformed("its scopes are none"))
}

/// RFC 6749 section 3.3.
fn is_scope_token(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        // The comma parts values of header fields, quotes and backslashes end quoted ones.
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b',' | b'"' | b'\\') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    fn principal(issuer: &str, subject: &str) -> Principal {
        Principal::new(issuer.into(), subject, Vec::new(), None)
    }

    #[test]
    fn bindings_follow_issuer_and_subject_and_nothing_else() {
        let one = principal("https://a", "x").binding();
        let later = Principal { scopes: vec!["y".into()], expires: Some(9), ..principal("https://a", "x") };
        assert_eq!(one, later.binding());
        assert_ne!(one, principal("https://a", "y").binding());
        assert_ne!(one, principal("https://b", "x").binding());
        assert_ne!(principal("ab", "c").binding(), principal("a", "bc").binding());
    }

    #[test]
    fn names_cannot_break_a_header_or_a_log_line() {
        assert_eq!(&*principal("i", "auth0|5f7c").name, "auth0|5f7c");
        assert_eq!(&*principal("i", "a\r\nX: b, %\u{e9}\"\\").name, "a%0D%0AX:%20b%2C%20%25%C3%A9%22%5C");
    }

    #[test]
    fn clients_are_told_from_users() {
        assert_eq!(subject(&claims(r#"{"sub":"u","client_id":"c"}"#)).as_deref(), Ok("u"));
        assert_eq!(subject(&claims(r#"{"client_id":"c"}"#)).as_deref(), Ok("client_id:c"));
        for bad in [r"{}", r#"{"sub":""}"#, r#"{"sub":7,"client_id":"c"}"#, r#"{"sub":["u"]}"#] {
            assert_eq!(subject(&claims(bad)), Err(AuthError::Subject), "{bad}");
        }
        let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(256));
        assert_eq!(subject(&claims(&long)), Err(AuthError::Subject));
    }

    #[test]
    fn scopes_come_in_three_spellings() {
        let read = |text| scopes(&claims(text)).map(|scopes| scopes.join("+"));
        assert_eq!(read(r#"{"scope":"a  b"}"#).as_deref(), Ok("a+b"));
        assert_eq!(read(r#"{"scp":["a","b"]}"#).as_deref(), Ok("a+b"));
        assert_eq!(read(r#"{"scp":"a b"}"#).as_deref(), Ok("a+b"));
        assert_eq!(read(r#"{"scope":"a","scp":"b"}"#).as_deref(), Ok("a"));
        assert_eq!(read("{}").as_deref(), Ok(""));
        for bad in ["[1]", "{}", "1", r#"["a b"]"#, r#"[""]"#, r#""a\r\nb""#, r#""a\tb""#, r#""\u00e9""#, r#""a\"b""#] {
            assert!(scopes(&claims(&format!(r#"{{"scope":{bad}}}"#))).is_err(), "{bad}");
        }
        let some = Principal { scopes: vec!["a".into()], ..principal("i", "s") };
        assert!(
            some.has_any_scope(&["b", "a"]) && !some.has_all_scopes(&["b", "a"]) && !some.has_any_scope::<&str>(&[])
        );
    }
}
