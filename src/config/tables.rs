//! The options of tables within sections; part of `schema`.

use super::schema::{Key, WEIGHT_MAX, key};
use super::values::{ALGORITHMS, Item, Kind::*};

/// The options of one `[[upstreams]]` table.
pub const UPSTREAM_KEYS: &[Key] = &[
    key("upstreams", "name", Label, "", "Its name in metrics and sessions; unique. Default: `host:port`."),
    key(
        "upstreams",
        "url",
        Url,
        "",
        "`http://` or `https://`, without user, query and fragment. A request for `/` is sent to its path, any other as it is.",
    ),
    key("upstreams", "weight", Count(1, WEIGHT_MAX), "1", "Its share of new sessions and of requests without one."),
    key(
        "upstreams",
        "max_connections",
        Count(1, 1_000_000),
        "",
        "Connections in use at a time, over all workers. Default: no limit.",
    ),
    key(
        "upstreams",
        "timeout",
        Duration,
        "30",
        "To the head of the answer, then between bytes of its body; never on an event stream.",
    ),
    key("upstreams", "ca_path", Path, "", "PEM file of the roots that sign its certificate. Default: the system's."),
    key("upstreams", "client_cert_path", Path, "", "Certificate chain that it is shown, PEM."),
    key(
        "upstreams",
        "client_key_path",
        Path,
        "",
        "Private key of `client_cert_path`; a file that others can read is refused.",
    ),
    key("upstreams", "bearer_token", Secret, "", "Sent to it as `Authorization: Bearer`."),
    key("upstreams", "credential_header", Text, "", "Name of a field that is sent to it, such as `X-API-Key`."),
    key("upstreams", "credential", Secret, "", "Value of `credential_header`."),
    key("upstreams", "token_url", Url, "", "Where we get a token for it, by the client-credentials grant."),
    key("upstreams", "client_id", Text, "", "Our id at `token_url`."),
    key("upstreams", "client_secret", Secret, "", "Our secret at `token_url`."),
    key("upstreams", "scopes", List(Item::Scope), "", "Asked for at `token_url`."),
    key("upstreams", "resource", Url, "", "The upstream as `token_url` knows it (RFC 8707)."),
    key("upstreams", "server_name", Text, "", "Name in its certificate, also sent as SNI. Default: the URL's host."),
];

/// The options of one `[[auth.issuers]]` table.
pub const ISSUER_KEYS: &[Key] = &[
    key("auth.issuers", "issuer", Url, "", "Whose tokens are taken; as in `[auth]`, like all of these."),
    key("auth.issuers", "jwks_url", Url, "", "Key set. Default: what the issuer publishes."),
    key("auth.issuers", "introspection_url", Url, "", "Where opaque tokens are asked about."),
    key(
        "auth.issuers",
        "audience",
        List(Item::Text),
        "",
        "Default: `auth.audience`, else our public URL and `client_id`.",
    ),
    key("auth.issuers", "algorithms", List(Item::Choice(ALGORITHMS)), "", "Default: `auth.algorithms`."),
    key("auth.issuers", "client_id", Text, "", "Our id there."),
    key("auth.issuers", "client_secret", Secret, "", "Our secret there."),
];

/// The options of one `[[tls.certificates]]` table.
pub const CERTIFICATE_KEYS: &[Key] = &[
    key("tls.certificates", "cert_path", Path, "", "Certificate chain, PEM."),
    key("tls.certificates", "key_path", Path, "", "Private key, PEM; a file that others can read is refused."),
];

/// The options of one `[[auth.rules]]` table.
pub const RULE_KEYS: &[Key] = &[
    key("auth.rules", "path", Route, "", "The path it is about. Without it: any."),
    key("auth.rules", "method", Text, "", "The MCP method it is about, such as `tools/call`. Without it: any."),
    key("auth.rules", "tool", Text, "", "The tool it is about. Without it: any."),
    key("auth.rules", "scopes", List(Item::Scope), "", "What a token needs, all of it."),
];

/// The options of one `[[auth.api_keys]]` table.
pub const API_KEY_KEYS: &[Key] = &[
    key("auth.api_keys", "name", Label, "", "Whose it is, for logs."),
    key(
        "auth.api_keys",
        "hash",
        Secret,
        "",
        "What `shadowcat auth hash-key` makes of the key; the key itself is in no file.",
    ),
    key("auth.api_keys", "scopes", List(Item::Scope), "", "What it may do."),
];
