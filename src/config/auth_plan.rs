//! Authentication as run: part of the plan.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::{KeyHash, Secret};
use crate::wire::jose::Algorithm;

/// Who may ask, and how it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthPlan {
    /// Asked in this order; the first that knows the credential decides. Never empty.
    pub providers: Vec<Provider>,
    /// Nothing could ever be verified: probes are answered, everything else is refused.
    pub closed: bool,
    /// Those of `oauth2`, the one of `[auth]` itself first. The order is that of `identity::Keyring`.
    pub issuers: Vec<IssuerPlan>,
    /// Those of `api_key`; names and hashes are unique.
    pub api_keys: Vec<ApiKeyPlan>,
    /// Scopes of whoever shows a client certificate.
    pub certificate_scopes: Vec<String>,
    /// The field that carries an API key (besides `Authorization: Bearer`).
    pub api_key_header: String,
    /// A token needs at least one of these; empty: none. Also asked for at login and told to clients.
    pub scopes: Vec<String>,
    /// Scopes that some requests need besides.
    pub rules: Vec<RulePlan>,
    /// Paths that need no credential; see [`AuthPlan::is_public`].
    pub public: Vec<String>,
    /// Our own name as clients ask for it (RFC 8707, RFC 9728): the first audience that is a URL, else the origin of
    /// `redirect_uri`; `None`: what `Host` says.
    pub resource: Option<String>,
    /// Browsers may log in.
    pub login: Option<LoginPlan>,
    /// PEM file of the roots that sign the certificates of authorization servers; `None`: the system's.
    pub ca_path: Option<PathBuf>,
    /// Time between two regular fetches of a key set.
    pub keys_refresh: Duration,
    /// How long an answer of introspection is remembered at most, within the token's life.
    pub introspection_cache: Duration,
    /// How long keys are used after the last fetch that worked.
    pub stale_keys_max: Duration,
}

/// A way to say who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    OAuth2,
    ApiKey,
    Mtls,
}

/// An authorization server whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerPlan {
    /// `iss`, verbatim; `None`: what discovery names, else anything of the origin of the URLs below.
    pub issuer: Option<String>,
    /// `None`: discovered, if there is an issuer.
    pub jwks_url: Option<String>,
    pub introspection_url: Option<String>,
    /// Never empty.
    pub audiences: Vec<String>,
    /// Never empty.
    pub algorithms: Vec<Algorithm>,
    pub leeway: Duration,
    /// Who we are at its introspection endpoint.
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
}

impl IssuerPlan {
    /// Whether its JWTs are verified by keys: not where only introspection is configured.
    pub fn has_keys(&self) -> bool {
        self.jwks_url.is_some() || self.introspection_url.is_none()
    }
}

/// The authorization code flow for browsers, at the first of the issuers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginPlan {
    /// `None`: what discovery names.
    pub auth_url: Option<String>,
    /// `None`: what discovery names.
    pub token_url: Option<String>,
    /// Verbatim, as the authorization server knows it.
    pub redirect_uri: String,
    /// The path of `redirect_uri`.
    pub callback_path: String,
    /// Our own origin as browsers have it: that of `redirect_uri`.
    pub origin: String,
    pub client_id: String,
    pub client_secret: Option<Secret>,
    /// An authorization server whose metadata does not name S256 is refused. The proof key is sent in any case.
    pub pkce_required: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyPlan {
    pub name: String,
    pub hash: KeyHash,
    pub scopes: Vec<String>,
}

/// Scopes that a request needs if all that is said fits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePlan {
    /// This path and everything below it, however it is spelt.
    pub path: Option<String>,
    /// The MCP method.
    pub method: Option<String>,
    pub tool: Option<String>,
    /// All of them. Never empty.
    pub scopes: Vec<String>,
}

/// What is sent to an upstream in place of the client's own credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialPlan {
    /// A field that never changes.
    Field { name: String, value: Secret },
    /// The client-credentials grant (RFC 6749 section 4.4).
    Grant(GrantPlan),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantPlan {
    pub token_url: String,
    pub client_id: String,
    pub client_secret: Secret,
    pub scopes: Vec<String>,
    /// The upstream as the authorization server knows it (RFC 8707).
    pub resource: Option<String>,
}

impl AuthPlan {
    /// Whether a request for this path (without query) needs no credential. An entry means itself, and with `/*` at its
    /// end everything below it. A path that somebody else could read as another one is never public.
    pub fn is_public(&self, path: &str) -> bool {
        let fits = |entry: &String| match entry.strip_suffix("/*") {
            Some(folder) => path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
            None => *entry == path,
        };
        let plain = !path.contains(['%', '\\', ';']) && !path.contains("//") && !path.contains("/.");
        plain && self.public.iter().any(fits)
    }
}

impl RulePlan {
    /// Whether this is about a request for `path` (without query) that does `method` on `tool`. Whatever could be read
    /// as the path of the rule counts as it, since a rule takes rights away.
    pub fn covers(&self, path: &str, method: Option<&str>, tool: Option<&str>) -> bool {
        let by_path = self.path.as_deref().is_none_or(|own| is_below(&plain_path(path), &plain_path(own)));
        let same = |own: &Option<String>, other: Option<&str>| own.is_none() || own.as_deref() == other;
        by_path && same(&self.method, method) && same(&self.tool, tool)
    }
}

fn is_below(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Decoded, lower case, without parameters, empty and dot segments: what the most forgiving server makes of a path.
fn plain_path(path: &str) -> String {
    let mut decoded = path.to_owned();
    // Twice, for servers behind servers.
    for _ in 0..2 {
        decoded = percent_decoded(&decoded);
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            plain => segments.push(plain.to_ascii_lowercase()),
        }
    }
    format!("/{}", segments.join("/"))
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let mut ahead = bytes.clone();
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(public: &[&str]) -> AuthPlan {
        AuthPlan {
            providers: vec![Provider::OAuth2],
            closed: true,
            issuers: Vec::new(),
            api_keys: Vec::new(),
            certificate_scopes: Vec::new(),
            api_key_header: "X-API-Key".into(),
            scopes: Vec::new(),
            rules: Vec::new(),
            public: public.iter().map(|path| path.to_string()).collect(),
            resource: None,
            login: None,
            ca_path: None,
            keys_refresh: Duration::from_secs(1),
            introspection_cache: Duration::ZERO,
            stale_keys_max: Duration::from_secs(1),
        }
    }

    #[test]
    fn public_paths_are_exactly_those_that_are_named() {
        let plan = plan(&["/docs", "/static/*"]);
        for public in ["/docs", "/static/", "/static/a/b.css"] {
            assert!(plan.is_public(public), "{public}");
        }
        for not in ["/", "/docs/", "/docs/x", "/docsx", "/static", "/staticx/a", "/DOCS"] {
            assert!(!plan.is_public(not), "{not}");
        }
        for other in ["/static/../mcp", "/static/%2e%2e/mcp", "/static/..;/mcp", "/static//mcp", "/static/\\mcp"] {
            assert!(!plan.is_public(other), "{other}");
        }
    }

    #[test]
    fn rules_cover_every_spelling_of_their_path() {
        let rule = RulePlan { path: Some("/mcp".into()), method: None, tool: None, scopes: vec!["a".into()] };
        for path in ["/mcp", "/mcp/", "/mcp/x", "//mcp", "/%6Dcp", "/%256dcp", "/x/../mcp", "/./mcp;a", "/MCP", "\\mcp"]
        {
            assert!(rule.covers(path, None, None), "{path}");
        }
        assert!(
            !rule.covers("/mcpx", None, None) && !rule.covers("/", None, None) && !rule.covers("/x/mcp", None, None)
        );
        let everywhere = RulePlan { path: Some("/".into()), ..rule.clone() };
        assert!(everywhere.covers("/anything", None, None));
        let tool = RulePlan { path: None, method: Some("tools/call".into()), tool: Some("deploy".into()), ..rule };
        assert!(tool.covers("/", Some("tools/call"), Some("deploy")));
        assert!(!tool.covers("/", Some("tools/call"), Some("other")) && !tool.covers("/", Some("tools/list"), None));
    }
}
