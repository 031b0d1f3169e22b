//! The tree tells the truth: layers, and what may not stand in the code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files longer than this tell more than one story.
const LINES_MAX: usize = 650;

/// The layer of each module, as `src/lib.rs` has it.
const LAYERS: [(&str, u8); 11] = [
    ("base", 0),
    ("wire", 1),
    ("config", 2),
    ("telemetry", 2),
    ("net", 3),
    ("store", 3),
    ("table", 3),
    ("worker", 4),
    ("control", 5),
    ("demo", 5),
    ("cli", 6),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !["target", "node_modules", "corpus", "artifacts"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    inside.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// A file without its comments.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a line names in a path.
fn imported(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        if let Some(group) = part.strip_prefix('{') {
            found.extend(group.split(',').map(|name| name.trim().split([':', '}', ';']).next().unwrap().to_owned()));
        } else {
            found.push(part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned());
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn modules_import_lower_layers_only() {
    let layers: BTreeMap<&str, u8> = LAYERS.into_iter().collect();
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared.len(), layers.len(), "a module without a layer");
    let mut arrows = 0;
    for path in files("src", ".rs") {
        let module = module_of(&path);
        let Some(&own) = layers.get(module.as_str()) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            for name in imported(line) {
                let Some(&other) = layers.get(name.as_str()) else { continue };
                arrows += 1;
                assert!(
                    name == module || other < own,
                    "{}:{}: {module} (L{own}) imports {name} (L{other})",
                    path.display(),
                    number + 1
                );
            }
        }
    }
    assert!(arrows > 50, "only {arrows} imports found");
}

#[test]
fn cores_do_no_io_and_read_no_clock() {
    for path in files("src/wire", ".rs").into_iter().chain(files("src/base", ".rs")) {
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
fn nothing_is_left_open_and_nothing_sleeps() {
    for path in ["src", "tests", "fuzz"].iter().flat_map(|folder| files(folder, ".rs")) {
        if path.ends_with("tidy.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for banned in ["todo!(", "unimplemented!(", "FIXME", "XXX", "dbg!(", "#[ignore"] {
            assert!(!text.contains(banned), "{}: {banned}", path.display());
        }
        if path.starts_with(root().join("tests")) {
            assert!(!text.contains("thread::sleep"), "{}: wait for an event", path.display());
        }
        assert!(text.lines().count() <= LINES_MAX, "{}: {} lines", path.display(), text.lines().count());
    }
}

#[test]
fn nothing_names_the_machine_it_was_made_on() {
    let mut paths = vec![root().join("README.md"), root().join("Cargo.toml"), root().join("justfile")];
    for folder in ["src", "docs", "config", "bench", "fuzz", "tests", ".ci"] {
        paths.extend(["rs", "md", "toml", "sh", "mjs", "py", "json", "run"].iter().flat_map(|e| files(folder, e)));
    }
    let (work, home) = (concat!("/wo", "rk/"), concat!("/ro", "ot/"));
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_default();
        assert!(!text.contains(work) && !text.contains(home), "{}: an absolute path", path.display());
    }
}
