//! What it costs to choose among 1,000 endpoints: `cargo bench --bench choose`.

use std::sync::Arc;

use divan::{Bencher, black_box};
use shadowcat::table::balancer::Rules;
use shadowcat::table::{Balancer, Endpoint, Line, Policy, Trip};

const ENDPOINTS: u32 = 1_000;
const NOW: u64 = 1_000_000;

type Weighted = Vec<(Arc<Endpoint>, u32)>;

fn main() {
    divan::main();
}

/// The first `closed` of the endpoints are closed; every second of the others has something in flight.
fn endpoints(closed: usize, weight: impl Fn(u32) -> u32, number: u32) -> (Weighted, Arc<Line<Endpoint>>) {
    let line = Arc::new(Line::new(0));
    let endpoints: Weighted =
        (0..number).map(|i| (Arc::new(Endpoint::new(Some(100), 0, line.clone())), weight(i))).collect();
    for (i, (endpoint, _)) in endpoints.iter().enumerate() {
        if i < closed {
            endpoint.refused(NOW);
        } else if i % 2 == 0 {
            std::mem::forget(endpoint.enter());
        }
    }
    (endpoints, line)
}

fn of(policy: Policy, endpoints: Weighted, line: Arc<Line<Endpoint>>) -> Balancer {
    let trip = Trip { failure_threshold: 5, failure_ratio: 0.5, window_ms: 60_000, recovery_ms: 60_000 };
    Balancer::new(Rules { policy, slow_start_ms: 30_000, trip: Some(trip) }, endpoints, line)
}

fn balancer(policy: Policy, closed: usize, weight: impl Fn(u32) -> u32, number: u32) -> Balancer {
    let (endpoints, line) = endpoints(closed, weight, number);
    of(policy, endpoints, line)
}

fn choose(bencher: Bencher, balancer: Balancer) {
    bencher.bench_local(|| balancer.choose(black_box(NOW + 1), |_| false));
}

const POLICIES: [Policy; 2] = [Policy::RoundRobin, Policy::LeastInFlight];

#[divan::bench(args = POLICIES, sample_size = 1_000)]
fn all_open(bencher: Bencher, policy: &Policy) {
    choose(bencher, balancer(*policy, 0, |_| 1, ENDPOINTS));
}

#[divan::bench(args = POLICIES, sample_size = 1_000)]
fn all_open_weights_1_to_1000(bencher: Bencher, policy: &Policy) {
    choose(bencher, balancer(*policy, 0, |i| i + 1, ENDPOINTS));
}

#[divan::bench(args = POLICIES, sample_size = 1_000)]
fn half_closed(bencher: Bencher, policy: &Policy) {
    choose(bencher, balancer(*policy, 500, |_| 1, ENDPOINTS));
}

#[divan::bench(args = POLICIES, sample_size = 1_000)]
fn all_closed_but_one(bencher: Bencher, policy: &Policy) {
    choose(bencher, balancer(*policy, 999, |_| 1, ENDPOINTS));
}

/// Half of them came back five seconds ago and take a sixth of their turns.
#[divan::bench(args = POLICIES, sample_size = 1_000)]
fn half_in_slow_start(bencher: Bencher, policy: &Policy) {
    let (endpoints, line) = endpoints(500, |_| 1, ENDPOINTS);
    for (endpoint, _) in &endpoints[..500] {
        endpoint.connected(NOW - 5_000);
    }
    choose(bencher, of(*policy, endpoints, line));
}

#[divan::bench(args = POLICIES, sample_size = 1_000)]
fn two_endpoints(bencher: Bencher, policy: &Policy) {
    choose(bencher, balancer(*policy, 0, |i| i + 1, 2));
}

#[divan::bench(args = POLICIES, sample_size = 1_000)]
fn enter_and_release(bencher: Bencher, policy: &Policy) {
    let balancer = balancer(*policy, 0, |_| 1, ENDPOINTS);
    bencher.bench_local(|| drop(balancer.enter(black_box(NOW + 1), |_| false)));
}
