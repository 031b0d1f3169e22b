//! The PROXY protocol, versions 1 and 2 (haproxy.org, "The PROXY protocol", sections 2.1 and 2.2): who connected, told by
//! a proxy below HTTP before the first byte of the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What starts a header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, with its end.
const LINE_BYTES_MAX: usize = 107;
/// Bytes of a version 2 header before its addresses.
const FIXED_BYTES: usize = 16;
/// Longest header of version 2 that is taken, with all that it tells besides addresses.
const HEADER_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY protocol header: {0}")]
pub struct NoHeader(&'static str);

/// How far a header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This many of the bytes that came next belong to the header, which goes on behind them.
    More(usize),
    /// This many of the bytes that came next end the header.
    Last(usize),
}

/// How many of the bytes in `next` belong to the header of which `taken` came before.
///
/// # Errors
/// It cannot be one.
pub fn extent(taken: &[u8], next: &[u8]) -> Result<Progress, NoHeader> {
    let byte = |at: usize| if at < taken.len() { taken.get(at) } else { next.get(at - taken.len()) };
    if byte(0) == Some(&b'P') {
        let start = b"PROXY ";
        let so_far = (0..start.len()).map_while(|at| byte(at).map(|found| (found, start[at])));
        if so_far.into_iter().any(|(found, wanted)| *found != wanted) {
            return Err(NoHeader("no `PROXY `"));
        }
        return match memchr::memchr(b'\n', next) {
            Some(at) if taken.len() + at < LINE_BYTES_MAX => Ok(Progress::Last(at + 1)),
            None if taken.len() + next.len() < LINE_BYTES_MAX => Ok(Progress::More(next.len())),
            _ => Err(NoHeader("the line is too long")),
        };
    }
    if (0..SIGNATURE.len()).any(|at| byte(at).is_some_and(|found| *found != SIGNATURE[at])) {
        return Err(NoHeader("no signature"));
    }
    let total = match (byte(14), byte(15)) {
        (Some(&high), Some(&low)) => FIXED_BYTES + usize::from(u16::from_be_bytes([high, low])),
        _ => FIXED_BYTES + 1,
    };
    if total > HEADER_BYTES_MAX {
        return Err(NoHeader("the header is too long"));
    }
    let left = total - taken.len();
    match (byte(15), next.len() >= left) {
        (Some(_), true) => Ok(Progress::Last(left)),
        (Some(_), false) => Ok(Progress::More(next.len())),
        // The length is still to come: take no byte behind it.
        (None, _) => Ok(Progress::More(next.len().min(FIXED_BYTES - taken.len()))),
    }
}

/// The address of a whole header; `None` where the proxy speaks for itself (`LOCAL`, `UNKNOWN`).
///
/// # Errors
/// Anything that the specification does not allow.
pub fn source(header: &[u8]) -> Result<Option<IpAddr>, NoHeader> {
    if header.starts_with(SIGNATURE) { source_of_binary(header) } else { source_of_line(header) }
}

fn source_of_line(header: &[u8]) -> Result<Option<IpAddr>, NoHeader> {
    let line = header.strip_suffix(b"\r\n").ok_or(NoHeader("line end"))?;
    let line = std::str::from_utf8(line).map_err(|_| NoHeader("not ASCII"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let port = |text: &str| {
        let plain =
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        plain && text.parse::<u16>().is_ok()
    };
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] if port(from_port) && port(to_port) => {
            let parse = |text: &str| match family {
                "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
                _ => text.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
            };
            match (parse(from), parse(to)) {
                (Some(from), Some(_)) => Ok(Some(from)),
                _ => Err(NoHeader("address")),
            }
        }
        _ => Err(NoHeader("words")),
    }
}

fn source_of_binary(header: &[u8]) -> Result<Option<IpAddr>, NoHeader> {
    let (fixed, addresses) = header.split_at_checked(FIXED_BYTES).ok_or(NoHeader("too short"))?;
    match fixed[12] {
        // LOCAL: the proxy's own check of us.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(NoHeader("version or command")),
    }
    match fixed[13] {
        0x11 => {
            let bytes = addresses.first_chunk::<12>().ok_or(NoHeader("addresses"))?;
            Ok(Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))))
        }
        0x21 => {
            addresses.first_chunk::<36>().ok_or(NoHeader("addresses"))?;
            let bytes = addresses.first_chunk::<16>().ok_or(NoHeader("addresses"))?;
            Ok(Some(IpAddr::V6(Ipv6Addr::from(*bytes))))
        }
        // Unspecified, or a local socket: no address of the network.
        0x00 | 0x31 => Ok(None),
        _ => Err(NoHeader("family or transport")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = (addresses.len() as u16).to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, addresses].concat()
    }

    /// As a receiver does it: take what belongs to the header from what came, piece by piece.
    fn read(stream: &[u8], piece: usize) -> Result<(Option<IpAddr>, usize), NoHeader> {
        let (mut taken, mut came) = (Vec::new(), 0);
        loop {
            came = (came + piece).min(stream.len()).max(taken.len());
            match extent(&taken, &stream[taken.len()..came])? {
                Progress::Last(n) => {
                    taken.extend_from_slice(&stream[taken.len()..taken.len() + n]);
                    return Ok((source(&taken)?, taken.len()));
                }
                Progress::More(n) => taken.extend_from_slice(&stream[taken.len()..taken.len() + n]),
            }
            if came == stream.len() && taken.len() == came {
                return Err(NoHeader("the test ended"));
            }
        }
    }

    fn headers() -> Vec<(Vec<u8>, Option<IpAddr>)> {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0, 80];
        let v6: Vec<u8> = [Ipv6Addr::LOCALHOST.octets(), Ipv6Addr::LOCALHOST.octets()].concat();
        let v6 = [v6, vec![0, 1, 0, 2]].concat();
        let longer = [v4.as_slice(), &[4, 0, 1, 0]].concat();
        vec![
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 80\r\n".to_vec(), "192.0.2.1".parse().ok()),
            (b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n".to_vec(), "2001:db8::1".parse().ok()),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN what ever\r\n".to_vec(), None),
            (binary(0x21, 0x11, &v4), "192.0.2.1".parse().ok()),
            (binary(0x21, 0x21, &v6), "::1".parse().ok()),
            (binary(0x21, 0x11, &longer), "192.0.2.1".parse().ok()),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &v4), None),
            (binary(0x21, 0x00, &[]), None),
        ]
    }

    proptest! {
        #[test]
        fn takes_the_header_and_not_a_byte_more_in_any_pieces(piece in 1usize..80, which in 0usize..10) {
            let (header, address) = headers().swap_remove(which);
            let stream = [header.as_slice(), b"GET / HTTP/1.1\r\n\r\n"].concat();
            prop_assert_eq!(read(&stream, piece), Ok((address, header.len())));
        }
    }

    #[test]
    fn refuses_what_is_no_header() {
        let mut bad: Vec<Vec<u8>> = [
            "GET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\n\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 12345\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 12345 80\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 012345 80\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
            "PROXY TCP4 ::1 198.51.100.2 1 2\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "\r\n\r\n\0\r\nQUIT\r",
            "\u{16}\u{3}\u{1}",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec();
        bad.push(format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).into_bytes());
        bad.push(binary(0x11, 0x11, &[0; 12]));
        bad.push(binary(0x22, 0x11, &[0; 12]));
        bad.push(binary(0x21, 0x11, &[0; 11]));
        bad.push(binary(0x21, 0x21, &[0; 35]));
        bad.push(binary(0x21, 0x44, &[0; 36]));
        bad.push(binary(0x21, 0x11, &[0; 5000]));
        for header in bad {
            for piece in [1, 7, 10_000] {
                assert!(read(&header, piece).is_err(), "{}", header.escape_ascii());
            }
        }
    }
}
