//! Why a credential was not taken. Texts are for the operator; none of them repeats anything of the credential.

use thiserror::Error;

/// One variant a cause. Whom it is told how is the worker's business; see [`AuthError::is_ours`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    #[error("no credential was sent")]
    Missing,
    #[error("the token is longer than {} bytes", super::TOKEN_BYTES_MAX)]
    TooLong,
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    #[error("a key stands twice in the token")]
    DuplicateKey,
    #[error("the token's algorithm is none that this issuer and this key may use")]
    Algorithm,
    #[error("the token's `typ` is not that of an access token")]
    Type,
    #[error("the token has critical extensions, and none is supported")]
    Critical,
    #[error("this is an ID token, which is not for us")]
    IdToken,
    #[error("the token is bound to a key or certificate of its sender, which cannot be checked here")]
    SenderConstrained,
    #[error("the token's issuer is not configured, or it names none")]
    Issuer,
    #[error("the token is for another audience, or names none")]
    Audience,
    #[error("the token says not when it expires")]
    NoExpiry,
    #[error("the token, or the certificate, has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token was issued in the future")]
    IssuedInFuture,
    #[error("the token says not who it is about")]
    Subject,
    #[error("the token names a key that its issuer does not publish")]
    UnknownKid {
        /// For [`super::Keys::unknown_kid`].
        issuer: usize,
    },
    #[error("the token names no key, and its issuer publishes more than one")]
    NoKid,
    #[error("the signature does not verify")]
    Signature,
    #[error("the token is opaque, and no issuer has an introspection endpoint")]
    Opaque,
    #[error("the issuer says that the token is not active")]
    Inactive,
    #[error("no such API key")]
    UnknownKey,
    #[error("the certificate names nobody")]
    Certificate,
    #[error("the cookie of the login is not ours, or was changed")]
    Cookie,
    #[error("the user logged out")]
    LoggedOut,
    #[error("the ID token belongs to another login")]
    Nonce,
    #[error("there are no keys to verify tokens with: the issuer could not be asked")]
    KeysUnavailable,
    #[error("too many tokens wait for introspection")]
    Busy,
    #[error("the introspection endpoint could not be asked")]
    IntrospectionUnavailable,
    #[error("the introspection endpoint answered something else than RFC 7662 has")]
    IntrospectionAnswer,
}

impl AuthError {
    /// The label of this cause in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            AuthError::Missing => "missing",
            AuthError::TooLong => "too_long",
            AuthError::Malformed(_) => "malformed",
            AuthError::DuplicateKey => "duplicate_key",
            AuthError::Algorithm => "algorithm",
            AuthError::Type => "type",
            AuthError::Critical => "critical",
            AuthError::IdToken => "id_token",
            AuthError::SenderConstrained => "sender_constrained",
            AuthError::Issuer => "issuer",
            AuthError::Audience => "audience",
            AuthError::NoExpiry => "no_expiry",
            AuthError::Expired => "expired",
            AuthError::NotYetValid => "not_yet_valid",
            AuthError::IssuedInFuture => "issued_in_future",
            AuthError::Subject => "subject",
            AuthError::UnknownKid { .. } => "unknown_kid",
            AuthError::NoKid => "no_kid",
            AuthError::Signature => "signature",
            AuthError::Opaque => "opaque",
            AuthError::Inactive => "inactive",
            AuthError::UnknownKey => "unknown_key",
            AuthError::Certificate => "certificate",
            AuthError::Cookie => "cookie",
            AuthError::LoggedOut => "logged_out",
            AuthError::Nonce => "nonce",
            AuthError::KeysUnavailable => "keys_unavailable",
            AuthError::Busy => "busy",
            AuthError::IntrospectionUnavailable => "introspection_unavailable",
            AuthError::IntrospectionAnswer => "introspection_answer",
        }
    }

    /// All labels, for cells that are counted by index.
    pub const REASONS: [&'static str; 30] = [
        "missing",
        "too_long",
        "malformed",
        "duplicate_key",
        "algorithm",
        "type",
        "critical",
        "id_token",
        "sender_constrained",
        "issuer",
        "audience",
        "no_expiry",
        "expired",
        "not_yet_valid",
        "issued_in_future",
        "subject",
        "unknown_kid",
        "no_kid",
        "signature",
        "opaque",
        "inactive",
        "unknown_key",
        "certificate",
        "cookie",
        "logged_out",
        "nonce",
        "keys_unavailable",
        "busy",
        "introspection_unavailable",
        "introspection_answer",
    ];

    /// Where `reason` stands in `REASONS`.
    pub fn index(self) -> usize {
        AuthError::REASONS.iter().position(|reason| *reason == self.reason()).unwrap_or_default()
    }

    /// Whether the client is not to blame and may come again with the same credential: 503, not 401.
    pub fn is_ours(self) -> bool {
        matches!(
            self,
            AuthError::KeysUnavailable
                | AuthError::Busy
                | AuthError::IntrospectionUnavailable
                | AuthError::IntrospectionAnswer
        )
    }

    /// Whether the same credential may be taken later without anything changing on our side, so that this refusal must
    /// not be remembered.
    pub fn may_pass_later(self) -> bool {
        self.is_ours()
            || matches!(self, AuthError::NotYetValid | AuthError::IssuedInFuture | AuthError::UnknownKid { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place() {
        let all = [
            AuthError::Missing,
            AuthError::TooLong,
            AuthError::Malformed("x"),
            AuthError::DuplicateKey,
            AuthError::Algorithm,
            AuthError::Type,
            AuthError::Critical,
            AuthError::IdToken,
            AuthError::SenderConstrained,
            AuthError::Issuer,
            AuthError::Audience,
            AuthError::NoExpiry,
            AuthError::Expired,
            AuthError::NotYetValid,
            AuthError::IssuedInFuture,
            AuthError::Subject,
            AuthError::UnknownKid { issuer: 0 },
            AuthError::NoKid,
            AuthError::Signature,
            AuthError::Opaque,
            AuthError::Inactive,
            AuthError::UnknownKey,
            AuthError::Certificate,
            AuthError::Cookie,
            AuthError::LoggedOut,
            AuthError::Nonce,
            AuthError::KeysUnavailable,
            AuthError::Busy,
            AuthError::IntrospectionUnavailable,
            AuthError::IntrospectionAnswer,
        ];
        assert!(all.iter().map(|error| error.index()).eq(0..AuthError::REASONS.len()));
        assert_eq!(all.iter().filter(|error| error.is_ours()).count(), 4);
    }
}
