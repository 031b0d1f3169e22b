//! Request and response heads as offsets into the caller's buffer.

use crate::base::Span;

/// Bounds on one head; all in bytes but `fields`.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    pub head_bytes: usize,
    pub fields: usize,
    pub target_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Connect,
    Trace,
    /// Any other valid token; its spelling is `RequestHead::method_text`.
    Other,
}

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
    Expect,
    Forwarded,
    Host,
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
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// `X-Forwarded-*` other than the three above, and `X-Real-IP`.
    XForwardedOther,
    /// A name that contains an underscore: never forwarded (`hardening` rule 6a).
    Underscored,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Field {
    pub name: Span,
    /// Without surrounding white space.
    pub value: Span,
    pub known: Name,
}

/// "Not yet" is not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Incomplete,
    Complete,
}

/// Reused from request to request: parsing in the steady state allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Bytes of the head with its final CRLF CRLF.
    pub len: usize,
    pub method: Method,
    pub method_text: Span,
    /// As received: origin form, absolute form, or `*`.
    pub target: Span,
    /// Path and query of the target (of an absolute form: behind the authority, "/" if empty).
    /// Empty span with `target` in absolute form and no path means "/".
    pub path_and_query: Span,
    /// The authority of an absolute-form target, else empty.
    pub authority: Span,
    pub version: Version,
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    pub len: usize,
    pub status: u16,
    pub reason: Span,
    pub version: Version,
    pub fields: Vec<Field>,
}
