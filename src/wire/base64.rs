//! Base64 with padding (RFC 4648 section 4), for bytes that are no text.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = char::from(DIGITS[(word >> (18 - 6 * i) & 63) as usize]);
            out.push(if i <= three.len() { digit } else { '=' });
        }
    }
    out
}

/// `None`: not base64 with its padding, or with bits left over, which would spell one value in several ways.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let (bytes, left_over) = decode_digits(digits.as_bytes(), *b"+/")?;
    (left_over.value == 0).then_some(bytes)
}

/// Bits behind the last whole byte.
pub struct LeftOver {
    pub bits: u32,
    pub value: u32,
}

/// Digits without padding, of the alphabet whose `last` two are these. How strict to be about what is left over is up to the
/// caller.
pub fn decode_digits(digits: &[u8], last: [u8; 2]) -> Option<(Vec<u8>, LeftOver)> {
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut word, mut bits) = (0u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            _ if digit == last[0] => 62,
            _ if digit == last[1] => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some((out, LeftOver { bits, value: word & ((1 << bits) - 1) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_at_every_length() {
        // The examples of RFC 4648 section 10.
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!((encode(bytes.as_bytes()).as_str(), decode(text)), (text, Some(bytes.into())));
        }
        for length in 0..70 {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 37 + 251) as u8).collect();
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
        for bad in ["A", "AA", "AAA", "A===", "Zg=", "Z-8=", "Zh==", "Zg==Zg=="] {
            assert_eq!(decode(bad).filter(|bytes| !bytes.is_empty()), None, "{bad}");
        }
    }
}
