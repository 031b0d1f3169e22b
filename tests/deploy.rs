//! What deploys us: units, image, manifests and tuning, checked by the programs that read them elsewhere, and run by them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_shadowcat");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A program of `tests/deploy/requirements.txt`, which the first test that needs one installs.
fn tool(name: &str) -> Command {
    let directory = root().join("target/deploy");
    let done = Command::new("bash").arg(root().join("tests/deploy/setup.sh")).arg(&directory).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    let mut command = Command::new(directory.join("venv/bin").join(name));
    command.current_dir(root());
    command
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

/// What it says, if it ends well.
fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}\n{}", done.status, said(&done));
    said(&done)
}

/// Files below a folder whose name ends so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path, ending)),
            false if path.to_string_lossy().ends_with(ending) => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

/// `Key=value` lines of a unit.
fn directives(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains('=') && !line.starts_with('#')).collect()
}

#[test]
fn the_unit_has_every_directive_of_the_guide() {
    let unit = read("systemd/shadowcat.service");
    let ours = directives(&unit);
    // What took their place.
    let replaced = [
        ("Type=simple", "Type=notify"),
        ("MemoryLimit=512M", "MemoryMax=512M"),
        ("After=network.target", "After=network.target nss-lookup.target"),
    ];
    let guide =
        read("tests/fixtures/guide-deploy/shadowcat.service") + &read("tests/fixtures/guide-deploy/limits.service");
    let wanted = directives(&guide);
    assert!(wanted.len() > 20, "{wanted:?}");
    for line in wanted {
        let line = replaced.iter().find(|(old, _)| *old == line).map_or(line, |(_, new)| new);
        assert!(ours.contains(&line), "{line}");
    }
}

/// A systemd of its own runs the service as its operator would: install, start, reload, hang, restart, uninstall.
#[test]
fn systemd_runs_the_service() {
    let said = output(Command::new("bash").arg(root().join("tests/deploy/systemd.sh")).arg(BINARY));
    assert!(said.ends_with("all is well\n"), "{said}");
}

fn just(target: &str, prefix: &Path, arguments: &[&str]) -> String {
    let mut command = tool("just");
    output(command.arg(target).args(arguments).env("DESTDIR", prefix).env_remove("PREFIX"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

#[test]
fn an_install_for_a_package_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let place = |path: &str| folder.path().join(path);
    let before = just("install", folder.path(), &[BINARY]);
    assert!(before.contains("/opt/shadowcat/bin/shadowcat"), "{before}");
    assert_eq!(mode(&place("opt/shadowcat/bin/shadowcat")), 0o755);
    assert_eq!(mode(&place("etc/shadowcat/config.toml")), 0o640);
    let version = output(Command::new(place("opt/shadowcat/bin/shadowcat")).arg("--version"));
    assert!(version.starts_with("shadowcat "), "{version}");
    output(Command::new(BINARY).args(["config", "check"]).arg(place("etc/shadowcat/config.toml")));

    // Again, as an upgrade: the operator's file stays.
    fs::write(place("etc/shadowcat/config.toml"), "# mine\n").unwrap();
    assert!(just("install", folder.path(), &[BINARY]).contains("kept "));
    assert_eq!(fs::read_to_string(place("etc/shadowcat/config.toml")).unwrap(), "# mine\n");
    assert_eq!(files(folder.path(), ".new"), Vec::<PathBuf>::new());

    // The user and the directories, by the programs that make them.
    fs::write(place("etc/shadowcat/environment"), "OAUTH_CLIENT_SECRET=x\n").unwrap();
    fs::create_dir(place("etc/shadowcat/tls")).unwrap();
    fs::write(place("etc/shadowcat/tls/key.pem"), "key").unwrap();
    for program in ["systemd-sysusers", "systemd-tmpfiles --create"] {
        let mut words = program.split(' ');
        let mut command = Command::new(words.next().unwrap());
        output(command.args(words).arg(format!("--root={}", folder.path().display())));
    }
    let users = fs::read_to_string(place("etc/passwd")).unwrap();
    let user = users.lines().find(|line| line.starts_with("shadowcat:")).expect("a user");
    assert!(user.ends_with(":/var/lib/shadowcat:/usr/sbin/nologin"), "{user}");
    let uid: u32 = user.split(':').nth(2).unwrap().parse().unwrap();
    for (path, expected, owner) in [
        ("var/lib/shadowcat", 0o750, uid),
        ("var/lib/shadowcat/tapes", 0o750, uid),
        ("etc/shadowcat", 0o750, 0),
        ("etc/shadowcat/config.toml", 0o640, 0),
        ("etc/shadowcat/environment", 0o640, 0),
        ("etc/shadowcat/tls/key.pem", 0o400, uid),
    ] {
        assert_eq!(mode(&place(path)), expected, "{path}");
        assert_eq!(fs::metadata(place(path)).unwrap().uid(), owner, "{path}");
    }

    let after = just("uninstall", folder.path(), &[]);
    assert!(after.contains("left ") && after.contains("/etc/shadowcat"), "{after}");
    let left: BTreeSet<PathBuf> = files(folder.path(), "").into_iter().collect();
    let ours = ["bin/shadowcat", "shadowcat.service", "shadowcat.socket", "shadowcat.conf", "README.md"];
    for name in ours {
        assert!(!left.iter().any(|path| path.ends_with(name)), "{name} is left: {left:?}");
    }
    assert!(left.contains(&place("etc/shadowcat/config.toml")));
    assert!(!place("opt").exists());
}

#[test]
fn an_install_elsewhere_says_so_in_its_unit() {
    let folder = tempfile::tempdir().unwrap();
    let install = |prefix: &str| {
        let mut command = Command::new("bash");
        command.arg(root().join("systemd/install.sh")).arg("install").env("DESTDIR", folder.path());
        command.env("PREFIX", prefix).env("BINARY", BINARY).output().unwrap()
    };
    let done = install("/usr/local");
    assert!(done.status.success(), "{}", said(&done));
    let unit = fs::read_to_string(folder.path().join("etc/systemd/system/shadowcat.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/shadowcat reverse") && !unit.contains("/opt/"), "{unit}");
    for odd in ["usr", "/a b", "/a|b"] {
        assert_eq!(install(odd).status.code(), Some(2), "{odd}");
    }
}

#[test]
fn the_image_builds_from_what_it_is_given() {
    assert_eq!(output(tool("hadolint").arg("Dockerfile")), "");
    // The toolchain is the one that the manifest asks for.
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains(&format!("FROM rust:{version}-")), "{version}");
    // Everything that is copied is there and gets past .dockerignore, and cargo needs nothing else.
    let folder = tempfile::tempdir().unwrap();
    let allowed: Vec<String> =
        read(".dockerignore").lines().filter_map(|line| Some(line.strip_prefix('!')?.to_owned())).collect();
    let mut copied = 0;
    for line in dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        for source in &words[..words.len() - 1] {
            assert!(allowed.iter().any(|path| *source == path || source.starts_with(&format!("{path}/"))), "{source}");
            let target = folder.path().join(source);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            output(Command::new("cp").arg("-r").arg(root().join(source)).arg(target));
            copied += 1;
        }
    }
    assert!(copied >= 5);
    let manifest = folder.path().join("Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    output(
        cargo
            .args([
                "metadata",
                "--locked",
                "--offline",
                "--format-version=1",
                "--filter-platform=x86_64-unknown-linux-gnu",
                "--manifest-path",
            ])
            .arg(manifest),
    );
}

/// The image's last stage in an OCI runtime: no root, nothing to write to, with io_uring and without it.
#[test]
fn a_container_runs_with_and_without_io_uring() {
    let said = output(Command::new("bash").arg(root().join("tests/deploy/container.sh")).arg(BINARY));
    assert!(said.ends_with("all is well\n"), "{said}");
}

#[test]
fn the_seccomp_profile_names_every_call_once() {
    let profile: serde_json::Value = serde_json::from_str(&read("deploy/seccomp/io_uring.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut seen = BTreeSet::new();
    for entry in profile["syscalls"].as_array().unwrap() {
        assert_eq!(entry["action"], "SCMP_ACT_ALLOW");
        for name in entry["names"].as_array().unwrap() {
            // Some are allowed by their arguments.
            assert!(seen.insert(name.as_str().unwrap()) || entry["args"].is_array(), "{name}");
        }
    }
    for outside in ["ptrace", "mount", "bpf", "unshare", "setns", "keyctl", "kexec_load", "init_module", "clone3"] {
        assert!(!seen.contains(outside), "{outside}");
    }
}

#[test]
fn the_compose_file_is_the_guides_and_valid() {
    output(tool("check-jsonschema").args(["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]));
    let guide = "tests/fixtures/guide-deploy/docker-compose.yml";
    // Compose calls it obsolete, and warns.
    output(tool("python").args(["tests/deploy/contains.py", guide, "docker-compose.yml", ".version"]));
}

#[test]
fn the_manifests_are_the_guides_and_valid() {
    let folder = root().join("deploy/kubernetes");
    let names: Vec<String> =
        files(&folder, ".yaml").iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let kustomization = read("deploy/kubernetes/kustomization.yaml");
    for name in names.iter().filter(|name| *name != "kustomization.yaml") {
        assert!(kustomization.contains(&format!("  - {name}\n")), "{name}");
        output(tool("kubernetes-validate").arg("--strict").arg(folder.join(name)));
    }
    assert_eq!(kustomization.matches("  - shadowcat-").count(), names.len() - 1);
    for name in ["shadowcat-deployment.yaml", "shadowcat-service.yaml"] {
        let (guide, ours) = (format!("tests/fixtures/guide-deploy/{name}"), format!("deploy/kubernetes/{name}"));
        output(tool("python").args(["tests/deploy/contains.py", &guide, &ours]));
    }
    let guide = toml::from_str::<toml::Table>(&read("tests/fixtures/guide/configmap.toml")).unwrap();
    let configmap = read("deploy/kubernetes/shadowcat-configmap.yaml");
    let (_, text) = configmap.split_once("shadowcat.toml: |\n").unwrap();
    let text: String =
        text.lines().map(|line| line.strip_prefix("    ").unwrap_or_default().to_owned() + "\n").collect();
    let ours = toml::from_str::<toml::Table>(&text).unwrap();
    for (section, value) in &guide {
        assert_eq!(ours.get(section), Some(value), "{section}");
    }
}

#[test]
fn the_scripts_are_clean() {
    let mut shellcheck = tool("shellcheck");
    for folder in ["systemd", "tuning", "tests/deploy"] {
        shellcheck.args(files(&root().join(folder), ".sh"));
    }
    assert_eq!(output(&mut shellcheck), "");
}

#[test]
fn the_check_of_a_machine_reads_and_says() {
    let check =
        |arguments: &[&str]| Command::new("bash").arg(root().join("tuning/check.sh")).args(arguments).output().unwrap();
    let done = check(&[]);
    let text = said(&done);
    assert_eq!(done.status.code(), Some(text.lines().any(|line| line.starts_with("low ")).into()), "{text}");
    assert!(done.stderr.is_empty(), "{text}");
    // Every setting of the file has a line of its own, and a reason, a measure and a way back in the file.
    let conf = read("tuning/90-shadowcat.conf");
    let settings = conf.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    for (name, _) in settings {
        let name = name.trim_start_matches('-');
        assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(name)), "{name}: {text}");
    }
    for block in conf.split("\n\n").skip(1) {
        for word in ["# What: ", "# Why: ", "# Measure: ", "# Undo: "] {
            assert!(block.contains(word), "{word}in {block}");
        }
    }
    let own = check(&[&std::process::id().to_string()]);
    assert!(said(&own).contains("descriptors (hard limit)"), "{}", said(&own));
    assert_eq!(check(&["999999999"]).status.code(), Some(2));
}

/// Every command of ours that the guide shows is one that the program knows, with the flags it is shown with.
#[test]
fn the_guide_names_commands_that_exist() {
    let guide = read("docs/OPERATIONS.md");
    let mut shown = 0;
    for (number, block) in guide.split("```").enumerate().filter(|(number, _)| number % 2 == 1) {
        for line in block.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line)) {
            if !line.starts_with("shadowcat ") {
                continue;
            }
            // What stands behind -- is somebody else's.
            let ours = "ours=(); for word in \"$@\"; do [ \"$word\" = -- ] && break; ours+=(\"$word\"); done";
            let script = format!("shadowcat() {{ {ours}; \"$BINARY\" \"${{ours[@]}}\" --help >/dev/null; }}; {line}");
            let done = Command::new("bash").args(["-c", &script]).env("BINARY", BINARY).output().unwrap();
            assert!(done.status.success(), "block {number}: {line}\n{}", said(&done));
            shown += 1;
        }
    }
    assert!(shown >= 15, "only {shown} commands found");
}

/// And every metric is one that is counted.
#[test]
fn the_guide_names_metrics_that_exist() {
    let code: String = files(&root().join("src"), ".rs").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut seen = BTreeSet::new();
    for path in ["docs/OPERATIONS.md", "tuning/README.md", "tuning/90-shadowcat.conf", "deploy/seccomp/README.md"] {
        let text = read(path);
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.len() > 10 && word.starts_with("shadowcat_") && seen.insert(word.to_owned()) {
                assert!(code.contains(&format!("\"{word}\"")), "{path}: {word}");
            }
        }
    }
    assert!(seen.len() >= 6, "{seen:?}");
}
