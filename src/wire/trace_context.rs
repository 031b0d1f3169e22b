//! W3C Trace Context: who caused a request, as `traceparent` says it, and whether that one is recorded.

/// Length of a `traceparent` of version 00, which is the one that we write.
pub const TRACEPARENT_BYTES: usize = 55;
/// Longest `tracestate` that is passed on (section 3.3.1.1: at least 512 characters must be).
pub const TRACESTATE_BYTES_MAX: usize = 1024;

/// Which span of which trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub is_sampled: bool,
}

/// The value of `traceparent`; `None`: it is not valid, and whoever got it begins a trace of its own (section 3.2).
pub fn parse(text: &[u8]) -> Option<SpanContext> {
    let (version, rest) = (hex::<1>(text.get(..2)?)?[0], &text[2..]);
    let parts = rest.get(..TRACEPARENT_BYTES - 2)?;
    // A later version may say more, behind another dash.
    let fine = match version {
        0 => text.len() == TRACEPARENT_BYTES,
        0xff => false,
        _ => matches!(text.get(TRACEPARENT_BYTES), None | Some(b'-')),
    };
    if !fine || parts[0] != b'-' || parts[33] != b'-' || parts[50] != b'-' {
        return None;
    }
    let trace_id = hex(&parts[1..33])?;
    let span_id = hex(&parts[34..50])?;
    let [flags] = hex(&parts[51..53])?;
    let is_named = trace_id != [0; 16] && span_id != [0; 8];
    is_named.then_some(SpanContext { trace_id, span_id, is_sampled: flags & 1 == 1 })
}

impl SpanContext {
    /// As `traceparent` says it.
    pub fn to_text(self) -> [u8; TRACEPARENT_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        spell(&self.trace_id, &mut text[3..35]);
        spell(&self.span_id, &mut text[36..52]);
        text[54] = b'0' + u8::from(self.is_sampled);
        text
    }
}

/// Whether a `tracestate` may be passed on: printable, and of bounded length.
pub fn is_tracestate(text: &[u8]) -> bool {
    let printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    !text.is_empty() && text.len() <= TRACESTATE_BYTES_MAX && text.iter().all(printable)
}

/// Bytes as lower-case hexadecimal digits, two each.
pub fn spell(bytes: &[u8], digits: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Lower-case digits alone (section 3.2.2).
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_it_reads_it_writes() {
        let context = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((context.trace_id[0], context.trace_id[15], context.span_id[0]), (0x0a, 0x9c, 0xb7));
        assert!(context.is_sampled);
        assert_eq!(context.to_text(), GOOD.as_bytes());
        let unsampled = GOOD.replace("-01", "-00");
        assert_eq!(parse(unsampled.as_bytes()).unwrap().to_text(), unsampled.as_bytes());
    }

    #[test]
    fn later_versions_and_flags_are_read_as_far_as_they_are_known() {
        for fine in [GOOD.replacen("00", "cc", 1), format!("{}-what-comes", GOOD.replacen("00", "01", 1))] {
            assert!(parse(fine.as_bytes()).is_some_and(|context| context.is_sampled), "{fine}");
        }
        assert!(!parse(GOOD.replace("-01", "-fe").as_bytes()).unwrap().is_sampled);
    }

    #[test]
    fn what_is_not_valid_is_none() {
        let zero_trace = GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_span = GOOD.replace("b7ad6b7169203331", &"0".repeat(16));
        let longer = format!("{GOOD}-x");
        let no_dash = format!("{}x", GOOD.replacen("00", "01", 1));
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &longer,
            &no_dash,
            &GOOD.replacen("00", "ff", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replace("b7ad", "b7ag"),
            &zero_trace,
            &zero_span,
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(is_tracestate(b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));
        assert!(!is_tracestate(b"") && !is_tracestate(b"a\r\nb") && !is_tracestate(&[b'a'; 1025]));
    }
}
