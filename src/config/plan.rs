//! The configuration as run: typed, complete, checked. Built once, shared by `Arc`, never changed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use super::auth_plan::{
    ApiKeyPlan, AuthPlan, CredentialPlan, GrantPlan, IssuerPlan, LoginPlan, Provider, RulePlan,
};
use crate::wire::http1::head::HeadLimits;
use crate::wire::redact::Rules;
use crate::wire::sealed::Seal;

#[derive(Clone, Debug)]
pub struct Plan {
    pub bind: SocketAddr,
    /// Number of worker threads, at least 1.
    pub workers: usize,
    pub driver: DriverChoice,
    /// In the order of the configuration; names are unique. Empty: the server starts, is not ready, and answers 503.
    pub upstreams: Vec<UpstreamPlan>,
    pub balance: BalancePlan,
    /// `None`: an endpoint that fails is asked all the same.
    pub breaker: Option<BreakerPlan>,
    pub session: SessionPlan,
    pub limits: LimitsPlan,
    pub timeouts: TimeoutsPlan,
    pub pool: PoolPlan,
    pub guards: GuardsPlan,
    /// `None`: clients speak plain HTTP.
    pub tls: Option<TlsPlan>,
    pub rates: RatesPlan,
    /// `None`: upstreams are not asked how they are.
    pub health: Option<HealthPlan>,
    /// `None`: anybody may ask.
    pub auth: Option<AuthPlan>,
    pub log: LogPlan,
    pub admin: AdminPlan,
    /// `None`: no traces are sent, and what clients say of theirs is passed on as it is.
    pub telemetry: Option<TelemetryPlan>,
    /// `None`: nothing is recorded.
    pub record: Option<RecordPlan>,
    /// Size of the buffers that stream bodies (`performance.buffer_size`), bytes.
    pub stream_buffer_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring with DEFER_TASKRUN, else with COOP_TASKRUN, else epoll.
    Auto,
    IoUring,
    Epoll,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamPlan {
    /// The label in metrics and the affinity key in the session store.
    pub name: String,
    /// DNS name or IP literal (IPv6 without brackets).
    pub host: String,
    pub port: u16,
    /// `host:port` as a `Host` field carries it (default ports left out, IPv6 in brackets).
    pub authority: String,
    /// Path of the configured URL, "/" if it has none. A request for "/" is sent to this path, every other path as it is.
    pub path: String,
    /// `None` for `http://`.
    pub tls: Option<UpstreamTls>,
    /// At least 1.
    pub weight: u32,
    /// Connections in use at a time, over all workers.
    pub max_connections: Option<u32>,
    /// To the answer's head, then between body bytes; never on an SSE stream.
    pub timeout: Duration,
    /// What it is sent in place of the client's own credential.
    pub credential: Option<CredentialPlan>,
}

/// How new work is spread over upstreams, and what becomes of it where one fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalancePlan {
    pub policy: BalancePolicy,
    /// How long an upstream that came back takes to its whole share; zero: it has it at once.
    pub slow_start: Duration,
    /// Requests that wait for an upstream whose `max_connections` are all in use, over all workers.
    pub queue_size: u32,
    pub queue_timeout: Duration,
    /// Reads that are sent to a second upstream, as a part of all requests; what stops storms of retries.
    pub retry_budget: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalancePolicy {
    RoundRobin,
    LeastInFlight,
}

/// When an upstream is left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPlan {
    /// Transport failures in the window, at least.
    pub failure_threshold: u32,
    /// The part of the window's requests that they are, at least.
    pub failure_ratio: f64,
    pub window: Duration,
    /// From the opening to the first probe.
    pub recovery_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// Name to verify and to send as SNI.
    pub server_name: String,
    /// PEM file of roots; `None`: the system's.
    pub ca_path: Option<PathBuf>,
    /// Certificate chain and key that we show, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Debug)]
pub struct SessionPlan {
    pub store: StoreKind,
    /// Directory that holds the LMDB environment (unused for `Memory`).
    pub path: PathBuf,
    /// A session that is not used for this long ends.
    pub timeout: Duration,
    pub max_sessions: u64,
    pub cleanup_interval: Duration,
    pub durability: Durability,
    /// A session whose upstream is gone begins anew at another one, for servers that keep no state in theirs.
    pub reinitialize: bool,
    /// What seals and opens the ids that clients see; `None`: these are random, and the store alone knows what they mean.
    pub seal: Option<Arc<Seal>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Lmdb,
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// What a client was told survives a power cut.
    Strict,
    /// May lose the last commits at a power cut, never integrity (NO_META_SYNC).
    Relaxed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LimitsPlan {
    /// For requests and for upstream's answers alike.
    pub head: HeadLimits,
    /// Largest request body, bytes; `None`: no limit.
    pub body_bytes_max: Option<u64>,
    /// Bodies up to this many bytes are scanned whole before upstream sees a byte.
    pub peek_bytes_max: usize,
    /// Client connections over all workers.
    pub connections_max: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TimeoutsPlan {
    /// From a request's first byte to the end of its head: 408.
    pub header: Duration,
    /// Between two reads of a request body: 408.
    pub body: Duration,
    /// Between requests on one connection.
    pub keep_alive: Duration,
    /// A whole exchange that is not an SSE stream; `None`: no limit. 504.
    pub request: Option<Duration>,
    /// One attempt to connect to upstream.
    pub connect: Duration,
    /// A client that reads nothing for this long is dropped.
    pub write: Duration,
    /// From SIGTERM to the end of what is still running.
    pub shutdown: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PoolPlan {
    /// Idle connections an upstream, over all workers, that `idle_timeout` leaves alone.
    pub min_idle: usize,
    /// Idle connections an upstream kept at most, over all workers.
    pub max_size: usize,
    pub idle_timeout: Duration,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuardsPlan {
    /// Host names (without port, lower case) that are accepted; empty: the rule by bind address.
    pub allowed_hosts: Vec<String>,
    /// Origins (`scheme://host[:port]`, lower case) that are accepted besides the built-in rule; `*` alone: any.
    pub allowed_origins: Vec<String>,
    /// Peers whose `Forwarded` and `X-Forwarded-*` are kept and extended.
    pub trusted_proxies: Vec<Cidr>,
    /// Connections of these peers begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Send the upstream's authority as `Host` in place of the client's.
    pub rewrite_host: bool,
}

impl GuardsPlan {
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|range| range.contains(address))
    }
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsPlan {
    /// Certificate chain and key, PEM files. The first is for who names no server, or an unknown one. Never empty.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    pub min_version: TlsVersion,
    /// Roots that sign clients' certificates; `None`: clients are not asked for one.
    pub client_ca_path: Option<PathBuf>,
    pub require_client_cert: bool,
    pub handshake_timeout: Duration,
    /// Over all workers.
    pub handshakes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// How much one may ask; all absent where `[rate_limit]` is off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RatesPlan {
    pub global: Option<QuotaPlan>,
    /// Without authentication a user is an address.
    pub per_user: Option<QuotaPlan>,
    pub per_session: Option<QuotaPlan>,
    /// An IPv6 address counts with its /64.
    pub per_address: Option<QuotaPlan>,
    pub per_tool: Option<QuotaPlan>,
}

/// `limit` requests in each `window`, `burst` of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaPlan {
    pub limit: u64,
    pub window: Duration,
    pub burst: u64,
}

/// Active health checks of upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPlan {
    pub protocol: HealthProtocol,
    /// `None`: that of the upstream's URL.
    pub path: Option<String>,
    pub interval: Duration,
    /// Of a whole check.
    pub timeout: Duration,
    /// Bad checks in a row that take an upstream out, at least 1.
    pub unhealthy_threshold: u32,
    /// Good checks in a row that bring it back, at least 1.
    pub healthy_threshold: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthProtocol {
    Http,
    Mcp,
}

/// How the administrator gets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminPlan {
    /// `None`: there is no socket.
    pub socket: Option<SocketPlan>,
    /// Where `/metrics` and the pages are; `None`: on the proxy's own address.
    pub bind: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlan {
    pub path: PathBuf,
    /// The configuration names it, so that a server without it does not start. A default place may be out of reach.
    pub is_named: bool,
}

/// What is recorded of the traffic, and how much of it is kept.
#[derive(Clone, Debug)]
pub struct RecordPlan {
    pub output: PathBuf,
    /// Of a body, an event, or a line over stdio.
    pub body_bytes_max: usize,
    pub file_bytes_max: u64,
    /// All tapes in the directory.
    pub total_bytes_max: Option<u64>,
    pub age_max: Option<Duration>,
    pub free_bytes_min: Option<u64>,
    /// Of each worker.
    pub queue_bytes: usize,
    /// What is left out.
    pub rules: Arc<Rules>,
    /// How the rules were written.
    pub rules_as_written: [Vec<String>; 4],
}

impl PartialEq for RecordPlan {
    fn eq(&self, other: &RecordPlan) -> bool {
        let numbers = |plan: &RecordPlan| {
            let sizes = (plan.body_bytes_max, plan.file_bytes_max, plan.total_bytes_max, plan.queue_bytes);
            (sizes, plan.age_max, plan.free_bytes_min)
        };
        self.output == other.output
            && numbers(self) == numbers(other)
            && self.rules_as_written == other.rules_as_written
    }
}

/// An address range, e.g. `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    pub fn contains(&self, address: IpAddr) -> bool {
        let (net, ip, width) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => (u128::from(net.to_bits()), u128::from(ip.to_bits()), 32),
            (IpAddr::V6(net), IpAddr::V6(ip)) => (net.to_bits(), ip.to_bits(), 128),
            _ => return false,
        };
        let host_bits = width - u32::from(self.prefix).min(width);
        net.checked_shr(host_bits).unwrap_or(0) == ip.checked_shr(host_bits).unwrap_or(0)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogPlan {
    /// A filter in the syntax of `RUST_LOG`.
    pub filter: String,
    pub format: LogFormat,
    pub output: LogOutput,
    /// Which requests get a line.
    pub access: AccessLog,
    pub access_output: LogOutput,
    /// Where tool calls are recorded; `None`: nowhere.
    pub audit: Option<LogOutput>,
    /// A tool call that cannot be recorded is refused.
    pub audit_required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Errors,
    All,
}

/// Traces.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryPlan {
    pub service_name: String,
    pub collector: Collector,
    /// Of the requests that belong to no trace yet.
    pub sampling_ratio: f64,
    /// In the order of the configuration.
    pub resource_attributes: Vec<(String, String)>,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stdout,
    Stderr,
    File(PathBuf),
}

impl fmt::Display for LogOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogOutput::Stdout => f.write_str("stdout"),
            LogOutput::Stderr => f.write_str("stderr"),
            LogOutput::File(path) => path.display().fmt(f),
        }
    }
}
