//! Black-box tests over the real binary: raw bytes in, raw bytes out, on both I/O drivers.

#[path = "../support/mod.rs"]
mod support;

mod auth;
mod faults;
mod guards;
mod headers;
mod http1;
mod legacy_sse;
mod limits;
mod mcp;
mod mtls;
mod pool;
mod probes;
mod rates;
mod replicas;
mod sealed;
mod sessions;
mod smuggling;
mod store;
mod streaming;
mod tls;
mod tls_upstream;
mod upstream_faults;
mod workers;
