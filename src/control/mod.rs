//! L5, the control plane: what may block. Starts workers, watches them, resolves names, hears signals, writes logs.

pub mod admin;
mod beats;
pub mod discovery;
pub mod fetch;
mod grant;
mod health;
mod introspect;
pub mod keys;
pub mod log;
pub mod login;
pub mod metrics;
pub mod otlp;
pub mod publish;
pub mod publisher;
pub mod resolve;
mod service_manager;
pub mod supervisor;
#[cfg(test)]
mod testing;

pub use publisher::Source;
pub use service_manager::ServiceManager;
pub use supervisor::{Outcome, Start, serve};
