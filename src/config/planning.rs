//! From settings as written to the plan as run.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Sources;
use super::cpus;
use super::errors::{Errors, Problem};
use super::layers::{Layers, Origin, Setting, UpstreamLayer};
use super::plan::*;
use super::schema::{self, UPSTREAM_KEYS};
use super::values;
use crate::wire::http1::head::HeadLimits;

/// `None` if something is wrong (and was added to the errors).
pub fn plan(layers: &Layers, sources: &Sources, errors: &mut Errors, warnings: &mut Vec<String>) -> Option<Plan> {
    let before = errors.problems().len();
    let mut reader = Reader { layers, errors };
    let bind: SocketAddr = reader.value("proxy.bind", values::address)?;
    let workers = reader.workers();
    let upstreams = reader.upstreams();
    reader.conflicts();
    reader.private_key();
    let plan = Plan {
        bind,
        workers,
        driver: match reader.text("proxy.driver").as_str() {
            "io_uring" => DriverChoice::IoUring,
            "epoll" => DriverChoice::Epoll,
            _ => DriverChoice::Auto,
        },
        upstreams,
        session: reader.session(bind, sources, warnings)?,
        limits: reader.limits()?,
        timeouts: reader.timeouts()?,
        pool: PoolPlan {
            min_idle: reader.number("pool.min_idle")? as usize,
            max_size: reader.number("pool.max_size")? as usize,
            idle_timeout: reader.value("pool.idle_timeout", values::duration)?,
        },
        guards: reader.guards(),
        log: reader.log(&sources.environment, warnings),
        stream_buffer_bytes: reader.value("performance.buffer_size", values::size)?.clamp(4096, 16 << 20) as usize,
    };
    (errors.problems().len() == before).then_some(plan)
}

struct Reader<'a> {
    layers: &'a Layers,
    errors: &'a mut Errors,
}

impl Reader<'_> {
    fn setting(&self, path: &str) -> Option<&Setting> {
        self.layers.get(path)
    }

    /// What was said, else the default, as text; "" for neither.
    fn text(&self, path: &str) -> String {
        let default = || schema::find(path).map(|key| key.default.to_owned()).unwrap_or_default();
        self.setting(path).map_or_else(default, |setting| setting.raw.text())
    }

    /// Kinds were checked where the value was read; this only fails for a default that is no value.
    fn value<T>(&mut self, path: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match read(&self.text(path)) {
            Ok(value) => Some(value),
            Err(why) => {
                self.errors.push(Problem::new(format!("{path}: {why}")));
                None
            }
        }
    }

    fn optional<T>(&mut self, path: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.setting(path)?;
        self.value(path, read)
    }

    fn number(&mut self, path: &str) -> Option<u64> {
        self.value(path, |text| values::count(text, 0, u64::MAX))
    }

    fn list(&self, path: &str) -> Vec<String> {
        self.setting(path).map(|setting| setting.raw.list()).unwrap_or_default()
    }

    /// Something is wrong with what `path` was set to.
    fn blame(&mut self, path: &str, message: impl Into<String>) {
        let message = message.into();
        let problem = match self.layers.get(path) {
            Some(setting) => setting.origin.problem(message),
            None => Problem::new(message),
        };
        self.errors.push(problem);
    }

    fn workers(&mut self) -> usize {
        const PATHS: [&str; 2] = ["proxy.worker_threads", "performance.worker_threads"];
        let said: Vec<String> = PATHS.iter().filter_map(|path| Some(self.setting(path)?.raw.text())).collect();
        // A flag sets the first of them and wins over the file's second.
        let by_flag = PATHS.map(|path| {
            matches!(self.setting(path).map(|setting| &setting.origin), Some(Origin::Flag(_) | Origin::Variable(_)))
        });
        if said.len() == 2 && said[0] != said[1] && by_flag == [false, false] {
            self.blame(PATHS[1], "proxy.worker_threads and performance.worker_threads are one setting and differ");
        }
        let chosen = if by_flag == [false, true] { said.last() } else { said.first() };
        chosen.and_then(|text| text.parse().ok()).unwrap_or_else(cpus::usable)
    }

    fn session(&mut self, bind: SocketAddr, sources: &Sources, warnings: &mut Vec<String>) -> Option<SessionPlan> {
        let path = match self.setting("session.database_path") {
            Some(setting) => PathBuf::from(setting.raw.text()),
            None => default_session_path(bind, &sources.environment),
        };
        let said = self.setting("session.store").is_some() || self.setting("session.database_path").is_some();
        let store = match self.text("session.store").as_str() {
            "memory" => StoreKind::Memory,
            "sqlite" => {
                warnings.push(format!("session.store = \"sqlite\": LMDB is used, at {}", path.display()));
                StoreKind::Lmdb
            }
            _ if sources.in_memory && !said => StoreKind::Memory,
            _ => StoreKind::Lmdb,
        };
        let relaxed = self.text("session.durability") == "relaxed";
        Some(SessionPlan {
            store,
            path,
            timeout: self.value("session.timeout", values::duration)?,
            max_sessions: self.number("session.max_sessions")?,
            cleanup_interval: self.value("session.cleanup_interval", values::duration)?.max(Duration::from_millis(50)),
            durability: if relaxed { Durability::Relaxed } else { Durability::Strict },
        })
    }

    fn limits(&mut self) -> Option<LimitsPlan> {
        Some(LimitsPlan {
            head: HeadLimits {
                head_bytes: self.value("limits.head_bytes", values::size)?.clamp(256, 1 << 20) as usize,
                fields: self.number("limits.fields")? as usize,
                target_bytes: self.value("limits.target_bytes", values::size)? as usize,
            },
            body_bytes_max: self.optional("limits.body_bytes", values::size),
            peek_bytes_max: self.value("limits.peek_bytes", values::size)?.min(1 << 30) as usize,
            connections_max: self.number("performance.max_connections")? as usize,
        })
    }

    fn timeouts(&mut self) -> Option<TimeoutsPlan> {
        let mut duration = |path| self.value(path, values::duration);
        Some(TimeoutsPlan {
            header: duration("timeouts.header")?,
            body: duration("timeouts.body")?,
            keep_alive: duration("performance.keep_alive_timeout")?,
            connect: duration("performance.connection_timeout")?,
            write: duration("timeouts.write")?,
            shutdown: duration("timeouts.shutdown")?,
            request: self.optional("timeouts.request", values::duration),
        })
    }

    fn guards(&mut self) -> GuardsPlan {
        let lower = |list: Vec<String>| list.iter().map(|item| item.to_ascii_lowercase()).collect();
        let mut trusted_proxies = Vec::new();
        for text in self.list("proxy.trusted_proxies") {
            match cidr(&text) {
                Some(range) => trusted_proxies.push(range),
                None => self.blame("proxy.trusted_proxies", format!("`{text}` is no address range such as 10.0.0.0/8")),
            }
        }
        GuardsPlan {
            allowed_hosts: lower(self.list("proxy.allowed_hosts")),
            allowed_origins: lower(self.list("proxy.allowed_origins")),
            trusted_proxies,
            rewrite_host: self.text("proxy.rewrite_host") == "true",
        }
    }

    fn log(&mut self, environment: &BTreeMap<String, String>, warnings: &mut Vec<String>) -> LogPlan {
        let mut filter = self.text("logging.level");
        if let Some(directives) = environment.get("RUST_LOG").filter(|text| !text.is_empty()) {
            let (good, bad): (Vec<&str>, Vec<&str>) =
                directives.split(',').map(str::trim).filter(|d| !d.is_empty()).partition(|d| is_directive(d));
            for nonsense in bad {
                warnings.push(format!("RUST_LOG: `{nonsense}` is no filter and is ignored"));
            }
            if !good.is_empty() {
                filter = good.join(",");
            }
        } else if !filter.split(',').all(is_directive) {
            self.blame(
                "logging.level",
                format!("`{filter}` is no level: error, warn, info, debug, trace, or a filter"),
            );
        }
        let format = if self.text("logging.format") == "json" { LogFormat::Json } else { LogFormat::Human };
        let output = match self.text("logging.output").as_str() {
            "stdout" => LogOutput::Stdout,
            "stderr" => LogOutput::Stderr,
            path => LogOutput::File(path.into()),
        };
        LogPlan { filter, format, output }
    }

    fn upstreams(&mut self) -> Vec<UpstreamPlan> {
        let mut plans: Vec<UpstreamPlan> = Vec::new();
        for layer in &self.layers.upstreams {
            let Some(plan) = self.upstream(layer) else { continue };
            if plans.iter().any(|other| other.name == plan.name) {
                let problem = layer.origin.problem(format!("two upstreams are named `{}`", plan.name));
                self.errors.push(problem.hint("give each a name of its own"));
            }
            plans.push(plan);
        }
        plans
    }

    fn upstream(&mut self, layer: &UpstreamLayer) -> Option<UpstreamPlan> {
        let text = |name: &str| {
            let default = || UPSTREAM_KEYS.iter().find(|key| key.name == name).map_or("", |key| key.default).to_owned();
            layer.settings.get(name).map_or_else(default, |setting| setting.raw.text())
        };
        let Some(setting) = layer.settings.get("url") else {
            self.errors.push(layer.origin.problem("an upstream without its `url`"));
            return None;
        };
        let parts = match url_parts(&setting.raw.text()) {
            Ok(parts) => parts,
            Err(why) => {
                self.errors.push(setting.origin.problem(why));
                return None;
            }
        };
        let said_tls = ["ca_path", "server_name"].iter().find_map(|name| layer.settings.get(*name));
        if let (false, Some(setting)) = (parts.tls, said_tls) {
            self.errors.push(setting.origin.problem("only an https:// upstream has a certificate"));
        }
        let tls = parts.tls.then(|| UpstreamTls {
            server_name: Some(text("server_name")).filter(|name| !name.is_empty()).unwrap_or(parts.host.clone()),
            ca_path: layer.settings.get("ca_path").map(|setting| PathBuf::from(setting.raw.text())),
        });
        let name = Some(text("name")).filter(|name| !name.is_empty());
        Some(UpstreamPlan {
            name: name.unwrap_or_else(|| format!("{}:{}", bracketed(&parts.host), parts.port)),
            host: parts.host,
            port: parts.port,
            authority: parts.authority,
            path: parts.path,
            tls,
            weight: text("weight").parse().unwrap_or(1),
            max_connections: text("max_connections").parse().ok(),
            timeout: values::duration(&text("timeout")).unwrap_or(Duration::from_secs(30)),
        })
    }

    /// Two spellings of one limit.
    fn conflicts(&mut self) {
        for (short, long) in [("rate_limit.global", "global_limit"), ("rate_limit.per_user", "per_user_limit")] {
            if self.setting(short).is_some() && self.setting(&format!("rate_limit.{long}")).is_some() {
                self.blame(short, format!("{short} and rate_limit.{long} are one setting: write one of them"));
            }
        }
        if self.setting("tls.cert_path").is_some() != self.setting("tls.key_path").is_some() {
            let path = if self.setting("tls.cert_path").is_some() { "tls.cert_path" } else { "tls.key_path" };
            self.blame(path, "tls.cert_path and tls.key_path are needed together");
        }
    }

    /// A key that everybody can read is no secret.
    fn private_key(&mut self) {
        use std::os::unix::fs::PermissionsExt;
        let Some(setting) = self.setting("tls.key_path") else { return };
        let Ok(metadata) = std::fs::metadata(setting.raw.text()) else { return };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o037 != 0 {
            self.blame("tls.key_path", format!("others can read this private key (mode {mode:04o}): chmod 400"));
        }
    }
}

/// Below the state directory, one for each address, so that two servers never share one.
fn default_session_path(bind: SocketAddr, environment: &BTreeMap<String, String>) -> PathBuf {
    let variable = |name: &str| environment.get(name).filter(|value| value.starts_with('/')).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_else(std::env::temp_dir).join("shadowcat").join(bind.to_string())
}

struct UrlParts {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

fn url_parts(text: &str) -> Result<UrlParts, String> {
    let url = Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(format!("`{text}`: an upstream is http:// or https://, not {other}:")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an upstream's URL holds no user or password".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`{text}`: an upstream's URL has no query and no fragment"));
    }
    let host = url.host_str().ok_or_else(|| format!("`{text}` has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().ok_or_else(|| format!("`{text}` has no port"))?;
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", bracketed(&host)),
        None => bracketed(&host),
    };
    Ok(UrlParts { tls, authority, port, path: url.path().to_owned(), host })
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn cidr(text: &str) -> Option<Cidr> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(width), |prefix| prefix.parse().ok())?;
    (prefix <= width).then_some(Cidr { address, prefix })
}

/// `level` or `target=level`, as in RUST_LOG.
fn is_directive(text: &str) -> bool {
    let level = text.rsplit('=').next().unwrap_or(text).trim();
    let known = ["off", "error", "warn", "info", "debug", "trace"].iter().any(|name| level.eq_ignore_ascii_case(name));
    let target = text.split_once('=').map(|(target, _)| target.trim());
    let plain =
        |target: &str| !target.is_empty() && target.chars().all(|c| c.is_alphanumeric() || "_:-[]{}".contains(c));
    known && target.is_none_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_upstreams_are_taken_apart() {
        let parts = url_parts("https://[::1]/mcp").unwrap();
        assert_eq!((parts.tls, parts.host.as_str(), parts.port), (true, "::1", 443));
        assert_eq!((parts.authority.as_str(), parts.path.as_str()), ("[::1]", "/mcp"));
        assert_eq!(url_parts("http://h:80").unwrap().path, "/");
        for bad in ["ftp://h", "http://u:p@h", "http://h/?a", "http://h/#a", "h:80", "http://"] {
            assert!(url_parts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_hold_their_addresses() {
        let range = cidr("10.1.0.0/16").unwrap();
        assert!(range.contains("10.1.255.1".parse().unwrap()));
        assert!(range.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!range.contains("10.2.0.1".parse().unwrap()));
        assert!(cidr("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!(cidr("::1").unwrap().contains("::1".parse().unwrap()));
        assert!(cidr("10.0.0.0/33").is_none() && cidr("x").is_none());
    }

    #[test]
    fn filters_of_crates_that_are_not_here_are_fine_and_nonsense_is_not() {
        assert!(is_directive("shadowcat=info") && is_directive("tower_http=debug") && is_directive("WARN"));
        assert!(!is_directive("loud") && !is_directive("a=b=") && !is_directive("=info"));
    }
}
