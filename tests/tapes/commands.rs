//! `tape list|show|stats|validate|export|delete|view`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use shadowcat::wire::tape::{Gap, Transport};

use super::making::{Making, echo, http, initialize, request, stdio};
use super::{said, shadowcat, tape, text};

fn json_of(arguments: &[&str], files: &[&Path]) -> Value {
    let text = said(arguments, files);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_directory_is_listed_with_what_its_tapes_are() {
    let directory = tempfile::tempdir().unwrap();
    stdio().write(directory.path(), "one.tape");
    http().write(directory.path(), "two.tape");
    fs::write(directory.path().join("cut.tape"), &stdio().bytes[..900]).unwrap();
    fs::write(directory.path().join("notes.txt"), "no tape\n").unwrap();
    let listed = said(&["list"], &[directory.path()]);
    let row =
        |name: &str| listed.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {listed}"));
    assert!(row("one.tape").contains("stdio") && row("one.tape").contains("server --all"), "{listed}");
    assert!(row("one.tape").contains("finished") && row("cut.tape").contains("open or cut off"), "{listed}");
    assert!(row("two.tape").contains("http://127.0.0.1:1") && row("two.tape").contains("sha256:0123"), "{listed}");
    assert!(!listed.contains("notes.txt"), "{listed}");
    let names = |arguments: &[&str]| -> Vec<String> {
        let found = json_of(&[&["list", "--output", "json"], arguments].concat(), &[directory.path()]);
        let tapes = found["tapes"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            tapes.map(|tape| tape["tape"].as_str().unwrap().rsplit('/').next().unwrap().into()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&["--session", "sha256:01"]), ["two.tape"]);
    assert_eq!(names(&["--method", "elicitation/*"]), ["one.tape", "two.tape"]);
    assert_eq!(names(&["--since", "2026-11-25T21:00:00Z"]), [""; 0]);
    // The directory that one is in, if none is named.
    let here = shadowcat(&["tape", "list"]).current_dir(directory.path()).output().unwrap();
    assert_eq!(text(&here.stdout), listed);
}

#[test]
fn frames_are_shown_and_chosen() {
    let directory = tempfile::tempdir().unwrap();
    let path = stdio().write(directory.path(), "one.tape");
    let shown = said(&["show"], &[&path]);
    assert!(
        shown.lines().any(|line| line.contains("answer") && line.contains("initialize") && line.contains("5.0 ms")),
        "{shown}"
    );
    assert!(shown.contains("error -32602 Unknown tool: nowhere"), "{shown}");
    // As lines of the tape.
    let chosen = |arguments: &[&str]| -> Vec<u64> {
        let lines = said(&[&["show", "--output", "json"], arguments].concat(), &[&path]);
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(chosen(&[]).len(), 19);
    assert_eq!(chosen(&["--method", "initialize"]), [1, 2]);
    assert_eq!(chosen(&["--tool", "echo"]), [5, 6, 7, 8]);
    assert_eq!(chosen(&["--tool", "e*", "--until", "5500us"]), [5]);
    assert_eq!(chosen(&["--errors"]), [19]);
    assert_eq!(chosen(&["--since", "2026-11-25T20:00:00.09Z", "--tool", "nowhere"]), [18, 19]);
    let one = said(&["show", "--frame", "5"], &[&path]);
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap()["message"]["params"], echo("hello"));
    let none = tape(&["show", "--frame", "99"], &[&path]);
    assert_eq!((none.status.code(), text(&none.stderr).contains("it has no frame 99")), (Some(1), true));
}

#[test]
fn what_a_tape_says_gives_a_terminal_no_orders() {
    let directory = tempfile::tempdir().unwrap();
    let mut making = Making::new(Transport::Stdio, None);
    making.call(1, "tools/call", json!({ "name": "\u{1b}[2J\u{202e}evil\u{7f}" }), json!({}));
    let path = making.write(directory.path(), "one.tape");
    for arguments in [&["show"][..], &["stats"], &["show", "--frame", "1"]] {
        let shown = said(arguments, &[&path]);
        assert!(shown.contains("evil"), "{shown}");
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{7f}']), "{shown:?}");
    }
}

#[test]
fn calls_are_counted_by_method_and_tool() {
    let directory = tempfile::tempdir().unwrap();
    stdio().write(directory.path(), "one.tape");
    http().write(directory.path(), "two.tape");
    let stats = json_of(&["stats", "--output", "json"], &[directory.path()]);
    assert_eq!((&stats["tapes"], &stats["errors"]), (&json!(2), &json!(2)));
    let of = |method: &str, name: Value| {
        let methods = stats["methods"].as_array().unwrap().iter();
        methods
            .clone()
            .find(|row| row["method"] == method && row["name"] == name)
            .cloned()
            .unwrap_or_else(|| panic!("{stats:#}"))
    };
    let echoes = of("tools/call", json!("echo"));
    assert_eq!((&echoes["calls"], &echoes["answered"], &echoes["errors"]), (&json!(5), &json!(5), &json!(0)));
    assert_eq!(of("tools/call", json!("slow"))["max_seconds"], 0.08);
    assert_eq!(of("tools/call", json!("nowhere"))["errors"], 2);
    assert_eq!(of("elicitation/create", Value::Null)["answered"], 2);
    assert!(said(&["stats"], &[directory.path()]).contains("METHOD"));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let sound = http().write(directory.path(), "sound.tape");
    let output = tape(&["validate"], &[&sound]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    let whole = fs::read_to_string(&sound).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let problems = |bytes: &[u8]| {
        let path = write("broken.tape", bytes);
        let output = tape(&["validate", "--output", "json"], &[&path]);
        let report: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
        let found = &report["tapes"][0]["problems"];
        assert_eq!((output.status.success(), report["ok"] == true), (found == &json!([]), found == &json!([])));
        let named = |one: &Value| format!("{}: {}", one["line"], one["what"].as_str().unwrap());
        found.as_array().unwrap().iter().map(named).collect::<Vec<_>>()
    };
    let last = lines.len();
    // A byte that was changed, a line that is gone, one that cannot be read, numbers that do not fit.
    let changed = whole.replacen("recorded", "rewritten", 1).into_bytes();
    assert!(problems(&changed).iter().any(|what| what.starts_with(&format!("{}: bytes are missing", last - 1))));
    let changed = whole.replacen("recorded", "recorder", 1).into_bytes();
    assert!(
        problems(&changed).iter().any(|what| what.starts_with(&format!("{}: the lines above were changed", last - 1)))
    );
    let gone = [&lines[..4], &lines[5..]].concat().concat();
    assert!(
        problems(gone.as_bytes()).iter().any(|what| what == "5: frame 5 follows frame 3"),
        "{:?}",
        problems(gone.as_bytes())
    );
    let unreadable = [&lines[..4], &["{\"seq\":4,\n"], &lines[5..]].concat().concat();
    assert!(problems(unreadable.as_bytes()).iter().any(|what| what.starts_with("5: EOF while parsing")));
    let more = whole.clone() + lines[1];
    assert!(problems(more.as_bytes()).iter().any(|what| what.contains("something stands behind the end of the tape")));
    let backwards = [lines[0], lines[2], lines[1]].concat();
    assert!(problems(backwards.as_bytes()).iter().any(|what| what.contains("time goes back")));
    assert!(problems(backwards.as_bytes()).iter().any(|what| what.contains("answers frame 1, which asks nothing")));
    // What a recorder that was killed leaves is no problem.
    assert_eq!(problems(&whole.as_bytes()[..whole.len() - 30]), [""; 0]);
    let refused = tape(&["validate"], &[&write("no.tape", b"hello\n")]);
    assert_eq!((refused.status.code(), text(&refused.stderr).contains("not a tape")), (Some(1), true));
}

#[test]
fn nothing_but_tapes_is_deleted_and_that_when_somebody_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = stdio().write(directory.path(), "one.tape");
    let other = directory.path().join("notes.txt");
    fs::write(&other, "keep me\n").unwrap();
    let link = directory.path().join("link.tape");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let asked = tape(&["delete"], &[&path]);
    assert_eq!((asked.status.code(), text(&asked.stderr).contains("say --yes")), (Some(2), true));
    for files in
        [&[path.as_path(), &other][..], &[&path, directory.path()], &[&path, &link], &[&path, Path::new("/nowhere")]]
    {
        let refused = tape(&["delete", "--yes"], files);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains("nothing was deleted"), "{}", text(&refused.stderr));
        assert!(path.exists() && other.exists());
    }
    assert!(tape(&["delete", "--yes"], &[&path]).status.success());
    assert!(!path.exists());
}

/// Bytes of memory that a command took at most, which says nothing.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it, and tells what it took")]
fn peak(arguments: &[&str], path: &Path) -> u64 {
    let mut command = shadowcat(&["tape"]);
    command.args(arguments).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let mut status = 0;
    // SAFETY: zeroes are a value of `rusage`, and both pointers are valid.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage), child.id().cast_signed());
        usage
    };
    assert_eq!(status, 0, "{arguments:?}");
    usage.ru_maxrss as u64 * 1024
}

#[test]
fn a_tape_of_any_length_is_gone_over_in_constant_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.tape");
    let mut making = Making::new(Transport::Stdio, None);
    let mut file = fs::File::create(&path).unwrap();
    let filler = "x".repeat(20_000);
    let mut bytes = 0;
    for id in 0.. {
        making.call(id, "tools/call", echo(&filler), json!({}));
        if id % 100 == 0 {
            making.checkpoint();
            bytes += making.bytes.len() as u64;
            file.write_all(&making.bytes).unwrap();
            making.bytes.clear();
            if bytes > 128 << 20 {
                break;
            }
        }
    }
    for arguments in [&["show", "--errors"][..], &["stats"], &["validate"], &["export", "--format", "har"]] {
        let peak = peak(arguments, &path);
        assert!(peak < 48 << 20, "{arguments:?} took {} MiB for a tape of {} MiB", peak >> 20, bytes >> 20);
    }
}

#[test]
fn the_script_for_curl_asks_a_server_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    server.args(["demo", "--bind", "127.0.0.1:0"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stderr.take().unwrap()), &mut line).unwrap();
    let address = line.trim().split("http://").nth(1).unwrap().trim_end_matches("/mcp").to_owned();
    let hostile = "it's `touch OWNED` $(touch OWNED) \"quoted\" \\ END";
    let mut over_http = Making::new(Transport::Http, Some("sha256:1"));
    let mut over_stdio = Making::new(Transport::Stdio, None);
    for (id, message) in
        [initialize(0), request(1, "tools/list", json!({})), request(2, "tools/call", echo(hostile))].iter().enumerate()
    {
        let _ = (id, over_http.post(message), over_stdio.client(message));
    }
    for (name, making) in [("http.tape", over_http), ("stdio.tape", over_stdio)] {
        let path = making.write(directory.path(), name);
        let script = directory.path().join("script.sh");
        fs::write(&script, said(&["export", "--format", "curl"], &[&path])).unwrap();
        let mut run = Command::new("sh");
        let run = run.arg(&script).arg(format!("http://{address}")).current_dir(directory.path()).output().unwrap();
        let answers = text(&run.stdout);
        assert!(run.status.success(), "{}\n{answers}", text(&run.stderr));
        let answers: Vec<Value> =
            answers.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.len(), 3, "{name}");
        assert!(answers[1]["result"]["tools"].is_array(), "in the session that was begun: {}", answers[1]);
        assert_eq!(answers[2]["result"]["content"][0]["text"], hostile);
        assert!(!directory.path().join("OWNED").exists());
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_document_of_json_holds_the_lines_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let mut making = stdio();
    making.call(9, "tools/call", json!({ "name": "big", "arguments": { "n": 1 } }), json!({}));
    let path = making.write(directory.path(), "one.tape");
    let document = said(&["export"], &[&path]);
    let parsed: Value = serde_json::from_str(&document).unwrap();
    assert_eq!((parsed["head"]["transport"].as_str(), parsed["frames"].as_array().unwrap().len()), (Some("stdio"), 21));
    for line in fs::read_to_string(&path).unwrap().lines().filter(|line| line.starts_with("{\"seq\"")) {
        assert!(document.contains(line));
    }
    let none = said(&["export", "--tool", "none"], &[&path]);
    assert_eq!(serde_json::from_str::<Value>(&none).unwrap()["frames"], json!([]));
}

#[test]
fn a_page_holds_a_hostile_tape_as_data_and_fetches_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut making = Making::new(Transport::Stdio, None);
    let hostile = "</script><script>alert(1)</script><!--";
    making.call(1, hostile, json!({ "name": hostile }), json!({ "x": hostile.repeat(20_000) }));
    let path = making.write(directory.path(), "one.tape");
    let page = directory.path().join("page.html");
    let written = tape(&["view", "--html", page.to_str().unwrap()], &[&path]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    let html = fs::read_to_string(&page).unwrap();
    assert_eq!((html.matches("<script").count(), html.matches("</script").count()), (2, 2));
    assert!(
        html.contains("default-src 'none'; style-src 'sha256-") && !html.contains("unsafe-inline"),
        "{}",
        &html[..600]
    );
    for outside in ["src=\"http", "href=\"", "url(", "@import", "fetch(", "XMLHttpRequest"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("\"shadowcat_cut\""), "what is too long is cut, and says so");
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600, "as private as the tape");
    let gaps = {
        let mut making = stdio();
        let mut writer = making.bytes.clone();
        writer.extend_from_slice(
            serde_json::to_string(&json!({ "gap": Gap { frames: 3, bytes: 9 } })).unwrap().as_bytes(),
        );
        writer.push(b'\n');
        making.bytes = writer;
        making.write(directory.path(), "gap.tape")
    };
    assert!(said(&["show"], &[&gaps]).contains("3 frames could not be recorded"));
}
