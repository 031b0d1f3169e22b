//! `[auth]` as written to authentication as run.

use std::time::Duration;

use url::Url;

use super::errors::Problem;
use super::items;
use super::layers::{Origin, Record};
use super::plan::*;
use super::planning::Planner;
use super::sections::is_on;
use crate::base::{KeyHash, Secret};
use crate::wire::jose::Algorithm;

/// What makes `[auth]` itself an issuer.
const OWN_SOURCES: [&str; 3] = ["auth.issuer", "auth.jwks_url", "auth.introspection_url"];
/// Each has a thread.
const ISSUERS_MAX: usize = 16;

/// `None`: authentication is off.
pub fn plan(planner: &mut Planner<'_>) -> Option<AuthPlan> {
    if !is_on(planner.layers, "auth") {
        return None;
    }
    let api_keys = api_keys(planner);
    let issuers = issuers(planner);
    let providers = providers(planner, !api_keys.is_empty());
    let layers = planner.layers;
    let list = |path| layers.optional::<Vec<String>>(path).unwrap_or_default();
    let public_url = public_url(planner);
    let resource = list("auth.audience").into_iter().find(|audience| Url::parse(audience).is_ok_and(|u| u.has_host()));
    let header = planner.text("auth.api_key_header");
    check_field_name(planner, "auth.api_key_header", &header);
    let login = login(planner).filter(|_| providers.contains(&Provider::OAuth2));
    let mut plan = AuthPlan {
        providers,
        closed: false,
        issuers,
        api_keys,
        certificate_scopes: list("auth.certificate_scopes"),
        api_key_header: header,
        scopes: list("auth.scopes"),
        rules: rules(planner),
        public: list("auth.public"),
        resource: resource.or(public_url),
        login,
        ca_path: layers.optional("auth.ca_path"),
        keys_refresh: layers.required("auth.keys_refresh"),
        introspection_cache: layers.required("auth.introspection_cache"),
        stale_keys_max: layers.required("auth.stale_keys_max"),
    };
    plan.closed = !plan.providers.clone().into_iter().any(|provider| can_verify(planner, &plan, provider));
    if plan.closed {
        planner.warnings.push(
            "[auth] says nothing that anybody could be verified with (jwks_url, issuer or introspection_url for \
             oauth2): every request but those of probes will be refused"
                .into(),
        );
    }
    Some(plan)
}

// --- providers -------------------------------------------------------------------------------------------------------

fn providers(planner: &mut Planner<'_>, has_api_keys: bool) -> Vec<Provider> {
    let paths = ["auth.providers", "auth.provider"];
    let chosen = planner.either(paths, |_, _| Some("auth.provider and auth.providers are one setting".into()));
    let names: Vec<String> = match chosen {
        Some("auth.providers") => planner.layers.optional("auth.providers").unwrap_or_default(),
        _ => vec![planner.text("auth.provider")],
    };
    let mut providers = Vec::new();
    for name in names {
        let provider = match name.as_str() {
            "api_key" => Provider::ApiKey,
            "mtls" => Provider::Mtls,
            _ => Provider::OAuth2,
        };
        if !providers.contains(&provider) {
            providers.push(provider);
        }
    }
    match chosen {
        Some(path) if providers.is_empty() => planner.blame(path, format!("{path}: name at least one")),
        None if has_api_keys => providers.push(Provider::ApiKey),
        _ => {}
    }
    providers
}

/// Whether anybody can pass by this provider; says so if it was asked for by name and cannot work.
fn can_verify(planner: &mut Planner<'_>, plan: &AuthPlan, provider: Provider) -> bool {
    match provider {
        Provider::OAuth2 => !plan.issuers.is_empty(),
        Provider::ApiKey if plan.api_keys.is_empty() => {
            planner.warnings.push("[auth] takes API keys and has none: add [[auth.api_keys]]".into());
            false
        }
        Provider::ApiKey => true,
        Provider::Mtls => {
            let off = planner.layers.optional::<bool>("tls.enabled") == Some(false);
            let has_roots = planner.layers.get("tls.client_ca_path").is_some() && !off;
            if !has_roots {
                let path = if planner.layers.get("auth.providers").is_some() { "providers" } else { "provider" };
                let message = "mtls needs tls.client_ca_path, which says whose certificates are taken";
                planner.blame(&format!("auth.{path}"), format!("auth.{path}: {message}"));
            }
            has_roots
        }
    }
}

fn api_keys(planner: &mut Planner<'_>) -> Vec<ApiKeyPlan> {
    let mut plans: Vec<ApiKeyPlan> = Vec::new();
    for record in tables(planner, "auth.api_keys") {
        // What is missing is told by the checks.
        let (Some(name), Some(hash)) = (record.optional::<String>("name"), record.optional::<String>("hash")) else {
            continue;
        };
        let hash = match KeyHash::parse(&hash) {
            Ok(hash) => hash,
            Err(expected) => {
                planner.errors.push(origin(record, "hash").problem(format!("auth.api_keys.hash: {expected}")));
                continue;
            }
        };
        if plans.iter().any(|other| other.name == name) {
            planner.errors.push(origin(record, "name").problem(format!("two API keys are named `{name}`")));
        } else if plans.iter().any(|other| other.hash == hash) {
            planner.errors.push(origin(record, "hash").problem("this is the hash of another key as well"));
        }
        plans.push(ApiKeyPlan { name, hash, scopes: record.optional("scopes").unwrap_or_default() });
    }
    plans
}

fn rules(planner: &Planner<'_>) -> Vec<RulePlan> {
    let rule = |record: &Record| RulePlan {
        path: record.optional("path"),
        method: record.optional("method"),
        tool: record.optional("tool"),
        scopes: record.optional("scopes").unwrap_or_default(),
    };
    tables(planner, "auth.rules").map(rule).collect()
}

fn login(planner: &mut Planner<'_>) -> Option<LoginPlan> {
    for name in ["auth_url", "token_url", "redirect_uri"] {
        let path = format!("auth.{name}");
        check_url_of_setting(planner, &path);
    }
    let layers = planner.layers;
    let (redirect_uri, client_id) = (layers.optional::<String>("auth.redirect_uri"), layers.optional("auth.client_id"));
    let (Some(redirect_uri), Some(client_id)) = (redirect_uri, client_id) else {
        if layers.get("auth.auth_url").is_some() {
            let message = "browsers cannot log in at auth_url without redirect_uri and client_id";
            planner.warnings.push(format!("[auth] {message}"));
        }
        return None;
    };
    // An issuer of `[auth]` itself is the one that browsers log in at: what verifies tokens verifies what they bring.
    if OWN_SOURCES.iter().all(|path| layers.get(path).is_none()) {
        if layers.get("auth.auth_url").is_some() {
            let message = "browsers cannot log in at auth_url without issuer, jwks_url or introspection_url";
            planner.warnings.push(format!("[auth] {message}"));
        }
        return None;
    }
    let url = Url::parse(&redirect_uri).ok()?;
    if let Err(why) = check_redirection(&url) {
        planner.blame("auth.redirect_uri", format!("auth.redirect_uri: {why}"));
    } else if url.scheme() == "http" {
        let message = "redirect_uri is plain http: not every browser keeps the cookies of a login there";
        planner.warnings.push(format!("[auth] {message}"));
    }
    Some(LoginPlan {
        auth_url: layers.optional("auth.auth_url"),
        token_url: layers.optional("auth.token_url"),
        callback_path: url.path().to_owned(),
        origin: url.origin().ascii_serialization(),
        redirect_uri,
        client_id,
        client_secret: layers.optional::<String>("auth.client_secret").map(Secret::new),
        pkce_required: layers.required("auth.pkce_required"),
    })
}

/// What a browser is sent back to: a page of its own (RFC 6749 section 3.1.2).
fn check_redirection(url: &Url) -> Result<(), String> {
    const TAKEN: [&str; 6] = ["/", "/login", "/logout", "/health", "/ready", "/metrics"];
    match url.path() {
        _ if url.fragment().is_some() => Err("a fragment never reaches a server".into()),
        path if TAKEN.contains(&path) || path.starts_with("/.well-known/oauth-protected-resource") => {
            Err(format!("the path {path} is taken: the redirection needs one of its own, such as /callback"))
        }
        _ => Ok(()),
    }
}

// --- issuers ---------------------------------------------------------------------------------------------------------

fn issuers(planner: &mut Planner<'_>) -> Vec<IssuerPlan> {
    let mut plans: Vec<(IssuerPlan, Option<Origin>)> = own_issuer(planner).into_iter().collect();
    for record in tables(planner, "auth.issuers") {
        for name in ["issuer", "jwks_url", "introspection_url"] {
            check_url_of_record(planner, record, "auth.issuers", name);
        }
        if ["issuer", "jwks_url", "introspection_url"].iter().all(|name| !record.settings.contains_key(name)) {
            let message = "[[auth.issuers]] without an `issuer`, `jwks_url` or `introspection_url`";
            planner.errors.push(record.origin.problem(message));
            continue;
        }
        let plan = table_issuer(planner, record);
        plans.push((plan, Some(origin(record, "issuer").clone())));
    }
    for (at, (plan, origin)) in plans.iter().enumerate() {
        let Some(origin) = origin else { continue };
        if plan.issuer.is_some() && plans[..at].iter().any(|(other, _)| other.issuer == plan.issuer) {
            planner.errors.push(origin.problem("this issuer is there already"));
        }
        if at >= ISSUERS_MAX {
            planner.errors.push(origin.problem(format!("at most {ISSUERS_MAX} issuers")));
        }
        if plan.audiences.is_empty() {
            planner.errors.push(no_audience(origin.problem("[[auth.issuers]] without an `audience`")));
        }
    }
    plans.into_iter().map(|(plan, _)| plan).collect()
}

/// The issuer that `[auth]` itself describes.
fn own_issuer(planner: &mut Planner<'_>) -> Option<(IssuerPlan, Option<Origin>)> {
    for path in OWN_SOURCES {
        check_url_of_setting(planner, path);
    }
    let source = OWN_SOURCES.into_iter().find(|path| planner.layers.get(path).is_some())?;
    let layers = planner.layers;
    let client_id: Option<String> = layers.optional("auth.client_id");
    let audiences = audiences(planner, None, client_id.as_deref());
    if audiences.is_empty() {
        let problem = planner.layers.get(source).map(|setting| {
            setting.origin.problem(format!("{source} without auth.audience: nothing says for whom tokens must be"))
        });
        problem.into_iter().for_each(|problem| planner.errors.push(no_audience(problem)));
    }
    let plan = IssuerPlan {
        issuer: layers.optional("auth.issuer"),
        jwks_url: layers.optional("auth.jwks_url"),
        introspection_url: layers.optional("auth.introspection_url"),
        audiences,
        algorithms: algorithms(layers.required("auth.algorithms")),
        leeway: layers.required::<Duration>("auth.leeway"),
        client_id,
        client_secret: layers.optional::<String>("auth.client_secret").map(Secret::new),
    };
    Some((plan, None))
}

fn table_issuer(planner: &Planner<'_>, record: &Record) -> IssuerPlan {
    let layers = planner.layers;
    let client_id: Option<String> = record.optional("client_id");
    let own_audience = record.optional::<Vec<String>>("audience");
    let own_algorithms = record.optional::<Vec<String>>("algorithms").filter(|list| !list.is_empty());
    IssuerPlan {
        issuer: record.optional("issuer"),
        jwks_url: record.optional("jwks_url"),
        introspection_url: record.optional("introspection_url"),
        audiences: audiences(planner, own_audience, client_id.as_deref()),
        algorithms: algorithms(own_algorithms.unwrap_or_else(|| layers.required("auth.algorithms"))),
        leeway: layers.required::<Duration>("auth.leeway"),
        client_id,
        client_secret: record.optional::<String>("client_secret").map(Secret::new),
    }
}

fn no_audience(problem: Problem) -> Problem {
    problem.hint("set `audience` to our own URL as clients know it, or `redirect_uri` or `client_id`")
}

/// What was said; else our public URL and our id as a client. An origin counts with and without its slash: libraries
/// that parse URLs add one.
fn audiences(planner: &Planner<'_>, own: Option<Vec<String>>, client_id: Option<&str>) -> Vec<String> {
    let said = own.or_else(|| planner.layers.optional("auth.audience")).filter(|list| !list.is_empty());
    let derived = || public_url(planner).into_iter().chain(client_id.map(str::to_owned)).collect();
    let mut all: Vec<String> = said.unwrap_or_else(derived);
    for at in 0..all.len() {
        let Ok(url) = Url::parse(&all[at]) else { continue };
        let origin = url.origin().ascii_serialization();
        if all[at].trim_end_matches('/') == origin {
            all.extend([origin.clone(), format!("{origin}/")]);
        }
    }
    let mut unique = Vec::new();
    all.into_iter().for_each(|audience| {
        if !unique.contains(&audience) {
            unique.push(audience);
        }
    });
    unique
}

/// The origin of `redirect_uri`.
fn public_url(planner: &Planner<'_>) -> Option<String> {
    let redirect: String = planner.layers.optional("auth.redirect_uri")?;
    Url::parse(&redirect).ok().map(|url| url.origin().ascii_serialization())
}

fn algorithms(names: Vec<String>) -> Vec<Algorithm> {
    names.iter().filter_map(|name| Algorithm::parse(name)).collect()
}

// --- checks of single values -----------------------------------------------------------------------------------------

fn tables<'p>(planner: &Planner<'p>, path: &str) -> impl Iterator<Item = &'p Record> + use<'p> {
    let layers = planner.layers;
    layers.tables.get(path).map_or(&[][..], Vec::as_slice).iter().filter(|record| !record.broken)
}

/// Where a key of a table stands, else the table.
fn origin<'r>(record: &'r Record, name: &str) -> &'r Origin {
    record.settings.get(name).map_or(&record.origin, |setting| &setting.origin)
}

fn check_url_of_setting(planner: &mut Planner<'_>, path: &str) {
    if let Some(text) = planner.layers.optional::<String>(path)
        && let Err(why) = server_url(&text)
    {
        planner.blame(path, format!("{path}: {why}"));
    }
}

/// As every URL that tokens, codes or secrets are sent to or keys come from.
pub fn check_url_of_record(planner: &mut Planner<'_>, record: &Record, table: &str, name: &str) {
    if let Some(text) = record.optional::<String>(name)
        && let Err(why) = server_url(&text)
    {
        planner.errors.push(origin(record, name).problem(format!("{table}.{name}: {why}")));
    }
}

/// # Errors
/// Not https, but for loopback; or with a user. The text is not repeated: it may hold a password.
fn server_url(text: &str) -> Result<(), String> {
    let url = items::url(text)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("this URL holds no user and no password".into());
    }
    if url.scheme() == "https" || items::is_loopback(&url) {
        Ok(())
    } else {
        Err("https:// is needed, except on loopback".into())
    }
}

pub fn check_field_name(planner: &mut Planner<'_>, path: &str, name: &str) {
    if let Err(why) = field_name(name) {
        planner.blame(path, format!("{path}: {why}"));
    }
}

/// A field name (RFC 9110 section 5.1) that has no meaning for the connection itself.
pub fn field_name(name: &str) -> Result<(), String> {
    const OURS: [&str; 9] = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "te",
        "trailer",
        "keep-alive",
        "proxy-connection",
    ];
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match name {
        _ if name.is_empty() || name.len() > 128 || !name.bytes().all(token) => {
            Err("expected the name of a header field such as X-API-Key".into())
        }
        _ if OURS.contains(&name.to_ascii_lowercase().as_str()) => Err("this field belongs to the connection".into()),
        _ => Ok(()),
    }
}
