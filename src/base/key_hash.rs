//! Hashes of API keys as text: `sha256:` and 64 hexadecimal digits.

use std::fmt;

/// SHA-256 of an API key. What makes one of a key is in `identity::api_key`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(pub [u8; 32]);

/// Hashes begin with what made them, so that another way can come later.
const PREFIX: &str = "sha256:";

impl KeyHash {
    /// The hash that `text` spells.
    ///
    /// # Errors
    /// What was expected; the text is not repeated, since it may be the key itself.
    pub fn parse(text: &str) -> Result<KeyHash, &'static str> {
        const EXPECTED: &str = "expected sha256: and 64 hexadecimal digits, as `shadowcat auth hash-key` prints it";
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == 64).ok_or(EXPECTED)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let digit = |b: u8| char::from(b).to_digit(16).ok_or(EXPECTED);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(KeyHash(bytes))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Nothing for logs.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key hash>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_nothing_else_is_taken() {
        let hash = KeyHash([0xa7; 32]);
        let text = hash.to_string();
        assert_eq!(KeyHash::parse(&text), Ok(hash));
        assert!(!format!("{hash:?}").contains("a7"));
        for bad in ["", "sha256:", "sha256:00", &text[1..], &text[..70], &format!("{text}0"), &text.replace('a', "+")] {
            assert!(KeyHash::parse(bad).is_err(), "{bad}");
        }
        assert!(KeyHash::parse(&text.replace("sha256", "SHA256")).is_err());
    }
}
