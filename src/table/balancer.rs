//! Choosing among the endpoints of a view, at the same cost for two and for a thousand.
//!
//! An endpoint that is closed, full, or not yet warm passes its turn on. To the next would be unfair (behind a hundred
//! closed ones it would have a hundred turns): a passed turn goes to one of those that are open, by weight. For a few
//! endpoints these are counted anew each time; for many they are kept as a list, made anew at most every 50 ms or when it
//! turns out wrong. The list only guides: what it offers is looked at before it is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::breaker::Trip;
use super::endpoint::{Endpoint, InFlight};
use super::schedule::{Schedule, fraction, scaled};
use super::waiting::{Line, Waiting};

/// Up to so many endpoints all are looked at.
const FEW: usize = 8;
/// For how long the list of the open ones is used.
const LIST_MS: u64 = 50;
/// Offers of the list that may turn out wrong before all endpoints are looked at.
const OFFERS_MAX: usize = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// By weight alone.
    #[default]
    RoundRobin,
    /// The one with fewer requests in flight for its weight, of two whose turns come next (M. Mitzenmacher, "The Power of
    /// Two Choices in Randomized Load Balancing", 2001), or of all if there are at most eight. Equal ones go by weight.
    LeastInFlight,
}

/// What a balancer goes by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    pub policy: Policy,
    /// How long an endpoint that came back takes to its whole share; 0: it has it at once.
    pub slow_start_ms: u64,
    /// `None`: without circuit breakers.
    pub trip: Option<Trip>,
}

/// The endpoints of one view. Built anew for a reload; endpoints and the line of those who wait go on.
#[derive(Debug)]
pub struct Balancer {
    rules: Rules,
    endpoints: Box<[Weighted]>,
    schedule: Schedule,
    open: OpenList,
    line: Arc<Line<Endpoint>>,
}

#[derive(Debug)]
struct Weighted {
    endpoint: Arc<Endpoint>,
    weight: u32,
}

impl Balancer {
    /// Of endpoints made with `line` as theirs, and their weights.
    pub fn new(rules: Rules, endpoints: Vec<(Arc<Endpoint>, u32)>, line: Arc<Line<Endpoint>>) -> Balancer {
        let weights: Vec<u32> = endpoints.iter().map(|&(_, weight)| weight).collect();
        let endpoints: Box<[Weighted]> =
            endpoints.into_iter().map(|(endpoint, weight)| Weighted { endpoint, weight }).collect();
        Balancer { rules, schedule: Schedule::new(&weights), open: OpenList::new(endpoints.len()), endpoints, line }
    }

    /// The same going on with the turns of `earlier`, for a reload.
    pub fn following(mut self, earlier: &Balancer) -> Balancer {
        self.schedule = self.schedule.following(&earlier.schedule);
        self
    }

    pub fn line(&self) -> &Arc<Line<Endpoint>> {
        &self.line
    }

    /// The place of an endpoint in this view; `None` if it is gone.
    pub fn index_of(&self, endpoint: &Arc<Endpoint>) -> Option<usize> {
        self.endpoints.iter().position(|own| Arc::ptr_eq(&own.endpoint, endpoint))
    }

    /// The endpoint for a request that may go to any but those that `skip` names. `None`: all others are closed or full.
    #[inline]
    pub fn choose(&self, now: u64, skip: impl Fn(usize) -> bool) -> Option<usize> {
        let usable = |index: usize| self.is_usable(index, now) && !skip(index);
        if self.rules.policy == Policy::RoundRobin {
            return self.offer(self.schedule.take()?, now, &usable);
        }
        if self.endpoints.len() <= FEW {
            let first = self.offer(self.schedule.take()?, now, &usable)?;
            return Some(self.least_of_all(first, usable));
        }
        let (first, second) = self.schedule.take_with_rival()?;
        let first = self.offer(first, now, &usable)?;
        match self.offer(second, now, &usable) {
            Some(second) if self.is_less_loaded(second, first) => Some(second),
            _ => Some(first),
        }
    }

    /// Choose an endpoint and take a place there. `None`: all are closed or full, or others wait already; then
    /// [`wait`](Balancer::wait), or refuse.
    pub fn enter(&self, now: u64, skip: impl Fn(usize) -> bool) -> Option<(usize, InFlight)> {
        // Between choosing and entering another worker may be faster: then choose again.
        (0..OFFERS_MAX).find_map(|_| {
            let index = self.choose(now, &skip)?;
            Some((index, self.endpoints[index].endpoint.enter()?))
        })
    }

    /// Wait for a place at any endpoint; the permit tells at which. `None`: too many wait.
    pub fn wait(&self, now: u64) -> Option<Waiting<Endpoint>> {
        let waiting = self.line.join()?;
        self.admit(now);
        Some(waiting)
    }

    /// Let in who waits, where there is room. Places that are released do that by themselves; this is for endpoints that
    /// time alone opened (the end of a pause, a breaker that wants a probe) while nobody came by: call it now and then.
    pub fn admit(&self, now: u64) {
        self.line.tell(now);
        for Weighted { endpoint, .. } in &self.endpoints {
            endpoint.admit_now(now, self.rules.trip.as_ref());
        }
    }

    #[inline]
    fn is_usable(&self, index: usize, now: u64) -> bool {
        let endpoint = &self.endpoints[index].endpoint;
        endpoint.accepts(now, self.rules.trip.as_ref()) && endpoint.has_room()
    }

    /// The endpoint whose turn it is, or one that it passes its turn on to.
    #[inline]
    fn offer(&self, index: usize, now: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        match usable(index) && self.endpoints[index].endpoint.takes_its_turn(now, self.rules.slow_start_ms) {
            true => Some(index),
            false => self.passed_on(index, now, usable),
        }
    }

    /// To whom a turn goes that `from` does not take.
    #[cold]
    fn passed_on(&self, from: usize, now: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        let is_warm = |index: usize| self.endpoints[index].endpoint.takes_its_turn(now, self.rules.slow_start_ms);
        let fits = |index: usize| index != from && usable(index) && is_warm(index);
        let found = if self.endpoints.len() <= FEW { self.counted(&fits) } else { self.listed(now, &fits) };
        // Better one that is still warming up than none.
        found.or_else(|| {
            let len = self.endpoints.len();
            (0..len).map(|i| (from + i) % len).find(|&index| usable(index))
        })
    }

    /// Of a few endpoints: one that fits, by weight.
    fn counted(&self, fits: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut ends = [0; FEW];
        let mut total = 0;
        for (index, one) in self.endpoints.iter().enumerate() {
            total += if fits(index) { u64::from(one.weight) } else { 0 };
            ends[index] = total;
        }
        let place = scaled(self.open.passed_turn(), total);
        (0..self.endpoints.len()).find(|&index| place < ends[index])
    }

    /// Of many: one that fits out of the list of those that are open, by weight.
    fn listed(&self, now: u64, fits: &impl Fn(usize) -> bool) -> Option<usize> {
        for age_ms in [LIST_MS, 1] {
            self.open.renew(now, age_ms, |index| self.is_usable(index, now), &self.endpoints);
            let mut offers = (0..OFFERS_MAX).map(|_| self.open.at(self.open.passed_turn()));
            if let Some(found) = offers.find(|offer| offer.is_some_and(fits)) {
                return found;
            }
        }
        None
    }

    fn least_of_all(&self, first: usize, usable: impl Fn(usize) -> bool) -> usize {
        let len = self.endpoints.len();
        (1..len)
            .map(|i| (first + i) % len)
            .fold(first, |least, index| if self.is_less_loaded(index, least) && usable(index) { index } else { least })
    }

    /// Whether `a` has fewer requests in flight for its weight than `b`.
    #[inline]
    fn is_less_loaded(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.endpoints[a], &self.endpoints[b]);
        u64::from(a.endpoint.in_flight()) * u64::from(b.weight)
            < u64::from(b.endpoint.in_flight()) * u64::from(a.weight)
    }
}

/// The endpoints that were open a while ago and where their weights end in the sum of all. Written in place by one worker
/// at a time while others read: what they read may be mixed of two lists, and is looked at again in any case.
#[derive(Debug)]
#[repr(align(128))]
struct OpenList {
    /// Turns that were passed on.
    passed: AtomicU64,
    /// When it was made, plus one; 0: never.
    made_at: AtomicU64,
    len: AtomicU32,
    endpoints: Box<[AtomicU32]>,
    ends: Box<[AtomicU64]>,
}

impl OpenList {
    fn new(len: usize) -> OpenList {
        let len = if len <= FEW { 0 } else { len };
        OpenList {
            passed: AtomicU64::new(0),
            made_at: AtomicU64::new(0),
            len: AtomicU32::new(0),
            endpoints: (0..len).map(|_| AtomicU32::new(0)).collect(),
            ends: (0..len).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Count a turn that is passed on: the fraction on which it falls.
    fn passed_turn(&self) -> u64 {
        fraction(self.passed.fetch_add(1, Relaxed))
    }

    /// Make it anew if it is older than `age_ms` and nobody else does.
    fn renew(&self, now: u64, age_ms: u64, is_usable: impl Fn(usize) -> bool, endpoints: &[Weighted]) {
        let made_at = self.made_at.load(Relaxed);
        let is_fresh = made_at != 0 && now + 1 < made_at + age_ms;
        if is_fresh || self.made_at.compare_exchange(made_at, now + 1, Relaxed, Relaxed).is_err() {
            return;
        }
        let (mut len, mut total) = (0, 0);
        for (index, one) in endpoints.iter().enumerate().filter(|&(index, _)| is_usable(index)) {
            total += u64::from(one.weight);
            self.endpoints[len].store(index as u32, Relaxed);
            self.ends[len].store(total, Relaxed);
            len += 1;
        }
        self.len.store(len as u32, Relaxed);
    }

    fn at(&self, fraction: u64) -> Option<usize> {
        let len = self.len.load(Relaxed) as usize;
        let total = self.ends.get(len.checked_sub(1)?)?.load(Relaxed);
        let place = scaled(fraction, total);
        let index = self.ends[..len].partition_point(|end| end.load(Relaxed) <= place);
        Some(self.endpoints.get(index)?.load(Relaxed) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000;

    fn balancer(rules: Rules, weights: &[u32], max: Option<u32>, waiting: u32) -> Balancer {
        let line = Arc::new(Line::new(waiting));
        let endpoint = |&weight: &u32| (Arc::new(Endpoint::new(max, waiting, line.clone())), weight);
        Balancer::new(rules, weights.iter().map(endpoint).collect(), line.clone())
    }

    fn least_in_flight() -> Rules {
        Rules { policy: Policy::LeastInFlight, ..Rules::default() }
    }

    fn counts(balancer: &Balancer, now: u64, turns: usize) -> Vec<usize> {
        let mut counts = vec![0; balancer.endpoints.len()];
        for _ in 0..turns {
            counts[balancer.choose(now, |_| false).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn both_policies_are_exact_to_the_weights_over_all_workers() {
        for rules in [Rules::default(), least_in_flight()] {
            let balancer = balancer(rules, &[10, 5], None, 0);
            let chosen: Vec<usize> = std::thread::scope(|scope| {
                let work = || (0..750).filter(|_| balancer.choose(START, |_| false) == Some(0)).count();
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(chosen.iter().sum::<usize>(), 2000, "{rules:?}");
        }
    }

    #[test]
    fn what_closed_ones_leave_is_shared_by_weight() {
        for (rules, closed) in [(Rules::default(), 1), (least_in_flight(), 1), (Rules::default(), 4)] {
            let weights: Vec<u32> =
                if closed == 1 { vec![15, 10, 5] } else { vec![40, 3, 5, 10, 5, 20, 8, 30, 30, 90] };
            let balancer = balancer(rules, &weights, None, 0);
            for one in &balancer.endpoints[..closed] {
                one.endpoint.mark_down(START);
            }
            let counts = counts(&balancer, START, 30_000);
            let open: u32 = weights[closed..].iter().sum();
            for (&weight, &count) in weights.iter().zip(&counts).skip(closed) {
                let exact = 30_000.0 * f64::from(weight) / f64::from(open);
                assert!((count as f64 - exact).abs() <= exact * 0.02, "{rules:?}: {weights:?} {counts:?}");
            }
            assert!(counts[..closed].iter().all(|&count| count == 0));
        }
    }

    #[test]
    fn a_block_of_closed_ones_makes_no_neighbour_rich() {
        let balancer = balancer(Rules::default(), &[1; 1000], None, 0);
        for one in &balancer.endpoints[..500] {
            one.endpoint.refused(START);
        }
        let counts = counts(&balancer, START, 100_000);
        assert!(counts[500..].iter().all(|&count| (190..=210).contains(&count)), "{counts:?}");
    }

    #[test]
    fn the_only_open_one_of_a_thousand_is_found_and_others_as_soon_as_they_open() {
        let balancer = balancer(Rules::default(), &[1; 1000], None, 0);
        for one in
            balancer.endpoints.iter().filter(|one| !Arc::ptr_eq(&one.endpoint, &balancer.endpoints[700].endpoint))
        {
            one.endpoint.refused(START);
        }
        assert_eq!(counts(&balancer, START, 2_000)[700], 2_000);
        balancer.endpoints[700].endpoint.mark_down(START);
        assert_eq!(balancer.choose(START, |_| false), None);
        // Their pause is over, and the list is of then.
        assert!(balancer.choose(START + 1_000, |_| false).is_some());
        let counts = counts(&balancer, START + 1_000, 10_000);
        assert_eq!(counts[700], 0);
        assert!(counts.iter().filter(|&&count| count >= 9).count() == 999);
    }

    #[test]
    fn least_in_flight_goes_where_less_is_in_flight_for_the_weight() {
        let few = balancer(least_in_flight(), &[2, 1, 1], None, 0);
        let held: Vec<InFlight> = (0..400).map(|_| few.enter(START, |_| false).unwrap().1).collect();
        let in_flight: Vec<u32> = few.endpoints.iter().map(|one| one.endpoint.in_flight()).collect();
        assert_eq!(in_flight, [200, 100, 100]);
        drop(held);
        // Among many: a tenth that never answers gets little more than it holds.
        let many = balancer(least_in_flight(), &[1; 100], None, 0);
        let stuck: Vec<InFlight> = (0..10)
            .flat_map(|i| (0..50).map(move |_| i))
            .map(|i| many.endpoints[i].endpoint.enter().unwrap())
            .collect();
        let counts = counts(&many, START, 10_000);
        assert!(counts[..10].iter().sum::<usize>() < 200, "{counts:?}");
        drop(stuck);
    }

    #[test]
    fn one_that_came_back_warms_up_over_slow_start() {
        for (rules, len) in [(Rules::default(), 2), (least_in_flight(), 2), (Rules::default(), 20)] {
            let balancer = balancer(Rules { slow_start_ms: 10_000, ..rules }, &vec![1; len], None, 0);
            let whole = 10_000 / len;
            assert_eq!(counts(&balancer, START, 10_000)[0], whole, "nobody came back yet");
            balancer.endpoints[0].endpoint.mark_down(START);
            balancer.endpoints[0].endpoint.mark_up(START);
            for (after, percent) in [(0, 10), (2_000, 20), (5_000, 50), (9_000, 90), (10_000, 100)] {
                let count = counts(&balancer, START + after, 10_000)[0];
                // It may be offered a little more: what others pass on.
                let expected = whole * percent / 100;
                assert!(count.abs_diff(expected) <= whole / 50 + 5, "{rules:?} after {after}: {count} of {whole}");
            }
        }
    }

    #[test]
    fn full_ones_are_skipped_and_then_the_line_is_joined() {
        let balancer = balancer(Rules::default(), &[1, 1], Some(1), 1);
        let (first, held) = balancer.enter(START, |_| false).unwrap();
        let (second, _other) = balancer.enter(START, |_| false).unwrap();
        assert_ne!(first, second);
        assert!(balancer.enter(START, |_| false).is_none());
        let mut waiting = balancer.wait(START).unwrap();
        assert!(balancer.wait(START).is_none(), "one may wait");
        assert!(waiting.take().is_none());
        drop(held);
        let permit = waiting.take().unwrap();
        assert_eq!(balancer.index_of(permit.endpoint()), Some(first));
    }

    #[test]
    fn an_open_breaker_gets_one_of_those_who_wait_as_its_probe() {
        let trip = Trip { failure_threshold: 1, failure_ratio: 0.0, window_ms: 1_000, recovery_ms: 1_000 };
        let balancer = balancer(Rules { trip: Some(trip), ..Rules::default() }, &[1], Some(5), 9);
        let endpoint = balancer.endpoints[0].endpoint.clone();
        let epoch = endpoint.allows(START, &trip).epoch().unwrap();
        assert!(endpoint.failed(epoch, START, &trip));
        assert_eq!(balancer.choose(START, |_| false), None);
        let mut waiting: Vec<_> = (0..3).map(|_| balancer.wait(START).unwrap()).collect();
        assert!(waiting.iter_mut().all(|one| one.take().is_none()));
        balancer.admit(START + 1_000);
        let probe = endpoint.allows(START + 1_000, &trip).epoch().unwrap();
        let permits: Vec<InFlight> = waiting.iter_mut().filter_map(|one| one.take()).collect();
        assert_eq!(permits.len(), 1);
        assert!(endpoint.succeeded(probe, START + 1_001, &trip));
        assert_eq!(waiting.iter_mut().filter_map(|one| one.take()).count(), 2, "and the others when it closes");
    }
}
