//! What health checks found, as a scrape sees it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Written by the one thread that checks; its lock is contended by a scrape only.
#[derive(Default)]
pub struct Checks(Mutex<Findings>);

#[derive(Clone, Default)]
pub struct Findings {
    /// By upstream and endpoint, for those that are checked.
    pub healthy: BTreeMap<(String, String), bool>,
    /// Checks since the start, by upstream and outcome.
    pub outcomes: BTreeMap<(String, &'static str), u64>,
}

impl Checks {
    pub fn count(&self, upstream: &str, outcome: &'static str) {
        *self.lock().outcomes.entry((upstream.to_owned(), outcome)).or_default() += 1;
    }

    /// `None`: it is not checked any more.
    pub fn set_healthy(&self, upstream: &str, endpoint: &str, healthy: Option<bool>) {
        let key = (upstream.to_owned(), endpoint.to_owned());
        let mut findings = self.lock();
        match healthy {
            Some(healthy) => _ = findings.healthy.insert(key, healthy),
            None => _ = findings.healthy.remove(&key),
        }
    }

    pub fn findings(&self) -> Findings {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Findings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
