//! How many CPUs this process may use: by affinity, and by the quota of its control group.

use std::fs;
use std::path::Path;

/// At least one.
pub fn usable() -> usize {
    let by_affinity = std::thread::available_parallelism().map_or(1, usize::from);
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    quota(Path::new("/sys/fs/cgroup"), &group).map_or(by_affinity, |quota| by_affinity.min(quota)).max(1)
}

/// The quota in CPUs, rounded up, below the mount point `root`; the tightest of the group and those around it.
/// `membership`: the text of /proc/self/cgroup.
fn quota(root: &Path, membership: &str) -> Option<usize> {
    let mut tightest: Option<usize> = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let top = match controllers {
            "" => root.to_owned(),
            list if list.split(',').any(|name| name == "cpu") => root.join("cpu"),
            _ => continue,
        };
        let mut group = top.join(path.trim_start_matches('/'));
        while group.starts_with(&top) {
            if let Some(cpus) = quota_of(&group) {
                tightest = Some(tightest.map_or(cpus, |least| least.min(cpus)));
            }
            if !group.pop() {
                break;
            }
        }
    }
    tightest
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

    #[test]
    fn the_tightest_quota_counts_rounded_up() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("system.slice/shadowcat.service");
        fs::create_dir_all(&group).unwrap();
        fs::write(root.path().join("system.slice/cpu.max"), "400000 100000\n").unwrap();
        fs::write(group.join("cpu.max"), "150000 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/system.slice/shadowcat.service\n"), Some(2));
        fs::write(group.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/system.slice/shadowcat.service\n"), Some(4));
        assert_eq!(quota(root.path(), "0::/elsewhere\n"), None);
    }

    #[test]
    fn the_older_control_groups_are_read_as_well() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("cpu/docker/x");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cpu.cfs_quota_us"), "50000\n").unwrap();
        fs::write(group.join("cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(quota(root.path(), "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n"), Some(1));
        fs::write(group.join("cpu.cfs_quota_us"), "-1\n").unwrap();
        assert_eq!(quota(root.path(), "4:cpu,cpuacct:/docker/x\n"), None);
    }
}
