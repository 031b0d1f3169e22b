//! Names that say that what they name is a secret.

/// Ends of names, of letters and digits in lower case.
const ENDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "authkey",
    "authorization",
    "cookie",
    "credential",
    "credentials",
    "clientassertion",
    "codeverifier",
    "sessionid",
];
/// Names that end so and are none.
const PLAIN: &[&str] = &["progresstoken", "pagetoken", "continuationtoken"];
/// In the query of a URL these are secrets as well.
const IN_QUERIES: &[&str] = &["key", "code", "sig", "signature", "auth"];
/// A longer name is looked at by its end.
const NAME_BYTES_MAX: usize = 64;

/// The names that are known, and more of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Whole names, of letters and digits in lower case.
    more: Vec<String>,
}

impl Names {
    /// The known ones and `more`: case and punctuation do not count.
    pub fn new(more: &[String]) -> Names {
        let plain = |name: &String| name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        Names { more: more.iter().map(plain).filter(|name: &String| !name.is_empty()).collect() }
    }

    /// Whether anything is named besides what is known.
    pub fn are_more(&self) -> bool {
        !self.more.is_empty()
    }

    /// Whether `name` names a secret, in JSON, a head, or an assignment.
    pub fn is_secret(&self, name: &str) -> bool {
        self.matches(name, &[])
    }

    pub fn is_secret_in_query(&self, name: &str) -> bool {
        self.matches(name, IN_QUERIES)
    }

    fn matches(&self, name: &str, whole: &[&str]) -> bool {
        let mut plain = [0; NAME_BYTES_MAX];
        let mut start = plain.len();
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b' ');
        let end = name.bytes().rev().take_while(is_part).filter(u8::is_ascii_alphanumeric);
        for byte in end.take(NAME_BYTES_MAX) {
            start -= 1;
            plain[start] = byte.to_ascii_lowercase();
        }
        let plain = &plain[start..];
        let ends = |end: &&str| plain.ends_with(end.as_bytes());
        let known = ENDS.iter().any(ends) && !PLAIN.iter().any(ends);
        known
            || whole.iter().any(|whole| plain == whole.as_bytes())
            || self.more.iter().any(|more| match more.is_ascii() {
                true => plain == more.as_bytes(),
                false => Names::new(&[name.to_owned()]).more.first() == Some(more),
            })
    }
}
