//! What the schema knows and this version cannot run yet. A server refuses to start on it: nothing is silently ignored.

use super::errors::Problem;
use super::layers::Layers;
use super::values::boolean;

/// Sections with an `enabled` key; one that is there without it counts as enabled once it says anything.
const SECTIONS: [(&str, &str); 5] = [
    ("auth", "authentication"),
    ("rate_limit", "rate limiting"),
    ("telemetry", "tracing"),
    ("health_check", "active health checks"),
    ("circuit_breaker", "the circuit breaker"),
];
/// Keys that turn something on by being there.
const KEYS: [(&str, &str); 8] = [
    ("tls.cert_path", "TLS towards clients"),
    ("tls.key_path", "TLS towards clients"),
    ("tls.client_ca_path", "TLS towards clients"),
    ("record.output", "recording"),
    ("admin.bind", "the administrator's interface"),
    ("admin.socket", "the administrator's interface"),
    ("session.secret", "sealed session ids"),
    ("session.failover", "failover of sessions"),
];

pub fn enabled(layers: &Layers) -> Vec<Problem> {
    let mut found = Vec::new();
    for (section, what) in SECTIONS {
        let prefix = format!("{section}.");
        let enabled = layers.get(&format!("{section}.enabled"));
        let said = layers.settings.iter().find(|(path, _)| path.starts_with(&prefix));
        let setting = match (enabled, said) {
            (Some(setting), _) if boolean(&setting.raw.text()) == Ok(true) => setting,
            (None, Some((_, setting))) => setting,
            _ => continue,
        };
        found.push(setting.origin.problem(format!("[{section}]: {what} is not available in this version")));
    }
    for (path, what) in KEYS {
        if let Some(setting) = layers.get(path)
            && setting.raw.text() != "none"
        {
            found.push(setting.origin.problem(format!("{path}: {what} is not available in this version")));
        }
    }
    found
}
