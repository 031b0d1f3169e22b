//! L2: who asks, proven. Verification of tokens, keys and answers that were fetched elsewhere: no I/O, and time comes in
//! as unix seconds. A [`Principal`] is what a passed check leaves.
//!
//! ```text
//! token --bearer::verify(Keyring)--> Verified(Principal)
//!                                \-> Introspect --Keys::introspect--> introspection::read --> Principal
//! key ----ApiKeys::verify----------> Principal
//! leaf ---certificate::principal---> Principal
//! browser --Attempt--> authorization server --code, Logins::exchange--> tokens --> Login, in a sealed cookie
//! ```

pub mod api_key;
mod attempt;
pub mod bearer;
pub mod certificate;
pub mod claims;
mod error;
pub mod id_token;
pub mod introspection;
mod json;
mod keyring;
mod keys;
mod keyset;
mod logins;
mod principal;
mod seal;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use api_key::ApiKeys;
pub use attempt::{ATTEMPT_LIFE, Attempt, Login, LoginMark};
pub use bearer::{Checked, Introspect, TOKEN_BYTES_MAX, verify};
pub use claims::{IssuerName, Policy};
pub use error::AuthError;
pub use keyring::{Issuer, Keyring};
pub use keys::{Board, Credential, CredentialMissing, Desk, Keys, Question};
pub use keyset::KeySet;
pub use logins::{AuthorizationServer, CodeExchange, LoginBoard, LoginDesk, LoginError, Logins, Standing, Tokens};
pub use principal::{Binding, Principal};
pub use seal::Seal;
