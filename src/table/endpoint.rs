//! The words of one upstream endpoint: health, breaker, places.
//!
//! Nobody writes two words that must agree, except for places and those who wait for one: who joins a line looks for a
//! place afterwards, who releases a place looks for waiters afterwards, and a fence between makes one of them see the other.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};

use super::breaker::{Breaker, Epoch, Pass, State, Trip};
use super::sync::{AtomicU32, AtomicU64, fence, spin_loop};
use super::waiting::{Line, Places, Waiting};

/// New work keeps off an endpoint that refused a connection for this long, doubling from the first to the second.
const BACKOFF_MS: (u64, u64) = (1_000, 30_000);
/// Sessions of an endpoint that has refused connections for this long end.
const SESSIONS_END_AFTER_MS: u64 = 5_000;
/// Shares in slow start are counted in these.
const SHARE_WHOLE: u32 = 1 << 10;
/// The share with which slow start begins: a tenth.
const SHARE_LEAST: u32 = SHARE_WHOLE / 10;

/// Bits of the health word; 0 is healthy.
const UNHEALTHY: u32 = 1;
const DRAINED: u32 = 2;

/// No limit to the places.
const UNLIMITED: u32 = u32::MAX;

/// All times in milliseconds on the clock of the caller; 0 means never.
///
/// What choosing an endpoint reads fills the first cache line, the rest is in the second.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Endpoint {
    /// Connections in use. Written by every worker.
    in_flight: AtomicU32,
    /// How many may be. Written by control.
    max: AtomicU32,
    /// Bits. Written by control.
    health: AtomicU32,
    /// Shares of the turns that came by in slow start.
    credit: AtomicU32,
    /// No new work before this time.
    closed_until: AtomicU64,
    /// Since when slow start counts.
    returned_at: AtomicU64,
    breaker: Breaker,
    /// Requests that can go nowhere else.
    own: Arc<Line<Endpoint>>,
    /// Requests that can go to any endpoint of the balancer.
    anyone: Arc<Line<Endpoint>>,
    /// Refused connects since the last that succeeded.
    refusals: AtomicU32,
    /// Which of the two lines is served first, in turn.
    favour: AtomicU32,
    /// The first refusal since the last connect that succeeded.
    refused_since: AtomicU64,
    /// Written by control.
    marked_down_since: AtomicU64,
}

impl Default for Endpoint {
    fn default() -> Endpoint {
        Endpoint::new(None, 0, Arc::new(Line::new(0)))
    }
}

impl Endpoint {
    /// With `max` connections (without limit if `None`), for which up to `waiting` pinned requests wait here, and others
    /// in the line `anyone` that the endpoints of a balancer share.
    pub fn new(max: Option<u32>, waiting: u32, anyone: Arc<Line<Endpoint>>) -> Endpoint {
        Endpoint {
            in_flight: AtomicU32::new(0),
            max: AtomicU32::new(max.unwrap_or(UNLIMITED)),
            health: AtomicU32::new(0),
            credit: AtomicU32::new(0),
            closed_until: AtomicU64::new(0),
            returned_at: AtomicU64::new(0),
            breaker: Breaker::default(),
            own: Arc::new(Line::new(waiting)),
            anyone,
            refusals: AtomicU32::new(0),
            favour: AtomicU32::new(0),
            refused_since: AtomicU64::new(0),
            marked_down_since: AtomicU64::new(0),
        }
    }

    /// Whether new work may go there, as far as health and refused connections say.
    #[inline]
    pub fn is_open(&self, now: u64) -> bool {
        self.health.load(Relaxed) == 0 && self.closed_until.load(Relaxed) <= now
    }

    /// Whether new work may go there, as far as its breaker says as well. `trip`: `None` without a breaker.
    #[inline]
    pub fn accepts(&self, now: u64, trip: Option<&Trip>) -> bool {
        self.is_open(now) && trip.is_none_or(|trip| self.breaker.lets_through(now, trip))
    }

    /// Whether nothing keeps new work off but the pause after a refused connection.
    pub fn is_only_paused(&self, now: u64, trip: Option<&Trip>) -> bool {
        let passes = trip.is_none_or(|trip| self.breaker.lets_through(now, trip));
        self.health.load(Relaxed) == 0 && self.closed_until.load(Relaxed) > now && passes
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
    pub fn connected(self: &Arc<Self>, now: u64) {
        if self.refused_since.load(Relaxed) != 0 {
            self.refusals.store(0, Relaxed);
            self.closed_until.store(0, Relaxed);
            self.refused_since.store(0, Relaxed);
            self.returns(now);
        }
    }

    /// Whether it refused a connection since the last that succeeded. One load.
    #[inline]
    pub fn has_refused(&self) -> bool {
        self.refused_since.load(Relaxed) != 0
    }

    /// Whether it has refused for so long that its sessions are taken for lost.
    pub fn has_lost_its_sessions(&self, now: u64) -> bool {
        let since = self.refused_since.load(Relaxed);
        since != 0 && now.saturating_sub(since) >= SESSIONS_END_AFTER_MS
    }
}

/// Health, as checks and the administrator say.
impl Endpoint {
    /// Checks found it unhealthy: no new work.
    pub fn mark_down(&self, now: u64) {
        if self.health.fetch_or(UNHEALTHY, Relaxed) & UNHEALTHY == 0 {
            self.marked_down_since.store(now.max(1), Relaxed);
        }
    }

    /// Checks found it healthy again.
    pub fn mark_up(self: &Arc<Self>, now: u64) {
        self.marked_down_since.store(0, Relaxed);
        if self.health.fetch_and(!UNHEALTHY, Relaxed) & UNHEALTHY != 0 {
            self.returns(now);
        }
    }

    /// Since when checks have found it unhealthy; `None` while it is healthy.
    pub fn marked_down_since(&self) -> Option<u64> {
        Some(self.marked_down_since.load(Relaxed)).filter(|&since| since != 0)
    }

    /// The administrator takes it out: no new work, sessions go on.
    pub fn drain(&self) {
        self.health.fetch_or(DRAINED, Relaxed);
    }

    /// The administrator takes it in again.
    pub fn undrain(self: &Arc<Self>, now: u64) {
        if self.health.fetch_and(!DRAINED, Relaxed) & DRAINED != 0 {
            self.returns(now);
        }
    }

    pub fn is_drained(&self) -> bool {
        self.health.load(Relaxed) & DRAINED != 0
    }

    /// Slow start begins, and those who wait may come.
    fn returns(self: &Arc<Self>, now: u64) {
        self.returned_at.store(now.max(1), Relaxed);
        self.anyone.tell(now);
        fence(SeqCst);
        self.admit(self.is_plainly_open());
    }

    /// Whether it takes a turn that is offered, or passes it over because it came back less than `slow_start_ms` ago:
    /// its part of the turns grows evenly from a tenth to all. One load, outside slow start.
    #[inline]
    pub fn takes_its_turn(&self, now: u64, slow_start_ms: u64) -> bool {
        let returned_at = self.returned_at.load(Relaxed);
        if returned_at == 0 || now.saturating_sub(returned_at) >= slow_start_ms {
            return true;
        }
        let share = share(now.saturating_sub(returned_at), slow_start_ms);
        // It takes the turn at which the sum of the shares passes a whole one.
        let before = self.credit.fetch_add(share, Relaxed) % SHARE_WHOLE;
        before + share >= SHARE_WHOLE
    }
}

/// The part of its turns that an endpoint takes so long after its return, in [`SHARE_WHOLE`]ths.
fn share(since_ms: u64, slow_start_ms: u64) -> u32 {
    let grown = u128::from(since_ms) * u128::from(SHARE_WHOLE) / u128::from(slow_start_ms.max(1));
    (grown.min(u128::from(SHARE_WHOLE)) as u32).max(SHARE_LEAST)
}

/// The breaker; see [`Breaker`].
impl Endpoint {
    pub fn allows(&self, now: u64, trip: &Trip) -> Pass {
        self.breaker.allows(now, trip)
    }

    /// True if that closed the breaker.
    pub fn succeeded(self: &Arc<Self>, epoch: Epoch, now: u64, trip: &Trip) -> bool {
        let closed = self.breaker.succeeded(epoch, now, trip);
        if closed {
            self.returns(now);
        }
        closed
    }

    /// True if that opened the breaker.
    pub fn failed(&self, epoch: Epoch, now: u64, trip: &Trip) -> bool {
        self.breaker.failed(epoch, now, trip)
    }

    /// For how long its breaker alone keeps new work off, in milliseconds; `None`: it does not, or others do as well.
    pub fn broken_for(&self, now: u64, trip: &Trip) -> Option<u64> {
        self.breaker.closed_for(now, trip).filter(|_| self.health.load(Relaxed) == 0)
    }

    pub fn breaker(&self) -> State {
        self.breaker.state()
    }
}

/// Places.
impl Endpoint {
    /// A place at once. `None` if all are in use, or if somebody waits for one: nobody is overtaken.
    #[inline]
    pub fn enter(self: &Arc<Self>) -> Option<InFlight> {
        let is_free = self.max.load(Relaxed) == UNLIMITED || self.own.is_empty() && self.anyone.is_empty();
        (is_free && self.try_place()).then(|| InFlight(self.clone()))
    }

    /// Wait for a place here and nowhere else, whether it is open or not. `None`: too many wait.
    pub fn wait(self: &Arc<Self>, now: u64) -> Option<Waiting<Endpoint>> {
        self.anyone.tell(now);
        let waiting = self.own.join()?;
        self.admit(self.is_plainly_open());
        Some(waiting)
    }

    /// Whether a place is free.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.in_flight.load(Relaxed) < self.max.load(Relaxed)
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// How many wait for a place here and nowhere else.
    pub fn waiting(&self) -> usize {
        self.own.len()
    }

    /// For a reload. More places: those who wait come in. Fewer: those in use run out first.
    pub fn set_max(self: &Arc<Self>, max: Option<u32>) {
        self.max.store(max.unwrap_or(UNLIMITED), SeqCst);
        fence(SeqCst);
        self.admit(self.is_plainly_open());
    }

    /// For a reload: how many may wait here; see [`Line::set_limit`].
    pub fn set_waiting(&self, waiting: u32) {
        self.own.set_limit(waiting);
    }

    /// Give the free places to those who wait. `open`: also to those who could go elsewhere.
    pub(super) fn admit(self: &Arc<Self>, open: bool) {
        let somebody_waits = || !self.own.is_empty() || open && !self.anyone.is_empty();
        while somebody_waits() && self.try_place() {
            if !self.hand_over(open) {
                self.give_up_place();
                // Somebody is counted but not yet in the queue, or is being put back there: a matter of a few steps.
                spin_loop();
            }
        }
    }

    /// Give the free places to those who wait, now that a request that could go anywhere looks at this endpoint.
    pub(super) fn admit_now(self: &Arc<Self>, now: u64, trip: Option<&Trip>) {
        let closed = trip.is_none() || self.breaker.state() == State::Closed;
        self.admit(closed && self.is_open(now));
        // Of those who could go elsewhere one is enough for a probe.
        let wants_probe = !closed && self.accepts(now, trip) && !self.anyone.is_empty();
        if wants_probe && self.try_place() && !self.anyone.hand_over(self) {
            self.give_up_place();
            self.admit(false);
        }
    }

    /// Whether those who could go elsewhere are let in when a place is released: nobody has a clock then.
    fn is_plainly_open(&self) -> bool {
        self.is_open(self.anyone.latest()) && self.breaker.state() == State::Closed
    }

    #[inline]
    fn try_place(&self) -> bool {
        let mut used = self.in_flight.load(Relaxed);
        while used < self.max.load(Acquire) {
            match self.in_flight.compare_exchange_weak(used, used + 1, AcqRel, Relaxed) {
                Ok(_) => return true,
                Err(changed) => used = changed,
            }
        }
        false
    }

    fn give_up_place(&self) {
        self.in_flight.fetch_sub(1, AcqRel);
        // Pairs with the fence of who joins a line.
        fence(SeqCst);
    }

    /// Hand a place that the caller holds to one who waits: of both lines in turn, so that neither starves.
    fn hand_over(self: &Arc<Self>, open: bool) -> bool {
        if !open {
            return self.own.hand_over(self);
        }
        if self.own.is_empty() {
            return self.anyone.hand_over(self) || self.own.hand_over(self);
        }
        if self.anyone.is_empty() || self.favour.fetch_add(1, Relaxed).is_multiple_of(2) {
            return self.own.hand_over(self) || self.anyone.hand_over(self);
        }
        self.anyone.hand_over(self) || self.own.hand_over(self)
    }

    fn release(self: &Arc<Self>) {
        let max = self.max.load(Relaxed);
        if max == UNLIMITED {
            self.in_flight.fetch_sub(1, SeqCst);
            // Nobody waits for want of a place, unless there is a limit since just now.
            if self.max.load(SeqCst) == UNLIMITED {
                return;
            }
            fence(SeqCst);
        } else if self.in_flight.load(Relaxed) > max || !self.hand_over(self.is_plainly_open()) {
            // Nobody waits; or the limit was lowered, and this place is one too many.
            self.give_up_place();
        } else {
            return;
        }
        self.admit(self.is_plainly_open());
    }
}

impl Places for Endpoint {
    type Permit = InFlight;

    fn permit(self: Arc<Self>) -> InFlight {
        InFlight(self)
    }
}

/// One connection in use.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// Where.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_one_second_doubling_to_thirty() {
        let endpoint = Arc::new(Endpoint::default());
        let mut now = 10_000;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            endpoint.refused(now);
            endpoint.refused(now); // a second finder of the same outage
            pauses.push(endpoint.closed_until() - now);
            now = endpoint.closed_until();
        }
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        endpoint.connected(now);
        assert!(endpoint.is_open(now));
        endpoint.refused(now);
        assert_eq!(endpoint.closed_until() - now, 1_000);
    }

    #[test]
    fn sessions_are_lost_after_five_seconds_of_refusals() {
        let endpoint = Arc::new(Endpoint::default());
        endpoint.refused(1_000);
        assert!(!endpoint.has_lost_its_sessions(5_999));
        endpoint.refused(4_000);
        assert!(endpoint.has_lost_its_sessions(6_000));
        endpoint.connected(7_000);
        assert!(!endpoint.has_lost_its_sessions(99_000));
    }

    fn capped(max: u32, waiting: u32) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(Some(max), waiting, Arc::new(Line::new(waiting))))
    }

    #[test]
    fn checks_and_the_administrator_close_it_each_by_itself() {
        let endpoint = Arc::new(Endpoint::default());
        endpoint.mark_down(7);
        endpoint.mark_down(9);
        endpoint.drain();
        assert_eq!(endpoint.marked_down_since(), Some(7));
        endpoint.mark_up(10);
        assert_eq!(endpoint.marked_down_since(), None);
        assert!(!endpoint.is_open(10) && endpoint.is_drained());
        endpoint.undrain(11);
        assert!(endpoint.is_open(11));
    }

    #[test]
    fn what_choosing_reads_is_one_cache_line() {
        assert_eq!(size_of::<Endpoint>(), 128);
        assert!(std::mem::offset_of!(Endpoint, refusals) <= 64);
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
        let endpoint = capped(2, 0);
        let first = endpoint.enter();
        let second = endpoint.enter();
        assert!(first.is_some() && second.is_some());
        assert!(endpoint.enter().is_none() && endpoint.wait(1).is_none());
        assert_eq!(endpoint.in_flight(), 2);
        drop(first);
        assert!(endpoint.enter().is_some());
    }

    #[test]
    fn places_go_to_those_who_wait_in_order_and_nobody_overtakes() {
        let endpoint = capped(1, 3);
        let held = endpoint.enter().unwrap();
        let mut line: Vec<_> = (0..3).map(|_| endpoint.wait(1).unwrap()).collect();
        assert!(endpoint.wait(1).is_none(), "three may wait");
        drop(held);
        assert!(endpoint.enter().is_none(), "the place is the first one's");
        let permit = line[0].take().unwrap();
        assert!(line[1].take().is_none());
        // One leaves from the middle, one after it was given the place: both pass it on.
        drop(line.remove(1));
        drop(permit);
        assert_eq!(endpoint.in_flight(), 1);
        drop(line);
        assert_eq!((endpoint.in_flight(), endpoint.waiting()), (0, 0));
        assert!(endpoint.enter().is_some());
    }

    #[test]
    fn those_who_gave_up_hold_no_room() {
        let endpoint = capped(1, 2);
        let _held = endpoint.enter().unwrap();
        for _ in 0..100 {
            let waiting: Vec<_> = (0..2).map(|_| endpoint.wait(1).unwrap()).collect();
            assert!(endpoint.wait(1).is_none());
            drop(waiting);
        }
    }

    #[test]
    fn a_reload_admits_more_or_lets_some_run_out() {
        let endpoint = capped(1, 9);
        let held = endpoint.enter().unwrap();
        let mut line: Vec<_> = (0..4).map(|_| endpoint.wait(1).unwrap()).collect();
        endpoint.set_max(Some(3));
        let mut permits: Vec<_> = line.iter_mut().filter_map(Waiting::take).collect();
        assert_eq!(permits.len(), 2);
        endpoint.set_max(Some(2));
        permits.pop();
        assert_eq!(line.iter_mut().filter_map(Waiting::take).count(), 0, "three were in use, two may be");
        drop(held);
        permits.extend(line.iter_mut().filter_map(Waiting::take));
        assert_eq!((permits.len(), endpoint.in_flight()), (2, 2));
        endpoint.set_max(None);
        assert_eq!(line.iter_mut().filter_map(Waiting::take).count(), 1);
    }

    #[test]
    fn both_kinds_that_wait_are_served_in_turn_and_only_pinned_ones_while_it_is_down() {
        let anyone = Arc::new(Line::new(4));
        let endpoint = Arc::new(Endpoint::new(Some(1), 4, anyone.clone()));
        let held = endpoint.enter().unwrap();
        let mut pinned: Vec<_> = (0..3).map(|_| endpoint.wait(1).unwrap()).collect();
        let mut others: Vec<_> = (0..2).map(|_| anyone.join().unwrap()).collect();
        let mut order = Vec::new();
        let mut permit = Some(held);
        for _ in 0..4 {
            drop(permit.take());
            if let Some(place) = pinned.iter_mut().find_map(Waiting::take) {
                (order, permit) = ([order, vec!["pinned"]].concat(), Some(place));
            } else if let Some(place) = others.iter_mut().find_map(Waiting::take) {
                (order, permit) = ([order, vec!["other"]].concat(), Some(place));
            }
            if order.len() == 2 {
                endpoint.mark_down(2);
            }
        }
        assert_eq!(order, ["pinned", "other", "pinned", "pinned"]);
        drop(permit);
        assert!(others.iter_mut().all(|other| other.take().is_none()));
        endpoint.mark_up(3);
        assert!(others.iter_mut().find_map(Waiting::take).is_some());
    }
}
