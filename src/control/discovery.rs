//! What an authorization server says of itself: RFC 8414 and OpenID Connect Discovery.

use serde_json::{Map, Value};
use url::Url;

use super::fetch::{Client, NamedBy};

/// What of the metadata matters to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub issuer: String,
    pub jwks_uri: Option<String>,
    pub authorization_endpoint: Option<String>,
    pub token_endpoint: Option<String>,
    pub end_session_endpoint: Option<String>,
    /// RFC 9207: answers to a login carry `iss`.
    pub sends_iss: bool,
    /// It knows the scope `openid`.
    pub is_openid: bool,
    /// RFC 7636 with S256, as RFC 8414 section 2 says it.
    pub has_proof_keys: bool,
}

/// The metadata of `issuer`, which must name that very issuer (RFC 8414 section 3.3).
///
/// # Errors
/// What each place of it answered.
pub fn of_issuer(client: &Client, issuer: &str) -> Result<Metadata, String> {
    fetch(client, issuer, |named| named == issuer)
}

/// The metadata of whatever issuer is at the root of this origin.
///
/// # Errors
/// What each place of it answered.
pub fn of_origin(client: &Client, origin: &str) -> Result<Metadata, String> {
    fetch(client, origin, |named| named.trim_end_matches('/') == origin)
}

/// Who named a URL that stands in the metadata of `issuer`: another host than the issuer's is news to the operator.
pub fn named_by(issuer: &str, url: &str) -> NamedBy {
    match (Url::parse(issuer), Url::parse(url)) {
        (Ok(issuer), Ok(url)) if issuer.host() == url.host() && issuer.scheme() == url.scheme() => {
            NamedBy::Configuration
        }
        _ => NamedBy::Answer,
    }
}

fn fetch(client: &Client, issuer: &str, fits: impl Fn(&str) -> bool) -> Result<Metadata, String> {
    let mut failures = Vec::new();
    for place in places(issuer).ok_or("the issuer is no URL")? {
        let read = client.get(&place, NamedBy::Configuration).map_err(|error| error.to_string());
        match read.and_then(|text| parse(&text).map_err(|why| format!("{place}: {why}"))) {
            Ok(metadata) if fits(&metadata.issuer) => return Ok(metadata),
            Ok(_) => failures.push(format!("{place}: it is the metadata of another issuer")),
            Err(why) => failures.push(why),
        }
    }
    Err(failures.join("; "))
}

/// Where the metadata may be, in the order of the MCP specification (Authorization, "Authorization Server Metadata
/// Discovery").
fn places(issuer: &str) -> Option<Vec<String>> {
    let url = Url::parse(issuer).ok()?;
    let origin = url.origin().ascii_serialization();
    let path = url.path().trim_end_matches('/');
    let (oauth, openid) = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration");
    let mut places = vec![format!("{origin}{oauth}{path}"), format!("{origin}{openid}{path}")];
    if !path.is_empty() {
        places.push(format!("{origin}{path}{openid}"));
    }
    Some(places)
}

fn parse(text: &[u8]) -> Result<Metadata, &'static str> {
    let document: Map<String, Value> = serde_json::from_slice(text).map_err(|_| "not a JSON object")?;
    let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
    let lists = |name: &str, word: &str| {
        document.get(name).and_then(Value::as_array).is_some_and(|list| list.iter().any(|item| item == word))
    };
    Ok(Metadata {
        issuer: text("issuer").ok_or("no `issuer` in it")?,
        jwks_uri: text("jwks_uri"),
        authorization_endpoint: text("authorization_endpoint"),
        token_endpoint: text("token_endpoint"),
        end_session_endpoint: text("end_session_endpoint"),
        sends_iss: document.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
        is_openid: lists("scopes_supported", "openid"),
        has_proof_keys: lists("code_challenge_methods_supported", "S256"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_parts_are_inserted_before_the_path_and_appended_for_openid() {
        assert_eq!(
            places("https://a.example/t/1/").unwrap(),
            [
                "https://a.example/.well-known/oauth-authorization-server/t/1",
                "https://a.example/.well-known/openid-configuration/t/1",
                "https://a.example/t/1/.well-known/openid-configuration",
            ]
        );
        assert_eq!(places("https://a.example").unwrap().len(), 2);
        assert!(places("nonsense").is_none());
    }

    #[test]
    fn other_hosts_in_metadata_are_not_trusted_with_private_addresses() {
        assert_eq!(named_by("https://a.example/x", "https://a.example/jwks"), NamedBy::Configuration);
        assert_eq!(named_by("https://a.example", "https://b.example/jwks"), NamedBy::Answer);
        assert_eq!(named_by("https://a.example", "http://a.example/jwks"), NamedBy::Answer);
    }
}
