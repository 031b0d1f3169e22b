//! From settings as written to the plan as run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::admin;
use super::auth;
use super::checks;
use super::cpus;
use super::errors::{Errors, Problem};
use super::items;
use super::layers::{Layers, Setting};
use super::logging;
use super::plan::*;
use super::record;
use super::schema::WORKERS_MAX;
use super::sections;
use super::upstreams;
use super::{Purpose, Sources};
use crate::base::Secret;
use crate::wire::http1::head::HeadLimits;
use crate::wire::sealed::{self, Seal};

/// Collects what is wrong and what is odd while the plan is made.
pub struct Planner<'a> {
    pub layers: &'a Layers,
    pub sources: &'a Sources,
    pub purpose: Purpose,
    pub errors: &'a mut Errors,
    pub warnings: &'a mut Vec<String>,
}

/// The plan; what is wrong with it was added to the errors.
pub fn plan(planner: &mut Planner<'_>) -> Plan {
    let bind: SocketAddr = planner.layers.required("proxy.bind");
    let session = planner.session(bind);
    let plan = Plan {
        bind,
        admin: admin::plan(planner, bind, &session),
        workers: planner.workers(),
        driver: match planner.text("proxy.driver").as_str() {
            "io_uring" => DriverChoice::IoUring,
            "epoll" => DriverChoice::Epoll,
            _ => DriverChoice::Auto,
        },
        upstreams: upstreams::plans(planner),
        balance: balance(planner),
        breaker: breaker(planner.layers),
        session,
        limits: planner.limits(),
        timeouts: timeouts(planner.layers),
        pool: planner.pool(),
        guards: guards(planner.layers),
        tls: tls(planner),
        rates: rates(planner.layers),
        health: health(planner.layers),
        auth: auth::plan(planner),
        log: logging::plan(planner),
        telemetry: logging::telemetry(planner),
        record: record::plan(planner),
        stream_buffer_bytes: planner.layers.required("performance.buffer_size"),
    };
    checks::all(planner, &plan);
    plan
}

impl Planner<'_> {
    pub fn text(&self, path: &str) -> String {
        self.layers.required(path)
    }

    /// Something is wrong with what `path` was set to.
    pub fn blame(&mut self, path: &str, message: impl Into<String>) {
        let message = message.into();
        let problem = match self.layers.get(path) {
            Some(setting) => setting.origin.problem(message),
            None => Problem::new(message),
        };
        self.errors.push(problem);
    }

    /// What wins of two spellings of one setting; in the same place they must not `clash`.
    pub fn either(
        &mut self,
        paths: [&'static str; 2],
        clash: impl Fn(&Setting, &Setting) -> Option<String>,
    ) -> Option<&'static str> {
        let [first, second] = paths.map(|path| self.layers.get(path));
        match (first, second) {
            (Some(one), Some(other)) if one.origin.rank() == other.origin.rank() => {
                if let Some(message) = clash(one, other) {
                    self.errors.push(other.origin.problem(message).hint(format!("also set by {}", one.origin)));
                }
                Some(paths[0])
            }
            (Some(one), Some(other)) if one.origin.rank() < other.origin.rank() => Some(paths[1]),
            (Some(_), _) => Some(paths[0]),
            (None, Some(_)) => Some(paths[1]),
            (None, None) => None,
        }
    }

    fn workers(&mut self) -> usize {
        let chosen = self.either(["proxy.worker_threads", "performance.worker_threads"], |one, other| {
            let message = "proxy.worker_threads and performance.worker_threads are one setting and differ";
            (one.value != other.value).then(|| message.to_owned())
        });
        match chosen {
            Some(path) => self.layers.required(path),
            None if self.purpose == Purpose::Text => 1,
            None => cpus::usable().min(WORKERS_MAX as usize),
        }
    }

    fn session(&mut self, bind: SocketAddr) -> SessionPlan {
        let layers = self.layers;
        let said: Option<PathBuf> = layers.optional("session.database_path");
        let in_memory = self.sources.in_memory && said.is_none() && layers.get("session.store").is_none();
        let path = said.unwrap_or_else(|| default_session_path(bind, &self.sources.environment));
        let store = match self.text("session.store").as_str() {
            "memory" => StoreKind::Memory,
            "sqlite" => {
                self.warnings.push(format!("session.store = \"sqlite\": LMDB is used, at {}", path.display()));
                StoreKind::Lmdb
            }
            _ if in_memory => StoreKind::Memory,
            _ => StoreKind::Lmdb,
        };
        let relaxed = self.text("session.durability") == "relaxed";
        SessionPlan {
            store,
            path,
            timeout: layers.required("session.timeout"),
            max_sessions: layers.required("session.max_sessions"),
            cleanup_interval: layers.required("session.cleanup_interval"),
            reinitialize: self.text("session.failover") == "reinitialize",
            durability: if relaxed { Durability::Relaxed } else { Durability::Strict },
            seal: self.seal(),
        }
    }

    fn seal(&mut self) -> Option<Arc<Seal>> {
        const KEYS: [&str; 2] = ["session.secret", "session.previous_secret"];
        let [secret, previous] = KEYS.map(|path| {
            let text: String = self.layers.optional(path)?;
            if let Err(why) = sealed::check_secret(&text) {
                self.blame(path, format!("{path} {why}"));
            }
            Some(Secret::new(text))
        });
        if secret.is_none() && previous.is_some() {
            self.blame(KEYS[1], "session.previous_secret needs session.secret, which seals; it only opens");
        }
        if secret.is_some() && secret == previous {
            self.warnings.push("session.previous_secret is session.secret itself: take it out".to_owned());
        }
        Some(Arc::new(Seal::new(&secret?, previous.as_ref())))
    }

    fn limits(&mut self) -> LimitsPlan {
        let layers = self.layers;
        let head = HeadLimits {
            head_bytes: layers.required("limits.head_bytes"),
            fields: layers.required("limits.fields"),
            target_bytes: layers.required("limits.target_bytes"),
        };
        if head.target_bytes > head.head_bytes {
            self.blame(
                "limits.target_bytes",
                "limits.target_bytes is more than limits.head_bytes, of which it is a part",
            );
        }
        LimitsPlan {
            head,
            body_bytes_max: layers.required("limits.body_bytes"),
            peek_bytes_max: layers.required("limits.peek_bytes"),
            connections_max: layers.required("performance.max_connections"),
        }
    }

    fn pool(&mut self) -> PoolPlan {
        let layers = self.layers;
        let pool = PoolPlan {
            min_idle: layers.required("pool.min_idle"),
            max_size: layers.required("pool.max_size"),
            idle_timeout: layers.required("pool.idle_timeout"),
        };
        if pool.min_idle > pool.max_size {
            self.blame("pool.min_idle", "pool.min_idle is more than pool.max_size");
        }
        pool
    }
}

fn timeouts(layers: &Layers) -> TimeoutsPlan {
    TimeoutsPlan {
        header: layers.required("timeouts.header"),
        body: layers.required("timeouts.body"),
        keep_alive: layers.required("performance.keep_alive_timeout"),
        request: layers.required::<Option<Duration>>("timeouts.request"),
        connect: layers.required("performance.connection_timeout"),
        write: layers.required("timeouts.write"),
        shutdown: layers.required("timeouts.shutdown"),
    }
}

fn guards(layers: &Layers) -> GuardsPlan {
    let list = |path| layers.optional::<Vec<String>>(path).unwrap_or_default();
    GuardsPlan {
        allowed_hosts: list("proxy.allowed_hosts"),
        allowed_origins: list("proxy.allowed_origins"),
        // Each item was read once already, when it was set.
        trusted_proxies: list("proxy.trusted_proxies").iter().filter_map(|text| items::cidr(text).ok()).collect(),
        proxy_protocol: layers.required("proxy.proxy_protocol"),
        rewrite_host: layers.required("proxy.rewrite_host"),
    }
}

fn tls(planner: &mut Planner<'_>) -> Option<TlsPlan> {
    let layers = planner.layers;
    if layers.optional::<bool>("tls.enabled") == Some(false) {
        return None;
    }
    let first = (layers.optional("tls.cert_path")?, layers.optional("tls.key_path")?);
    let mut pairs = vec![first];
    for record in layers.tables.get("tls.certificates").into_iter().flatten().filter(|record| !record.broken) {
        match (record.optional("cert_path"), record.optional("key_path")) {
            (Some(certificate), Some(key)) => pairs.push((certificate, key)),
            _ => planner.errors.push(record.origin.problem("[[tls.certificates]] needs both cert_path and key_path")),
        }
    }
    let newest = planner.text("tls.min_version") == "1.3";
    Some(TlsPlan {
        pairs,
        min_version: if newest { TlsVersion::Tls13 } else { TlsVersion::Tls12 },
        client_ca_path: layers.optional("tls.client_ca_path"),
        require_client_cert: layers.required("tls.require_client_cert"),
        handshake_timeout: layers.required("tls.handshake_timeout"),
        handshakes_max: layers.required("tls.max_handshakes"),
    })
}

fn balance(planner: &Planner<'_>) -> BalancePlan {
    let layers = planner.layers;
    BalancePlan {
        policy: match planner.text("proxy.balance").as_str() {
            "least_in_flight" => BalancePolicy::LeastInFlight,
            _ => BalancePolicy::RoundRobin,
        },
        slow_start: layers.required("proxy.slow_start"),
        queue_size: layers.required::<u64>("pool.queue_size") as u32,
        queue_timeout: layers.required("pool.queue_timeout"),
        retry_budget: layers.required("proxy.retry_budget"),
    }
}

fn breaker(layers: &Layers) -> Option<BreakerPlan> {
    sections::is_on(layers, "circuit_breaker").then(|| BreakerPlan {
        failure_threshold: layers.required::<u64>("circuit_breaker.failure_threshold") as u32,
        failure_ratio: layers.required("circuit_breaker.failure_ratio"),
        window: layers.required("circuit_breaker.window"),
        recovery_timeout: layers.required("circuit_breaker.recovery_timeout"),
    })
}

/// Windows of the short spellings.
const SHORT_WINDOW: Duration = Duration::from_secs(60);

fn rates(layers: &Layers) -> RatesPlan {
    if !sections::is_on(layers, "rate_limit") {
        return RatesPlan::default();
    }
    let burst = layers.optional::<u64>("rate_limit.burst_size");
    let quota = |name: &str| {
        let count = |path: String| layers.optional::<u64>(&path);
        let (limit, window) = match count(format!("rate_limit.{name}_limit")) {
            Some(limit) => (limit, layers.required(&format!("rate_limit.{name}_window"))),
            None => (count(format!("rate_limit.{name}"))?, SHORT_WINDOW),
        };
        // All clients together come in larger bursts than one: at least what a second may hold.
        let second = if name == "global" { (limit as f64 / window.as_secs_f64()).ceil() as u64 } else { 1 };
        Some(QuotaPlan { limit, window, burst: burst.map_or(limit, |burst| burst.max(second)) })
    };
    RatesPlan {
        global: quota("global"),
        per_user: quota("per_user"),
        per_session: quota("per_session"),
        per_address: quota("per_address"),
        per_tool: quota("per_tool"),
    }
}

fn health(layers: &Layers) -> Option<HealthPlan> {
    if !sections::is_on(layers, "health_check") {
        return None;
    }
    let mcp = layers.required::<String>("health_check.protocol") == "mcp";
    let is_said = layers.get("health_check.path").is_some();
    Some(HealthPlan {
        protocol: if mcp { HealthProtocol::Mcp } else { HealthProtocol::Http },
        path: (is_said || !mcp).then(|| layers.required("health_check.path")),
        interval: layers.required("health_check.interval"),
        timeout: layers.required("health_check.timeout"),
        unhealthy_threshold: layers.required::<u64>("health_check.unhealthy_threshold") as u32,
        healthy_threshold: layers.required::<u64>("health_check.healthy_threshold") as u32,
    })
}

/// Below the state directory, one for each address, so that two servers never share one.
fn default_session_path(bind: SocketAddr, environment: &BTreeMap<String, String>) -> PathBuf {
    // A relative XDG_STATE_HOME is to be ignored (XDG Base Directory Specification).
    let variable = |name: &str| environment.get(name).filter(|value| value.starts_with('/')).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").filter(|home| home.parent().is_some()).map(|home| home.join(".local/state")))
        .map(|state| state.join("shadowcat"));
    // Port 0 is another port each time.
    let name = match bind.port() {
        0 => format!("{bind}-{}", std::process::id()),
        _ => bind.to_string(),
    };
    state.unwrap_or_else(|| temporary(environment)).join(name)
}

/// A directory of this user's in the place for what may get lost.
pub fn temporary(environment: &BTreeMap<String, String>) -> PathBuf {
    let place = environment.get("TMPDIR").filter(|path| path.starts_with('/')).map_or("/tmp", String::as_str);
    PathBuf::from(place).join(format!("shadowcat-{}", rustix::process::getuid().as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_live_below_the_state_directory_by_address() {
        let path = |bind: &str, pairs: &[(&str, &str)]| {
            let environment = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            default_session_path(bind.parse().unwrap(), &environment).display().to_string()
        };
        let home = ("HOME", "/users/x");
        assert_eq!(path("127.0.0.1:80", &[home, ("XDG_STATE_HOME", "/s")]), "/s/shadowcat/127.0.0.1:80");
        assert_eq!(path("[::1]:80", &[home, ("XDG_STATE_HOME", "s")]), "/users/x/.local/state/shadowcat/[::1]:80");
        assert!(path("127.0.0.1:80", &[("TMPDIR", "/t"), ("HOME", "/")]).starts_with("/t/shadowcat-"));
        assert!(path("127.0.0.1:80", &[]).starts_with("/tmp/shadowcat-"));
        assert_ne!(path("127.0.0.1:0", &[home]), "/users/x/.local/state/shadowcat/127.0.0.1:0");
    }
}
