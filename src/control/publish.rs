//! Views: built whole, swapped whole.

use std::collections::HashMap;
use std::sync::Arc;

use super::{keys, resolve};
use crate::config::plan::{AuthPlan, Plan, UpstreamTls};
use crate::identity::{ApiKeys, Keys};
use crate::net::tls::Connector;
use crate::table::{Endpoint, Schedule};
use crate::worker::{Gate, Rules, Upstream, View};

/// The first view of a plan.
///
/// # Errors
/// TLS settings of an upstream that cannot work, naming it.
pub fn first_view(plan: Arc<Plan>) -> Result<View, String> {
    let weights: Vec<u32> = plan.upstreams.iter().map(|upstream| upstream.weight).collect();
    let mut connectors: HashMap<&UpstreamTls, Connector> = HashMap::new();
    let mut upstreams = Vec::with_capacity(plan.upstreams.len());
    for upstream in &plan.upstreams {
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
        upstreams.push(Upstream {
            plan: upstream.clone(),
            addresses: resolve::addresses(&upstream.host, upstream.port),
            words: Arc::new(Endpoint::default()),
            tls,
        });
    }
    let rules = Rules::new(&plan);
    let asks = plan.auth.is_some() || plan.upstreams.iter().any(|upstream| upstream.credential.is_some());
    let keys = if asks { Some(keys::start(&plan)?) } else { None };
    let gate = plan.auth.as_ref().map(|auth| Arc::new(gate(auth, keys.clone())));
    Ok(View { plan, upstreams, schedule: Arc::new(Schedule::new(&weights)), rules, limits: Arc::default(), gate, keys })
}

fn gate(plan: &AuthPlan, keys: Option<Arc<Keys>>) -> Gate {
    let boxed = |scopes: &[String]| scopes.iter().map(|scope| scope.as_str().into()).collect();
    let api_keys = plan.api_keys.iter().map(|key| (key.name.clone(), key.hash, boxed(&key.scopes)));
    Gate { keys, api_keys: ApiKeys::new(api_keys), certificate_scopes: boxed(&plan.certificate_scopes) }
}

fn again(view: &View) -> View {
    let upstreams = view.upstreams.iter().map(|upstream| Upstream {
        plan: upstream.plan.clone(),
        addresses: upstream.addresses.clone(),
        words: upstream.words.clone(),
        tls: upstream.tls.clone(),
    });
    View {
        plan: view.plan.clone(),
        upstreams: upstreams.collect(),
        schedule: view.schedule.clone(),
        gate: view.gate.clone(),
        keys: view.keys.clone(),
        rules: Rules::new(&view.plan),
        limits: view.limits.clone(),
    }
}

/// The same view with names resolved anew; `None` if nothing changed. A name that does not resolve now keeps the
/// addresses that it had.
pub fn resolved_anew(view: &View) -> Option<View> {
    let mut changed = false;
    let mut next = again(view);
    for upstream in next.upstreams.iter_mut().filter(|upstream| resolve::is_name(&upstream.plan.host)) {
        let found = resolve::addresses(&upstream.plan.host, upstream.plan.port);
        let same = found.len() == upstream.addresses.len() && found.iter().all(|one| upstream.addresses.contains(one));
        if !found.is_empty() && !same {
            changed = true;
            upstream.addresses = found;
        }
    }
    changed.then_some(next)
}
