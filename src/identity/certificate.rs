//! Client certificates: what TLS verified, as a principal.

use std::fmt::Write;
use std::sync::Arc;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

use super::error::AuthError;
use super::principal::Principal;

/// What `issuer` of principals with a certificate begins with; the name of the signer follows, since two signers below
/// the same roots may give away the same name.
const ISSUER: &str = "mtls:";
/// Longest subject, bytes.
const SUBJECT_BYTES_MAX: usize = 1024;

/// Who the owner of this certificate is: its subject as RFC 4514 writes it (`CN=alice,O=Example`), or where that is
/// empty its first URI (SPIFFE) or mail address. Valid as long as the certificate.
///
/// `der`: a leaf certificate whose chain was verified already.
///
/// # Errors
/// It names nobody.
pub fn principal(der: &[u8], scopes: &[Box<str>]) -> Result<Principal, AuthError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| AuthError::Certificate)?;
    let mut subject = distinguished_name(certificate.subject())?;
    if subject.is_empty() {
        subject = alternative_name(&certificate).ok_or(AuthError::Certificate)?;
    }
    if subject.len() > SUBJECT_BYTES_MAX {
        return Err(AuthError::Certificate);
    }
    let issuer: Arc<str> = format!("{ISSUER}{}", distinguished_name(certificate.issuer())?).into();
    let expires = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Principal::new(issuer, &subject, scopes.to_vec(), Some(expires)))
}

/// RFC 4514 section 2: the parts from last to first, each value escaped, so that no value looks like two.
fn distinguished_name(name: &X509Name<'_>) -> Result<String, AuthError> {
    let mut out = String::new();
    let sets: Vec<_> = name.iter_rdn().collect();
    for (n, set) in sets.into_iter().rev().enumerate() {
        for (k, attribute) in set.iter().enumerate() {
            if k > 0 {
                out.push('+');
            } else if n > 0 {
                out.push(',');
            }
            let oid = attribute.attr_type();
            match KEYWORDS.iter().find(|(dotted, _)| oid.to_id_string() == *dotted) {
                Some((_, keyword)) => out.push_str(keyword),
                None => out.push_str(&oid.to_id_string()),
            }
            out.push('=');
            escape(&mut out, attribute.as_str().map_err(|_| AuthError::Certificate)?);
        }
    }
    Ok(out)
}

/// RFC 4514 section 3, and what else certificates of servers and people carry.
const KEYWORDS: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.5", "serialNumber"),
];

/// RFC 4514 section 2.4.
fn escape(out: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (n, c) in value.chars().enumerate() {
        let special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=');
        if special || (n == 0 && matches!(c, ' ' | '#')) || (n == last && c == ' ') {
            out.push('\\');
            out.push(c);
        } else if c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "\\{byte:02x}");
            }
        } else {
            out.push(c);
        }
    }
}

fn alternative_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let mail = || {
        names.iter().find_map(|name| match name {
            GeneralName::RFC822Name(mail) => Some((*mail).to_owned()),
            _ => None,
        })
    };
    uri.or_else(mail).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};

    use super::*;

    fn signed(signer: &str, names: &[(DnType, &str)], alternative: Vec<SanType>) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.distinguished_name = rcgen::DistinguishedName::new();
        authority.distinguished_name.push(DnType::CommonName, signer);
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            leaf.distinguished_name.push(kind.clone(), *value);
        }
        leaf.subject_alt_names = alternative;
        let issuer = Issuer::new(authority, KeyPair::generate().unwrap());
        leaf.signed_by(&key, &issuer).unwrap().der().to_vec()
    }

    fn of(der: &[u8]) -> Principal {
        principal(der, &["read".into()]).unwrap()
    }

    #[test]
    fn the_subject_is_who_it_is() {
        let names = [(DnType::CountryName, "DE"), (DnType::OrganizationName, "Example"), (DnType::CommonName, "alice")];
        let alice = of(&signed("ca", &names, Vec::new()));
        assert_eq!(
            (&*alice.issuer, &*alice.subject, &*alice.name),
            ("mtls:CN=ca", "CN=alice,O=Example,C=DE", "CN=alice%2CO=Example%2CC=DE")
        );
        assert!(alice.has_scope("read") && alice.expires.is_some());
    }

    #[test]
    fn a_value_cannot_look_like_two() {
        let forged = of(&signed("ca", &[(DnType::CommonName, "alice,O=Example")], Vec::new()));
        let real =
            of(&signed("ca", &[(DnType::OrganizationName, "Example"), (DnType::CommonName, "alice")], Vec::new()));
        assert_eq!(&*forged.subject, "CN=alice\\,O\\=Example");
        assert_ne!(forged.binding(), real.binding());
        let odd = of(&signed("ca", &[(DnType::CommonName, " #a\r\n\\ ")], Vec::new()));
        assert_eq!(&*odd.subject, "CN=\\ #a\\0d\\0a\\\\\\ ");
    }

    #[test]
    fn one_name_by_two_signers_is_two_principals() {
        let name = [(DnType::CommonName, "alice")];
        let by = |signer| of(&signed(signer, &name, Vec::new())).binding();
        assert_eq!(by("a"), by("a"));
        assert_ne!(by("a"), by("b"));
    }

    #[test]
    fn without_a_subject_the_uri_names_it() {
        let uri = SanType::URI("spiffe://example.org/agent".try_into().unwrap());
        let dns = SanType::DnsName("example.org".try_into().unwrap());
        assert_eq!(&*of(&signed("ca", &[], vec![dns.clone(), uri])).subject, "spiffe://example.org/agent");
        assert_eq!(principal(&signed("ca", &[], vec![dns]), &[]), Err(AuthError::Certificate));
        assert_eq!(principal(b"no certificate", &[]), Err(AuthError::Certificate));
    }
}
