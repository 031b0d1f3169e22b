//! Key sets of issuers: one thread each, so that an issuer is asked once at a time and a slow one delays no other.
//!
//! ```text
//! regular:  fetch .. refresh (give or take a tenth) .. fetch; after a failure 1 s, 2 s, 4 s .. 60 s
//! a token with an unknown key: fetch at once, then not for that reason for 30 s
//! keys are used until `stale_keys_max` after the last fetch that worked, then nobody passes
//! ```

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use futures_channel::oneshot;
use url::Url;

use super::discovery;
use super::fetch::{Client, NamedBy};
use super::{grant, introspect};
use crate::config::plan::{AuthPlan, CredentialPlan, IssuerPlan, Plan};
use crate::identity::{Board, Issuer, IssuerName, KeySet, Keyring, Keys, Policy};

/// How long a start waits for the first keys. Without them it goes on, and tokens get 503 until they are there.
const FIRST_KEYS_PATIENCE: Duration = Duration::from_secs(3);

/// Longest pause between attempts while there are no keys at all.
const RETRY_MAX_WITHOUT_KEYS: Duration = Duration::from_secs(10);

/// When keys are fetched. The defaults are those of a server.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two regular fetches.
    pub refresh: Duration,
    /// From the last fetch that worked until keys are no longer used.
    pub stale_max: Duration,
    /// After a fetch for an unknown key until the next one for that reason.
    pub rest: Duration,
    /// After the first failure in a row; doubled with each.
    pub retry_min: Duration,
    pub retry_max: Duration,
}

impl Timing {
    pub fn of(plan: &AuthPlan) -> Timing {
        Timing {
            refresh: plan.keys_refresh,
            stale_max: plan.stale_keys_max,
            rest: Duration::from_secs(30),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
        }
    }
}

/// Start everything that fetches for this plan: keys, introspection, credentials of upstreams. The threads end when the
/// last clone of the result is gone.
///
/// # Errors
/// `auth.ca_path` cannot be used, or there is no thread to be had.
pub fn start(plan: &Plan) -> Result<Arc<Keys>, String> {
    let auth = plan.auth.as_ref();
    let timing = auth.map(Timing::of);
    start_with(plan, timing)
}

/// As `start`, with times of one's own.
///
/// # Errors
/// As `start`.
pub fn start_with(plan: &Plan, timing: Option<Timing>) -> Result<Arc<Keys>, String> {
    let auth = plan.auth.as_ref();
    let issuers: &[IssuerPlan] = auth.map_or(&[], |auth| &auth.issuers);
    let keyring = Keyring::new(issuers.iter().map(unfetched).collect());
    let credentials: Vec<_> = plan.upstreams.iter().map(|upstream| upstream.credential.clone()).collect();
    let configured: Vec<bool> = credentials.iter().map(Option::is_some).collect();
    let (keys, desk) = Keys::new(keyring, &configured);
    if issuers.is_empty() && credentials.iter().flatten().all(|c| matches!(c, CredentialPlan::Field { .. })) {
        // Nobody to ask, so no roots to load.
        grant::publish_fixed(&credentials, &desk.board);
        return Ok(Arc::new(keys));
    }
    let client = Client::new(auth.and_then(|auth| auth.ca_path.as_deref()))?;
    let (tell, told) = bounded(issuers.len());
    if let Some(timing) = timing {
        for ((at, plan), waiters) in issuers.iter().enumerate().zip(desk.waiters) {
            if plan.has_keys() {
                let board = desk.board.clone();
                let fetcher = Fetcher::new(at, plan.clone(), client.clone(), board, timing, waiters);
                let tell = tell.clone();
                spawn(&format!("keys-{at}"), move || fetcher.run(tell))?;
            }
        }
    }
    introspect::start(issuers, &client, &desk.board, desk.questions)?;
    grant::start(&credentials, &client, &desk.board, desk.renewals)?;
    drop(tell);
    // Disconnected once every issuer told or has none to fetch.
    let patience = Instant::now() + FIRST_KEYS_PATIENCE;
    while told.recv_deadline(patience).is_ok() {}
    Ok(Arc::new(keys))
}

pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop).map_err(|error| format!("no thread for {name}: {error}"))
}

/// The issuer as the configuration alone makes it.
fn unfetched(plan: &IssuerPlan) -> Issuer {
    let policy = Policy {
        audiences: plan.audiences.iter().map(|audience| audience.as_str().into()).collect(),
        client_id: plan.client_id.as_deref().map(Box::from),
        algorithms: plan.algorithms.clone(),
        leeway: plan.leeway.as_secs(),
        has_keys: plan.has_keys(),
        introspects: plan.introspection_url.is_some(),
    };
    let name = match (&plan.issuer, &plan.jwks_url, &plan.introspection_url) {
        (Some(issuer), _, _) => IssuerName::Exactly(issuer.as_str().into()),
        // Discovery may still say more.
        (None, Some(_), _) => IssuerName::Unknown,
        (None, None, Some(url)) => origin_of(url).map_or(IssuerName::Unknown, |o| IssuerName::Origin(o.into())),
        (None, None, None) => IssuerName::Unknown,
    };
    Issuer { policy: Arc::new(policy), name, keys: None }
}

fn origin_of(url: &str) -> Option<String> {
    Url::parse(url).ok().map(|url| url.origin().ascii_serialization())
}

struct Fetcher {
    at: usize,
    plan: IssuerPlan,
    client: Client,
    board: Arc<Board>,
    timing: Timing,
    waiters: Receiver<oneshot::Sender<()>>,
    /// What is published.
    issuer: Issuer,
    /// Out of the metadata, if the plan has no URL of its own.
    jwks_url: Option<(String, NamedBy)>,
    next: Instant,
    /// Until then no unknown key makes us fetch.
    rest_until: Option<Instant>,
    last_good: Option<Instant>,
    failures: u32,
}

impl Fetcher {
    fn new(
        at: usize,
        plan: IssuerPlan,
        client: Client,
        board: Arc<Board>,
        timing: Timing,
        waiters: Receiver<oneshot::Sender<()>>,
    ) -> Fetcher {
        let issuer = unfetched(&plan);
        let jwks_url = plan.jwks_url.clone().map(|url| (url, NamedBy::Configuration));
        let next = Instant::now();
        let (rest_until, last_good, failures) = (None, None, 0);
        Fetcher { at, plan, client, board, timing, waiters, issuer, jwks_url, next, rest_until, last_good, failures }
    }

    /// Until nobody can ask any more.
    fn run(mut self, told: Sender<()>) {
        self.learn_name();
        self.fetch();
        drop(told);
        loop {
            match self.waiters.recv_deadline(self.deadline()) {
                // Sent while the flag was being raised: what there is was fetched just now.
                Ok(waiter) if self.rest_until.is_some() => drop(waiter),
                Ok(waiter) => self.fetch_for(waiter),
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn deadline(&self) -> Instant {
        let ends = [Some(self.next), self.rest_until, self.stale_at()];
        ends.into_iter().flatten().min().unwrap_or(self.next)
    }

    /// When the published keys are too old.
    fn stale_at(&self) -> Option<Instant> {
        self.last_good.filter(|_| self.issuer.keys.is_some())?.checked_add(self.timing.stale_max)
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.rest_until.is_some_and(|until| until <= now) {
            self.rest_until = None;
            self.board.set_resting(self.at, false);
        }
        if self.next <= now {
            if !matches!(self.issuer.name, IssuerName::Exactly(_)) {
                self.learn_name();
            }
            self.fetch();
        }
        if self.stale_at().is_some_and(|at| at <= Instant::now()) {
            tracing::error!(
                issuer = self.label(),
                "keys are too old to be used: tokens are refused until new ones come"
            );
            self.issuer.keys = None;
            self.board.publish(self.at, &self.issuer);
        }
    }

    fn fetch_for(&mut self, waiter: oneshot::Sender<()>) {
        self.fetch();
        self.rest_until = Some(Instant::now() + self.timing.rest);
        self.board.set_resting(self.at, true);
        drop(waiter);
        // Those who came meanwhile.
        self.waiters.try_iter().for_each(drop);
    }

    /// The name of an issuer that the configuration does not name.
    fn learn_name(&mut self) {
        if self.plan.issuer.is_some() {
            return;
        }
        let Some(origin) = self.plan.jwks_url.as_deref().and_then(origin_of) else { return };
        self.issuer.name = match discovery::of_origin(&self.client, &origin) {
            Ok(metadata) => IssuerName::Exactly(metadata.issuer.into()),
            Err(why) => {
                tracing::debug!(origin, why, "no metadata: any issuer of this origin is taken");
                IssuerName::Origin(origin.into())
            }
        };
    }

    fn fetch(&mut self) {
        match self.fetched() {
            Ok(keys) => self.succeed(keys),
            Err(why) => self.fail(&why),
        }
        self.board.publish(self.at, &self.issuer);
    }

    fn fetched(&mut self) -> Result<KeySet, String> {
        let (url, by) = match &self.jwks_url {
            Some(known) => known.clone(),
            None => self.discovered()?,
        };
        let text = self.client.get(&url, by).map_err(|error| error.to_string())?;
        let keys = KeySet::parse(&text, &self.plan.algorithms).map_err(|why| format!("{url}: {why}"))?;
        self.jwks_url = Some((url, by));
        Ok(keys)
    }

    fn discovered(&self) -> Result<(String, NamedBy), String> {
        let issuer = self.plan.issuer.as_deref().ok_or("neither an issuer nor a jwks_url")?;
        let metadata = discovery::of_issuer(&self.client, issuer)?;
        let url = metadata.jwks_uri.ok_or("its metadata names no jwks_uri")?;
        let by = discovery::named_by(issuer, &url);
        Ok((url, by))
    }

    fn succeed(&mut self, keys: KeySet) {
        let news = self.issuer.keys.as_ref().is_none_or(|old| !old.is_same(&keys));
        if news {
            tracing::info!(issuer = self.label(), keys = keys.len(), skipped = keys.skipped(), "new key set");
        }
        if news && keys.is_empty() {
            tracing::warn!(issuer = self.label(), "none of the issuer's keys fits the configured algorithms");
        }
        self.issuer.keys = Some(Arc::new(keys));
        (self.last_good, self.failures) = (Some(Instant::now()), 0);
        self.next = Instant::now() + jittered(self.timing.refresh);
    }

    fn fail(&mut self, why: &str) {
        let kept = self.issuer.keys.is_some();
        tracing::warn!(issuer = self.label(), why, kept, "keys could not be fetched");
        // The place may have moved.
        if self.plan.jwks_url.is_none() {
            self.jwks_url = None;
        }
        // With nothing to go on with, everybody waits for us.
        let longest = if kept { self.timing.retry_max } else { self.timing.retry_max.min(RETRY_MAX_WITHOUT_KEYS) };
        let wait = self.timing.retry_min.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        self.next = Instant::now() + jittered(wait);
    }

    fn label(&self) -> &str {
        self.plan.issuer.as_deref().or(self.plan.jwks_url.as_deref()).unwrap_or_default()
    }
}

/// Give or take a tenth, so that replicas do not come all at once.
pub(super) fn jittered(time: Duration) -> Duration {
    let mut byte = [128];
    // Without random bytes there is no jitter.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    time.mul_f64(0.9 + 0.2 * f64::from(byte[0]) / 255.0)
}

#[cfg(test)]
mod tests;
