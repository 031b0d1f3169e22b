//! How much one may ask: the limits of `[rate_limit]`, each over all workers.
//!
//! A request is counted by every limit or by none: what an earlier one counted is given back when a later one refuses.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::auth::{Counted, Known};
use super::connection::Client;
use super::guard::Request;
use super::refusal::{Exceeded, Refusal};
use super::session::Session;
use super::shared::View;
use super::{Worker, envelope};
use crate::base::SessionId;
use crate::config::plan::{Plan, QuotaPlan};
use crate::table::{Limits, Rate, Verdict};
use crate::telemetry::tally::{Mirror, NAME_BYTES_MAX, Named, OTHER};
use crate::telemetry::{Count, WorkerCells};
use crate::wire::http1::head::Name;
use crate::wire::json::Peek;

/// Keys of one kind that are in use at a time; 16 bytes each.
const KEYS: usize = 65_536;
const TOOLS: usize = 4_096;
/// Users that metrics name, and tools as many; the rest is counted together.
const NAMED_MAX: usize = 1_000;
/// Names that a worker remembers to have told.
const TOLD_MAX: usize = 4_096;

/// What a limit counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tool,
    Session,
    User,
    Address,
    Global,
}

impl Kind {
    /// In the order in which they are asked: the one that concerns fewest first.
    const ALL: [Kind; 5] = [Kind::Tool, Kind::Session, Kind::User, Kind::Address, Kind::Global];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Tool => "tool",
            Kind::Session => "session",
            Kind::User => "user",
            Kind::Address => "address",
            Kind::Global => "global",
        }
    }

    /// The label of those that have no name of their own.
    fn other(self) -> &'static str {
        match self {
            Kind::Tool => "tool:other",
            Kind::User => "user:other",
            kind => kind.name(),
        }
    }
}

/// One limit of the plan.
struct Rule {
    kind: Kind,
    quota: QuotaPlan,
    rate: Rate,
}

/// The tables, and what metrics say of them. Made once; a view carries it on to its successor.
pub struct RateLimits {
    /// By kind; made when the first request is counted.
    tables: LazyLock<[Limits; 5]>,
    /// Names of users and tools that asked lately, and their keys. Locked when a worker first meets one, and for a moment
    /// at a scrape.
    named: Mutex<[BTreeMap<String, u64>; 5]>,
    /// How many more names there is room for.
    names_left: [AtomicU64; 5],
    /// The latest key for whose name there was no room; 0: there was.
    unnamed: [AtomicU64; 5],
    /// Requests that were refused, by the names that stand for themselves.
    exceeded: [Named<Count>; 5],
    /// From 1; one more whenever names were dropped, so that workers tell again of those that come back.
    round: AtomicU64,
}

impl Default for RateLimits {
    fn default() -> RateLimits {
        RateLimits {
            tables: LazyLock::new(|| {
                Kind::ALL.map(|kind| match kind {
                    Kind::Tool => Limits::new(TOOLS),
                    Kind::Global => Limits::new(1),
                    _ => Limits::new(KEYS),
                })
            }),
            named: Mutex::default(),
            names_left: std::array::from_fn(|_| AtomicU64::new(NAMED_MAX as u64)),
            unnamed: Default::default(),
            exceeded: std::array::from_fn(|_| Named::new(NAMED_MAX)),
            round: AtomicU64::new(1),
        }
    }
}

impl RateLimits {
    /// Requests that were refused, by key.
    pub fn exceeded(&self, workers: &[Arc<WorkerCells>]) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (key, count) in workers.iter().flat_map(|cells| cells.limited.values()) {
            *sums.entry(key.unwrap_or_default().to_owned()).or_default() += count;
        }
        for (kind, named) in Kind::ALL.into_iter().zip(&self.exceeded) {
            for entry in named.entries().iter() {
                let sum: u64 = entry.cells.iter().map(|(_, count)| count.value()).sum();
                if sum > 0 {
                    sums.insert(label(kind, &entry.name), sum);
                }
            }
        }
        sums
    }

    /// What is left to the keys that have names and asked lately; `other` is the latest one that has none.
    pub fn remaining(&self, rules: &Rules, started: Instant) -> BTreeMap<String, u64> {
        let now = nanoseconds(started.elapsed());
        // Taken out meanwhile, so that no worker waits.
        let mut taken = std::mem::take(&mut *self.named.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut found, mut forgotten) = (BTreeMap::new(), false);
        for (kind, names) in Kind::ALL.into_iter().zip(&mut taken) {
            let table = kind as usize;
            let Some(rule) = rules.0.iter().find(|rule| rule.kind == kind) else {
                forgotten |= !std::mem::take(names).is_empty();
                continue;
            };
            let before = names.len();
            names.retain(|label, key| {
                let left = self.tables[table].remaining(*key, rule.rate, now);
                found.insert(label.clone(), left);
                // Who asked for nothing lately has everything left, and leaves room for others.
                left < rule.quota.burst || kind == Kind::Global
            });
            forgotten |= names.len() < before;
            let unnamed = self.unnamed[table].load(Relaxed);
            if unnamed != 0 {
                let left = self.tables[table].remaining(unnamed, rule.rate, now);
                found.insert(label(kind, OTHER), left);
                if left == rule.quota.burst {
                    self.unnamed[table].store(0, Relaxed);
                }
            }
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        for ((names, kept), left) in named.iter_mut().zip(taken).zip(&self.names_left) {
            names.extend(kept);
            left.store(NAMED_MAX.saturating_sub(names.len()) as u64, Relaxed);
        }
        if forgotten {
            self.round.fetch_add(1, Relaxed);
        }
        found
    }

    fn name(&self, kind: Kind, name: &str, key: u64) {
        let (left, unnamed) = (&self.names_left[kind as usize], &self.unnamed[kind as usize]);
        if left.load(Relaxed) == 0 || name == OTHER || name.len() > NAME_BYTES_MAX {
            return unnamed.store(key, Relaxed);
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let names = &mut named[kind as usize];
        if names.len() < NAMED_MAX {
            names.insert(label(kind, name), key);
        }
        left.store(NAMED_MAX.saturating_sub(names.len()) as u64, Relaxed);
    }

    fn refused(&self, worker: &Worker, kind: Kind, name: Option<&str>) {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return worker.cells.limited.count(kind.name()) };
        let mut mirrors = worker.told.exceeded.borrow_mut();
        match mirrors[kind as usize].find(&self.exceeded[kind as usize], worker.index, name, 1.0) {
            Some(count) => count.add(1),
            None => worker.cells.limited.count(kind.other()),
        }
    }
}

fn label(kind: Kind, name: &str) -> String {
    if name.is_empty() { kind.name().to_owned() } else { format!("{}:{name}", kind.name()) }
}

/// The limits of a plan, ready for use.
#[derive(Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    pub fn new(plan: &Plan) -> Rules {
        let quota = |kind| match kind {
            Kind::Tool => plan.rates.per_tool,
            Kind::Session => plan.rates.per_session,
            Kind::User => plan.rates.per_user,
            Kind::Address => plan.rates.per_address,
            Kind::Global => plan.rates.global,
        };
        let rule = |kind| {
            let quota: QuotaPlan = quota(kind)?;
            Some(Rule { kind, quota, rate: Rate::new(quota.limit, quota.window, quota.burst) })
        };
        Rules(Kind::ALL.into_iter().filter_map(rule).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What this worker told the shared names already, in which round.
#[derive(Default)]
pub struct Told {
    names: RefCell<(u64, HashSet<u64>)>,
    /// Its own counts of requests that were refused, by kind and name.
    exceeded: RefCell<[Mirror<Count>; 5]>,
}

/// Who asks, and for what.
pub struct Subject<'a> {
    pub client: &'a Client,
    pub request: &'a Request<'a>,
    pub session: Option<&'a Session>,
    pub peek: &'a Peek,
    /// The peek has seen the whole body.
    pub whole: bool,
    /// Without authentication a user is an address.
    pub user: Option<&'a Known>,
    pub at: Instant,
}

/// Count a request, or refuse it.
///
/// # Errors
/// 429 with the time to wait. Where tools are counted: 413 for a body too long to be looked into, 415 for one that is not
/// JSON, 400 for a batch.
pub fn admit(worker: &Worker, view: &View, subject: &Subject<'_>) -> Result<(), Refusal> {
    if view.rules.is_empty() {
        return Ok(());
    }
    if view.rules.0.iter().any(|rule| rule.kind == Kind::Tool) {
        envelope::must_be_seen(subject.request, subject.peek, subject.whole)?;
    }
    let limits = &*view.limits;
    let now = nanoseconds(subject.at - worker.shared.started);
    let mut taken: [Option<(Kind, u64, Rate)>; 5] = [None; 5];
    for (rule, taken_here) in view.rules.0.iter().zip(0..) {
        let table = &limits.tables[rule.kind as usize];
        let Some((key, name)) = key_of(rule.kind, table, &view.plan, subject) else { continue };
        if let Some(name) = name {
            remember(worker, limits, rule.kind, name, key, subject);
        }
        match table.take(key, || kin_of(rule.kind, key, table, &view.plan, subject), rule.rate, now) {
            Verdict::Granted => taken[taken_here] = Some((rule.kind, key, rule.rate)),
            Verdict::Denied { retry_after } => {
                for (kind, key, rate) in taken.into_iter().flatten() {
                    let table = &limits.tables[kind as usize];
                    table.give_back(key, || kin_of(kind, key, table, &view.plan, subject), rate, now);
                }
                limits.refused(worker, rule.kind, name);
                return Err(Refusal::exceeded(Exceeded {
                    kind: rule.kind.name(),
                    limit: rule.quota.limit,
                    window_s: rule.quota.window.as_secs().max(1),
                    reset_s: retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0),
                }));
            }
        }
    }
    Ok(())
}

/// The key of a request, and its name for metrics where it has one.
fn key_of<'a>(kind: Kind, table: &Limits, plan: &Plan, subject: &Subject<'a>) -> Option<(u64, Option<&'a str>)> {
    match kind {
        Kind::Global => Some((1, Some(""))),
        Kind::Session => subject.session.map(|session| (table.key(SessionId::as_bytes(&session.id)), None)),
        Kind::User => match subject.user {
            Some(user) => Some((user_key(user, table), Some(&user.principal.name))),
            None => Some((address_key(table, plan, subject), None)),
        },
        Kind::Address => Some((address_key(table, plan, subject), None)),
        Kind::Tool => {
            let tool = (subject.peek.method() == Some(b"tools/call")).then(|| subject.peek.name()).flatten()?;
            Some((table.key(tool), std::str::from_utf8(tool).ok()))
        }
    }
}

/// Made once for a verdict on a token: the tables live as long as the process.
fn user_key(user: &Known, table: &Limits) -> u64 {
    let counted = user.counted.get();
    if counted.key != 0 {
        return counted.key;
    }
    let key = table.key(&user.identity);
    user.counted.set(Counted { key, ..counted });
    key
}

/// With whom a key shares a limit while the table is full: the keys that one person could make up.
///
/// Users are made by an authorization server, so each stands for itself. Sessions are made by users, addresses by
/// whoever has a network. Names of tools are made up by anybody, and a limit on a tool holds for all its callers
/// together, so that who overfills that table shares what is left by name.
fn kin_of(kind: Kind, key: u64, table: &Limits, plan: &Plan, subject: &Subject<'_>) -> u64 {
    match (kind, subject.user) {
        (Kind::Tool | Kind::Global, _) | (Kind::User, Some(_)) => key,
        (Kind::Session, Some(user)) => table.key(&user.identity),
        (Kind::Session | Kind::User | Kind::Address, _) => {
            match client_address(plan, subject.client, subject.request) {
                IpAddr::V4(address) => table.key(&address.octets()[..3]),
                // A site has up to a /48 (RFC 6177), so 65,536 of the networks that count as one address.
                IpAddr::V6(address) => table.key(&address.octets()[..6]),
            }
        }
    }
}

fn address_key(table: &Limits, plan: &Plan, subject: &Subject<'_>) -> u64 {
    match client_address(plan, subject.client, subject.request) {
        IpAddr::V4(address) => table.key(&address.octets()),
        // One customer has a whole /64 (RFC 6177).
        IpAddr::V6(address) => table.key(&address.octets()[..8]),
    }
}

/// Who connected; behind trusted proxies the last address in `X-Forwarded-For` that is none of theirs.
fn client_address(plan: &Plan, client: &Client, request: &Request<'_>) -> IpAddr {
    if !client.trusted {
        return client.peer;
    }
    let fields = request.head.fields.all(Name::XForwardedFor);
    for field in fields.rev() {
        for text in field.value.of(request.bytes).rsplit(|&byte| byte == b',') {
            let address = std::str::from_utf8(text.trim_ascii()).ok().and_then(|text| text.parse::<IpAddr>().ok());
            match address.map(|address| address.to_canonical()) {
                Some(address) if plan.guards.trusts(address) => {}
                Some(address) => return address,
                // What cannot be read cannot be believed, nor what stands before it.
                None => return client.peer,
            }
        }
    }
    client.peer
}

/// Tell metrics of a name, once a round.
fn remember(worker: &Worker, limits: &RateLimits, kind: Kind, name: &str, key: u64, subject: &Subject<'_>) {
    let round = limits.round.load(Relaxed);
    if let (Kind::User, Some(user)) = (kind, subject.user) {
        let counted = user.counted.get();
        if counted.told == round {
            return;
        }
        user.counted.set(Counted { told: round, ..counted });
    }
    let mut told = worker.told.names.borrow_mut();
    let (told_in, names) = &mut *told;
    if *told_in != round || names.len() >= TOLD_MAX {
        *told_in = round;
        names.clear();
    }
    if names.insert(key ^ kind as u64) {
        limits.name(kind, name, key);
    }
}

/// Of the table's clock: never 0.
fn nanoseconds(since_start: Duration) -> u64 {
    u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX / 2).saturating_add(1)
}
