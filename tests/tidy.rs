//! The tree tells the truth: layers, and what may not stand in the code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files longer than this tell more than one story.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files whose name ends so, below a folder; what tools made is left out.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let made = ["target", "node_modules", "corpus", "artifacts", ".venv", "__pycache__", ".git"];
            if path.is_dir() && !made.contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    inside.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// A file without its comments.
fn code_of(path: &Path) -> String {
    read(path).lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Module and layer, out of the table in the documentation of the crate: rows like ``| L3 | `net`, `store` | ... |``.
fn layers() -> BTreeMap<String, u8> {
    let lib = read(&root().join("src/lib.rs"));
    let mut layers = BTreeMap::new();
    for row in lib.lines().filter_map(|line| line.strip_prefix("//! | L")) {
        let (layer, rest) = row.split_once(" | ").expect("a layer and its modules");
        let modules = rest.split(" | ").next().expect("modules");
        for module in modules.split('`').skip(1).step_by(2) {
            let twice = layers.insert(module.to_owned(), layer.parse().expect("a number"));
            assert!(twice.is_none(), "{module} stands in two rows");
        }
    }
    layers
}

/// The modules of this crate that a file names: `crate::a::B`, `crate::{a::B, c}`, `shadowcat::a`.
fn imported(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for start in code.match_indices("crate::").map(|(at, found)| at + found.len()) {
        let line = code[..start].lines().count();
        let rest = &code[start..];
        let word = |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
        match rest.strip_prefix('{') {
            None => found.push((line, word(rest))),
            Some(group) => found.extend(top_level_names(group).into_iter().map(|name| (line, word(&name)))),
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// The parts of a braced list up to its own end, each without what is nested in it.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut names) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            c if depth == 0 => names.last_mut().expect("a name").push(c),
            _ => {}
        }
    }
    names.into_iter().map(|name| name.trim().to_owned()).collect()
}

#[test]
fn every_module_has_a_layer() {
    let lib = read(&root().join("src/lib.rs"));
    let declared = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect::<Vec<_>>();
    let mut listed: Vec<String> = layers().into_keys().collect();
    listed.sort();
    let mut sorted: Vec<&str> = declared.clone();
    sorted.sort();
    assert_eq!(listed, sorted, "the table of src/lib.rs against its modules");
}

#[test]
fn modules_import_lower_layers_only() {
    let layers = layers();
    let mut arrows = 0;
    for path in files("src", ".rs") {
        let module = module_of(&path);
        let Some(&own) = layers.get(&module) else { continue };
        for (line, name) in imported(&code_of(&path)) {
            let Some(&other) = layers.get(&name) else { continue };
            arrows += 1;
            // A neighbour in the same layer is as wrong as a higher one.
            let fine = name == module || other < own;
            assert!(fine, "{}, code line {line}: {module} (L{own}) imports {name} (L{other})", path.display());
        }
    }
    assert!(arrows > 50, "only {arrows} imports found");
}

#[test]
fn imports_are_found_in_every_spelling() {
    let code = "use crate::base::Id;\nuse crate::{net::{self, Buffer}, store, wire::http1::{head, body}};\nlet x = crate::table::new();";
    let names: Vec<String> = imported(code).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["base", "net", "store", "wire", "table"]);
}

#[test]
fn cores_do_no_io_and_read_no_clock() {
    for path in ["src/wire", "src/base", "src/identity"].iter().flat_map(|folder| files(folder, ".rs")) {
        let text = code_of(&path);
        for banned in ["monoio", "heed", "tracing", "std::net::Tcp", "std::fs", "Instant::now", "SystemTime"] {
            assert!(!text.contains(banned), "{}: {banned}", path.display());
        }
    }
    for path in files("src", ".rs") {
        let (module, code) = (module_of(&path), code_of(&path));
        assert!(module == "net" || module == "demo" || !code.contains("monoio::"), "{}: monoio", path.display());
        assert!(module == "store" || !code.contains("heed::"), "{}: heed", path.display());
    }
}

#[test]
fn nothing_is_left_open() {
    let banned = ["todo!(", "unimplemented!(", "FIXME", "XXX", "dbg!(", "#[ignore"];
    for path in ["src", "tests", "fuzz", "bench", "examples", "loadtest"].iter().flat_map(|folder| files(folder, ".rs"))
    {
        if path.ends_with("tidy.rs") {
            continue;
        }
        let text = read(&path);
        for banned in banned {
            assert!(!text.contains(banned), "{}: {banned}", path.display());
        }
        assert!(text.lines().count() <= LINES_MAX, "{}: {} lines", path.display(), text.lines().count());
    }
}

/// Names like `file::test` in backticks, and what comes of them: the file, and the function in it.
#[test]
fn threats_are_answered_by_tests_that_exist() {
    let text = read(&root().join("docs/THREATS.md"));
    let names = text.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.rsplit(" | ").next());
    let mut checked = 0;
    for name in names.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        if let Some(target) = name.strip_prefix("fuzz/") {
            assert!(root().join(format!("fuzz/fuzz_targets/{target}.rs")).is_file(), "{name}");
            continue;
        }
        let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{name} names no test"));
        let file = if file.contains('/') { format!("{file}.rs") } else { format!("tests/it/{file}.rs") };
        let code = fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(code.contains(&format!("fn {test}(")), "{name}: not in {file}");
        checked += 1;
    }
    assert!(checked > 60, "only {checked} names found");
}

#[test]
fn tests_wait_for_events_not_for_time() {
    for path in files("tests", ".rs").into_iter().chain(files("loadtest/tests", ".rs")) {
        let (text, is_this) = (code_of(&path), path.ends_with("tidy.rs"));
        // The one pause between two looks at another process.
        let is_wait = path.ends_with("support/wait.rs");
        for banned in ["sleep(", "sleep_ms(", "sleep_until("] {
            assert!(is_this || !text.contains(banned), "{}: {banned}", path.display());
        }
        assert!(is_this || is_wait || !text.contains("park_timeout("), "{}: wait_for or wait_until", path.display());
    }
}

#[test]
fn nothing_names_the_machine_it_was_made_on() {
    let top =
        ["README.md", "CHANGELOG.md", "SECURITY.md", "Cargo.toml", "justfile", "Dockerfile", "docker-compose.yml"];
    let mut paths: Vec<PathBuf> = top.iter().map(|name| root().join(name)).collect();
    let endings = ["rs", "md", "toml", "sh", "mjs", "py", "json", "run", "yml", "yaml", "conf", "js", "css", "html"];
    for folder in ["src", "docs", "config", "bench", "fuzz", "tests", "examples", "tuning", "deploy", "loadtest", ".ci"]
    {
        paths.extend(endings.iter().flat_map(|ending| files(folder, ending)));
    }
    paths.extend(files("systemd", ""));
    let elsewhere = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for place in elsewhere {
            assert!(!text.contains(place), "{}: {place}", path.display());
        }
    }
}
