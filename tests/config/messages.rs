//! What is refused, and what an operator reads about it.

use shadowcat::config;

use crate::{from_file, root, run, text_file};

#[test]
fn a_server_loads_what_is_switched_off() {
    let off = "[auth]\nenabled = false\nclient_id = \"x\"\n[rate_limit]\nenabled = false\nglobal = 5\n";
    let (_keep, path) = text_file(off);
    assert!(config::load(&from_file(&path)).is_ok());
}

#[test]
fn what_is_to_be_left_out_of_a_recording_is_checked() {
    for (text, expected) in [
        ("enabled = true", "record.enabled without record.output"),
        ("output = \"/t\"\nredact_paths = [\"params.pin\"]", "`params.pin`: a JSON path begins with $"),
        ("output = \"/t\"\nredact_patterns = [\"(\"]", "unclosed group"),
        ("output = \"/t\"\nredact_patterns = [\"x*\"]", "matches the empty text"),
        ("output = \"/t\"\ntotal_bytes = \"1MiB\"", "less than record.file_bytes"),
        // Also while it is off.
        ("enabled = false\nredact_paths = [\"$.\"]", "a name is missing"),
    ] {
        let (_keep, path) = text_file(&format!("[record]\n{text}\n"));
        let errors = config::load(&from_file(&path)).unwrap_err().to_string();
        assert!(errors.contains(expected) && errors.contains("shadowcat.toml:"), "{text}: {errors}");
    }
    let (_keep, path) = text_file("[record]\noutput = \"tapes\"\nredact_paths = [\"$..pin\"]\n");
    let record = config::load(&from_file(&path)).unwrap().plan.record.unwrap();
    assert_eq!((record.output.to_str(), record.rules.paths.len()), (Some("tapes"), 1));
}

#[test]
fn secrets_of_sessions_are_checked_and_never_shown() {
    let good = "0123456789abcdefghijklmnopqrstuv";
    let complaint = |session: &str| {
        let (_keep, path) = text_file(&format!("[session]\n{session}"));
        config::load(&from_file(&path)).unwrap_err().to_string()
    };
    for (session, expected) in [
        ("secret = \"hunter2\"", "session.secret is too short: at least 32 characters"),
        ("secret = \"hunter29hunter29hunter29hunter29\"", "session.secret can be guessed: it repeats itself"),
        ("secret = \"111111111111111111111111111111122\"", "fewer than 8 different characters"),
        (&format!("secret = \"{good}\"\nprevious_secret = \"hunter2\""), "session.previous_secret is too short"),
        (&format!("previous_secret = \"{good}\""), "session.previous_secret needs session.secret"),
    ] {
        let said = complaint(session);
        assert!(said.contains(expected), "`{expected}` is not in:\n{said}");
        assert!(!said.contains("hunter2") && !said.contains("11111") && !said.contains(good), "{said}");
    }
    let (_keep, path) = text_file(&format!("[session]\nsecret = \"{good}\"\nprevious_secret = \"{good}\"\n"));
    let loaded = config::load(&from_file(&path)).unwrap();
    assert!(loaded.plan.session.seal.is_some());
    assert!(loaded.warnings.iter().any(|warning| warning.contains("take it out")), "{:?}", loaded.warnings);
    assert!(!format!("{:?}", loaded.plan).contains(good));
    let shown = run(&["config", "show", "--origin", path.to_str().unwrap()], &[]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("secret = \"***\"") && shown.contains("previous_secret = \"***\""), "{shown}");
    assert!(!shown.contains(good), "{shown}");
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
        (
            "[admin]\nsocket = \"/run/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789.sock\"\n",
            "longer than the",
        ),
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
fn a_server_that_will_refuse_everybody_says_so() {
    let guide = |name: &str| root().join(format!("tests/fixtures/guide/{name}.toml"));
    let configmap = config::load(&from_file(&guide("configmap"))).unwrap();
    assert!(configmap.warnings.iter().any(|warning| warning.contains("will be refused")), "{:?}", configmap.warnings);
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
