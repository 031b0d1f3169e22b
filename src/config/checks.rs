//! What only makes sense, or none, together; also of the sections that this version does not run yet.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::Purpose;
use super::layers::Record;
use super::plan::Plan;
use super::planning::Planner;

/// Bits of a private key's mode that must be clear: others none, the group may read (0440 in a Secret of Kubernetes).
const KEY_MODE_REFUSED: u32 = 0o037;

/// Check `plan` and the sections that are not in it.
pub fn all(planner: &mut Planner<'_>, plan: &Plan) {
    rate_limit(planner);
    tls(planner);
    rules(planner);
    others(planner, plan);
    proxy_protocol(planner, plan);
    if planner.purpose != Purpose::Text {
        files(planner, plan);
    }
}

/// Two spellings of one limit.
fn rate_limit(planner: &mut Planner<'_>) {
    const SPELLINGS: [[&str; 3]; 5] = [
        ["rate_limit.global", "rate_limit.global_limit", "rate_limit.global_window"],
        ["rate_limit.per_user", "rate_limit.per_user_limit", "rate_limit.per_user_window"],
        ["rate_limit.per_session", "rate_limit.per_session_limit", "rate_limit.per_session_window"],
        ["rate_limit.per_address", "rate_limit.per_address_limit", "rate_limit.per_address_window"],
        ["rate_limit.per_tool", "rate_limit.per_tool_limit", "rate_limit.per_tool_window"],
    ];
    for [short, long, window] in SPELLINGS {
        planner.either([short, long], |_, _| Some(format!("{short} and {long} are one setting: write one of them")));
        let alone = planner.layers.get(short).is_some() && planner.layers.get(long).is_none();
        if alone && planner.layers.get(window).is_some() {
            planner.blame(window, format!("{short} counts in 60 s: write {long} for another window"));
        }
    }
}

fn tls(planner: &mut Planner<'_>) {
    let said = |planner: &Planner<'_>, path: &str| planner.layers.get(path).is_some();
    if planner.layers.optional::<bool>("tls.enabled") == Some(false) {
        return;
    }
    let pair = ["tls.cert_path", "tls.key_path"];
    match pair.map(|path| said(planner, path)) {
        [true, true] => {}
        [true, false] => planner.blame(pair[0], "tls.cert_path needs tls.key_path (--tls-key)"),
        [false, true] => planner.blame(pair[1], "tls.key_path needs tls.cert_path (--tls-cert)"),
        [false, false] => {
            let further = ["tls.enabled", "tls.client_ca_path", "tls.require_client_cert", "tls.min_version"];
            if let Some(path) = further.into_iter().find(|path| said(planner, path)) {
                planner.blame(
                    path,
                    format!("{path} without tls.cert_path and tls.key_path: there is no TLS to apply it to"),
                );
            }
        }
    }
    let required = planner.layers.optional::<bool>("tls.require_client_cert") == Some(true);
    if required && !said(planner, "tls.client_ca_path") {
        planner.blame("tls.require_client_cert", "tls.require_client_cert needs tls.client_ca_path");
    }
}

/// Tables of `[auth]` that say nothing.
fn rules(planner: &mut Planner<'_>) {
    let tables = |path: &str| planner.layers.tables.get(path).map_or(&[][..], Vec::as_slice);
    let lacks = |record: &Record, name: &str| !record.broken && !record.settings.contains_key(name);
    let mut found = Vec::new();
    for rule in tables("auth.rules") {
        if lacks(rule, "scopes") {
            found.push(rule.origin.problem("[[auth.rules]] without its `scopes`"));
        } else if ["path", "method", "tool"].iter().all(|name| lacks(rule, name)) {
            found.push(rule.origin.problem("[[auth.rules]] without a `path`, `method` or `tool`"));
        }
    }
    for key in tables("auth.api_keys") {
        for name in ["name", "hash"].into_iter().filter(|name| lacks(key, name)) {
            found.push(key.origin.problem(format!("[[auth.api_keys]] without its `{name}`")));
        }
    }
    found.into_iter().for_each(|problem| planner.errors.push(problem));
}

fn others(planner: &mut Planner<'_>, plan: &Plan) {
    if plan.admin.bind.is_some_and(|admin| admin == plan.bind && admin.port() != 0) {
        planner.blame("admin.bind", "admin.bind is the address of the proxy itself");
    }
    let origins = &plan.guards.allowed_origins;
    if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
        planner.blame("proxy.allowed_origins", "`*` allows every origin: write it alone");
    }
}

/// Who may tell who connected must be said.
fn proxy_protocol(planner: &mut Planner<'_>, plan: &Plan) {
    if plan.guards.proxy_protocol && plan.guards.trusted_proxies.is_empty() {
        planner
            .blame("proxy.proxy_protocol", "proxy.proxy_protocol needs proxy.trusted_proxies: nobody else is believed");
    }
}

/// Files that the configuration names: to run they must be there; a check may run elsewhere.
fn files(planner: &mut Planner<'_>, plan: &Plan) {
    let mut named: Vec<(String, PathBuf, super::layers::Origin)> = Vec::new();
    if planner.layers.optional::<bool>("tls.enabled") != Some(false) {
        for path in ["tls.cert_path", "tls.key_path", "tls.client_ca_path"] {
            if let (Some(setting), Some(file)) = (planner.layers.get(path), planner.layers.optional(path)) {
                named.push((path.to_owned(), file, setting.origin.clone()));
            }
        }
    }
    if plan.auth.is_some()
        && let (Some(setting), Some(file)) =
            (planner.layers.get("auth.ca_path"), planner.layers.optional("auth.ca_path"))
    {
        named.push(("auth.ca_path".to_owned(), file, setting.origin.clone()));
    }
    for upstream in &planner.layers.upstreams {
        for name in ["ca_path", "client_cert_path", "client_key_path"] {
            if let (Some(setting), Some(file)) = (upstream.settings.get(name), upstream.optional(name)) {
                named.push((format!("upstreams.{name}"), file, setting.origin.clone()));
            }
        }
    }
    for record in planner.layers.tables.get("tls.certificates").into_iter().flatten() {
        for name in ["cert_path", "key_path"] {
            if let (Some(setting), Some(file)) = (record.settings.get(name), record.optional(name)) {
                named.push((format!("tls.certificates.{name}"), file, setting.origin.clone()));
            }
        }
    }
    for (key, path, origin) in named {
        if let Err(error) = File::open(&path) {
            let message = format!("{key}: {}: {error}", path.display());
            match planner.purpose {
                Purpose::Run => planner.errors.push(origin.problem(message)),
                _ => planner.warnings.push(message),
            }
        } else if key.ends_with("key_path") {
            let mode = fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
            if mode & KEY_MODE_REFUSED != 0 {
                let message = format!("{key}: others can read this private key (mode {mode:04o}): chmod 400");
                planner.errors.push(origin.problem(message));
            }
        }
    }
}
