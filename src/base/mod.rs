//! L0: what every layer may use. No I/O, no clock.

pub mod id;
pub mod span;

pub use id::SessionId;
pub use span::Span;
