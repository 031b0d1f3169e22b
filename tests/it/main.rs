//! Black-box tests over the real binary: raw bytes in, raw bytes out, on both I/O drivers.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod admin;
mod admin_store;
mod audit;
mod auth;
mod balance;
mod brims;
mod chaos;
mod doctor;
mod failover;
mod faults;
mod guards;
mod headers;
mod health;
mod health_command;
mod health_mcp;
mod http1;
mod legacy_sse;
mod limits;
mod login;
mod logs;
mod mcp;
mod metrics;
mod mtls;
mod pool;
mod posts;
mod power;
mod probes;
mod rates;
mod reload;
mod replicas;
mod sealed;
mod service_manager;
mod sessions;
mod smuggling;
mod store;
mod streaming;
mod tls;
mod tls_cuts;
mod tls_upstream;
mod upstream_faults;
mod workers;
