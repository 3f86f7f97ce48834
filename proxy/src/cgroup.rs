//! How many cores this process may use: those it may run on, and no more than its cgroup's quota pays for.
//! Both versions of cgroups; the folder is an argument, so that tests bring their own. Cold.

use std::fs;
use std::path::Path;

/// Workers to start when nobody says how many.
pub(crate) fn cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    match quota(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup")) {
        // A part of a core needs a whole worker, but not two.
        Some(cores) => allowed.min(cores.ceil().max(1.0) as usize),
        None => allowed,
    }
}

/// The cores that the quota of this process's cgroup pays for.
fn quota(root: &Path, membership: &Path) -> Option<f64> {
    let membership = fs::read_to_string(membership).unwrap_or_default();
    // `0::/path` is version 2; `4:cpu,cpuacct:/path` version 1.
    let path_of = |wanted: &dyn Fn(&str) -> bool| {
        membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let v2 = path_of(&|controllers: &str| controllers.is_empty());
    let v1 = path_of(&|controllers: &str| controllers.split(',').any(|one| one == "cpu"));
    // In a container the group's own folder is often mounted as the root.
    let mut folders = Vec::new();
    for path in v2.iter() {
        folders.push(root.join(path));
    }
    folders.push(root.to_path_buf());
    let of_v2 = folders.iter().filter_map(|folder| v2_quota(&folder.join("cpu.max")));
    let mut folders = Vec::new();
    for controller in ["cpu", "cpu,cpuacct"] {
        folders.extend(v1.iter().map(|path| root.join(controller).join(path)));
        folders.push(root.join(controller));
    }
    let of_v1 = folders.iter().filter_map(|folder| v1_quota(folder));
    of_v2.chain(of_v1).reduce(f64::min)
}

/// `cpu.max`: `QUOTA PERIOD`, or `max PERIOD` without a quota.
fn v2_quota(file: &Path) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

fn v1_quota(folder: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    // -1 and `max` mean none.
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let check = |name: &str, membership: &str, files: &[(&str, &str)], expected: Option<f64>| {
            let root = std::env::temp_dir().join(format!("evenkeel-cgroup-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                fs::write(path, text).expect("a file");
            }
            fs::create_dir_all(&root).expect("a folder");
            fs::write(root.join("membership"), membership).expect("a file");
            assert_eq!(quota(&root, &root.join("membership")), expected, "{name}");
            let _ = fs::remove_dir_all(&root);
        };
        check("none", "", &[], None);
        check("v2", "0::/pod\n", &[("pod/cpu.max", "150000 100000\n")], Some(1.5));
        check("v2-root", "0::/\n", &[("cpu.max", "200000 100000\n")], Some(2.0));
        check("v2-unlimited", "0::/pod\n", &[("pod/cpu.max", "max 100000\n")], None);
        check(
            "v1",
            "4:cpu,cpuacct:/pod\n2:memory:/pod\n",
            &[("cpu,cpuacct/pod/cpu.cfs_quota_us", "50000\n"), ("cpu,cpuacct/pod/cpu.cfs_period_us", "100000\n")],
            Some(0.5),
        );
        check(
            "v1-unlimited",
            "4:cpu:/pod\n",
            &[("cpu/pod/cpu.cfs_quota_us", "-1\n"), ("cpu/pod/cpu.cfs_period_us", "100000\n")],
            None,
        );
    }
}
