//! Configuration as an operator meets it: files, variables, flags, and what is said when one is wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shadowcat::config::{self, Sources, schema};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn secrets() -> BTreeMap<String, String> {
    environment(&[("OAUTH_CLIENT_ID", "id"), ("OAUTH_CLIENT_SECRET", "s3cr3t"), ("HOME", "/home/x")])
}

fn from_file(path: &Path) -> Sources {
    Sources { file: Some(path.to_owned()), environment: secrets(), ..Sources::default() }
}

fn text_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shadowcat.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shadowcat"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn every_file_in_config_and_every_example_of_the_guide_is_good() {
    let mut seen = 0;
    for folder in ["config", "tests/fixtures/guide"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let loaded = config::check(&from_file(&path));
                assert!(loaded.is_ok(), "{}: {}", path.display(), loaded.unwrap_err());
                seen += 1;
            }
        }
    }
    assert!(seen >= 8, "only {seen} files");
}

#[test]
fn the_complete_file_mentions_every_key() {
    let text = std::fs::read_to_string(root().join("config/shadowcat.toml")).unwrap();
    for key in schema::KEYS.iter().chain(schema::UPSTREAM_KEYS) {
        let line = format!("{} = ", key.name);
        assert!(text.lines().any(|l| l.trim_start_matches("# ").starts_with(&line)), "no {}", key.path());
    }
}

#[test]
fn the_reference_is_up_to_date() {
    let path = root().join("docs/CONFIGURATION.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let made = schema::reference();
    assert!(written == made, "run: cargo run -- config reference > docs/CONFIGURATION.md");
}

#[test]
fn the_guides_complete_example_has_its_values() {
    let loaded = config::check(&from_file(&root().join("tests/fixtures/guide/complete.toml"))).unwrap();
    let plan = loaded.plan;
    assert_eq!(plan.bind, "0.0.0.0:8080".parse().unwrap());
    assert_eq!(plan.workers, 4);
    assert_eq!(plan.upstreams.len(), 2);
    assert_eq!((plan.upstreams[1].weight, plan.upstreams[1].max_connections), (5, Some(50)));
    assert_eq!(plan.session.path, Path::new("/var/lib/shadowcat/sessions.db"));
    assert_eq!(plan.session.timeout.as_secs(), 300);
    assert!(loaded.warnings.iter().any(|w| w.contains("LMDB")), "{:?}", loaded.warnings);
}

#[test]
fn a_server_refuses_what_it_cannot_do_yet_and_loads_what_is_switched_off() {
    let (_keep, path) = text_file("[auth]\nenabled = true\nprovider = \"oauth2\"\n[session]\nsecret = \"x\"\n");
    let errors = config::load(&from_file(&path)).unwrap_err().to_string();
    assert!(errors.contains("authentication is not available"), "{errors}");
    assert!(errors.contains("shadowcat.toml:2:11"), "{errors}");
    assert!(errors.contains("sealed session ids"), "{errors}");
    let off = "[auth]\nenabled = false\nclient_id = \"x\"\n[rate_limit]\nenabled = false\nglobal = 5\n";
    let (_keep, path) = text_file(off);
    assert!(config::load(&from_file(&path)).is_ok());
    let (_keep, path) = text_file("[rate_limit]\nglobal = 10000\n");
    assert!(config::load(&from_file(&path)).is_err());
}

#[test]
fn all_errors_come_at_once_with_line_column_and_suggestion() {
    let text = "[proxy]\nbnd = \"127.0.0.1:1\"\nworker_threads = \"many\"\n[sesion]\n[[upstreams]]\nurl = \"ftp://x\"\n\
                [session]\ntimeout = \"soon\"\n";
    let (_keep, path) = text_file(text);
    let output = run(&["config", "check", path.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "5 errors",
        "unknown key `bnd` in [proxy]",
        "did you mean `bind`?",
        "shadowcat.toml:2:1",
        "expected a whole number",
        "shadowcat.toml:3:18",
        "unknown section `sesion`",
        "did you mean `session`?",
        "an upstream is http:// or https://",
        "expected a time such as",
    ] {
        assert!(said.contains(expected), "`{expected}` is not in:\n{said}");
    }
}

#[test]
fn syntax_errors_have_a_place() {
    let (_keep, path) = text_file("[proxy\nbind = 1\n");
    let said = config::check(&from_file(&path)).unwrap_err().to_string();
    assert!(said.contains("shadowcat.toml:1"), "{said}");
}

#[test]
fn variables_are_expanded_in_parsed_text() {
    let text = "[session]\nmax_sessions = \"${N}\"\ndatabase_path = \"${DIR:-/tmp/d}/x$${y}\"\n";
    let (_keep, path) = text_file(text);
    let sources = Sources { file: Some(path.clone()), environment: environment(&[("N", "7")]), ..Sources::default() };
    let plan = config::load(&sources).unwrap().plan;
    assert_eq!(plan.session.max_sessions, 7);
    assert_eq!(plan.session.path, Path::new("/tmp/d/x${y}"));

    let said = config::load(&Sources { file: Some(path), ..Sources::default() }).unwrap_err().to_string();
    assert!(said.contains("the environment variable `N` is not set") && said.contains(":2:16"), "{said}");

    let (_keep, path) = text_file("[logging]\noutput = \"${LOG:?say where logs go}\"\n");
    let said = config::load(&Sources { file: Some(path), ..Sources::default() }).unwrap_err().to_string();
    assert!(said.contains("say where logs go"), "{said}");

    // A secret with a quote cannot break the file.
    let (_keep, path) = text_file("[proxy]\nallowed_hosts = [\"${H}\"]\n");
    let odd = environment(&[("H", "a\"]\nbind = \"x")]);
    let plan = config::load(&Sources { file: Some(path), environment: odd, ..Sources::default() }).unwrap().plan;
    assert_eq!(plan.guards.allowed_hosts, ["a\"]\nbind = \"x"]);
}

#[test]
fn flags_win_over_the_environment_that_over_the_file_that_over_the_defaults() {
    let (_keep, path) =
        text_file("[proxy]\nbind = \"127.0.0.1:1001\"\n[session]\ntimeout = 11\n[pool]\nmax_size = 3\n");
    let mut sources = Sources {
        file: Some(path),
        environment: environment(&[
            ("SHADOWCAT_BIND", "127.0.0.1:1002"),
            ("SHADOWCAT_SESSION_TIMEOUT", "12s"),
            ("SHADOWCAT_UPSTREAM", "http://a:1,http://b:2"),
            ("SHADOWCAT_SESION_TIMEOUT", "13"),
        ]),
        ..Sources::default()
    };
    let loaded = config::load(&sources).unwrap();
    assert_eq!(loaded.plan.bind.port(), 1002);
    assert_eq!(loaded.plan.session.timeout.as_secs(), 12);
    assert_eq!(loaded.plan.pool.max_size, 3);
    assert_eq!(loaded.plan.session.max_sessions, 10_000);
    let names: Vec<&str> = loaded.plan.upstreams.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["a:1", "b:2"]);
    assert!(
        loaded.warnings.iter().any(|w| w.contains("did you mean SHADOWCAT_SESSION_TIMEOUT")),
        "{:?}",
        loaded.warnings
    );

    sources.flags = vec![("proxy.bind".into(), "127.0.0.1:1003".into(), "--bind".into())];
    sources.upstreams = vec!["http://c:3".into()];
    let plan = config::load(&sources).unwrap().plan;
    assert_eq!((plan.bind.port(), plan.upstreams[0].name.as_str()), (1003, "c:3"));

    sources.flags = vec![("session.timeot".into(), "1".into(), "--set session.timeot".into())];
    let said = config::load(&sources).unwrap_err().to_string();
    assert!(said.contains("did you mean `session.timeout`?"), "{said}");
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (text, expected) in [
        ("[proxy]\nworker_threads = 2\n[performance]\nworker_threads = 3\n", "are one setting and differ"),
        ("[rate_limit]\nenabled = false\nglobal = 1\nglobal_limit = 2\n", "write one of them"),
        (
            "[[upstreams]]\nname=\"a\"\nurl=\"http://x\"\n[[upstreams]]\nname=\"a\"\nurl=\"http://y\"\n",
            "two upstreams are named `a`",
        ),
        ("[[upstreams]]\nname=\"a\"\n", "without its `url`"),
        ("[[upstreams]]\nurl=\"http://x\"\nca_path=\"/x\"\n", "only an https://"),
        ("[tls]\ncert_path = \"/x\"\n", "needed together"),
        ("[proxy]\ntrusted_proxies = [\"10.0.0.0/40\"]\n", "no address range"),
    ] {
        let (_keep, path) = text_file(text);
        let said = config::check(&from_file(&path)).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(expected), "{text}\n{said}");
    }
    let (_keep, path) = text_file("[proxy]\nworker_threads = 2\n[performance]\nworker_threads = 2\n");
    assert_eq!(config::check(&from_file(&path)).unwrap().plan.workers, 2);
}

#[test]
fn a_private_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem");
    std::fs::write(&key, "x").unwrap();
    let text = format!("[tls]\ncert_path = \"/c\"\nkey_path = \"{}\"\n", key.display());
    let (_keep, path) = text_file(&text);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(config::check(&from_file(&path)).unwrap_err().to_string().contains("others can read"));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o440)).unwrap();
    assert!(config::check(&from_file(&path)).is_ok());
}

#[test]
fn show_keeps_secrets_and_says_who_set_what() {
    let path = root().join("tests/fixtures/guide/complete.toml");
    let variables = [("OAUTH_CLIENT_ID", "id"), ("OAUTH_CLIENT_SECRET", "s3cr3t"), ("SHADOWCAT_SESSION_TIMEOUT", "9")];
    let output = run(&["config", "show", "--origin", path.to_str().unwrap(), "--set", "pool.max_size=5"], &variables);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(!shown.contains("s3cr3t") && shown.contains("client_secret = \"***\""), "{shown}");
    assert!(shown.contains("timeout = 9 # SHADOWCAT_SESSION_TIMEOUT"), "{shown}");
    assert!(shown.contains("max_size = 5 # --set pool.max_size"), "{shown}");
    assert!(shown.contains("complete.toml:4:8"), "{shown}");
    assert!(shown.contains("# default"), "{shown}");
    let again = toml::from_str::<toml::Table>(&shown);
    assert!(again.is_ok(), "{again:?}\n{shown}");
}

#[test]
fn logs_follow_rust_log_and_nonsense_is_mentioned() {
    let variables = environment(&[("RUST_LOG", "shadowcat=info,tower_http=debug,,loud")]);
    let loaded = config::load(&Sources { environment: variables, ..Sources::default() }).unwrap();
    assert_eq!(loaded.plan.log.filter, "shadowcat=info,tower_http=debug");
    assert!(loaded.warnings.iter().any(|w| w.contains("`loud`")), "{:?}", loaded.warnings);
}

#[test]
fn usage_and_mode_as_a_container_starts_them() {
    let output = run(&[], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage"));
    assert_eq!(run(&[], &[("SHADOWCAT_MODE", "sideways")]).status.code(), Some(2));
    assert_eq!(run(&["reverse", "--nonsense"], &[]).status.code(), Some(2));
    assert_eq!(run(&["reverse", "--set", "proxy.bind=x"], &[]).status.code(), Some(78));
    let version = run(&["--version"], &[]);
    assert!(String::from_utf8_lossy(&version.stdout).contains("aws-lc-rs"));
}
