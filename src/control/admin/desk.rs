//! What may be asked for, and by whom it is done.
//!
//! | request | what it does |
//! |---|---|
//! | GET /status, /upstreams, /metrics, /health, /ready | the pages, also at `admin.bind` |
//! | POST /upstreams/drain, /upstreams/enable, /upstreams/weight | `{"name": ..., "weight": ...}` |
//! | GET /sessions | `limit`, `after`, `upstream`, `subject` |
//! | GET, DELETE /sessions/ID | by the beginning of its id |
//! | POST /store/cleanup | `{"older_than_seconds": ..., "dry_run": ...}` |
//! | GET, PUT /store/backup | the file, in chunks; a file to go on with |
//! | POST /store/compact, /reload, /drain | |
//! | GET, PUT /log-level | `{"filter": ...}` |

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use crossbeam::channel::Sender;
use serde::Deserialize;
use serde_json::{Value, json};
use signal_hook::consts::SIGTERM;

use super::http::{Answer, Request};
use super::{sessions, upstreams};
use crate::config;
use crate::config::plan::StoreKind;
use crate::control::metrics;
use crate::control::publisher::Trigger;
use crate::store::UpkeepError;
use crate::telemetry::registry::WorkerEntry;
use crate::telemetry::{LogFilter, exposition};
use crate::wire::http1::head::Method;
use crate::worker::{Command, Shared};

/// Pieces of a backup on its way.
const PIECE: usize = 256 * 1024;

/// Everything that an administrator's request may need.
pub struct Desk {
    pub shared: Arc<Shared>,
    pub publisher: Trigger,
    /// As if a signal had come.
    pub signals: Sender<i32>,
    pub log: Arc<LogFilter>,
    pub address: SocketAddr,
}

/// Who reads a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Over the socket.
    Owner,
    /// Over TCP: what is dear to find out is left out.
    Anybody,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneUpstream {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    name: String,
    weight: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CleanUp {
    older_than_seconds: f64,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    filter: String,
}

impl Desk {
    /// What the owner of the socket asked for.
    pub fn answer(&self, request: &mut Request<'_>) -> Answer {
        if let Some(page) = self.page(request, Reader::Owner) {
            return page;
        }
        let path = request.path.clone();
        let done = match (request.method, path.as_str()) {
            (Method::Post, "/upstreams/drain") => {
                request.json().and_then(|OneUpstream { name }| upstreams::set_drained(&self.shared, &name, true))
            }
            (Method::Post, "/upstreams/enable") => {
                request.json().and_then(|OneUpstream { name }| upstreams::set_drained(&self.shared, &name, false))
            }
            (Method::Post, "/upstreams/weight") => {
                request.json().and_then(|Weight { name, weight }| upstreams::set_weight(&self.publisher, name, weight))
            }
            (Method::Get, "/sessions") => self.list(request),
            (Method::Post, "/store/cleanup") => request.json().and_then(|asked| self.clean_up(&asked)),
            (Method::Get, "/store/backup") => return self.back_up(),
            (Method::Put, "/store/backup") => self.restore(request),
            (Method::Post, "/store/compact") => {
                self.shared.store.compact().map(|done| sessions::replaced(&done)).map_err(refused)
            }
            (Method::Post, "/reload") => self.reload(),
            (Method::Post, "/drain") => self.drain(),
            (Method::Get, "/log-level") => Ok(json!({ "filter": self.log.now() })),
            (Method::Put, "/log-level") => request.json().and_then(|Filter { filter }| self.set_log(&filter)),
            (method, _) => match (method, path.strip_prefix("/sessions/")) {
                (Method::Get, Some(id)) => sessions::show(&self.shared.store, id).map_err(missing),
                (Method::Delete, Some(id)) => self.kill(id),
                _ => Err(Answer::error(404, format!("there is nothing to {} at {path}", spelt(method)))),
            },
        };
        done.map_or_else(|answer| answer, |value| Answer::Json(200, value))
    }

    /// A page that only reads; `None`: it is no such page.
    pub fn page(&self, request: &Request<'_>, reader: Reader) -> Option<Answer> {
        if !matches!(request.method, Method::Get | Method::Head) {
            return None;
        }
        let view = self.shared.view.load_full();
        Some(match request.path.as_str() {
            "/health" => Answer::Json(200, json!({ "status": "ok" })),
            "/ready" => match self.shared.unreadiness(&view) {
                None => Answer::Json(200, json!({ "status": "ready" })),
                Some(reason) => Answer::Json(503, json!({ "status": "not ready", "reason": reason })),
            },
            "/metrics" => Answer::Page(exposition::CONTENT_TYPE, metrics::page(&self.shared)),
            "/status" => Answer::Json(200, self.status()),
            "/upstreams" => match upstreams::list(&self.shared, reader == Reader::Owner) {
                Ok(found) => Answer::Json(200, found),
                Err(answer) => answer,
            },
            _ => return None,
        })
    }

    fn status(&self) -> Value {
        let shared = &self.shared;
        let view = shared.view.load_full();
        let (plan, stats) = (&view.plan, shared.store.stats());
        let reason = shared.unreadiness(&view);
        let registry = &shared.registry;
        let workers =
            registry.workers().into_iter().enumerate().map(|(index, WorkerEntry { cells, driver, flags })| {
                json!({
                    "worker": index, "driver": driver, "flags": flags, "connections": cells.connections.value(),
                    "streams": cells.streams.value(), "requests_total": cells.requests.value(),
                })
            });
        let sum =
            |of: fn(&crate::telemetry::WorkerCells) -> u64| shared.workers.iter().map(|cells| of(cells)).sum::<u64>();
        let now = shared.now_ms();
        let open = view.upstreams.iter().filter(|upstream| upstream.is_open(now)).count();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "state": match reason { None => "ready", Some(_) if shared.draining.load(Relaxed) => "draining", Some(_) => "not ready" },
            "reason": reason,
            "uptime_seconds": shared.started.elapsed().as_secs(),
            "bind": self.address,
            "tls": plan.tls.is_some(),
            "connections": { "active": sum(|cells| cells.connections.value()), "max": plan.limits.connections_max },
            "streams": sum(|cells| cells.streams.value()),
            "requests_total": sum(|cells| cells.requests.value()),
            "upstreams": { "open": open, "all": view.upstreams.len() },
            "sessions": {
                "active": stats.active, "max": plan.session.max_sessions, "begun_total": stats.created_total,
                "ended_total": stats.ended_total, "expired_total": stats.expired_total,
            },
            "store": {
                "kind": match plan.session.store { StoreKind::Lmdb => "lmdb", StoreKind::Memory => "memory" },
                "path": (plan.session.store == StoreKind::Lmdb).then(|| plan.session.path.display().to_string()),
                "used_bytes": stats.used_bytes, "map_bytes": stats.map_bytes,
                "commit_failures_total": stats.commit_failures_total,
            },
            "reloads": {
                "taken": registry.reloads.load(Relaxed), "refused": registry.reloads_refused.load(Relaxed),
                "last_was_taken": !registry.reload_failed.load(Relaxed),
            },
            "worker_restarts_total": registry.restarts.load(Relaxed),
            "log_level": self.log.now(),
            "workers": workers.collect::<Vec<_>>(),
        })
    }

    fn list(&self, request: &Request<'_>) -> Result<Value, Answer> {
        let text = |name: &str| request.parameter(name).map(str::to_owned);
        let limit = match request.parameter("limit").map(str::parse) {
            None => sessions::LIMIT,
            Some(Ok(limit)) if (1..=sessions::LIMIT_MAX).contains(&limit) => limit,
            Some(_) => return Err(Answer::error(400, format!("limit: from 1 to {}", sessions::LIMIT_MAX))),
        };
        let query =
            sessions::Query { limit, after: text("after"), upstream: text("upstream"), subject: text("subject") };
        sessions::list(&self.shared.store, &query).map_err(|error| Answer::error(500, error))
    }

    /// On return nobody finds it, and its streams are told to end.
    fn kill(&self, id: &str) -> Result<Value, Answer> {
        let (id, killed) = sessions::kill(&self.shared.store, id).map_err(missing)?;
        for index in 0..self.shared.workers.len() {
            self.shared.tell(index, Command::EndStreams(id));
        }
        tracing::warn!(session = ?id, "an administrator ended a session");
        Ok(killed)
    }

    fn clean_up(&self, asked: &CleanUp) -> Result<Value, Answer> {
        let idle = Duration::try_from_secs_f64(asked.older_than_seconds)
            .map_err(|error| Answer::error(400, format!("older_than_seconds: {error}")))?;
        sessions::clean_up(&self.shared.store, idle, asked.dry_run).map_err(|error| Answer::error(500, error))
    }

    /// LMDB writes into a pipe, which is read here.
    fn back_up(&self) -> Answer {
        let (mut from, into) = match std::io::pipe() {
            Ok(pipe) => pipe,
            Err(error) => return Answer::error(500, error),
        };
        let store = self.shared.store.clone();
        let copying = thread::Builder::new()
            .name("backup".into())
            .spawn(move || store.back_up(&mut File::from(OwnedFd::from(into))));
        let copying = match copying {
            Ok(copying) => copying,
            Err(error) => return Answer::error(500, error),
        };
        let end = move || copying.join().map_err(|_| UpkeepError::Store("its copy broke off".into()))?;
        // What goes wrong at once can be told.
        let mut piece = vec![0; PIECE];
        let mut first = match from.read(&mut piece) {
            Ok(0) => return end().map_or_else(refused, |()| Answer::error(500, "an empty store")),
            Ok(first) => first,
            Err(error) => return Answer::error(500, error),
        };
        Answer::Stream(Box::new(move |out: &mut dyn Write| {
            while first > 0 {
                out.write_all(&piece[..first])?;
                first = from.read(&mut piece)?;
            }
            end().map_err(io::Error::other)
        }))
    }

    fn restore(&self, request: &mut Request<'_>) -> Result<Value, Answer> {
        let done = self.shared.store.restore(request.body()).map_err(refused)?;
        tracing::warn!(sessions = done.sessions, "an administrator restored sessions from a backup");
        Ok(sessions::replaced(&done))
    }

    fn reload(&self) -> Result<Value, Answer> {
        match self.publisher.reload() {
            Some(Ok(())) => Ok(json!({ "reloaded": true })),
            Some(Err(why)) => Err(Answer::Json(422, json!({ "reloaded": false, "error": why }))),
            None => Err(Answer::error(503, "the configuration is still being read; see /status")),
        }
    }

    fn drain(&self) -> Result<Value, Answer> {
        let limit = self.shared.view.load().plan.timeouts.shutdown;
        // Twice would cut what still runs, as two signals do.
        if self.shared.draining.load(Relaxed) {
            return Err(Answer::error(409, "it drains already; a second SIGTERM would cut what still runs"));
        }
        tracing::warn!("an administrator asked for a drain");
        match self.signals.try_send(SIGTERM) {
            Ok(()) => Ok(json!({ "draining": true, "at_most_seconds": limit.as_secs_f64() })),
            Err(_) => Err(Answer::error(503, "a signal is being handled; ask again")),
        }
    }

    fn set_log(&self, filter: &str) -> Result<Value, Answer> {
        config::check_log_filter(filter).map_err(|why| Answer::error(400, why))?;
        let before = self.log.change(filter).map_err(|why| Answer::error(500, why))?;
        tracing::warn!(filter, before, "an administrator changed what is logged");
        Ok(json!({ "filter": filter, "before": before }))
    }
}

fn missing(error: sessions::Missing) -> Answer {
    Answer::error(error.status(), error)
}

fn refused(error: UpkeepError) -> Answer {
    let status = match error {
        UpkeepError::Busy => 409,
        UpkeepError::InMemory | UpkeepError::Unfit(_) => 422,
        UpkeepError::Io { .. } | UpkeepError::Store(_) => 500,
    };
    Answer::error(status, error)
}

fn spelt(method: Method) -> String {
    format!("{method:?}").to_uppercase()
}
