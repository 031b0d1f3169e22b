//! The fields of a head: their names told once, and where each stands.

use crate::base::Span;

/// Field names that the proxy acts upon, told once while parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Name {
    #[default]
    Other,
    Accept,
    Authorization,
    Connection,
    ContentEncoding,
    ContentLength,
    ContentType,
    Cookie,
    Expect,
    Forwarded,
    Host,
    /// Who somebody in front says that the client is: `X-Forwarded-User`, `Remote-User` and their like.
    Identity,
    KeepAlive,
    LastEventId,
    McpMethod,
    McpName,
    McpProtocolVersion,
    McpSessionId,
    Origin,
    Proxy,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Traceparent,
    Tracestate,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// `X-Forwarded-*` other than the three above, and `X-Real-IP`.
    XForwardedOther,
    XRequestId,
    /// A name that contains an underscore: never forwarded (`hardening` rule 6a).
    Underscored,
}

impl Name {
    /// What a token names. By length and first letter, so that a name costs one comparison or none.
    pub(super) fn of(name: &[u8]) -> Name {
        let first = name[0] | LOWER;
        let (spelling, known) = match (name.len(), first) {
            (2, b't') => ("te", Name::Te),
            (3, b'v') => ("via", Name::Via),
            (4, b'h') => ("host", Name::Host),
            (5, b'p') => ("proxy", Name::Proxy),
            (6, b'a') => ("accept", Name::Accept),
            (6, b'c') => ("cookie", Name::Cookie),
            (6, b'e') => ("expect", Name::Expect),
            (6, b'o') => ("origin", Name::Origin),
            (7, b't') => ("trailer", Name::Trailer),
            (7, b'u') => ("upgrade", Name::Upgrade),
            (8, b'm') => ("mcp-name", Name::McpName),
            (9, b'f') => ("forwarded", Name::Forwarded),
            (10, b'c') => ("connection", Name::Connection),
            (10, b'k') => ("keep-alive", Name::KeepAlive),
            (10, b'm') => ("mcp-method", Name::McpMethod),
            (10, b't') => ("tracestate", Name::Tracestate),
            (11, b'r') => ("remote-user", Name::Identity),
            (11, b't') => ("traceparent", Name::Traceparent),
            (12, b'c') => ("content-type", Name::ContentType),
            (13, b'a') => ("authorization", Name::Authorization),
            (13, b'l') => ("last-event-id", Name::LastEventId),
            (14, b'c') => ("content-length", Name::ContentLength),
            (14, b'm') => ("mcp-session-id", Name::McpSessionId),
            (16, b'c') => ("content-encoding", Name::ContentEncoding),
            (16, b'p') => ("proxy-connection", Name::ProxyConnection),
            (17, b't') => ("transfer-encoding", Name::TransferEncoding),
            (18, b'p') => ("proxy-authenticate", Name::ProxyAuthenticate),
            (19, b'p') => ("proxy-authorization", Name::ProxyAuthorization),
            (20, b'm') => ("mcp-protocol-version", Name::McpProtocolVersion),
            _ => ("", Name::Other),
        };
        if !spelling.is_empty() && is_spelt(name, spelling.as_bytes()) {
            return known;
        }
        let extension = if first == b'x' { extension_of(name) } else { Name::Other };
        if extension == Name::Other && has_underscore(name) { Name::Underscored } else { extension }
    }

    const COUNT: usize = Name::Underscored as usize + 1;

    fn bit(self) -> u64 {
        1 << self as u32
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Field {
    pub name: Span,
    /// Without surrounding white space.
    pub value: Span,
    pub known: Name,
}

/// The fields of a head in their order, and where the first of each known name stands.
#[derive(Clone, Debug)]
pub struct Fields {
    list: Vec<Field>,
    first: [u8; Name::COUNT],
    /// Bits of names that stand there at all, and more than once.
    seen: u64,
    repeated: u64,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields { list: Vec::new(), first: [0; Name::COUNT], seen: 0, repeated: 0 }
    }
}

impl Fields {
    pub(super) fn clear(&mut self) {
        self.list.clear();
        (self.seen, self.repeated) = (0, 0);
    }

    pub(super) fn push(&mut self, field: Field) {
        let bit = field.known.bit();
        self.repeated |= self.seen & bit;
        if self.seen & bit == 0 {
            self.seen |= bit;
            self.first[field.known as usize] = self.list.len() as u8;
        }
        self.list.push(field);
    }

    pub fn has(&self, name: Name) -> bool {
        self.seen & name.bit() != 0
    }

    /// Whether it stands there more than once.
    pub fn is_repeated(&self, name: Name) -> bool {
        self.repeated & name.bit() != 0
    }

    /// The first value of a field.
    pub fn find<'a>(&self, bytes: &'a [u8], name: Name) -> Option<&'a [u8]> {
        self.has(name).then(|| self.first_of(name).value.of(bytes))
    }

    /// The first field of this name, which must be there.
    pub(super) fn first_of(&self, name: Name) -> &Field {
        &self.list[usize::from(self.first[name as usize])]
    }

    /// All fields of this name.
    pub fn all(&self, name: Name) -> impl DoubleEndedIterator<Item = &Field> {
        let list = if self.has(name) { &self.list[usize::from(self.first[name as usize])..] } else { &[] };
        list.iter().filter(move |field| field.known == name)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Field> {
        self.list.iter()
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = &'a Field;
    type IntoIter = std::slice::Iter<'a, Field>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Names that begin with `X-`.
fn extension_of(name: &[u8]) -> Name {
    let (forwarded, auth) = (b"x-forwarded-".as_slice(), b"x-auth-request-".as_slice());
    let begins = |start: &[u8]| name.len() > start.len() && is_spelt(&name[..start.len()], start);
    if begins(forwarded) {
        let rest = &name[forwarded.len()..];
        let is = |spelling: &[u8]| rest.len() == spelling.len() && is_spelt(rest, spelling);
        return if is(b"for") {
            Name::XForwardedFor
        } else if is(b"host") {
            Name::XForwardedHost
        } else if is(b"proto") {
            Name::XForwardedProto
        } else if is(b"user") || is(b"email") || is(b"scopes") || is(b"groups") {
            Name::Identity
        } else if has_underscore(name) {
            Name::Underscored
        } else {
            Name::XForwardedOther
        };
    }
    match name.len() {
        9 if is_spelt(name, b"x-real-ip") => Name::XForwardedOther,
        12 if is_spelt(name, b"x-request-id") => Name::XRequestId,
        13 if is_spelt(name, b"x-remote-user") => Name::Identity,
        _ if begins(auth) => Name::Identity,
        _ => Name::Other,
    }
}

/// The bit that tells small letters from capitals.
const LOWER: u8 = 0x20;

/// Whether a token is this spelling, of the same length, of small letters and hyphens, in any case. With [`LOWER`] set, no
/// token character but the letter itself becomes a letter, and none becomes a hyphen.
fn is_spelt(name: &[u8], spelling: &[u8]) -> bool {
    debug_assert_eq!(name.len(), spelling.len());
    let ((words, rest), (wanted, wanted_rest)) = (name.as_chunks::<8>(), spelling.as_chunks::<8>());
    let lower = u64::from_le_bytes([LOWER; 8]);
    let long = words
        .iter()
        .zip(wanted)
        .fold(0, |diff, (a, b)| diff | ((u64::from_le_bytes(*a) | lower) ^ u64::from_le_bytes(*b)));
    let short = rest.iter().zip(wanted_rest).fold(0, |diff, (a, b)| diff | ((a | LOWER) ^ b));
    long == 0 && short == 0
}

fn has_underscore(name: &[u8]) -> bool {
    // Eight at a time: a byte that becomes zero shows in a top bit.
    let (words, rest) = name.as_chunks::<8>();
    let (ones, tops) = (u64::from_le_bytes([1; 8]), u64::from_le_bytes([0x80; 8]));
    let found = words.iter().fold(0, |found, word| {
        let zeroed = u64::from_le_bytes(*word) ^ u64::from_le_bytes([b'_'; 8]);
        found | (zeroed.wrapping_sub(ones) & !zeroed & tops)
    });
    found != 0 || rest.contains(&b'_')
}
