//! Files: those we ship, those of the guide, what is read from them and what is shown of it.

use std::path::Path;

use shadowcat::config::{self, Sources, schema};

use crate::{environment, from_file, reverse, root, run, text_file};

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
    let metrics = std::fs::read_to_string(root().join("docs/METRICS.md")).unwrap_or_default();
    assert!(metrics == shadowcat::telemetry::families::reference(), "run: cargo run -- metrics > docs/METRICS.md");
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
        // Each limit has two spellings, and only one of them at a time; an upstream has one credential.
        if !matches!(key.name, "global" | "per_user" | "per_session" | "per_address" | "per_tool")
            && !matches!(key.name, "providers" | "bearer_token" | "credential_header" | "credential")
        {
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
    let auth = config::load(&sources).unwrap().plan.auth.unwrap();
    assert_eq!(auth.issuers[0].client_secret.as_ref().map(|secret| secret.expose()), Some("hunter2"));
    assert!(!format!("{auth:?}").contains("hunter2"));

    std::fs::write(&yaml, "client_id: yaml\n  leeway: 5\n").unwrap();
    let said = config::check(&sources).unwrap_err().to_string();
    assert!(said.contains("auth.yaml:2:"), "{said}");
    let missing = Sources { auth_config: Some("/nowhere/auth.yaml".into()), ..Sources::default() };
    assert!(config::check(&missing).unwrap_err().to_string().contains("/nowhere/auth.yaml"));
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
        config::load(&Sources { environment: environment(&[("HOME", "/users/x")]), ..Sources::default() }).unwrap();
    let plan = loaded.plan;
    assert_eq!(plan.bind, "127.0.0.1:8080".parse().unwrap());
    assert!(plan.workers >= 1 && plan.upstreams.is_empty());
    assert_eq!(plan.session.path, Path::new("/users/x/.local/state/shadowcat/127.0.0.1:8080"));
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
fn an_empty_variable_is_a_mistake_unless_the_file_leaves_the_key_open() {
    let (_keep, path) = text_file("[session]\ndatabase_path = \"${DIR:-}\"\nmax_sessions = \"${N}\"\n");
    let sources = Sources { environment: environment(&[("DIR", ""), ("N", "")]), ..from_file(&path) };
    let errors = config::load(&sources).unwrap_err();
    assert_eq!(errors.problems().len(), 1, "{errors}");
    assert!(errors.to_string().contains("session.max_sessions: expected a number, found nothing"), "{errors}");
}
