//! Every option, defined once: section, key, kind, default, what it is for. The reference in `docs/` is made from this.

use super::values::Kind;
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
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

const fn key(section: &'static str, name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
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

const MODES: &[&str] = &["reverse", "gateway"];

/// All options but those of `[[upstreams]]`.
pub const KEYS: &[Key] = &[
    key("proxy", "mode", Choice(MODES), "reverse", "What a start without a command runs."),
    key("proxy", "bind", Address, "127.0.0.1:8080", "Address and port to listen on."),
    key(
        "proxy",
        "worker_threads",
        Count(1, 1024),
        "",
        "Workers; default: the CPUs the process may use. The same setting as `performance.worker_threads`.",
    ),
    key(
        "proxy",
        "driver",
        Choice(&["auto", "io_uring", "epoll"]),
        "auto",
        "How workers do I/O; `auto` takes the best that the kernel allows.",
    ),
    key(
        "proxy",
        "allowed_hosts",
        List,
        "",
        "Host names that may be asked for. Without it: loopback names if bound to loopback, else any.",
    ),
    key("proxy", "allowed_origins", List, "", "Origins of web pages that may ask; `*`: any."),
    key(
        "proxy",
        "trusted_proxies",
        List,
        "",
        "Address ranges (CIDR) whose `Forwarded` and `X-Forwarded-*` are believed.",
    ),
    key("proxy", "rewrite_host", Bool, "false", "Send the upstream's own name as Host in place of the client's."),
    key(
        "session",
        "store",
        Choice(&["lmdb", "memory", "sqlite"]),
        "lmdb",
        "Where sessions live; `sqlite` is read as `lmdb`.",
    ),
    key(
        "session",
        "database_path",
        Path,
        "",
        "Directory of the LMDB store. Default: below $XDG_STATE_HOME, one for each bind address.",
    ),
    key("session", "timeout", Duration, "300", "A session that is not used for this long ends."),
    key("session", "max_sessions", Count(1, u64::MAX), "10000", "Sessions at a time; a new one beyond gets 503."),
    key("session", "cleanup_interval", Duration, "60", "How often sessions that timed out are removed."),
    key(
        "session",
        "durability",
        Choice(&["strict", "relaxed"]),
        "strict",
        "`relaxed` may lose the last commits in a power cut.",
    ),
    key("session", "secret", Secret, "", "Key that seals session ids, so that any replica serves any session."),
    key(
        "session",
        "failover",
        Choice(&["none", "reinitialize"]),
        "none",
        "What happens to a session whose upstream is gone.",
    ),
    key("limits", "head_bytes", Size, "32KiB", "Largest head of a request or answer: 431."),
    key("limits", "fields", Count(1, 128), "100", "Most header fields: 431."),
    key("limits", "target_bytes", Size, "8KiB", "Longest request target: 414."),
    key("limits", "body_bytes", Size, "", "Largest request body: 413. Default: no limit."),
    key("limits", "peek_bytes", Size, "1MiB", "JSON bodies up to this are checked whole before upstream sees a byte."),
    key("timeouts", "header", Duration, "10", "From the first byte of a request to the end of its head: 408."),
    key("timeouts", "body", Duration, "30", "Between two reads of a request body: 408."),
    key("timeouts", "request", Duration, "", "A whole request, streams excepted: 504. Default: no limit."),
    key("timeouts", "write", Duration, "60", "A client that takes nothing for this long is dropped."),
    key("timeouts", "shutdown", Duration, "30", "From SIGTERM until what still runs is cut."),
    key("performance", "worker_threads", Count(1, 1024), "", "The same setting as `proxy.worker_threads`."),
    key("performance", "max_connections", Count(1, 10_000_000), "10000", "Client connections, over all workers."),
    key("performance", "connection_timeout", Duration, "30", "One attempt to connect to an upstream."),
    key(
        "performance",
        "keep_alive_timeout",
        Duration,
        "60",
        "A client connection without a request is closed after this.",
    ),
    key("performance", "buffer_size", Size, "64KiB", "Buffers that stream bodies."),
    key(
        "pool",
        "min_idle",
        Count(0, 1_000_000),
        "0",
        "Idle connections an upstream that `idle_timeout` leaves alone, over all workers.",
    ),
    key("pool", "max_size", Count(0, 1_000_000), "1024", "Idle connections kept an upstream, over all workers."),
    key("pool", "idle_timeout", Duration, "300", "An idle connection is closed after this."),
    key("logging", "level", Text, "info", "`error`, `warn`, `info`, `debug`, `trace`, or a filter as in RUST_LOG."),
    key("logging", "format", Choice(&["human", "json"]), "human", "How a line looks."),
    key("logging", "output", Text, "stderr", "`stdout`, `stderr`, or a file."),
    key("auth", "enabled", Bool, "", "Whether clients must say who they are."),
    key("auth", "provider", Choice(&["oauth2", "api_key", "mtls"]), "oauth2", "How they say it."),
    key("auth", "client_id", Text, "", "Our id at the authorization server."),
    key("auth", "client_secret", Secret, "", "Our secret at the authorization server."),
    key("auth", "auth_url", Url, "", "Where a browser logs in."),
    key("auth", "token_url", Url, "", "Where a code becomes a token."),
    key("auth", "jwks_url", Url, "", "The keys that tokens are signed with."),
    key("auth", "introspection_url", Url, "", "Where opaque tokens are asked about (RFC 7662)."),
    key("auth", "redirect_uri", Url, "", "Where a browser comes back to."),
    key("auth", "scopes", List, "", "Asked for at login; a token needs at least one."),
    key("auth", "pkce_required", Bool, "true", "Proof key for code exchange (RFC 7636)."),
    key("auth", "issuer", Text, "", "Whose tokens are taken."),
    key("auth", "audience", List, "", "For whom tokens must be."),
    key("auth", "leeway", Duration, "60", "Clock difference that is forgiven."),
    key("auth", "algorithms", List, "RS256,ES256", "Signature algorithms that are taken."),
    key("auth", "public", List, "", "Paths that need no token."),
    key("rate_limit", "enabled", Bool, "", "Whether limits hold."),
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
    key("rate_limit", "burst_size", Count(1, u64::MAX), "", "Requests at once."),
    key("tls", "cert_path", Path, "", "Certificate chain, PEM."),
    key("tls", "key_path", Path, "", "Private key, PEM; others must not be able to read it."),
    key("tls", "client_ca_path", Path, "", "Who signs clients' certificates."),
    key("tls", "require_client_cert", Bool, "false", "Whether a client needs one."),
    key("tls", "min_version", Choice(&["1.2", "1.3"]), "1.2", "Oldest version of TLS."),
    key("telemetry", "enabled", Bool, "", "Whether traces are sent."),
    key("telemetry", "service_name", Text, "shadowcat", "Our name in traces."),
    key("telemetry", "otlp_endpoint", Url, "", "Where traces go (OTLP over gRPC)."),
    key("telemetry", "sampling_ratio", Ratio, "1.0", "Part of the requests that is traced."),
    key("telemetry", "resource_attributes", Attributes, "", "What every trace says of us."),
    key("health_check", "enabled", Bool, "", "Whether upstreams are asked."),
    key("health_check", "path", Text, "/health", "The path that upstreams are asked for."),
    key("health_check", "interval", Duration, "10", "How often."),
    key("health_check", "timeout", Duration, "5", "How long an answer may take."),
    key("health_check", "unhealthy_threshold", Count(1, 1000), "3", "Failures in a row that take an upstream out."),
    key("health_check", "healthy_threshold", Count(1, 1000), "2", "Answers in a row that bring it back."),
    key("circuit_breaker", "enabled", Bool, "", "Whether upstreams that fail are left alone."),
    key("circuit_breaker", "failure_threshold", Count(1, 1_000_000), "5", "Failures in the window that open it."),
    key("circuit_breaker", "recovery_timeout", Duration, "60", "How long it stays open."),
    key("circuit_breaker", "failure_ratio", Ratio, "0.5", "Part of the requests that must have failed."),
    key("record", "output", Path, "", "Directory of the tapes."),
    key(
        "admin",
        "bind",
        Address,
        "",
        "Where `/metrics` and the administrator's pages are; default: the proxy's own port.",
    ),
    key("admin", "socket", Path, "", "Unix socket of `shadowcat admin`."),
];

/// The options of one `[[upstreams]]` table.
pub const UPSTREAM_KEYS: &[Key] = &[
    key("upstreams", "name", Text, "", "Its name in metrics and sessions. Default: host and port."),
    key("upstreams", "url", Url, "", "Where it is: `http://` or `https://`. A request for `/` goes to the URL's path."),
    key("upstreams", "weight", Count(1, 1_000_000), "1", "Its share of new work."),
    key(
        "upstreams",
        "max_connections",
        Count(1, 1_000_000),
        "",
        "Requests at a time, over all workers. Default: no limit.",
    ),
    key("upstreams", "timeout", Duration, "30", "To the answer's head, then between bytes; never on an event stream."),
    key("upstreams", "ca_path", Path, "", "Roots of its certificate, PEM. Default: the system's."),
    key("upstreams", "server_name", Text, "", "Name in its certificate. Default: the URL's host."),
];

/// The option of this path.
pub fn find(path: &str) -> Option<&'static Key> {
    let (section, name) = path.split_once('.')?;
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The reference as Markdown.
pub fn reference() -> String {
    use std::fmt::Write;
    let mut out = String::from(
        "# Configuration reference\n\nMade from `src/config/schema.rs`; a test compares the two. Bare numbers are \
         seconds where a time is meant and bytes where a size is; `\"30s\"`, `\"5m\"`, `\"64KiB\"` work as well. \
         `${VAR}`, `${VAR:-default}` and `${VAR:?message}` are replaced in text. Every key can be set by an environment \
         variable `SHADOWCAT_<SECTION>_<KEY>` and on the command line with `--set section.key=value`. Flags win over the \
         environment, the environment over the file, the file over the defaults.\n",
    );
    for (section, about) in SECTIONS {
        let title = if *section == "upstreams" { "[[upstreams]]".into() } else { format!("[{section}]") };
        let _ = write!(out, "\n## `{title}`\n\n{about}\n\n| key | kind | default | |\n|---|---|---|---|\n");
        for key in KEYS.iter().chain(UPSTREAM_KEYS).filter(|key| key.section == *section) {
            let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
            let _ = writeln!(out, "| `{}` | {} | {default} | {} |", key.name, key.kind.describe(), key.about);
        }
    }
    out
}
