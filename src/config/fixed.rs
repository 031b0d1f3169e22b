//! What of a plan holds for the life of a process, and the files that a plan names.

use std::path::PathBuf;

use super::plan::Plan;

impl Plan {
    /// The settings in which `next` differs although a running server cannot change them.
    pub fn fixed_since_start(&self, next: &Plan) -> Vec<&'static str> {
        let (one, other) = (&self.session, &next.session);
        let changed = [
            ("proxy.bind", self.bind != next.bind),
            ("proxy.worker_threads", self.workers != next.workers),
            ("performance.driver", self.driver != next.driver),
            ("session.store", one.store != other.store),
            ("session.database_path", one.path != other.path),
            ("session.timeout", one.timeout != other.timeout),
            ("session.max_sessions", one.max_sessions != other.max_sessions),
            ("session.cleanup_interval", one.cleanup_interval != other.cleanup_interval),
            ("session.durability", one.durability != other.durability),
            ("tls.enabled", self.tls.is_some() != next.tls.is_some()),
            ("[logging]", self.log != next.log),
            ("[admin]", self.admin != next.admin),
            ("[telemetry]", !same_traces(self, next)),
            ("[record]", self.record != next.record),
        ];
        changed.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// Certificates, keys and roots, which may change while the configuration stays.
    pub fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        let clients = self.tls.iter().flat_map(|tls| {
            let pairs = tls.pairs.iter().flat_map(|(certificate, key)| [certificate, key]);
            pairs.chain(&tls.client_ca_path)
        });
        let upstreams = self.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()).flat_map(|tls| {
            let own = tls.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
            own.chain(&tls.ca_path)
        });
        clients.chain(upstreams)
    }
}

/// How many requests are traced may change; where traces go may not.
fn same_traces(one: &Plan, other: &Plan) -> bool {
    let place = |plan: &Plan| {
        let traces = plan.telemetry.clone()?;
        Some((traces.collector, traces.service_name, traces.resource_attributes))
    };
    place(one) == place(other)
}
