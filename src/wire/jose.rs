//! The outer shape of signed tokens: names of algorithms (RFC 7518 section 3.1, RFC 8037), base64url (RFC 4648
//! section 5 without padding, as RFC 7515 has it), the three parts of a compact JWS (RFC 7515 section 3.1).

use std::fmt;

use super::base64::decode_digits;

/// A signature algorithm with a key pair. There is no `none` and no HMAC here, so no token can choose one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// The algorithm of this name, which is case-sensitive.
    pub fn parse(name: &str) -> Option<Algorithm> {
        // RFC 9864 gives the curve of EdDSA a name of its own.
        if name == "Ed25519" {
            return Some(Algorithm::EdDsa);
        }
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The parts of `header.payload.signature`, decoded.
pub struct Compact<'t> {
    pub header: Vec<u8>,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
    /// What the signature is over: the first two parts as sent.
    pub signed: &'t [u8],
}

impl<'t> Compact<'t> {
    /// `None`: not three parts of base64url.
    pub fn parse(token: &'t str) -> Option<Compact<'t>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        // A dot is no digit, so a fourth part is refused with the payload.
        Some(Compact {
            header: decode_base64url(header)?,
            payload: decode_base64url(payload)?,
            signature: decode_base64url(signature)?,
            signed: signed.as_bytes(),
        })
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// `None`: not base64url, padded, or with bits left over, which would spell one value in several ways.
pub fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    let (bytes, left_over) = decode_digits(text.as_bytes(), *b"-_")?;
    (left_over.bits < 6 && left_over.value == 0).then_some(bytes)
}

pub fn encode_base64url(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..=three.len() {
            out.push(char::from(DIGITS[(word >> (18 - 6 * i) & 63) as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_round_trips_and_has_one_spelling() {
        for length in 0..70 {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 37 + 11) as u8).collect();
            assert_eq!(decode_base64url(&encode_base64url(&bytes)), Some(bytes));
        }
        assert_eq!(encode_base64url(b"any+old & data"), "YW55K29sZCAmIGRhdGE");
        for bad in ["A", "AB", "AAB", "AA==", "A+AA", "A/AA", "AA AA", "AA.AA", "AA\nA"] {
            assert_eq!(decode_base64url(bad), None, "{bad}");
        }
    }

    #[test]
    fn compact_tokens_have_three_parts() {
        let token = Compact::parse("AAAA.BBBB.CCCC").unwrap();
        assert_eq!(token.signed, b"AAAA.BBBB");
        for bad in ["", ".", "AAAA", "AAAA.BBBB", "AAAA.BBBB.CCCC.DDDD", "AAAA.B=.CCCC", "A.B.C.D.E"] {
            assert!(Compact::parse(bad).is_none(), "{bad}");
        }
        assert!(Compact::parse("AAAA.BBBB.").is_some(), "an empty signature is for the verifier to refuse");
    }

    #[test]
    fn names_are_read_as_they_are_written_and_none_is_none() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
        }
        for bad in ["none", "None", "HS256", "rs256", "ES256K", "ES512", ""] {
            assert_eq!(Algorithm::parse(bad), None, "{bad}");
        }
    }
}
