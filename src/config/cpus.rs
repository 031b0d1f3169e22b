//! How many CPUs this process may use: by affinity, and by the quota of its control group.

use std::fs;
use std::path::Path;

/// At least one. A quota counts rounded up: 150 % of a CPU is worth two workers.
pub fn usable() -> usize {
    let quota = quota(Path::new("/"));
    let affinity = affinity();
    quota.map_or(affinity, |quota| affinity.min(quota)).max(1)
}

fn affinity() -> usize {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => set.count() as usize,
        // More CPUs than the set can hold.
        Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// The quota in CPUs, rounded up; the tightest of this process's control group and those around it. Both versions of
/// control groups are read where they are mounted by custom, below `root`.
fn quota(root: &Path) -> Option<usize> {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let groups = root.join("sys/fs/cgroup");
    membership.lines().filter_map(|line| tightest(&groups, line)).min()
}

/// Of one line of `proc/self/cgroup`: `hierarchy:controllers:path` (cgroups(7)).
fn tightest(groups: &Path, line: &str) -> Option<usize> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let top = match controllers {
        "" => groups.to_owned(),
        list if list.split(',').any(|name| name == "cpu") => {
            let together = groups.join(list);
            if together.is_dir() { together } else { groups.join("cpu") }
        }
        _ => return None,
    };
    // In a container the path may be the host's, which is not mounted: then the top is the container's own group.
    let group = top.join(path.trim_start_matches('/'));
    group.ancestors().take_while(|group| group.starts_with(&top)).filter_map(quota_of).min()
}

fn quota_of(group: &Path) -> Option<usize> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(text) => {
            let mut words = text.split_whitespace();
            (words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?)
        }
        None => {
            let number = |name| read(name)?.trim().parse::<u64>().ok();
            (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
        }
    };
    (period > 0).then(|| (quota.div_ceil(period) as usize).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory with this membership and these files below `sys/fs/cgroup`.
    fn machine(membership: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(&root.path().join("proc/self/cgroup"), membership);
        for (name, text) in files {
            write(&root.path().join("sys/fs/cgroup").join(name), text);
        }
        root
    }

    fn quota_of_machine(membership: &str, files: &[(&str, &str)]) -> Option<usize> {
        quota(machine(membership, files).path())
    }

    #[test]
    fn the_tightest_quota_counts_rounded_up() {
        let service = "0::/system.slice/shadowcat.service\n";
        let slice = ("system.slice/cpu.max", "400000 100000\n");
        let own = "system.slice/shadowcat.service/cpu.max";
        assert_eq!(quota_of_machine(service, &[slice, (own, "150000 100000\n")]), Some(2));
        assert_eq!(quota_of_machine(service, &[slice, (own, "100000 100000\n")]), Some(1));
        assert_eq!(quota_of_machine(service, &[slice, (own, "max 100000\n")]), Some(4));
        assert_eq!(quota_of_machine("0::/elsewhere\n", &[slice]), None);
    }

    #[test]
    fn the_older_control_groups_are_read_as_well() {
        let line = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n";
        let period = ("cpu/docker/x/cpu.cfs_period_us", "100000\n");
        let quota = |text| ("cpu/docker/x/cpu.cfs_quota_us", text);
        assert_eq!(quota_of_machine(line, &[period, quota("50000\n")]), Some(1));
        assert_eq!(quota_of_machine(line, &[period, quota("250000\n")]), Some(3));
        assert_eq!(quota_of_machine(line, &[period, quota("-1\n")]), None);
        let together = [("cpu,cpuacct/cpu.cfs_period_us", "100000"), ("cpu,cpuacct/cpu.cfs_quota_us", "200000")];
        assert_eq!(quota_of_machine(line, &together), Some(2));
    }

    #[test]
    fn odd_files_mean_no_quota() {
        let own = "cpu.max";
        for text in ["", "x y", "100000 0", "-5 100000", "100000"] {
            assert_eq!(quota_of_machine("0::/\n", &[(own, text)]), None, "{text}");
        }
        assert_eq!(quota_of_machine("nonsense\n", &[(own, "1 1")]), None);
        assert_eq!(quota(Path::new("/nowhere")), None);
    }

    #[test]
    fn there_is_a_cpu() {
        assert!(affinity() >= 1 && usable() >= 1 && usable() <= affinity());
    }
}
