//! Every family of `/metrics`, described once: the page and `docs/METRICS.md` come from this table.

use std::fmt::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Quantiles of the last minute, with sum and count of all time.
    Summary,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
            Kind::Histogram => "histogram",
        }
    }
}

/// One family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    /// In the order in which they stand on the page.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// `NAME: Kind "name" "unit" [labels] "help";` below headings.
macro_rules! families {
    ($($heading:literal { $($constant:ident: $kind:ident $name:literal $unit:literal [$($label:literal),*] $help:literal;)* })*) => {
        $($(pub const $constant: Family = Family {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
        };)*)*

        /// All of them, by heading.
        pub const ALL: &[(&str, &[&Family])] = &[$(($heading, &[$(&$constant),*])),*];
    };
}

families! {
    "Sessions" {
        SESSIONS_ACTIVE: Gauge "shadowcat_sessions_active" "sessions" ["transport"] "Sessions that are alive.";
        SESSIONS: Counter "shadowcat_sessions_total" "sessions" ["transport"] "Sessions begun here since the start.";
        SESSIONS_ADOPTED: Counter "shadowcat_sessions_adopted_total" "sessions" []
            "Sessions that began at another replica and came here; one of a sealed id that rested may count again.";
        SESSIONS_ENDED: Counter "shadowcat_sessions_ended_total" "sessions" []
            "Sessions that ended, also those that timed out.";
        SESSIONS_EXPIRED: Counter "shadowcat_sessions_expired_total" "sessions" [] "Sessions that timed out.";
        SESSION_DURATION: Summary "shadowcat_session_duration_seconds" "seconds" []
            "Life of the sessions that ended, quantiles of the last minute.";
        SESSION_SECONDS: Histogram "shadowcat_session_seconds" "seconds" [] "Life of the sessions that ended.";
    }
    "Requests by upstream" {
        PROXY_REQUESTS: Counter "shadowcat_proxy_requests_total" "requests" ["upstream"]
            "Requests sent to an upstream; one that is sent again counts again.";
        PROXY_DURATION: Summary "shadowcat_proxy_request_duration_seconds" "seconds" ["upstream"]
            "Request to end of answer (streams without end: to its head), quantiles of the last minute.";
        PROXY_SECONDS: Histogram "shadowcat_proxy_request_seconds" "seconds" ["upstream"]
            "The same as buckets, which add over replicas.";
        PROXY_ERRORS: Counter "shadowcat_proxy_errors_total" "tries" ["upstream", "error"]
            "Tries that failed at an upstream, by what went wrong.";
        PROXY_OUTCOMES: Counter "shadowcat_proxy_outcomes_total" "requests" ["upstream", "outcome"]
            "Requests that ended, at the upstream of the latest try, by what came of them.";
        PROXY_PARTS: Counter "shadowcat_proxy_part_seconds_total" "seconds" ["upstream", "part"]
            "Where the time of requests went, in sum.";
        PART_DURATION: Summary "shadowcat_request_part_duration_seconds" "seconds" ["part"]
            "Where the time of requests went, quantiles of the last minute; of queue and connect, where there was a wait.";
        PART_SECONDS: Histogram "shadowcat_request_part_seconds" "seconds" ["part"]
            "The same as buckets, which add over replicas.";
    }
    "MCP" {
        MCP_REQUESTS: Counter "shadowcat_mcp_requests_total" "requests" ["method", "tool", "outcome"]
            "Messages of clients that ended, by method, tool and what came of them.";
        MCP_DURATION: Summary "shadowcat_mcp_request_duration_seconds" "seconds" ["method", "tool"]
            "The time that they took at an upstream, quantiles of the last minute.";
        MCP_SECONDS: Histogram "shadowcat_mcp_request_seconds" "seconds" ["method", "tool"]
            "The same as buckets, which add over replicas.";
        MCP_ERRORS: Counter "shadowcat_mcp_errors_total" "requests" ["code"] "JSON-RPC errors in answers of upstreams, by code.";
    }
    "Clients" {
        REQUESTS: Counter "shadowcat_requests_total" "requests" ["worker"]
            "Requests of all kinds that began; those that did not end yet are under way.";
        REQUESTS_ENDED: Counter "shadowcat_requests_ended_total" "requests" ["by"] "Requests that ended, by who ended them.";
        RESPONSES: Counter "shadowcat_responses_total" "answers" ["status"]
            "Answers to clients by status, also the proxy's own.";
        REFUSALS: Counter "shadowcat_refusals_total" "requests" ["reason"] "Requests that the proxy refused itself, by reason.";
        AUTH_FAILURES: Counter "shadowcat_auth_failures_total" "credentials" ["reason"]
            "Credentials that were not taken, by reason.";
        AUTH_LOGINS: Counter "shadowcat_auth_logins_total" "logins" ["outcome"]
            "Logins of browsers that came back, by outcome.";
        TLS_HANDSHAKES: Counter "shadowcat_tls_handshakes_total" "handshakes" ["outcome"]
            "TLS handshakes with clients, by outcome.";
        RECEIVED: Counter "shadowcat_received_bytes_total" "bytes" ["worker"]
            "Heads and bodies of requests, without the framing of bodies.";
        SENT: Counter "shadowcat_sent_bytes_total" "bytes" ["worker"] "Answers to clients, as sent.";
        STREAMS: Gauge "shadowcat_streams_active" "streams" ["worker"] "Open event streams.";
        CONNECTIONS_ACTIVE: Gauge "shadowcat_connections_active" "connections" ["worker"] "Client connections.";
        CONNECTIONS: Counter "shadowcat_connections_total" "connections" ["worker"] "Client connections accepted.";
        CONNECTION_PANICS: Counter "shadowcat_connection_panics_total" "connections" ["worker"]
            "Connections lost to a panic.";
        ACCEPT_ERRORS: Counter "shadowcat_accept_errors_total" "accepts" ["worker"]
            "Accepts that failed (out of descriptors).";
        ACCEPT_PAUSES: Counter "shadowcat_accept_pauses_total" "pauses" ["worker"]
            "Rests of 50 ms between accepts: no descriptors, or performance.max_connections is reached.";
    }
    "Rate limits" {
        RATE_EXCEEDED: Counter "shadowcat_rate_limit_exceeded_total" "requests" ["key"]
            "Requests refused by a rate limit, by its key: what it counts by, and of the first 1,000 users and tools which.";
        RATE_REMAINING: Gauge "shadowcat_rate_limit_remaining" "requests" ["key"]
            "Requests that a key may still make at once; of users and tools those that asked lately.";
    }
    "Upstreams" {
        UPSTREAM_CONNECTS: Counter "shadowcat_upstream_connects_total" "connections" ["upstream"]
            "Connections made to an upstream.";
        UPSTREAM_REUSES: Counter "shadowcat_upstream_reuses_total" "requests" ["upstream"]
            "Requests that found a pooled connection.";
        UPSTREAM_RETRIES: Counter "shadowcat_upstream_retries_total" "requests" ["upstream"]
            "Requests sent once more or moved on.";
        UPSTREAM_RETRIES_DENIED: Counter "shadowcat_upstream_retries_denied_total" "requests" ["worker"]
            "Reads that failed and were not sent to another upstream, for want of proxy.retry_budget.";
        UPSTREAM_IDLE: Gauge "shadowcat_upstream_idle_connections" "connections" ["upstream"] "Pooled connections.";
        UPSTREAM_IN_USE: Gauge "shadowcat_upstream_connections_in_use" "connections" ["upstream", "endpoint"]
            "Connections with a request under way.";
        UPSTREAM_WAITING: Gauge "shadowcat_upstream_waiting" "requests" ["upstream", "endpoint"]
            "Requests that wait for a place at this one and no other.";
        UPSTREAM_QUEUE: Gauge "shadowcat_upstream_queue" "requests" ["worker"]
            "Requests that wait for a place at an upstream.";
        UPSTREAM_HEALTHY: Gauge "shadowcat_upstream_healthy" "0 or 1" ["upstream", "endpoint"]
            "Whether health checks let it have new work.";
        UPSTREAM_DRAINED: Gauge "shadowcat_upstream_drained" "0 or 1" ["upstream", "endpoint"]
            "Whether the administrator took it out.";
        HEALTH_CHECKS: Counter "shadowcat_health_checks_total" "checks" ["upstream", "outcome"]
            "Health checks, by outcome.";
        BREAKER_STATE: Gauge "shadowcat_upstream_breaker_state" "0 or 1" ["upstream", "endpoint", "state"]
            "The state of its breaker, where there are breakers.";
        BREAKER_CHANGES: Counter "shadowcat_upstream_breaker_changes_total" "changes" ["upstream", "state"]
            "Changes of breakers to this state.";
    }
    "Session store" {
        STORE_ENTRIES: Gauge "shadowcat_store_entries" "sessions" [] "Sessions in the store.";
        STORE_USED: Gauge "shadowcat_store_used_bytes" "bytes" [] "Pages of the store in use.";
        STORE_MAP: Gauge "shadowcat_store_map_bytes" "bytes" [] "The most that the store can hold.";
        STORE_COMMITS: Counter "shadowcat_store_commits_total" "commits" [] "Commits of the session store.";
        STORE_COMMIT_FAILURES: Counter "shadowcat_store_commit_failures_total" "commits" []
            "Commits of the session store that failed.";
        STORE_COMMIT_DURATION: Summary "shadowcat_store_commit_duration_seconds" "seconds" []
            "Time of a commit of new and ended sessions, quantiles of the last minute.";
        STORE_COMMIT_SECONDS: Histogram "shadowcat_store_commit_seconds" "seconds" []
            "The same as buckets, which add over replicas.";
        STORE_QUEUE: Gauge "shadowcat_store_queue" "writes" [] "Writes that wait for the store's writer.";
        STORE_QUEUE_LIMIT: Gauge "shadowcat_store_queue_limit" "writes" [] "Writes that may wait; beyond, they are refused.";
    }
    "Logs and traces" {
        LOG_LINES: Counter "shadowcat_log_lines_total" "lines" ["log"] "Lines written to a log.";
        LOG_LOST: Counter "shadowcat_log_lines_lost_total" "lines" ["log", "reason"] "Lines of a log that are lost.";
        SPANS_EXPORTED: Counter "shadowcat_spans_exported_total" "spans" [] "Spans that the collector took.";
        SPANS_DROPPED: Counter "shadowcat_spans_dropped_total" "spans" ["reason"]
            "Spans that reached no collector; of `no_room` the requests that had them.";
        SPANS_RETRIES: Counter "shadowcat_spans_retries_total" "batches" [] "Batches of spans that were sent once more.";
    }
    "Recording" {
        TAPE_FRAMES: Counter "shadowcat_tape_frames_total" "frames" [] "Frames written to tapes.";
        TAPE_BYTES: Counter "shadowcat_tape_bytes_total" "bytes" [] "Bytes written to tapes.";
        TAPE_LOST: Counter "shadowcat_tape_frames_lost_total" "frames" ["reason"]
            "Frames that are on no tape; the tape says where they are missing.";
        TAPES_ACTIVE: Gauge "shadowcat_tapes_active" "tapes" [] "Tapes that are being written.";
        TAPES_DELETED: Counter "shadowcat_tapes_deleted_total" "files" []
            "Tapes deleted for record.total_bytes and record.max_age.";
        TAPE_STOPPED: Gauge "shadowcat_tape_stopped" "0 or 1" []
            "Whether nothing is recorded, because the disk is full or the tapes are too many.";
        TAPE_CPU: Counter "shadowcat_tape_cpu_seconds_total" "seconds" [] "CPU time of the thread that writes tapes.";
    }
    "The process" {
        BUILD_INFO: Gauge "shadowcat_build_info" "1" ["version", "commit"] "This program.";
        DRIVER_INFO: Gauge "shadowcat_driver_info" "1" ["worker", "driver", "flags"] "The I/O driver of a worker.";
        WORKER_CPU: Counter "shadowcat_worker_cpu_seconds_total" "seconds" ["worker"] "CPU time of a worker's thread.";
        WORKER_BEATS: Counter "shadowcat_worker_heartbeats_total" "beats" ["worker"]
            "Goes up at least twice a second while a worker runs.";
        WORKER_RESTARTS: Counter "shadowcat_worker_restarts_total" "restarts" [] "Workers that died and were started anew.";
        RELOADS: Counter "shadowcat_config_reloads_total" "configurations" ["outcome"]
            "Configurations read while running, by outcome.";
        RELOAD_GOOD: Gauge "shadowcat_config_last_reload_successful" "0 or 1" []
            "Whether the latest configuration that was read is the one in use.";
        DROPPED: Counter "shadowcat_dropped_total" "events" ["what"]
            "What was given up under pressure rather than waited for.";
        QUANTILE_BYTES: Gauge "shadowcat_quantile_bytes" "bytes" []
            "Memory of the windows that quantiles come from, at most 64 MiB.";
        QUANTILES_MISSING: Gauge "shadowcat_quantiles_missing" "histograms" []
            "Histograms without quantiles, because that memory is full.";
        SCRAPE_CPU: Counter "shadowcat_scrape_cpu_seconds_total" "seconds" [] "CPU time that pages of metrics took.";
        PROCESS_CPU: Counter "process_cpu_seconds_total" "seconds" [] "User and system CPU time.";
        PROCESS_START: Gauge "process_start_time_seconds" "seconds" [] "Start of the process, since the epoch.";
        PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" "bytes" [] "Resident memory.";
        PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" "bytes" [] "Virtual memory.";
        PROCESS_THREADS: Gauge "process_threads" "threads" [] "Threads.";
        PROCESS_OPEN_FDS: Gauge "process_open_fds" "descriptors" [] "Open file descriptors.";
        PROCESS_MAX_FDS: Gauge "process_max_fds" "descriptors" [] "Most file descriptors that it may open.";
    }
}

/// Labels whose values are known, and what they mean.
const VALUES: &[(&str, &str)] = &[
    ("transport", "`http`"),
    ("upstream", "the `name` of an entry of `[[upstreams]]`"),
    ("endpoint", "one server of it: its address"),
    (
        "error",
        "`connect` (refused, unreachable, TLS failed), `timeout` (no connection, no answer, no next byte in time), `closed` \
         (before the whole answer was there), `protocol` (not HTTP/1.1), `busy` (all its connections are in use)",
    ),
    (
        "outcome",
        "of requests: `ok`; `http_error` (upstream's status is 400 or above), `rpc_error` (a JSON-RPC error), `tool_error` \
         (a tool's result with `isError`), each without the ones before; `unknown` (an answer that was encoded, too long \
         to be looked through, or none); `refused` (by the proxy), `failed` (upstream did not answer, or \
         not to the end), `gone` (the client left)",
    ),
    (
        "part",
        "`queue` (waiting for a place at an upstream), `connect` (making a connection), `upstream` (from the request sent to \
         the answer's first byte), `own` (all the rest: reading the request, checking it, passing the answer on)",
    ),
    ("method", "a method of MCP; `response` (to a request of the server), `batch`, or `other`"),
    (
        "tool",
        "the tool that `tools/call` names. 128 tools have a label, the rest is `other`; half of the labels are for tools \
         that answered well, so that made-up names cannot take them all",
    ),
    ("code", "a JSON-RPC error code; the first 48 that come, then `other`"),
    ("by", "`nobody` (it came to its end), `client`, `proxy`, `upstream`, `drain` (an endless stream, by a shutdown)"),
    ("key", "`global`, `session`, `address`, `user`, `user:NAME`, `tool:NAME`; 1,000 names of each, then `user:other`"),
    ("state", "`closed` (in use), `open` (left alone), `half_open` (being tried)"),
    ("what", "`session_touches`, `session_adoptions` (the store's queue was full), `scrapes` (too many at once)"),
    ("log", "`events` (what the program says of itself), `access`, `audit`"),
    ("worker", "a worker's number"),
];

/// `docs/METRICS.md`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Metrics\n\n`GET /metrics` shows them in Prometheus's text format 0.0.4. This page is made from the table in the program \
         (`shadowcat metrics`).\n\nSummaries (`_duration_seconds`) have the quantiles 0.5, 0.9, 0.99 and 0.999 of the last minute, \
         at most 6 % too high; they cannot be added over replicas. Histograms of the same can. Both have exact sums and counts. \
         A histogram that nothing was counted in is not shown.\n",
    );
    // Writing into a string cannot fail.
    for (heading, families) in ALL {
        let _ = write!(out, "\n## {heading}\n\n| name | type | unit | labels | what |\n|---|---|---|---|---|\n");
        for Family { name, kind, unit, labels, help } in *families {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(out, "| `{name}` | {} | {unit} | {} | {help} |", kind.name(), labels.join(", "));
        }
    }
    out.push_str("\n## Labels\n\n| label | values |\n|---|---|\n");
    for (label, values) in VALUES {
        let _ = writeln!(out, "| `{label}` | {values} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut names = BTreeSet::new();
        for family in ALL.iter().flat_map(|(_, families)| families.iter()) {
            assert!(names.insert(family.name), "{} stands twice", family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
            assert!(family.name.starts_with("shadowcat_") || family.name.starts_with("process_"));
        }
    }

    #[test]
    fn labels_with_fixed_values_are_explained() {
        let explained: BTreeSet<&str> = VALUES.iter().map(|(label, _)| *label).collect();
        let plain = ["status", "reason", "version", "commit", "driver", "flags"];
        for family in ALL.iter().flat_map(|(_, families)| families.iter()) {
            for label in family.labels {
                assert!(explained.contains(label) || plain.contains(label), "{}: {label}", family.name);
            }
        }
    }
}
