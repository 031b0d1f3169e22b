//! Upstreams as written to upstreams as run.

use std::path::PathBuf;

use super::auth::{check_url_of_record, field_name};
use super::items;
use super::layers::Record;
use super::plan::{CredentialPlan, GrantPlan, UpstreamPlan, UpstreamTls};
use super::planning::Planner;
use crate::base::Secret;

/// In the order of the configuration.
pub fn plans(planner: &mut Planner<'_>) -> Vec<UpstreamPlan> {
    let mut plans: Vec<UpstreamPlan> = Vec::new();
    for record in planner.layers.upstreams.iter().filter(|record| !record.broken) {
        let Some(plan) = plan(planner, record) else { continue };
        if plans.iter().any(|other| other.name == plan.name) {
            let origin = record.settings.get("name").map_or(&record.origin, |setting| &setting.origin);
            let problem = origin.problem(format!("two upstreams are named `{}`", plan.name));
            planner.errors.push(problem.hint("give each a name of its own"));
        }
        plans.push(plan);
    }
    plans
}

fn plan(planner: &mut Planner<'_>, record: &Record) -> Option<UpstreamPlan> {
    let Some(setting) = record.settings.get("url") else {
        planner.errors.push(record.origin.problem("an upstream without its `url`"));
        return None;
    };
    let parts = match parts(&record.required::<String>("url")) {
        Ok(parts) => parts,
        Err(why) => {
            planner.errors.push(setting.origin.problem(format!("upstreams.url: {why}")));
            return None;
        }
    };
    let of_tls = ["ca_path", "server_name", "client_cert_path", "client_key_path"]
        .iter()
        .find_map(|name| record.settings.get(name));
    if let (false, Some(setting)) = (parts.tls, of_tls) {
        planner.errors.push(setting.origin.problem("only an https:// upstream has a certificate"));
    }
    let server_name = match record.optional::<String>("server_name").map(|name| items::host(&name)) {
        None => parts.host.clone(),
        Some(Ok(name)) => name,
        Some(Err(why)) => {
            let origin = record.settings.get("server_name").map_or(&record.origin, |setting| &setting.origin);
            planner.errors.push(origin.problem(format!("upstreams.server_name: {why}")));
            return None;
        }
    };
    let identity = identity(planner, record);
    let tls = parts.tls.then(|| UpstreamTls { server_name, ca_path: record.optional("ca_path"), identity });
    let credential = credential(planner, record);
    let named = record.optional::<String>("name");
    Some(UpstreamPlan {
        name: named.unwrap_or_else(|| format!("{}:{}", bracketed(&parts.host), parts.port)),
        host: parts.host,
        port: parts.port,
        authority: parts.authority,
        path: parts.path,
        tls,
        weight: record.required::<u64>("weight") as u32,
        max_connections: record.optional::<u64>("max_connections").map(|number| number as u32),
        timeout: record.required("timeout"),
        credential,
    })
}

/// Certificate and key that we show.
fn identity(planner: &mut Planner<'_>, record: &Record) -> Option<(PathBuf, PathBuf)> {
    let pair = ["client_cert_path", "client_key_path"];
    match pair.map(|name| record.settings.get(name)) {
        [Some(_), Some(_)] => Some((record.required(pair[0]), record.required(pair[1]))),
        [Some(setting), None] | [None, Some(setting)] => {
            let message = "upstreams.client_cert_path and upstreams.client_key_path need each other";
            planner.errors.push(setting.origin.problem(message));
            None
        }
        [None, None] => None,
    }
}

/// What is sent in place of the client's credential: one of three kinds.
fn credential(planner: &mut Planner<'_>, record: &Record) -> Option<CredentialPlan> {
    let text = |name: &str| record.optional::<String>(name);
    let secret = |name: &str| text(name).map(Secret::new);
    let kinds = ["bearer_token", "credential_header", "token_url"];
    let mut said = kinds.iter().filter_map(|name| Some((name, record.settings.get(name)?)));
    let (first, second) = (said.next(), said.next());
    if let (Some((one, _)), Some((other, setting))) = (first, second) {
        let message = format!("upstreams.{one} and upstreams.{other}: an upstream is sent one credential");
        planner.errors.push(setting.origin.problem(message));
    }
    let parts = [
        ("credential_header", &["credential"][..]),
        ("credential", &["credential_header"]),
        ("token_url", &["client_id", "client_secret"]),
        ("client_id", &["token_url"]),
        ("client_secret", &["token_url"]),
        ("scopes", &["token_url"]),
        ("resource", &["token_url"]),
    ];
    for (name, needed) in parts {
        let Some(setting) = record.settings.get(name) else { continue };
        for missing in needed.iter().filter(|needed| !record.settings.contains_key(**needed)) {
            planner.errors.push(setting.origin.problem(format!("upstreams.{name} needs upstreams.{missing}")));
        }
    }
    for name in ["bearer_token", "credential"] {
        let Some((setting, value)) = record.settings.get(name).zip(text(name)) else { continue };
        if !value.bytes().all(|b| b.is_ascii_graphic() || (b == b' ' && name == "credential")) {
            planner.errors.push(setting.origin.problem(format!("upstreams.{name}: expected visible ASCII characters")));
        }
    }
    match first.map(|(name, _)| *name)? {
        "bearer_token" => {
            let value = Secret::new(format!("Bearer {}", text("bearer_token")?));
            Some(CredentialPlan::Field { name: "Authorization".into(), value })
        }
        "credential_header" => {
            let (setting, name) = record.settings.get("credential_header").zip(text("credential_header"))?;
            if let Err(why) = field_name(&name) {
                planner.errors.push(setting.origin.problem(format!("upstreams.credential_header: {why}")));
            }
            Some(CredentialPlan::Field { name, value: secret("credential")? })
        }
        _ => {
            check_url_of_record(planner, record, "upstreams", "token_url");
            Some(CredentialPlan::Grant(GrantPlan {
                token_url: text("token_url")?,
                client_id: text("client_id")?,
                client_secret: secret("client_secret")?,
                scopes: record.optional("scopes").unwrap_or_default(),
                resource: text("resource"),
            }))
        }
    }
}

struct Parts {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

/// # Errors
/// What a server's address must not hold. The text is not repeated: it may hold a password.
fn parts(text: &str) -> Result<Parts, String> {
    let url = items::url(text)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an upstream's URL holds no user and no password".into());
    }
    if url.query().is_some() {
        return Err("an upstream's URL has no query".into());
    }
    let host = url.host_str().ok_or("this URL has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().filter(|port| *port > 0).ok_or("port 0 is no port to connect to")?;
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", bracketed(&host)),
        None => bracketed(&host),
    };
    Ok(Parts { tls: url.scheme() == "https", authority, port, path: url.path().to_owned(), host })
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_upstreams_are_taken_apart() {
        let found = parts("https://[::1]/mcp").unwrap();
        assert_eq!((found.tls, found.host.as_str(), found.port), (true, "::1", 443));
        assert_eq!((found.authority.as_str(), found.path.as_str()), ("[::1]", "/mcp"));
        let found = parts("http://H:80").unwrap();
        assert_eq!((found.authority.as_str(), found.path.as_str(), found.port), ("h", "/", 80));
        assert_eq!(parts("http://h:8080").unwrap().authority, "h:8080");
        for bad in
            ["ftp://h", "http://u:p@h", "http://u@h", "http://h/?a", "http://h/#a", "h:80", "http://", "http://h:0"]
        {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
