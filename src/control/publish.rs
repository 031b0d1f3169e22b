//! Views: built whole, swapped whole.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::{keys, login, resolve};
use crate::config::plan::{AuthPlan, BalancePolicy, Plan, UpstreamPlan, UpstreamTls};
use crate::identity::{ApiKeys, Keys, Logins};
use crate::net::tls::Connector;
use crate::table;
use crate::table::{Balancer, Endpoint, Line, Policy, Trip};
use crate::worker::{Gate, Rules, Upstream, View};

/// Numbers of upstreams come round after this many, which is what the table has room for.
const NUMBERS: usize = 65_000;

/// The first view of a plan.
///
/// # Errors
/// TLS settings of an upstream that cannot work, naming it; certificates of authorization servers that cannot be used.
pub fn first_view(plan: Arc<Plan>) -> Result<View, String> {
    build(plan, None)
}

/// The view of another plan. What is the same in both goes on: servers with their connections and what is known of
/// them, keys, limits.
///
/// # Errors
/// As [`first_view`].
pub fn next_view(plan: Arc<Plan>, view: &View) -> Result<View, String> {
    build(plan, Some(view))
}

fn build(plan: Arc<Plan>, before: Option<&View>) -> Result<View, String> {
    let mut connectors: HashMap<&UpstreamTls, Connector> = HashMap::new();
    let line = line(before);
    let mut upstreams = Vec::with_capacity(plan.upstreams.len());
    for (entry, upstream) in plan.upstreams.iter().enumerate() {
        let tls = match &upstream.tls {
            None => None,
            Some(tls) => {
                if !connectors.contains_key(tls) {
                    let connector =
                        Connector::new(tls).map_err(|error| format!("upstream `{}`: {error}", upstream.name))?;
                    connectors.insert(tls, connector);
                }
                connectors.get(tls).cloned()
            }
        };
        let addresses = resolve::addresses(&upstream.host, upstream.port);
        let entry = Entry { plan: Arc::new(upstream.clone()), place: entry, tls };
        upstreams.extend(at_each(&plan, &entry, &addresses, before, &line));
    }
    let asks = plan.auth.is_some() || plan.upstreams.iter().any(|upstream| upstream.credential.is_some());
    let keys = match before.filter(|before| asks_the_same(&before.plan, &plan)) {
        Some(before) => before.keys.clone(),
        None if asks => Some(keys::start(&plan)?),
        None => None,
    };
    let same_auth = before.filter(|before| before.plan.auth == plan.auth);
    let logins = same_auth.and_then(|before| before.gate.as_ref()?.logins.clone());
    let gate = plan.auth.as_ref().map(|auth| gate(auth, keys.clone(), logins)).transpose()?.map(Arc::new);
    Ok(View {
        places: places(&upstreams),
        balancer: Arc::new(balancer(&plan, &upstreams, before, line)),
        trip: trip(&plan),
        upstreams,
        rules: Rules::new(&plan),
        limits: before.map(|before| before.limits.clone()).unwrap_or_default(),
        plan,
        gate,
        keys,
    })
}

/// Whether both plans need the same keys and credentials, in the same places.
fn asks_the_same(one: &Plan, other: &Plan) -> bool {
    let credentials =
        |plan: &Plan| plan.upstreams.iter().map(|upstream| upstream.credential.clone()).collect::<Vec<_>>();
    one.auth == other.auth && credentials(one) == credentials(other)
}

/// An upstream of the plan.
struct Entry {
    plan: Arc<UpstreamPlan>,
    place: usize,
    tls: Option<Connector>,
}

/// One upstream for each address; one without an address for a name that does not resolve.
fn at_each(
    plan: &Plan,
    entry: &Entry,
    addresses: &[SocketAddr],
    before: Option<&View>,
    line: &Arc<Line<Endpoint>>,
) -> Vec<Upstream> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let siblings = addresses.len().max(1);
    let each = addresses.iter().copied().map(Some).chain(addresses.is_empty().then_some(None));
    let upstream = |address: Option<SocketAddr>| {
        let key: Arc<str> = match address {
            Some(address) if resolve::is_name(&entry.plan.host) => format!("{}@{address}", entry.plan.name).into(),
            _ => entry.plan.name.as_str().into(),
        };
        let same = |known: &&Upstream| known.address == address && known.plan.tls == entry.plan.tls;
        let known = before.and_then(|before| before.upstreams.get(before.upstream_of(&key)?)).filter(same);
        let words = match known {
            Some(known) => known.words.clone(),
            None => Arc::new(Endpoint::new(entry.plan.max_connections, plan.balance.queue_size, line.clone())),
        };
        words.set_max(entry.plan.max_connections);
        words.set_waiting(plan.balance.queue_size);
        Upstream {
            plan: entry.plan.clone(),
            entry: entry.place,
            key,
            number: known.map_or_else(|| NEXT.fetch_add(1, Relaxed) % NUMBERS, |known| known.number),
            siblings,
            address,
            words,
            tls: entry.tls.clone(),
        }
    };
    each.map(upstream).collect()
}

fn places(upstreams: &[Upstream]) -> HashMap<Arc<str>, usize> {
    upstreams.iter().enumerate().map(|(place, upstream)| (upstream.key.clone(), place)).collect()
}

/// Where requests wait that could go to any upstream: the same line for the life of the process.
fn line(before: Option<&View>) -> Arc<Line<Endpoint>> {
    before.map_or_else(|| Arc::new(Line::new(0)), |before| before.balancer.line().clone())
}

fn balancer(plan: &Plan, upstreams: &[Upstream], before: Option<&View>, line: Arc<Line<Endpoint>>) -> Balancer {
    line.set_limit(plan.balance.queue_size);
    let rules = table::Rules {
        policy: match plan.balance.policy {
            BalancePolicy::RoundRobin => Policy::RoundRobin,
            BalancePolicy::LeastInFlight => Policy::LeastInFlight,
        },
        slow_start_ms: milliseconds(plan.balance.slow_start),
        trip: trip(plan),
    };
    let endpoints = upstreams.iter().map(|upstream| (upstream.words.clone(), upstream.plan.weight)).collect();
    let balancer = Balancer::new(rules, endpoints, line);
    match before {
        Some(before) => balancer.following(&before.balancer),
        None => balancer,
    }
}

fn trip(plan: &Plan) -> Option<Trip> {
    plan.breaker.map(|breaker| Trip {
        failure_threshold: breaker.failure_threshold,
        failure_ratio: breaker.failure_ratio,
        window_ms: milliseconds(breaker.window),
        recovery_ms: milliseconds(breaker.recovery_timeout),
    })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `logins`: those under way go on.
fn gate(plan: &AuthPlan, keys: Option<Arc<Keys>>, logins: Option<Arc<Logins>>) -> Result<Gate, String> {
    let boxed = |scopes: &[String]| scopes.iter().map(|scope| scope.as_str().into()).collect();
    let api_keys = plan.api_keys.iter().map(|key| (key.name.clone(), key.hash, boxed(&key.scopes)));
    let logins = match logins {
        Some(known) => Some(known),
        None => login::start(plan)?.map(Arc::new),
    };
    let (api_keys, certificate_scopes) = (ApiKeys::new(api_keys), boxed(&plan.certificate_scopes));
    Ok(Gate { keys, api_keys, certificate_scopes, logins })
}

/// The same view with names resolved anew; `None` if nothing changed. A name that does not resolve now keeps the
/// addresses that it had.
pub fn resolved_anew(view: &View) -> Option<View> {
    let mut changed = false;
    let mut upstreams = Vec::with_capacity(view.upstreams.len());
    for of_entry in view.upstreams.chunk_by(|one, other| one.entry == other.entry) {
        let one = &of_entry[0];
        let had: Vec<SocketAddr> = of_entry.iter().filter_map(|upstream| upstream.address).collect();
        let found = match resolve::is_name(&one.plan.host) {
            true => resolve::addresses(&one.plan.host, one.plan.port),
            false => had.clone(),
        };
        let same = found.len() == had.len() && found.iter().all(|address| had.contains(address));
        if found.is_empty() || same {
            upstreams.extend_from_slice(of_entry);
        } else {
            changed = true;
            tracing::info!(upstream = one.plan.name, ?found, "the addresses of an upstream changed");
            let entry = Entry { plan: one.plan.clone(), place: one.entry, tls: one.tls.clone() };
            upstreams.extend(at_each(&view.plan, &entry, &found, Some(view), view.balancer.line()));
        }
    }
    changed.then(|| with_upstreams(view, view.plan.clone(), upstreams))
}

/// The same view with the weights of `plan`, which differs in nothing else.
pub fn weighed_anew(view: &View, plan: Arc<Plan>) -> View {
    let weighed = |upstream: &Upstream| {
        let entry = &plan.upstreams[upstream.entry];
        let is_same = entry.weight == upstream.plan.weight;
        let entry = if is_same { upstream.plan.clone() } else { Arc::new(entry.clone()) };
        Upstream { plan: entry, ..upstream.clone() }
    };
    let upstreams = view.upstreams.iter().map(weighed).collect();
    with_upstreams(view, plan, upstreams)
}

fn with_upstreams(view: &View, plan: Arc<Plan>, upstreams: Vec<Upstream>) -> View {
    View {
        places: places(&upstreams),
        balancer: Arc::new(balancer(&plan, &upstreams, Some(view), view.balancer.line().clone())),
        trip: view.trip,
        upstreams,
        gate: view.gate.clone(),
        keys: view.keys.clone(),
        rules: Rules::new(&plan),
        limits: view.limits.clone(),
        plan,
    }
}
