//! Views: built whole, swapped whole.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{keys, login, resolve};
use crate::config::plan::{AuthPlan, Plan};
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
    let mut connectors: HashMap<(String, Option<PathBuf>), Connector> = HashMap::new();
    let mut upstreams = Vec::with_capacity(plan.upstreams.len());
    for upstream in &plan.upstreams {
        let tls = match &upstream.tls {
            None => None,
            Some(tls) => {
                let key = (tls.server_name.clone(), tls.ca_path.clone());
                if !connectors.contains_key(&key) {
                    let connector = Connector::new(&tls.server_name, tls.ca_path.as_deref())
                        .map_err(|error| format!("upstream `{}`: {error}", upstream.name))?;
                    connectors.insert(key.clone(), connector);
                }
                connectors.get(&key).cloned()
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
    let gate = plan.auth.as_ref().map(|auth| gate(auth, keys.clone())).transpose()?.map(Arc::new);
    Ok(View { plan, upstreams, schedule: Arc::new(Schedule::new(&weights)), rules, limits: Arc::default(), gate, keys })
}

fn gate(plan: &AuthPlan, keys: Option<Arc<Keys>>) -> Result<Gate, String> {
    let boxed = |scopes: &[String]| scopes.iter().map(|scope| scope.as_str().into()).collect();
    let api_keys = plan.api_keys.iter().map(|key| (key.name.clone(), key.hash, boxed(&key.scopes)));
    let api_keys = ApiKeys::new(api_keys);
    let logins = login::start(plan)?;
    Ok(Gate { keys, api_keys, logins })
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
