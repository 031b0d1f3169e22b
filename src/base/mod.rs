//! L0: what every layer may use. No I/O, no clock.

pub mod id;
pub mod key_hash;
pub mod linear_hash;
pub mod random;
pub mod secret;
pub mod slab;
pub mod span;

pub use id::SessionId;
pub use key_hash::KeyHash;
pub use linear_hash::LinearHash;
pub use random::Random;
pub use secret::Secret;
pub use slab::Slab;
pub use span::Span;
