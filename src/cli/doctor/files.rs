//! What lies on disks: the session store, certificates and keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Access;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Findings;
use crate::cli::STORE_CHECK;
use crate::config::plan::{Plan, StoreKind};
use crate::net::acceptor;
use crate::net::tls::Connector;
use crate::store;

/// Room that a store should have to grow, bytes; with less than the second no server should start.
const ROOM: (u64, u64) = (1 << 30, 64 << 20);
/// A certificate that ends within this is to be renewed.
const RENEW_DAYS: i64 = 21;
const DAY: i64 = 24 * 3600;

pub fn look(plan: &Plan, findings: &mut Findings) {
    match plan.session.store {
        StoreKind::Memory => findings.ok("session store", "in memory: sessions end with the server"),
        StoreKind::Lmdb => session_store(&plan.session.path, findings),
    }
    if let Some(tls) = &plan.tls {
        match acceptor::settings(tls) {
            Ok(_) => findings.ok("TLS files", "they can be read, and keys and certificates belong together"),
            Err(why) => findings.fail("TLS files", why, "tls.cert_path, tls.key_path, tls.client_ca_path"),
        }
        for (certificate, _) in &tls.pairs {
            expiry(certificate, findings);
        }
        tls.client_ca_path.iter().for_each(|path| expiry(path, findings));
    }
    for upstream in &plan.upstreams {
        let Some(tls) = &upstream.tls else { continue };
        if tls.identity.is_some() || tls.ca_path.is_some() {
            let check = format!("TLS files of {}", upstream.name);
            match Connector::new(tls) {
                Ok(_) => findings.ok(check, "they can be read, and keys and certificates belong together"),
                Err(why) => findings.fail(check, why, "ca_path, client_cert_path, client_key_path"),
            }
        }
        let own = tls.identity.iter().map(|(certificate, _)| certificate);
        own.chain(&tls.ca_path).for_each(|path| expiry(path, findings));
    }
}

fn session_store(path: &Path, findings: &mut Findings) {
    const CHECK: &str = "session store";
    let shown = path.display();
    let place = nearest(path);
    if rustix::fs::access(&place, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let fix = format!("chown -R USER {}, or ReadWritePaths= of the service", place.display());
        findings.fail(CHECK, format!("{} cannot be written by this user", place.display()), fix);
    } else if let Some(pid) = store::held_by(path) {
        findings.ok(CHECK, format!("{shown} is open in process {pid}"));
    } else if path.join("data.mdb").exists() {
        let bytes = fs::metadata(path.join("data.mdb")).map_or(0, |data| data.len());
        let checked = std::env::current_exe()
            .map_err(|error| error.to_string())
            .and_then(|program| store::check(&program, &[STORE_CHECK.into()], path, bytes));
        match checked {
            Ok(()) => findings.ok(CHECK, format!("{shown}, {} read", bytesize::ByteSize(bytes))),
            Err(why) => {
                let fix = "shadowcat admin restore-sessions --input BACKUP; a start puts it aside and begins anew";
                findings.fail(CHECK, format!("{shown} is damaged: {why}"), fix);
            }
        }
    } else {
        findings.ok(CHECK, format!("{shown}, which the first start makes"));
    }
    disk(&place, findings);
}

/// The path, or what there is of it.
fn nearest(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|path| path.exists()).filter(|path| !path.as_os_str().is_empty());
    there.unwrap_or(Path::new(".")).to_owned()
}

fn disk(place: &Path, findings: &mut Findings) {
    if let Ok(found) = rustix::fs::statfs(place)
        && let Some(kind) = network_disk(found.f_type as u64)
    {
        let fix = "a local disk: LMDB on a network disk loses and damages sessions";
        findings.fail("disk", format!("{} lies on {kind}", place.display()), fix);
    }
    let Ok(found) = rustix::fs::statvfs(place) else { return };
    let free = found.f_bavail * found.f_frsize;
    let text = format!("{} free at {}", bytesize::ByteSize(free), place.display());
    match free {
        free if free < ROOM.1 => findings.fail("disk", text, "make room: new sessions are refused when it is full"),
        free if free < ROOM.0 => findings.warn("disk", text, "make room: new sessions are refused when it is full"),
        _ => findings.ok("disk", text),
    }
}

/// By the magic number of statfs(2).
fn network_disk(magic: u64) -> Option<&'static str> {
    Some(match magic as u32 {
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "SMB",
        0x00c3_6400 => "Ceph",
        0x0102_1997 => "9P",
        0x5346_414f => "AFS",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x6573_5546 => "FUSE, which may be a network disk",
        _ => return None,
    })
}

/// The first that ends of the certificates in a file.
fn expiry(path: &Path, findings: &mut Findings) {
    let check = format!("certificate {}", path.display());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    // A file that cannot be read was told of above.
    let Ok(found) = CertificateDer::pem_file_iter(path) else { return };
    let times = found.filter_map(Result::ok).filter_map(|der| {
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let validity = certificate.validity();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    });
    let Some((begins, ends)) = times.min_by_key(|(_, ends)| *ends) else { return };
    let date = |seconds: i64| {
        let time = UNIX_EPOCH + std::time::Duration::from_secs(seconds.max(0) as u64);
        humantime::format_rfc3339_seconds(time).to_string()
    };
    let renew = "renew it; a server takes the new file by itself";
    if begins > now {
        findings.fail(check, format!("it holds from {} on", date(begins)), "set the clock, or wait");
    } else if ends <= now {
        findings.fail(check, format!("it ended {}", date(ends)), renew);
    } else if ends - now < RENEW_DAYS * DAY {
        findings.warn(check, format!("it ends in {} days, {}", (ends - now) / DAY, date(ends)), renew);
    } else {
        findings.ok(check, format!("until {}", date(ends)));
    }
}
