//! The machine: kernel, io_uring, limits, CPUs, clock.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::Findings;
use crate::config::cpus;
use crate::config::plan::{DriverChoice, Plan};
use crate::net::driver::{self, Driver};
use crate::net::listener;

pub fn look(plan: Option<&Plan>, findings: &mut Findings) {
    kernel(findings);
    io_uring(plan.map_or(DriverChoice::Auto, |plan| plan.driver), findings);
    processors(plan, findings);
    if let Some(plan) = plan {
        descriptors(plan, findings);
        ephemeral_ports(plan, findings);
    }
    queue(findings);
    clock(findings);
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    read(path)?.parse().ok()
}

fn kernel(findings: &mut Findings) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    match version(&release) {
        Some(found) if found >= (6, 1) => findings.ok("kernel", release),
        Some(found) if found >= (5, 19) => {
            findings.warn("kernel", release, "Linux 6.1 or newer has the cheaper mode of io_uring (DEFER_TASKRUN)");
        }
        _ => findings.warn("kernel", release, "Linux 6.1 or newer: with this one workers run on epoll"),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// Really set up a ring as a worker would.
fn io_uring(wanted: DriverChoice, findings: &mut Findings) {
    const CHECK: &str = "io_uring";
    if wanted == DriverChoice::Epoll {
        return findings.ok(CHECK, "not asked for: the driver is epoll");
    }
    let refused = match driver::try_ring(Driver::UringDefer) {
        Ok(()) => return findings.ok(CHECK, "a ring with DEFER_TASKRUN"),
        Err(error) => error,
    };
    if driver::try_ring(Driver::UringCoop).is_ok() {
        let fix = "Linux 6.1 or newer has DEFER_TASKRUN, which costs less";
        return findings.warn(CHECK, format!("a ring with COOP_TASKRUN; DEFER_TASKRUN: {refused}"), fix);
    }
    let (why, fix) = why_refused(&refused);
    match wanted {
        DriverChoice::IoUring => findings.fail(CHECK, why, format!("{fix}; or proxy.driver = \"auto\"")),
        _ => findings.warn(CHECK, format!("{why}; workers run on epoll"), fix),
    }
}

fn why_refused(error: &io::Error) -> (String, String) {
    let disabled = number("/proc/sys/kernel/io_uring_disabled").unwrap_or(0);
    let status = read("/proc/self/status").unwrap_or_default();
    let filtered = status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"));
    let why = |text: &str| format!("{text} ({error})");
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) if disabled > 0 => {
            let fix = "sysctl -w kernel.io_uring_disabled=0 (1: for the group of kernel.io_uring_group alone)";
            (why(&format!("the sysctl kernel.io_uring_disabled is {disabled}")), fix.to_owned())
        }
        Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS | rustix::io::Errno::NOSYS) if filtered => {
            let fix = "a profile that allows io_uring_setup, io_uring_enter and io_uring_register";
            (why("a seccomp filter refuses it"), fix.to_owned())
        }
        Some(rustix::io::Errno::NOMEM) => {
            let fix = "a higher limit of locked memory: ulimit -l, LimitMEMLOCK=";
            (why("too little memory may be locked"), fix.to_owned())
        }
        Some(rustix::io::Errno::NOSYS) => (why("this kernel has none"), "Linux 6.1 or newer".to_owned()),
        Some(rustix::io::Errno::INVAL) => {
            (why("this kernel does not know the flags it needs"), "Linux 6.1 or newer".to_owned())
        }
        _ => (why("refused"), "see the kernel's log, and what this container or service may do".to_owned()),
    }
}

fn processors(plan: Option<&Plan>, findings: &mut Findings) {
    let usable = cpus::usable();
    let Some(plan) = plan else { return findings.ok("CPUs", format!("{usable} by affinity and quota")) };
    let found = format!("{} workers on {usable} CPUs by affinity and quota", plan.workers);
    if plan.workers > usable {
        return findings.warn("CPUs", found, format!("proxy.worker_threads = {usable}, or more CPUs"));
    }
    findings.ok("CPUs", found);
}

fn descriptors(plan: &Plan, findings: &mut Findings) {
    const CHECK: &str = "file descriptors";
    // A server raises its limit as far as it may.
    let allowed = getrlimit(Resource::Nofile).maximum;
    let wanted = 2 * plan.limits.connections_max as u64 + 64 + 8 * plan.workers as u64;
    let found = |allowed: u64| format!("{allowed} for performance.max_connections = {}", plan.limits.connections_max);
    match allowed {
        Some(allowed) if allowed < wanted => {
            let fix = format!("ulimit -Hn {wanted}, LimitNOFILE={wanted}; until then fewer clients are let in");
            findings.warn(CHECK, found(allowed), fix);
        }
        Some(allowed) => findings.ok(CHECK, found(allowed)),
        None => findings.ok(CHECK, "no limit"),
    }
}

/// Each connection to an upstream takes a port of this machine; one address and port of an upstream has them all.
fn ephemeral_ports(plan: &Plan, findings: &mut Findings) {
    const CHECK: &str = "ephemeral ports";
    let Some(text) = read("/proc/sys/net/ipv4/ip_local_port_range") else { return };
    let mut ends = text.split_whitespace().filter_map(|end| end.parse::<u64>().ok());
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else { return };
    let ports = last.saturating_sub(first) + 1;
    let each = plan.limits.connections_max as u64 / plan.upstreams.len().max(1) as u64;
    let found = format!("{ports} ({first} to {last}), up to {each} connections to one upstream");
    if ports < each {
        return findings.warn(CHECK, found, "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"");
    }
    findings.ok(CHECK, found);
}

fn queue(findings: &mut Findings) {
    let Some(found) = number("/proc/sys/net/core/somaxconn") else { return };
    let wanted = listener::BACKLOG as u64;
    let text = format!("net.core.somaxconn = {found}");
    if found < wanted {
        return findings.warn("listen queue", text, format!("sysctl -w net.core.somaxconn={wanted}"));
    }
    findings.ok("listen queue", text);
}

/// Tokens and certificates have dates; and a clock that asks the hypervisor is slow to read.
fn clock(findings: &mut Findings) {
    const CHECK: &str = "clock";
    let now = SystemTime::now();
    let built = std::env::current_exe().and_then(fs::metadata).and_then(|program| program.modified());
    if let Ok(built) = built
        && now + Duration::from_secs(24 * 3600) < built
    {
        let found = format!("{}, which is before this program was installed", humantime::format_rfc3339_seconds(now));
        return findings.fail(CHECK, found, "set the clock; run an NTP client");
    }
    let found = humantime::format_rfc3339_seconds(now).to_string();
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap_or_default();
    if matches!(source.as_str(), "hpet" | "acpi_pm" | "jiffies") {
        let found = format!("{found}; the clock source {source} is slow to read");
        return findings.warn(CHECK, found, "tsc or kvm-clock, if the machine has a stable one");
    }
    findings.ok(CHECK, found);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.167.4-microsoft-standard-WSL2"), Some((5, 15)));
        assert_eq!(version("6.10+rpt"), Some((6, 10)));
        assert_eq!(version("next"), None);
    }

    #[test]
    fn what_refused_a_ring_is_named() {
        let of = |errno: rustix::io::Errno| why_refused(&errno.into());
        assert!(of(rustix::io::Errno::INVAL).0.contains("does not know the flags"));
        assert!(of(rustix::io::Errno::NOMEM).1.contains("LimitMEMLOCK"));
        assert!(of(rustix::io::Errno::IO).0.starts_with("refused"));
    }
}
