//! Views: built whole, swapped whole.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{keys, login, resolve};
use crate::config::plan::{AuthPlan, Plan, UpstreamPlan, UpstreamTls};
use crate::identity::{ApiKeys, Keys, Logins};
use crate::net::tls::Connector;
use crate::table::{Endpoint, Schedule};
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
        upstreams.extend(at_each(&Arc::new(upstream.clone()), entry, tls, &addresses, before));
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
        schedule: Arc::new(schedule(&upstreams)),
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

/// One upstream for each address; one without an address for a name that does not resolve.
fn at_each(
    plan: &Arc<UpstreamPlan>,
    entry: usize,
    tls: Option<Connector>,
    addresses: &[SocketAddr],
    before: Option<&View>,
) -> Vec<Upstream> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let siblings = addresses.len().max(1);
    let each = addresses.iter().copied().map(Some).chain(addresses.is_empty().then_some(None));
    let upstream = |address: Option<SocketAddr>| {
        let key: Arc<str> = match address {
            Some(address) if resolve::is_name(&plan.host) => format!("{}@{address}", plan.name).into(),
            _ => plan.name.as_str().into(),
        };
        let same = |known: &&Upstream| known.address == address && known.plan.tls == plan.tls;
        let known = before.and_then(|before| before.upstreams.get(before.upstream_of(&key)?)).filter(same);
        Upstream {
            plan: plan.clone(),
            entry,
            key,
            number: known.map_or_else(|| NEXT.fetch_add(1, Relaxed) % NUMBERS, |known| known.number),
            siblings,
            address,
            words: known.map_or_else(|| Arc::new(Endpoint::default()), |known| known.words.clone()),
            tls: tls.clone(),
        }
    };
    each.map(upstream).collect()
}

fn places(upstreams: &[Upstream]) -> HashMap<Arc<str>, usize> {
    upstreams.iter().enumerate().map(|(place, upstream)| (upstream.key.clone(), place)).collect()
}

fn schedule(upstreams: &[Upstream]) -> Schedule {
    let weights: Vec<u32> = upstreams.iter().map(|upstream| upstream.plan.weight).collect();
    Schedule::new(&weights)
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
            upstreams.extend(at_each(&one.plan, one.entry, one.tls.clone(), &found, Some(view)));
        }
    }
    changed.then(|| View {
        places: places(&upstreams),
        schedule: Arc::new(schedule(&upstreams)),
        upstreams,
        plan: view.plan.clone(),
        gate: view.gate.clone(),
        keys: view.keys.clone(),
        rules: Rules::new(&view.plan),
        limits: view.limits.clone(),
    })
}
