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

fn reverse() -> PathBuf {
    root().join("config/reverse.toml")
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
            let loaded = match path.extension().and_then(|extension| extension.to_str()) {
                Some("toml") => config::check(&from_file(&path)),
                Some("yaml") => config::check(&Sources { auth_config: Some(path.clone()), ..from_file(&reverse()) }),
                _ => panic!("{} is neither TOML nor YAML", path.display()),
            };
            assert!(loaded.is_ok(), "{}: {}", path.display(), loaded.unwrap_err());
            seen += 1;
        }
    }
    assert!(seen >= 9, "only {seen} files");
}

#[test]
fn the_complete_file_and_the_reference_are_up_to_date() {
    for (name, made, command) in [
        ("config/shadowcat.toml", config::example(), "default"),
        ("docs/CONFIGURATION.md", config::reference(), "reference"),
    ] {
        let written = std::fs::read_to_string(root().join(name)).unwrap_or_default();
        assert!(written == made, "run: cargo run -- config {command} > {name}");
    }
}

#[test]
fn the_complete_file_runs_as_it_is_and_holds_every_key() {
    let path = root().join("config/shadowcat.toml");
    assert!(config::load(&from_file(&path)).is_ok());
    let text = std::fs::read_to_string(&path).unwrap();
    let mut all = text.replace("http://mcp-server", "https://mcp-server");
    for key in schema::KEYS.iter().chain(schema::UPSTREAM_KEYS) {
        let (line, comment) = (format!("\n{} = ", key.name), format!("\n# {} = ", key.name));
        assert!(text.contains(&line) || text.contains(&comment), "no {}", key.path());
        // Each limit has two spellings, and only one of them at a time.
        if !matches!(key.name, "global" | "per_user" | "per_session" | "per_address" | "per_tool") {
            all = all.replace(&comment, &line);
        }
    }
    let checked = config::check_text(&all);
    assert!(checked.is_ok(), "{}", checked.unwrap_err());
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
        "expected a number, found text",
        "shadowcat.toml:3:18",
        "unknown section `sesion`",
        "did you mean `session`?",
        "expected a URL that begins with http:// or https://",
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
    assert!(said.contains("the environment variable `N` is not set") && said.contains(":2:17"), "{said}");

    let (_keep, path) = text_file("[logging]\noutput = \"${LOG:?say where logs go}\"\n");
    let said = config::load(&Sources { file: Some(path), ..Sources::default() }).unwrap_err().to_string();
    assert!(said.contains("say where logs go"), "{said}");

    // A value with a quote cannot break the file.
    let (_keep, path) = text_file("[session]\ndatabase_path = \"${DIR}\"\n");
    let odd = environment(&[("DIR", "/a\"\nstore = \"memory")]);
    let plan = config::load(&Sources { file: Some(path), environment: odd, ..Sources::default() }).unwrap().plan;
    assert_eq!(plan.session.path, Path::new("/a\"\nstore = \"memory"));
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
        ("[tls]\ncert_path = \"/x\"\n", "tls.cert_path needs tls.key_path"),
        ("[tls]\nmin_version = \"1.3\"\n", "there is no TLS to apply it to"),
        ("[limits]\nhead_bytes = 2048\n", "limits.target_bytes is more than"),
        ("[pool]\nmin_idle = 2\nmax_size = 1\n", "more than pool.max_size"),
        ("[admin]\nbind = \"127.0.0.1:8080\"\n", "the address of the proxy itself"),
        ("[rate_limit]\nglobal = 1\nglobal_window = 5\n", "write rate_limit.global_limit"),
        ("[[auth.rules]]\nscopes = [\"a\"]\n", "without a `path`, `method` or `tool`"),
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

/// What an operator reads about this file, but for the path of the directory.
fn complaint(text: &str) -> String {
    config::check_text(text).expect_err(text).to_string()
}

#[test]
fn messages_read_well() {
    let secret_in_the_url = "[[upstreams]]\nname = \"a\"\nurl = \"http://user:hunter2@mcp:3000\"\n";
    for (name, text) in [
        ("unknown_key", "[session]\ntimout = 300\n"),
        ("unknown_section", "[sesions]\ntimeout = 300\n"),
        ("key_of_another_section", "[timeouts]\nkeep_alive_timeout = 60\n"),
        ("wrong_type", "[session]\nmax_sessions = \"100\"\n"),
        ("out_of_range", "[[upstreams]]\nurl = \"http://mcp:3000\"\nweight = 0\n"),
        ("unknown_choice", "[proxy]\ndriver = \"iouring\"\n"),
        ("variable_that_is_not_set", "[auth]\nclient_id = \"${A:-a}${AB:-b}${A}\"\n"),
        (
            "several_at_once",
            "[proxy]\nbind = 8080\ntrusted_proxies = [\"10.0.0.0/8\", \"10.0.0.0/33\"]\n[logging]\nlevel = \"loud\"\noutput = \"syslog\"\n",
        ),
        ("syntax", "[proxy]\nbind = \"127.0.0.1:8080\nmode = reverse\n"),
        (
            "duplicate_upstreams",
            "[[upstreams]]\nname = \"a\"\nurl = \"http://x:1\"\n\n[[upstreams]]\nname = \"a\"\nurl = \"http://y:2\"\n",
        ),
        ("one_setting_twice", "[proxy]\nworker_threads = 2\n\n[performance]\nworker_threads = 3\n"),
        ("secret_in_a_url", secret_in_the_url),
        ("secret_of_the_wrong_type", "[auth]\nclient_secret = 12345678\nclient_id = 5\n"),
    ] {
        insta::assert_snapshot!(name, complaint(text));
    }
    let yaml = config::check_auth_text("enabled: true\nclient_secrt: hunter2\nleeway: soon\nscopes: [read, 5]\n");
    insta::assert_snapshot!("yaml", yaml.unwrap_err().to_string());
}

#[test]
fn a_server_names_each_feature_it_does_not_have() {
    let text = "[auth]\nprovider = \"oauth2\"\n\n[health_check]\nenabled = true\n\n[record]\noutput = \"/tapes\"\n\n[session]\n\
                failover = \"reinitialize\"\n";
    let (keep, path) = text_file(text);
    let said = config::load(&from_file(&path)).unwrap_err().to_string();
    insta::assert_snapshot!("not_available", said.replace(&keep.path().display().to_string(), "DIR"));
    // The ConfigMap and the complete example of the guide switch on what is not there yet.
    for name in ["configmap", "complete"] {
        let path = root().join(format!("tests/fixtures/guide/{name}.toml"));
        let said = config::load(&from_file(&path)).unwrap_err().to_string();
        assert!(said.contains("authentication is not available in this version"), "{said}");
        assert!(said.contains("rate limiting is not available in this version"), "{said}");
        assert!(
            config::check(&from_file(&path)).unwrap().warnings.iter().any(|w| w.contains("a server does not start"))
        );
    }
}

#[test]
fn switched_off_sections_are_checked_all_the_same() {
    for section in ["auth", "rate_limit", "telemetry", "health_check", "circuit_breaker", "tls", "record", "admin"] {
        let (_keep, path) = text_file(&format!("[{section}]\nenabled = false\n"));
        assert!(config::load(&from_file(&path)).is_ok(), "{section}");
        let (_keep, path) = text_file(&format!("[{section}]\n"));
        assert!(config::load(&from_file(&path)).is_ok(), "empty {section}");
        let (_keep, path) = text_file(&format!("[{section}]\nenabled = false\nnonsense = 1\n"));
        assert!(config::load(&from_file(&path)).is_err(), "{section}");
    }
}

#[test]
fn auth_yaml_wins_over_the_file_and_loses_to_the_environment() {
    let (keep, file) = text_file("[auth]\nclient_id = \"file\"\nleeway = 1\nissuer = \"https://file.example\"\n");
    let yaml = keep.path().join("auth.yaml");
    std::fs::write(&yaml, "client_id: yaml\nleeway: 2s\nclient_secret: ${SECRET}\n").unwrap();
    let sources = Sources {
        file: Some(file),
        auth_config: Some(yaml.clone()),
        environment: environment(&[("SHADOWCAT_AUTH_LEEWAY", "3"), ("SECRET", "hunter2")]),
        ..Sources::default()
    };
    let loaded = config::check(&sources).unwrap();
    let shown = config::show(&loaded, true);
    assert!(shown.contains("client_id = \"yaml\" # ") && shown.contains("auth.yaml:1:12"), "{shown}");
    assert!(shown.contains("leeway = 3 # SHADOWCAT_AUTH_LEEWAY"), "{shown}");
    assert!(shown.contains("issuer = \"https://file.example\""), "{shown}");
    assert!(shown.contains("enabled = true") && !shown.contains("hunter2"), "{shown}");
    // It is never ignored: a server that cannot authenticate does not start with it.
    assert!(config::load(&sources).unwrap_err().to_string().contains("authentication is not available"));

    std::fs::write(&yaml, "client_id: yaml\n  leeway: 5\n").unwrap();
    let said = config::check(&sources).unwrap_err().to_string();
    assert!(said.contains("auth.yaml:2:"), "{said}");
    let missing = Sources { auth_config: Some("/nowhere/auth.yaml".into()), ..Sources::default() };
    assert!(config::check(&missing).unwrap_err().to_string().contains("/nowhere/auth.yaml"));
}

/// Every key with its default or example, as the complete file has it, written as in a variable.
fn examples() -> Vec<(String, String)> {
    fn flat(value: &toml::Value) -> String {
        match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join(","),
            toml::Value::Table(pairs) => {
                pairs.iter().map(|(k, v)| format!("{k}={}", flat(v))).collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        }
    }
    let complete = config::example().replace("\n# --- ", "\n#-- ");
    let key_lines = complete.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest,
        _ => line,
    });
    let sections: toml::Table = toml::from_str(&key_lines.collect::<Vec<_>>().join("\n")).unwrap();
    let mut found = Vec::new();
    for key in schema::KEYS {
        let value = &sections[key.section][key.name];
        if !value.as_array().is_some_and(|items| items.iter().any(toml::Value::is_table)) {
            found.push((key.path(), flat(value)));
        }
    }
    found
}

#[test]
fn every_key_can_be_set_by_its_variable_and_by_a_flag() {
    // What some keys make no sense without.
    let base = "[tls]\ncert_path = \"/c\"\nkey_path = \"/k\"\nclient_ca_path = \"/a\"\n";
    let (_keep, path) = text_file(base);
    let examples = examples();
    // All but the two lists of tables, which only a file can hold.
    assert_eq!(examples.len() + 2, schema::KEYS.len());
    for (key, value) in examples {
        let name = format!("SHADOWCAT_{}", key.replace('.', "_").to_uppercase());
        let mut by_variable = from_file(&path);
        by_variable.environment.insert(name.clone(), value.clone());
        let by_flag = Sources { flags: vec![(key.clone(), value, "--set".into())], ..from_file(&path) };
        for (sources, origin) in [(by_variable, name.as_str()), (by_flag, "--set")] {
            let loaded = config::check(&sources).unwrap_or_else(|errors| panic!("{key}: {errors}"));
            assert_eq!(loaded.layers.get(&key).map(|setting| setting.origin.to_string()).as_deref(), Some(origin));
            assert!(!loaded.warnings.iter().any(|w| w.contains("sets nothing")), "{:?}", loaded.warnings);
        }
    }
}

#[test]
fn keys_of_one_upstream_are_set_by_its_name_or_number() {
    let text =
        "[[upstreams]]\nname = \"eu-1\"\nurl = \"http://a\"\n[[upstreams]]\nname = \"us\"\nurl = \"https://b\"\n";
    let (_keep, path) = text_file(text);
    let mut sources = Sources {
        file: Some(path),
        environment: environment(&[
            ("SHADOWCAT_UPSTREAMS_EU_1_WEIGHT", "3"),
            ("SHADOWCAT_UPSTREAMS_US_SERVER_NAME", "b.example"),
            ("SHADOWCAT_UPSTREAMS_1_TIMEOUT", "5s"),
            ("SHADOWCAT_UPSTREAMS_ASIA_TIMEOUT", "5s"),
        ]),
        flags: vec![("upstreams.us.max_connections".into(), "9".into(), "--set".into())],
        ..Sources::default()
    };
    let loaded = config::load(&sources).unwrap();
    let upstreams = &loaded.plan.upstreams;
    assert_eq!(upstreams[0].weight, 3);
    assert_eq!(upstreams[1].tls.as_ref().map(|tls| tls.server_name.as_str()), Some("b.example"));
    assert_eq!((upstreams[1].timeout.as_secs(), upstreams[1].max_connections), (5, Some(9)));
    assert!(loaded.warnings.iter().any(|w| w.contains("SHADOWCAT_UPSTREAMS_ASIA_TIMEOUT")), "{:?}", loaded.warnings);

    sources.flags = vec![("upstreams.nobody.weight".into(), "9".into(), "--set".into())];
    assert!(config::load(&sources).unwrap_err().to_string().contains("unknown key `upstreams.nobody.weight`"));
}

#[test]
fn one_setting_under_two_names_follows_the_order_of_layers() {
    let (_keep, path) = text_file("[performance]\nworker_threads = 5\n");
    let with = |variables: &[(&str, &str)], flags: &[(&str, &str)]| {
        let flags = flags.iter().map(|(key, value)| (key.to_string(), value.to_string(), "--workers".into())).collect();
        let sources =
            Sources { file: Some(path.clone()), environment: environment(variables), flags, ..Sources::default() };
        config::load(&sources).map(|loaded| loaded.plan.workers).map_err(|errors| errors.to_string())
    };
    assert_eq!(with(&[], &[]), Ok(5));
    assert_eq!(with(&[("SHADOWCAT_PROXY_WORKER_THREADS", "6")], &[]), Ok(6));
    assert_eq!(with(&[("SHADOWCAT_PROXY_WORKER_THREADS", "6")], &[("performance.worker_threads", "7")]), Ok(7));
    assert_eq!(with(&[("SHADOWCAT_PERFORMANCE_WORKER_THREADS", "6")], &[("proxy.worker_threads", "7")]), Ok(7));
    let both = [("SHADOWCAT_BIND", "127.0.0.1:1"), ("SHADOWCAT_PROXY_BIND", "127.0.0.1:2")];
    assert!(with(&both, &[]).unwrap_err().contains("are one setting and differ"));
}

#[test]
fn variables_that_are_set_to_nothing_or_by_kubernetes_do_no_harm() {
    let variables = [
        ("SHADOWCAT_UPSTREAM", ""),
        ("SHADOWCAT_BIND", ""),
        ("SHADOWCAT_PORT", "tcp://10.0.0.1:80"),
        ("SHADOWCAT_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("SHADOWCAT_SERVICE_HOST", "10.0.0.1"),
        ("SHADOWCAT_TELEMETRY_ENDPIONT", "http://x"),
    ];
    let loaded = config::load(&Sources { environment: environment(&variables), ..Sources::default() }).unwrap();
    assert!(loaded.plan.upstreams.is_empty());
    assert_eq!(loaded.plan.bind, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("enableServiceLinks"), "{:?}", loaded.warnings);
    assert!(loaded.warnings[1].contains("did you mean SHADOWCAT_TELEMETRY_ENDPOINT?"), "{:?}", loaded.warnings);

    let undecodable = Sources { undecodable: vec!["SHADOWCAT_BIND".into(), "OTHER".into()], ..Sources::default() };
    assert!(config::load(&undecodable).unwrap_err().to_string().contains("SHADOWCAT_BIND: its value is not UTF-8"));
}

#[test]
fn tables_of_texts_are_set_as_a_whole_or_one_by_one() {
    let (_keep, path) =
        text_file("[telemetry]\nenabled = false\n[telemetry.resource_attributes]\na = \"1\"\nregion = \"eu\"\n");
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned(), "--set".to_owned());
    let mut sources = Sources {
        flags: vec![
            set("telemetry.resource_attributes.deployment.environment", "x"),
            set("telemetry.resource_attributes.a", "2"),
        ],
        ..from_file(&path)
    };
    let shown = config::show(&config::check(&sources).unwrap(), false);
    let expected = r#"resource_attributes = { "region" = "eu", "deployment.environment" = "x", "a" = "2" }"#;
    assert!(shown.contains(expected), "{shown}");
    sources.flags = vec![set("telemetry.resource_attributes", "b=3,c=4")];
    let shown = config::show(&config::check(&sources).unwrap(), false);
    assert!(shown.contains(r#"resource_attributes = { "b" = "3", "c" = "4" }"#), "{shown}");
}

#[test]
fn what_is_shown_loads_again_and_shows_the_same() {
    for name in ["config/gateway.toml", "config/development.toml", "config/shadowcat.toml"] {
        let first = config::show(&config::check(&from_file(&root().join(name))).unwrap(), true);
        let (_keep, path) = text_file(&first);
        let again = config::check(&from_file(&path)).unwrap_or_else(|errors| panic!("{errors}\n{first}"));
        let without_origins =
            |text: &str| text.lines().map(|l| l.split(" # ").next().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(without_origins(&first), without_origins(&config::show(&again, true)), "{name}");
    }
}

#[test]
fn an_empty_machine_has_defaults_that_run() {
    let loaded =
        config::load(&Sources { environment: environment(&[("HOME", "/home/x")]), ..Sources::default() }).unwrap();
    let plan = loaded.plan;
    assert_eq!(plan.bind, "127.0.0.1:8080".parse().unwrap());
    assert!(plan.workers >= 1 && plan.upstreams.is_empty());
    assert_eq!(plan.session.path, Path::new("/home/x/.local/state/shadowcat/127.0.0.1:8080"));
    assert_eq!(
        (plan.limits.head.head_bytes, plan.limits.head.fields, plan.limits.head.target_bytes),
        (32 << 10, 100, 8 << 10)
    );
    assert_eq!((plan.limits.body_bytes_max, plan.limits.peek_bytes_max), (None, 1 << 20));
    let seconds = |time: std::time::Duration| time.as_secs();
    let timeouts = &plan.timeouts;
    assert_eq!([timeouts.header, timeouts.body, timeouts.keep_alive].map(seconds), [10, 30, 60]);
    assert_eq!([timeouts.connect, timeouts.write, timeouts.shutdown].map(seconds), [30, 60, 30]);
    assert_eq!(timeouts.request, None);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_demo_keeps_sessions_in_memory_unless_a_store_is_named() {
    use config::plan::StoreKind;
    let demo = Sources { in_memory: true, ..Sources::default() };
    assert_eq!(config::load(&demo).unwrap().plan.session.store, StoreKind::Memory);
    let named = Sources { environment: environment(&[("SHADOWCAT_SESSION_DATABASE_PATH", "/x")]), ..demo };
    assert_eq!(config::load(&named).unwrap().plan.session.store, StoreKind::Lmdb);
}

#[test]
fn files_that_are_no_configuration_are_refused_not_read_forever() {
    for path in ["/dev/zero", "/", "/nowhere/at/all.toml"] {
        let said = config::check(&from_file(Path::new(path))).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(path), "{said}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("latin1.toml");
    std::fs::write(&path, b"# ok\n# caf\xe9\n").unwrap();
    let said = config::check(&from_file(&path)).map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("line 2 is not UTF-8"), "{said}");
}

#[test]
fn files_that_are_named_must_be_there_to_run_but_not_to_check() {
    let (_keep, path) = text_file("[[upstreams]]\nurl = \"https://x\"\nca_path = \"/nowhere/ca.pem\"\n");
    let said = config::load(&from_file(&path)).map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("upstreams.ca_path: /nowhere/ca.pem") && said.contains(":3:11"), "{said}");
    let warnings = config::check(&from_file(&path)).unwrap().warnings;
    assert!(warnings.iter().any(|w| w.contains("/nowhere/ca.pem")), "{warnings:?}");
}

#[test]
fn a_file_in_the_working_directory_is_found() {
    let (keep, _path) = text_file("[proxy]\nbind = \"127.0.0.1:4711\"\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    let output = command.args(["config", "show", "--origin"]).env_clear().current_dir(keep.path()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("bind = \"127.0.0.1:4711\" # ./shadowcat.toml:2:8"), "{shown}");
}

#[test]
fn an_empty_variable_is_a_mistake_unless_the_file_leaves_the_key_open() {
    let (_keep, path) = text_file("[session]\ndatabase_path = \"${DIR:-}\"\nmax_sessions = \"${N}\"\n");
    let sources = Sources { environment: environment(&[("DIR", ""), ("N", "")]), ..from_file(&path) };
    let errors = config::load(&sources).unwrap_err();
    assert_eq!(errors.problems().len(), 1, "{errors}");
    assert!(errors.to_string().contains("session.max_sessions: expected a number, found nothing"), "{errors}");
}

#[test]
fn the_level_of_a_flag_wins_over_rust_log_and_that_over_the_file() {
    let (_keep, path) = text_file("[logging]\nlevel = \"warn\"\n");
    let with = |variables: &[(&str, &str)], flag: Option<&str>| {
        let flags = flag.map(|level| ("logging.level".into(), level.into(), "--log-level".into()));
        let flags = flags.into_iter().collect();
        let sources =
            Sources { file: Some(path.clone()), environment: environment(variables), flags, ..Sources::default() };
        config::load(&sources).unwrap().plan.log.filter
    };
    assert_eq!(with(&[], None), "warn");
    assert_eq!(with(&[("RUST_LOG", "shadowcat=info,tower_http=debug")], None), "shadowcat=info,tower_http=debug");
    assert_eq!(with(&[("RUST_LOG", "!!")], None), "warn");
    assert_eq!(with(&[("RUST_LOG", "debug"), ("SHADOWCAT_LOGGING_LEVEL", "error")], None), "debug");
    assert_eq!(with(&[("RUST_LOG", "debug")], Some("trace")), "trace");
}

#[test]
fn the_commands_say_what_they_checked_and_exit_with_78_when_it_is_bad() {
    let (_keep, path) = text_file("[proxy]\nbind = \"127.0.0.1:0\"\n");
    let name = path.to_str().unwrap();
    let good = run(&["config", "check", name], &[]);
    assert_eq!(String::from_utf8(good.stdout).unwrap(), format!("{name}: the configuration is good\n"));
    assert_eq!(run(&["config", "check", "/nowhere.toml"], &[]).status.code(), Some(78));
    assert_eq!(run(&["config", "check"], &[("SHADOWCAT_CONFIG", "/nowhere.toml")]).status.code(), Some(78));
    assert_eq!(run(&["config", "check", name, "--set", "proxy.bindd=x"], &[]).status.code(), Some(78));
    assert_eq!(run(&["config", "show", name, "--set", "nonsense"], &[]).status.code(), Some(2));
    for (flag, feature) in [("--tls-min-version=1.3", "no TLS"), ("--set=auth.enabled=true", "authentication")] {
        let output = run(&["reverse", "--config", name, flag], &[]);
        assert_eq!(output.status.code(), Some(78));
        assert!(String::from_utf8_lossy(&output.stderr).contains(feature));
    }
}

/// Changes that a hand or a broken editor makes.
fn mutated(text: &str, at: usize, change: u8) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let line = at % lines.len().max(1);
    let cut = text.floor_char_boundary(at % text.len().max(1));
    if lines.is_empty() {
        return "$".to_owned();
    }
    match change % 5 {
        0 => [&lines[..line], &lines[line + 1..]].concat().join("\n"),
        1 => [&lines[..line], &[lines[line]], &lines[line..]].concat().join("\n"),
        2 => text[..cut].to_owned(),
        3 => format!("{}\"{}", &text[..cut], &text[cut..]),
        _ => format!("{}${{{}", &text[..cut], &text[cut..]),
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*|[\\[\\]\"'=#${}:\\-a-z0-9_.,\n \\t\u{0}\u{e9}]{0,200}") {
        let _ = config::check_text(&text).map_err(|errors| errors.to_string());
        let _ = config::check_auth_text(&text).map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_change_of_a_good_file_makes_the_reader_panic(at in 0usize..100_000, change: u8, again: u8) {
        let complete = include_str!("fixtures/guide/complete.toml");
        let text = mutated(&mutated(complete, at, change), at / 7, again);
        let _ = config::check_text(&text).map_err(|errors| errors.to_string());
        let yaml = mutated(include_str!("../config/auth.yaml"), at, change);
        let _ = config::check_auth_text(&yaml).map_err(|errors| errors.to_string());
    }
}
