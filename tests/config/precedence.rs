//! Flags over variables over files over defaults, for every key.

use shadowcat::config::{self, Sources, schema};

use crate::{environment, from_file, text_file};

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
fn logs_follow_rust_log_and_nonsense_is_mentioned() {
    let variables = environment(&[("RUST_LOG", "shadowcat=info,tower_http=debug,,loud")]);
    let loaded = config::load(&Sources { environment: variables, ..Sources::default() }).unwrap();
    assert_eq!(loaded.plan.log.filter, "shadowcat=info,tower_http=debug");
    assert!(loaded.warnings.iter().any(|w| w.contains("`loud`")), "{:?}", loaded.warnings);
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
    let base = "[tls]\ncert_path = \"/c\"\nkey_path = \"/k\"\nclient_ca_path = \"/a\"\n\
                [auth]\naudience = \"https://proxy.example.com\"\n\
                [session]\nsecret = \"vutsrqponmlkjihgfedcba9876543210\"\n";
    let (_keep, path) = text_file(base);
    let examples = examples();
    // All but the lists of tables, which only a file can hold.
    let tables = schema::KEYS.iter().filter(|key| matches!(key.kind, schema::Kind::Tables(_))).count();
    assert_eq!(examples.len() + tables, schema::KEYS.len());
    for (key, value) in examples {
        // The example names a variable, which only a file can do.
        let value = if key.starts_with("session.") && key.ends_with("secret") {
            "0123456789abcdefghijklmnopqrstuv".to_owned()
        } else {
            value
        };
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
