//! interim
pub mod plan;
use plan::*;
use std::time::Duration;
#[derive(Default)]
pub struct Sources { pub upstreams: Vec<String>, pub in_memory: bool, pub bind: Option<String>, pub workers: Option<usize>, pub driver: Option<String> }
pub struct Loaded { pub plan: Plan, pub warnings: Vec<String> }
pub fn load(s: Sources) -> Result<Loaded, String> {
    let sec = Duration::from_secs;
    let upstreams = s.upstreams.iter().map(|u| { let u = url::Url::parse(u).unwrap(); let host = u.host_str().unwrap().to_string(); let port = u.port_or_known_default().unwrap(); UpstreamPlan { name: format!("{host}:{port}"), authority: format!("{host}:{port}"), host, port, path: u.path().into(), tls: None, weight: 1, max_connections: None, timeout: sec(30) } }).collect();
    Ok(Loaded { warnings: vec![], plan: Plan { bind: s.bind.unwrap_or("127.0.0.1:8080".into()).parse().unwrap(), workers: s.workers.unwrap_or(2), driver: match s.driver.as_deref() { Some("epoll") => DriverChoice::Epoll, Some("io_uring") => DriverChoice::IoUring, _ => DriverChoice::Auto }, upstreams,
        session: SessionPlan { store: StoreKind::Memory, path: "".into(), timeout: sec(300), max_sessions: 10000, cleanup_interval: sec(60), durability: Durability::Strict },
        limits: LimitsPlan { head: crate::wire::http1::head::HeadLimits { head_bytes: 32768, fields: 100, target_bytes: 8192 }, body_bytes_max: None, peek_bytes_max: 1 << 20, connections_max: 10000 },
        timeouts: TimeoutsPlan { header: sec(10), body: sec(30), keep_alive: sec(60), request: None, connect: sec(30), write: sec(60), shutdown: sec(30) },
        pool: PoolPlan { min_idle: 0, max_size: 1000, idle_timeout: sec(300) }, guards: GuardsPlan::default(), log: LogPlan { filter: "info".into(), format: LogFormat::Human, output: LogOutput::Stderr }, stream_buffer_bytes: 65536 } })
}
