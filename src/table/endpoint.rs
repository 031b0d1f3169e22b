//! The words of one upstream endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// New work keeps off an endpoint that refused a connection for this long, doubling from the first to the second.
const BACKOFF_MS: (u64, u64) = (1_000, 30_000);
/// Sessions of an endpoint that has refused connections for this long end.
const SESSIONS_END_AFTER_MS: u64 = 5_000;

/// All times in milliseconds on the clock of the caller; 0 means never.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Endpoint {
    /// Connections in use. Written by every worker.
    in_flight: AtomicU32,
    /// Refused connects since the last that succeeded.
    refusals: AtomicU32,
    /// No new work before this time.
    closed_until: AtomicU64,
    /// The first refusal since the last connect that succeeded.
    refused_since: AtomicU64,
    /// Written by control.
    marked_down_since: AtomicU64,
}

impl Endpoint {
    /// Whether new work may go there.
    #[inline]
    pub fn is_open(&self, now: u64) -> bool {
        self.marked_down_since.load(Relaxed) == 0 && self.closed_until.load(Relaxed) <= now
    }

    /// Checks found it unhealthy: no new work.
    pub fn mark_down(&self, now: u64) {
        let _ = self.marked_down_since.compare_exchange(0, now.max(1), Relaxed, Relaxed);
    }

    /// Checks found it healthy again.
    pub fn mark_up(self: &Arc<Self>, _now: u64) {
        self.marked_down_since.store(0, Relaxed);
    }

    /// Since when checks have found it unhealthy; `None` while it is healthy.
    pub fn marked_down_since(&self) -> Option<u64> {
        Some(self.marked_down_since.load(Relaxed)).filter(|&since| since != 0)
    }

    pub fn closed_until(&self) -> u64 {
        self.closed_until.load(Relaxed)
    }

    /// A connection was refused (or the host was unreachable): back off.
    pub fn refused(&self, now: u64) {
        let now = now.max(1);
        let _ = self.refused_since.compare_exchange(0, now, Relaxed, Relaxed);
        // Many requests may find the same outage at once; only the first of a period lengthens the next.
        if self.closed_until.load(Relaxed) <= now {
            let doublings = self.refusals.fetch_add(1, Relaxed).min(16);
            let pause = (BACKOFF_MS.0 << doublings).min(BACKOFF_MS.1);
            self.closed_until.store(now + pause, Relaxed);
        }
    }

    /// A connection was made.
    #[inline]
    pub fn connected(&self) {
        if self.refused_since.load(Relaxed) != 0 {
            self.refusals.store(0, Relaxed);
            self.closed_until.store(0, Relaxed);
            self.refused_since.store(0, Relaxed);
        }
    }

    /// Whether it has refused for so long that its sessions are taken for lost.
    pub fn has_lost_its_sessions(&self, now: u64) -> bool {
        let since = self.refused_since.load(Relaxed);
        since != 0 && now.saturating_sub(since) >= SESSIONS_END_AFTER_MS
    }

    /// Count one connection in use, unless `max` are; released when the value is dropped.
    pub fn enter(self: &Arc<Self>, max: Option<u32>) -> Option<InFlight> {
        let before = self.in_flight.fetch_add(1, Relaxed);
        let permit = InFlight(self.clone());
        max.is_none_or(|max| before < max).then_some(permit)
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }
}

/// One connection in use.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_one_second_doubling_to_thirty() {
        let endpoint = Endpoint::default();
        let mut now = 10_000;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            endpoint.refused(now);
            endpoint.refused(now); // a second finder of the same outage
            pauses.push(endpoint.closed_until() - now);
            now = endpoint.closed_until();
        }
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        endpoint.connected();
        assert!(endpoint.is_open(now));
        endpoint.refused(now);
        assert_eq!(endpoint.closed_until() - now, 1_000);
    }

    #[test]
    fn sessions_are_lost_after_five_seconds_of_refusals() {
        let endpoint = Endpoint::default();
        endpoint.refused(1_000);
        assert!(!endpoint.has_lost_its_sessions(5_999));
        endpoint.refused(4_000);
        assert!(endpoint.has_lost_its_sessions(6_000));
        endpoint.connected();
        assert!(!endpoint.has_lost_its_sessions(99_000));
    }

    #[test]
    fn what_checks_found_closes_it_until_they_find_otherwise() {
        let endpoint = Arc::new(Endpoint::default());
        endpoint.mark_down(7);
        endpoint.mark_down(9);
        assert_eq!(endpoint.marked_down_since(), Some(7));
        assert!(!endpoint.is_open(10));
        endpoint.mark_up(10);
        assert_eq!(endpoint.marked_down_since(), None);
        assert!(endpoint.is_open(10));
    }

    #[test]
    fn the_connection_cap_is_exact() {
        let endpoint = Arc::new(Endpoint::default());
        let first = endpoint.enter(Some(2));
        let second = endpoint.enter(Some(2));
        assert!(first.is_some() && second.is_some());
        assert!(endpoint.enter(Some(2)).is_none());
        assert_eq!(endpoint.in_flight(), 2);
        drop(first);
        assert!(endpoint.enter(Some(2)).is_some());
    }
}
