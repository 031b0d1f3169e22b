//! Why a body is refused, and how the client is told.

use crate::wire::mcp::code;

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    #[error("the body is not valid JSON: {0}")]
    Grammar(&'static str),
    #[error("the key `{0}` stands twice")]
    Duplicate(&'static str),
    #[error("a key is not `{0}`, and some parsers take it for that")]
    Lookalike(&'static str),
    #[error("`{0}` is too long")]
    TooLong(&'static str),
    #[error("`{0}` has the wrong type")]
    Type(&'static str),
}

impl PeekError {
    /// The JSON-RPC code that tells the client.
    pub fn code(&self) -> i32 {
        match self {
            PeekError::Grammar(_) => code::PARSE_ERROR,
            _ => code::INVALID_REQUEST,
        }
    }
}
