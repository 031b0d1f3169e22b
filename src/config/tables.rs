//! The options of tables within sections; part of `schema`.

use super::schema::{Key, key};
use super::values::{ALGORITHMS, Item, Kind::*};

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
