//! One session as bytes: a version, the fields with their lengths, a checksum (LMDB has none of its own).

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name of the upstream that issued it.
    pub upstream: String,
    /// Upstream's own id.
    pub upstream_session: String,
    /// The MCP version of its `initialize`, where the headers told it.
    pub protocol: String,
    pub transport: Transport,
    /// Whose it is, where clients are authenticated.
    pub principal: Option<Principal>,
    /// The body of its `initialize`, kept where it may begin anew at another upstream (`session.failover`).
    pub initialize: Option<String>,
    /// Store time, milliseconds.
    pub created_ms: u64,
    /// Store time of the latest use that was saved, milliseconds.
    pub seen_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub issuer: String,
    pub subject: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// 2025-03-26 and later: the id travels in `Mcp-Session-Id`.
    StreamableHttp,
    /// 2024-11-05: the id travels in this query parameter.
    HttpSse { parameter: String },
}

const VERSION: u8 = 2;
/// Without `initialize`; still read.
const VERSION_1: u8 = 1;

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.seen_ms.to_le_bytes());
        let parameter = match &self.transport {
            Transport::StreamableHttp => None,
            Transport::HttpSse { parameter } => Some(parameter.as_str()),
        };
        let (issuer, subject) = match &self.principal {
            Some(principal) => (Some(principal.issuer.as_str()), Some(principal.subject.as_str())),
            None => (None, None),
        };
        let fields = [Some(self.upstream.as_str()), Some(&self.upstream_session), Some(&self.protocol)];
        for field in fields.into_iter().chain([parameter, issuer, subject, self.initialize.as_deref()]) {
            put(&mut out, field);
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// `None` for damage, and for a version that this program does not know.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return None;
        }
        let (&[version @ (VERSION | VERSION_1)], mut rest) = body.split_first_chunk::<1>()? else { return None };
        let created_ms = u64::from_le_bytes(*take::<8>(&mut rest)?);
        let seen_ms = u64::from_le_bytes(*take::<8>(&mut rest)?);
        let upstream = get(&mut rest)??;
        let upstream_session = get(&mut rest)??;
        let protocol = get(&mut rest)??;
        let transport = match get(&mut rest)? {
            None => Transport::StreamableHttp,
            Some(parameter) => Transport::HttpSse { parameter },
        };
        let principal = match (get(&mut rest)?, get(&mut rest)?) {
            (Some(issuer), Some(subject)) => Some(Principal { issuer, subject }),
            _ => None,
        };
        let initialize = if version == VERSION_1 { None } else { get(&mut rest)? };
        rest.is_empty().then_some(Record {
            upstream,
            upstream_session,
            protocol,
            transport,
            principal,
            initialize,
            created_ms,
            seen_ms,
        })
    }
}

/// A length of four bytes (all ones: absent), then the text.
fn put(out: &mut Vec<u8>, field: Option<&str>) {
    let length = field.map_or(u32::MAX, |text| text.len() as u32);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(field.unwrap_or_default().as_bytes());
}

fn get(rest: &mut &[u8]) -> Option<Option<String>> {
    let length = u32::from_le_bytes(*take::<4>(rest)?);
    if length == u32::MAX {
        return Some(None);
    }
    let (text, after) = rest.split_at_checked(length as usize)?;
    *rest = after;
    Some(Some(String::from_utf8(text.to_vec()).ok()?))
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(head)
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): against damage, not against an attacker.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            upstream: "primary".into(),
            upstream_session: "abc".into(),
            protocol: String::new(),
            transport: Transport::HttpSse { parameter: "sessionId".into() },
            initialize: Some("{\"method\":\"initialize\"}".into()),
            principal: Some(Principal { issuer: "https://idp".into(), subject: "alice".into() }),
            created_ms: 1,
            seen_ms: u64::MAX,
        }
    }

    #[test]
    fn decodes_what_it_encoded() {
        let plain = Record { transport: Transport::StreamableHttp, principal: None, initialize: None, ..record() };
        for record in [record(), plain] {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let good = record().encode();
        for at in 0..good.len() {
            assert_eq!(Record::decode(&good[..at]), None);
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(Record::decode(&bad), None);
        }
    }

    #[test]
    fn records_of_the_version_before_are_read() {
        let new = Record { initialize: None, ..record() };
        let mut old = new.encode();
        // Without the last field, which is absent, and with the sum of what is left.
        old.truncate(old.len() - 8 - 4);
        old[0] = VERSION_1;
        let sum = checksum(&old);
        old.extend_from_slice(&sum.to_le_bytes());
        assert_eq!(Record::decode(&old), Some(new));
    }
}
