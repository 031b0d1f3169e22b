//! Every option, defined once: section, key, kind, default, what it is for. The reference in `docs/` is made from this.

use super::document::Node;
pub use super::tables::{API_KEY_KEYS, CERTIFICATE_KEYS, ISSUER_KEYS, RULE_KEYS, UPSTREAM_KEYS};
pub use super::values::Kind;
use super::values::{ALGORITHMS, Item, Value};
use Kind::*;

/// One option.
#[derive(Debug)]
pub struct Key {
    pub section: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written; empty: none.
    pub default: &'static str,
    pub about: &'static str,
}

impl Key {
    /// `section.name`, as flags and messages have it.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// `None` if there is none (or it is no value of its kind, which a test rules out).
    pub fn default_value(&self) -> Option<Value> {
        if self.default.is_empty() { None } else { self.kind.read(&Node::loose(self.default)).ok() }
    }
}

pub(super) const fn key(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key { section, name, kind, default, about }
}

/// What each section is about, in the order of the reference.
pub const SECTIONS: &[(&str, &str)] = &[
    ("proxy", "Where the proxy listens and whom it lets ask."),
    ("upstreams", "One `[[upstreams]]` table for each MCP server."),
    ("session", "Sessions and where they are kept."),
    ("limits", "Bounds on what a peer may send."),
    ("timeouts", "How long to wait for what."),
    ("performance", "Workers, connections, buffers."),
    ("pool", "Connections to upstreams that are kept for reuse."),
    ("logging", "Logs. `RUST_LOG` takes the place of `level`."),
    ("auth", "Who may ask."),
    ("rate_limit", "How much one may ask."),
    ("tls", "TLS towards clients."),
    ("telemetry", "Traces by OTLP."),
    ("health_check", "Active health checks of upstreams."),
    ("circuit_breaker", "Keeps work off upstreams that fail."),
    ("record", "Record the traffic to tapes."),
    ("admin", "The administrator's interface."),
];

const PROVIDERS: &[&str] = &["oauth2", "api_key", "mtls"];

const MODES: &[&str] = &["reverse", "gateway"];

/// What workers can do I/O with.
pub const DRIVERS: [&str; 3] = ["auto", "io_uring", "epoll"];

/// More workers than any machine has CPUs; each takes a reader's slot of the session store, which has 512.
pub const WORKERS_MAX: u64 = 256;

pub const WEIGHT_MAX: u64 = 1_000_000;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// All options but those of `[[upstreams]]`.
pub const KEYS: &[Key] = &[
    key("proxy", "mode", Choice(MODES), "reverse", "What a start without a command runs."),
    key(
        "proxy",
        "bind",
        Address,
        "127.0.0.1:8080",
        "Address and port to listen on; `localhost:8080` and `:8080` (every address) work as well.",
    ),
    key(
        "proxy",
        "worker_threads",
        Count(1, WORKERS_MAX),
        "",
        "Worker threads, each with its own event loop. Default: the CPUs that affinity and cgroup quota leave, rounded up.",
    ),
    key(
        "proxy",
        "driver",
        Choice(&DRIVERS),
        "auto",
        "How workers do I/O; `auto` takes io_uring where the kernel allows it, else epoll.",
    ),
    key(
        "proxy",
        "allowed_hosts",
        List(Item::Host),
        "",
        "Host names that may be asked for, without port. Default: loopback names if bound to loopback, else any.",
    ),
    key(
        "proxy",
        "allowed_origins",
        List(Item::Origin),
        "",
        "Origins of web pages that may ask, besides our own; `*` alone: any.",
    ),
    key(
        "proxy",
        "trusted_proxies",
        List(Item::Range),
        "",
        "Addresses of proxies in front of us (CIDR), whose `Forwarded` and `X-Forwarded-*` are kept.",
    ),
    key(
        "proxy",
        "proxy_protocol",
        Bool,
        "false",
        "Connections of `trusted_proxies` begin with a PROXY header (version 1 or 2) that tells who connected.",
    ),
    key(
        "proxy",
        "balance",
        Choice(&["round_robin", "least_in_flight"]),
        "round_robin",
        "How new work is spread over upstreams: by weight alone, or to those with the fewest requests for their weight.",
    ),
    key(
        "proxy",
        "slow_start",
        DurationOrZero,
        "10",
        "How long an upstream that comes back takes to its whole share; 0: it has it at once.",
    ),
    key(
        "proxy",
        "retry_budget",
        Ratio,
        "0.2",
        "Reads that failed at one upstream and are sent to another, as a part of all requests at most.",
    ),
    key("proxy", "rewrite_host", Bool, "false", "Send the upstream's own name as `Host` in place of the client's."),
    key(
        "session",
        "store",
        Choice(&["lmdb", "memory", "sqlite"]),
        "lmdb",
        "Where sessions live: `lmdb` survives restarts, `memory` does not; `sqlite` is taken as `lmdb`.",
    ),
    key(
        "session",
        "database_path",
        Path,
        "",
        "Directory of the LMDB store, on a local disk. Default: `$XDG_STATE_HOME/shadowcat/<bind>`, else below `~/.local/state`.",
    ),
    key("session", "timeout", Duration, "300", "A session that is not used for this long ends; an open stream is use."),
    key(
        "session",
        "max_sessions",
        Count(1, u64::MAX),
        "10000",
        "Sessions at a time; a new one beyond gets 503 before upstream is asked.",
    ),
    key("session", "cleanup_interval", Duration, "60", "How often sessions that timed out are removed."),
    key(
        "session",
        "durability",
        Choice(&["strict", "relaxed"]),
        "strict",
        "`strict`: what a client was told survives a power cut; `relaxed`: the last commits may be lost, never integrity.",
    ),
    key(
        "session",
        "secret",
        Secret,
        "",
        "Seals session ids, so that any replica with the same secret serves any session; at least 32 characters.",
    ),
    key(
        "session",
        "previous_secret",
        Secret,
        "",
        "The secret of before a rotation: ids that it sealed go on; none is sealed with it any more.",
    ),
    key(
        "session",
        "failover",
        Choice(&["none", "reinitialize"]),
        "none",
        "A session whose upstream is gone ends (404); `reinitialize` begins it anew at another one, for servers without state.",
    ),
    key("limits", "head_bytes", Size(KIB, MIB), "32KiB", "Largest head of a request (431) or of an answer (502)."),
    key("limits", "fields", Count(1, 128), "100", "Most header fields in a head (431)."),
    key("limits", "target_bytes", Size(64, MIB), "8KiB", "Longest request target (414)."),
    key(
        "limits",
        "body_bytes",
        SizeOrNone,
        "none",
        "Largest request body (413); `none`: no limit, bodies are streamed.",
    ),
    key(
        "limits",
        "peek_bytes",
        Size(0, 1024 * MIB),
        "1MiB",
        "Bodies up to this are scanned whole before upstream sees a byte; longer ones while they stream.",
    ),
    key("timeouts", "header", Duration, "10", "From the first byte of a request to the end of its head (408)."),
    key("timeouts", "body", Duration, "30", "Between two reads of a request body (408)."),
    key(
        "timeouts",
        "request",
        DurationOrNone,
        "none",
        "A whole exchange that is no event stream (504); `none`: no limit.",
    ),
    key("timeouts", "write", Duration, "60", "A client that reads nothing for this long is dropped."),
    key("timeouts", "shutdown", DurationOrZero, "30", "From SIGTERM until what still runs is cut."),
    key("performance", "worker_threads", Count(1, WORKERS_MAX), "", "The same setting as `proxy.worker_threads`."),
    key(
        "performance",
        "max_connections",
        Count(1, 10_000_000),
        "10000",
        "Client connections at a time, over all workers.",
    ),
    key("performance", "connection_timeout", Duration, "30", "One attempt to connect to an upstream."),
    key(
        "performance",
        "keep_alive_timeout",
        Duration,
        "60",
        "A client connection without a request is closed after this.",
    ),
    key("performance", "buffer_size", Size(4 * KIB, 16 * MIB), "16KiB", "Size of the buffers that stream bodies."),
    key(
        "pool",
        "min_idle",
        Count(0, 1_000_000),
        "0",
        "Idle connections to an upstream that `idle_timeout` leaves alone, over all workers.",
    ),
    key(
        "pool",
        "max_size",
        Count(0, 1_000_000),
        "1024",
        "Idle connections to an upstream that are kept at most, over all workers.",
    ),
    key(
        "pool",
        "queue_size",
        Count(0, 65_536),
        "1024",
        "Requests that wait, over all workers, while `max_connections` of an upstream are in use; more get 503.",
    ),
    key("pool", "queue_timeout", Duration, "5", "How long one of them waits before it gets 503."),
    key("pool", "idle_timeout", Duration, "300", "An idle connection to an upstream is closed after this."),
    key(
        "logging",
        "level",
        Text,
        "info",
        "`off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter as in `RUST_LOG`.",
    ),
    key("logging", "format", Choice(&["human", "json"]), "human", "`human`, or `json`: one object a line."),
    key(
        "logging",
        "output",
        Text,
        "stderr",
        "`stdout`, `stderr`, or the path of a file, which is opened anew after SIGHUP.",
    ),
    key(
        "logging",
        "access",
        Choice(&["off", "errors", "all"]),
        "errors",
        "Which requests get a line each: `errors` are those that were refused or cut short, and answers of 400 and above.",
    ),
    key("logging", "access_output", Text, "", "Where these lines go, as `output`. Default: where `output` says."),
    key(
        "logging",
        "audit",
        Text,
        "",
        "Where each tool call is recorded as a line of JSON: `stdout`, `stderr`, or the path of a file. Default: nowhere.",
    ),
    key(
        "logging",
        "audit_required",
        Bool,
        "false",
        "Refuse a tool call (503) while there is no room for its record, rather than lose the record.",
    ),
    key("auth", "enabled", Bool, "", "Whether clients must say who they are. Default: once the section says anything."),
    key("auth", "provider", Choice(PROVIDERS), "oauth2", "How clients say who they are."),
    key(
        "auth",
        "providers",
        List(Item::Choice(PROVIDERS)),
        "",
        "Several ways, asked in this order. Default: `provider`, and `api_key` where there are keys.",
    ),
    key("auth", "client_id", Text, "", "Our id at the authorization server; also taken as an audience."),
    key("auth", "client_secret", Secret, "", "Our secret at the authorization server."),
    key(
        "auth",
        "auth_url",
        Url,
        "",
        "Authorization endpoint, where a browser logs in. Default: what the issuer publishes.",
    ),
    key(
        "auth",
        "token_url",
        Url,
        "",
        "Token endpoint, where a code becomes a token. Default: what the issuer publishes.",
    ),
    key("auth", "jwks_url", Url, "", "Key set that tokens are signed with. Default: what the issuer publishes."),
    key(
        "auth",
        "introspection_url",
        Url,
        "",
        "Where opaque tokens are asked about (RFC 7662); without `jwks_url` all tokens.",
    ),
    key(
        "auth",
        "redirect_uri",
        Url,
        "",
        "Where a browser comes back to; its origin is our public URL. With `client_id` it turns `/login` on.",
    ),
    key("auth", "scopes", List(Item::Scope), "", "Asked for at login; a token needs at least one of them."),
    key(
        "auth",
        "pkce_required",
        Bool,
        "true",
        "Refuse an authorization server whose metadata does not name S256. A proof key (RFC 7636) is sent in any case.",
    ),
    key(
        "auth",
        "issuer",
        Url,
        "",
        "Whose tokens are taken. Default: what discovery names, else the origin of `jwks_url`.",
    ),
    key(
        "auth",
        "audience",
        List(Item::Text),
        "",
        "For whom tokens must be (RFC 8707). Default: our public URL and `client_id`.",
    ),
    key("auth", "leeway", DurationOrZero, "60", "Difference of clocks that is forgiven."),
    key("auth", "algorithms", List(Item::Choice(ALGORITHMS)), "RS256,ES256", "Signature algorithms that are taken."),
    key("auth", "public", List(Item::Route), "", "Paths that need no token; `/docs/*` is everything below `/docs/`."),
    key(
        "auth",
        "ca_path",
        Path,
        "",
        "PEM file of the roots that sign the certificates of authorization servers. Default: the system's.",
    ),
    key(
        "auth",
        "keys_refresh",
        Duration,
        "300",
        "Time between two regular fetches of a key set, give or take a tenth.",
    ),
    key("auth", "stale_keys_max", Duration, "24h", "How long keys are used while they cannot be fetched anew."),
    key(
        "auth",
        "introspection_cache",
        DurationOrZero,
        "60",
        "How long an answer about an opaque token is remembered at most: a token that is revoked works that long.",
    ),
    key("auth", "api_key_header", Text, "X-API-Key", "Field of an API key, which may also come as a bearer token."),
    key(
        "auth",
        "certificate_scopes",
        List(Item::Scope),
        "",
        "What `mtls` lets the owner of a client certificate do, as scopes of a token would.",
    ),
    key("auth", "issuers", Tables(ISSUER_KEYS), "", "`[[auth.issuers]]`: further issuers."),
    key("auth", "rules", Tables(RULE_KEYS), "", "`[[auth.rules]]`: scopes that a path, a method or a tool needs."),
    key("auth", "api_keys", Tables(API_KEY_KEYS), "", "`[[auth.api_keys]]`: the keys that `api_key` takes."),
    key("rate_limit", "enabled", Bool, "", "Whether limits hold. Default: once the section says anything."),
    key(
        "rate_limit",
        "global",
        Count(1, u64::MAX),
        "",
        "Requests in 60 s, all clients together; short for `global_limit`.",
    ),
    key("rate_limit", "per_user", Count(1, u64::MAX), "", "Requests in 60 s, one user; short for `per_user_limit`."),
    key("rate_limit", "global_limit", Count(1, u64::MAX), "", "Requests in `global_window`, all clients together."),
    key("rate_limit", "global_window", Duration, "60", "Window of `global_limit`."),
    key("rate_limit", "per_user_limit", Count(1, u64::MAX), "", "Requests in `per_user_window`, one user."),
    key("rate_limit", "per_user_window", Duration, "60", "Window of `per_user_limit`."),
    key(
        "rate_limit",
        "per_session",
        Count(1, u64::MAX),
        "",
        "Requests in 60 s, one session; short for `per_session_limit`.",
    ),
    key("rate_limit", "per_session_limit", Count(1, u64::MAX), "", "Requests in `per_session_window`, one session."),
    key("rate_limit", "per_session_window", Duration, "60", "Window of `per_session_limit`."),
    key(
        "rate_limit",
        "per_address",
        Count(1, u64::MAX),
        "",
        "Requests in 60 s, one client address; short for `per_address_limit`.",
    ),
    key(
        "rate_limit",
        "per_address_limit",
        Count(1, u64::MAX),
        "",
        "Requests in `per_address_window`, one client address.",
    ),
    key("rate_limit", "per_address_window", Duration, "60", "Window of `per_address_limit`."),
    key("rate_limit", "per_tool", Count(1, u64::MAX), "", "Calls in 60 s, one tool; short for `per_tool_limit`."),
    key("rate_limit", "per_tool_limit", Count(1, u64::MAX), "", "Calls in `per_tool_window`, one tool."),
    key("rate_limit", "per_tool_window", Duration, "60", "Window of `per_tool_limit`."),
    key(
        "rate_limit",
        "burst_size",
        Count(1, u64::MAX),
        "",
        "Requests of one key that may come at once; of all together at least a second's worth. Default: the limit.",
    ),
    key("tls", "enabled", Bool, "", "Whether clients speak TLS. Default: once there is a certificate."),
    key("tls", "cert_path", Path, "", "Certificate chain, PEM."),
    key("tls", "key_path", Path, "", "Private key, PEM; a file that others can read is refused."),
    key("tls", "client_ca_path", Path, "", "PEM file of the roots that sign clients' certificates."),
    key("tls", "require_client_cert", Bool, "false", "Whether a client without a certificate is refused."),
    key("tls", "min_version", Choice(&["1.2", "1.3"]), "1.2", "Oldest version of TLS that is spoken."),
    key("tls", "handshake_timeout", Duration, "10", "From the start of a connection to the end of its handshake."),
    key("tls", "max_handshakes", Count(1, 1_000_000), "512", "Handshakes under way at a time; more are turned away."),
    key(
        "tls",
        "certificates",
        Tables(CERTIFICATE_KEYS),
        "",
        "`[[tls.certificates]]`: further pairs, each for the names that its certificate has (SNI).",
    ),
    key("telemetry", "enabled", Bool, "", "Whether traces are sent. Default: once the section says anything."),
    key("telemetry", "service_name", Text, "shadowcat", "Our name in traces."),
    key(
        "telemetry",
        "otlp_endpoint",
        Url,
        "http://localhost:4317",
        "Where traces go (OTLP over gRPC): host and port. `https://` needs a certificate that the system's roots sign.",
    ),
    key(
        "telemetry",
        "sampling_ratio",
        Ratio,
        "1.0",
        "Part of the requests that is traced, of those that are not part of a trace already: then its beginner decides.",
    ),
    key("telemetry", "resource_attributes", Attributes, "", "What every trace says of us."),
    key("health_check", "enabled", Bool, "", "Whether upstreams are asked. Default: once the section says anything."),
    key(
        "health_check",
        "protocol",
        Choice(&["http", "mcp"]),
        "http",
        "`http`: GET, where 2xx and 3xx are good. `mcp`: `server/discover`, or `initialize` and the end of that session.",
    ),
    key(
        "health_check",
        "path",
        Route,
        "/health",
        "The path that upstreams are asked for. Default with `mcp`: that of the upstream's URL.",
    ),
    key("health_check", "interval", Duration, "10", "Time between two checks of an upstream, give or take a tenth."),
    key("health_check", "timeout", Duration, "5", "A whole check: connection, TLS, request, answer."),
    key("health_check", "unhealthy_threshold", Count(1, 1000), "3", "Bad checks in a row that take an upstream out."),
    key("health_check", "healthy_threshold", Count(1, 1000), "2", "Good checks in a row that bring it back."),
    key(
        "circuit_breaker",
        "enabled",
        Bool,
        "",
        "Whether upstreams that fail are left alone. Default: once the section says anything.",
    ),
    key("circuit_breaker", "failure_threshold", Count(1, 1_000_000), "5", "Failures in the window that open it."),
    key("circuit_breaker", "recovery_timeout", Duration, "60", "How long it stays open before one request tries."),
    key("circuit_breaker", "window", Duration, "10", "The time over which requests and failures are counted."),
    key(
        "circuit_breaker",
        "failure_ratio",
        Ratio,
        "0.5",
        "Part of the requests in the window that must have failed as well.",
    ),
    key("record", "enabled", Bool, "", "Whether traffic is recorded. Default: once there is an `output`."),
    key("record", "output", Path, "", "Directory of the tapes."),
    key("admin", "enabled", Bool, "true", "Whether there is a socket, and what `bind` says."),
    key(
        "admin",
        "bind",
        Address,
        "",
        "Address of `/metrics`, `/health`, `/ready`, `/status` and `/upstreams`. Default: the proxy's own, the first three alone.",
    ),
    key(
        "admin",
        "socket",
        Path,
        "",
        "Unix socket of `shadowcat admin`. Default: `admin.sock` beside the session store, else below `$XDG_RUNTIME_DIR/shadowcat`.",
    ),
];

/// The option of this path.
pub fn find(path: &str) -> Option<&'static Key> {
    let (section, name) = path.split_once('.')?;
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for key in KEYS
            .iter()
            .chain(UPSTREAM_KEYS)
            .chain(ISSUER_KEYS)
            .chain(RULE_KEYS)
            .chain(API_KEY_KEYS)
            .chain(CERTIFICATE_KEYS)
        {
            assert_eq!(key.default.is_empty(), key.default_value().is_none(), "{}", key.path());
        }
    }

    #[test]
    fn every_key_has_a_section_and_stands_there_once() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(SECTIONS.iter().any(|(name, _)| *name == key.section), "{}", key.path());
            assert!(KEYS[..at].iter().all(|other| other.path() != key.path()), "{}", key.path());
        }
    }
}
