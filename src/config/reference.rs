//! `docs/CONFIGURATION.md` and `config/shadowcat.toml`, made from the schema.

use std::fmt::Write;

use super::environment::variable_of;
use super::schema::{API_KEY_KEYS, CERTIFICATE_KEYS, ISSUER_KEYS, KEYS, Key, RULE_KEYS, SECTIONS, UPSTREAM_KEYS};
use super::values::{Item, Kind};

/// How values are written and which of them wins.
const INTRODUCTION: &str = include_str!("reference.md");

/// The reference as Markdown.
pub fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    for (section, about) in SECTIONS {
        let title = if *section == "upstreams" { "[[upstreams]]".into() } else { format!("[{section}]") };
        let _ = write!(out, "\n## `{title}`\n\n{about}\n");
        if *section == "upstreams" {
            table(&mut out, UPSTREAM_KEYS.iter(), upstream_variable);
            continue;
        }
        table(&mut out, KEYS.iter().filter(|key| key.section == *section), variable);
        for (title, keys) in [
            ("[[auth.issuers]]", ISSUER_KEYS),
            ("[[auth.rules]]", RULE_KEYS),
            ("[[auth.api_keys]]", API_KEY_KEYS),
            ("[[tls.certificates]]", CERTIFICATE_KEYS),
        ] {
            if keys[0].section.strip_prefix(section).is_some_and(|rest| rest.starts_with('.')) {
                let _ = write!(out, "\n### `{title}`\n");
                table(&mut out, keys.iter(), |_| String::new());
            }
        }
    }
    out
}

/// A complete file: every section and key, with its default or an example; all but the first few commented out.
pub fn example() -> String {
    let mut out = String::from(EXAMPLE_TITLE);
    for (section, about) in SECTIONS {
        let title = if *section == "upstreams" { "[[upstreams]]".into() } else { format!("[{section}]") };
        let _ = write!(out, "\n# --- {about}\n{title}\n");
        for key in KEYS.iter().chain(UPSTREAM_KEYS).filter(|key| key.section == *section) {
            match key.kind {
                Kind::Tables(keys) => example_table(&mut out, key, keys),
                _ => example_line(&mut out, key),
            }
        }
    }
    out
}

const EXAMPLE_TITLE: &str = "\
# Every section and key of shadowcat (`shadowcat config default`). What is commented out shows the default or, where there
# is none, an example. Check this file with: shadowcat config check FILE
";

fn example_line(out: &mut String, key: &Key) {
    let hash = if example_of(key).is_some_and(|(_, is_active)| is_active) { "" } else { "# " };
    let _ = writeln!(out, "# {}\n{hash}{} = {}", key.about, key.name, example_value(key));
}

fn example_table(out: &mut String, key: &Key, keys: &[Key]) {
    let pair = |key: &Key| format!("{} = {}", key.name, example_value(key));
    let pairs: Vec<String> = keys.iter().map(pair).collect();
    let _ = writeln!(out, "# {}\n# {} = [{{ {} }}]", key.about, key.name, pairs.join(", "));
}

fn example_value(key: &Key) -> String {
    let text = example_of(key).map_or(key.default, |(text, _)| text);
    let quoted = |text: &str| format!("\"{text}\"");
    match key.kind {
        Kind::List(_) => format!("[{}]", text.split(',').map(quoted).collect::<Vec<_>>().join(", ")),
        Kind::Bool | Kind::Count(..) | Kind::Ratio | Kind::Attributes => text.to_owned(),
        Kind::Duration | Kind::DurationOrZero if text.bytes().all(|b| b.is_ascii_digit()) => text.to_owned(),
        _ => quoted(text),
    }
}

/// What stands for a key that has no default, and whether it is more than an example.
fn example_of(key: &Key) -> Option<(&'static str, bool)> {
    let text = match (key.section, key.name, key.kind) {
        ("proxy", "mode", _) => return Some(("reverse", true)),
        // As the containers of the deployment guide need it.
        ("proxy", "bind", _) => return Some(("0.0.0.0:8080", true)),
        ("upstreams", "name", _) => return Some(("primary", true)),
        ("upstreams", "url", _) => return Some(("http://mcp-server:3000", true)),
        (_, _, _) if !key.default.is_empty() => return None,
        (_, "enabled", _) => "false",
        (_, "worker_threads", _) => "4",
        (_, "allowed_hosts", _) => "mcp.example.com",
        (_, "allowed_origins", _) => "https://app.example.com",
        (_, "trusted_proxies", _) => "10.0.0.0/8",
        ("upstreams", "max_connections", _) => "100",
        ("upstreams", "ca_path", _) => "/etc/shadowcat/tls/upstream-ca.pem",
        ("upstreams", "client_cert_path", _) => "/etc/shadowcat/tls/client.pem",
        ("upstreams", "client_key_path", _) => "/etc/shadowcat/tls/client.key",
        ("upstreams", "server_name", _) => "mcp-server.internal",
        (_, "database_path", _) => "/var/lib/shadowcat/sessions.db",
        ("session", "secret", _) => "${SESSION_SECRET:-}",
        ("session", "previous_secret", _) => "${PREVIOUS_SESSION_SECRET:-}",
        ("upstreams", "bearer_token", _) => "${UPSTREAM_TOKEN:-}",
        ("upstreams", "credential_header", _) => "X-API-Key",
        ("upstreams", "credential", _) => "${UPSTREAM_KEY:-}",
        ("upstreams", "client_secret", _) => "${UPSTREAM_CLIENT_SECRET:-change-me}",
        ("upstreams", "scopes", _) => "mcp",
        ("upstreams", "resource", _) => "https://mcp-server.internal/mcp",
        ("auth", "ca_path", _) => "/etc/shadowcat/tls/idp-ca.pem",
        (_, "providers", _) => "oauth2,api_key",
        ("auth.issuers", "issuer", _) => "https://login.example.org",
        ("auth.issuers", "jwks_url", _) => "https://login.example.org/jwks",
        ("auth.issuers", "introspection_url", _) => "https://login.example.org/introspect",
        ("auth.issuers", "algorithms", _) => "ES256",
        (_, "client_id", _) => "${OAUTH_CLIENT_ID:-shadowcat}",
        (_, "client_secret", _) => "${OAUTH_CLIENT_SECRET:-}",
        (_, "auth_url", _) => "https://auth.example.com/oauth2/authorize",
        (_, "token_url", _) => "https://auth.example.com/oauth2/token",
        (_, "jwks_url", _) => "https://auth.example.com/.well-known/jwks.json",
        (_, "introspection_url", _) => "https://auth.example.com/oauth2/introspect",
        (_, "redirect_uri", _) => "https://proxy.example.com/callback",
        (_, "issuer", _) => "https://auth.example.com",
        (_, "audience", _) => "https://proxy.example.com",
        (_, "public", _) => "/docs",
        ("auth.rules", "path", _) => "/mcp",
        (_, "method", _) => "tools/call",
        (_, "tool", _) => "deploy",
        ("auth.rules", "scopes", _) => "write",
        ("auth.api_keys", "name", _) => "ci",
        (_, "hash", _) => "${CI_KEY_HASH:-sha256:0000000000000000000000000000000000000000000000000000000000000000}",
        (_, "global" | "global_limit", _) => "10000",
        (_, "burst_size", _) => "20",
        ("rate_limit", _, _) => "100",
        (_, "cert_path", _) => "/etc/shadowcat/tls/cert.pem",
        (_, "key_path", _) => "/etc/shadowcat/tls/key.pem",
        (_, "client_ca_path", _) => "/etc/shadowcat/tls/ca.pem",
        ("logging", "access_output", _) => "/var/log/shadowcat/access.log",
        ("logging", "audit", _) => "/var/log/shadowcat/audit.log",
        (_, "resource_attributes", _) => "{ environment = \"production\", region = \"us-west-2\" }",
        ("record", "output", _) => "/var/lib/shadowcat/tapes",
        ("record", "redact_headers", _) => "X-Tenant",
        ("record", "redact_names", _) => "pin",
        ("record", "redact_paths", _) => "$.params.arguments.card,$..ssn",
        ("record", "redact_patterns", _) => "[0-9]{16}",
        ("admin", "bind", _) => "127.0.0.1:9090",
        ("admin", "socket", _) => "/run/shadowcat/admin.sock",
        (_, _, Kind::List(Item::Scope)) => "read,write",
        _ => "",
    };
    Some((text, false))
}

fn table<'k>(out: &mut String, keys: impl Iterator<Item = &'k Key>, variable: impl Fn(&Key) -> String) {
    out.push_str("\n| key | value | default | variable | |\n|---|---|---|---|---|\n");
    for key in keys {
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        let kind = key.kind.describe();
        let _ = writeln!(out, "| `{}` | {kind} | {default} | {} | {} |", key.name, variable(key), key.about);
    }
}

fn variable(key: &Key) -> String {
    if matches!(key.kind, Kind::Tables(_)) { String::new() } else { format!("`{}`", variable_of(key)) }
}

fn upstream_variable(key: &Key) -> String {
    format!("`SHADOWCAT_UPSTREAMS_<NAME>_{}`", key.name.to_uppercase())
}
