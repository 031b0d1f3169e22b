//! From a document to settings: every key known, every value of its kind, all mistakes at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Sources;
use super::document::{self, Entry, Node, SyntaxError, Tree};
use super::errors::{Errors, Problem, Source, did_you_mean, nearest};
use super::expand::expand;
use super::items;
use super::layers::{Layers, Origin, Record, Setting};
use super::schema::{KEYS, Key, SECTIONS, UPSTREAM_KEYS};
use super::values::Kind;
use super::yaml;

/// No configuration is longer; `--config /dev/zero` ends here.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The text of a file.
///
/// # Errors
/// It cannot be read, is too long, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("too long for a configuration".into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}

/// The configuration file: TOML.
pub fn configuration(text: &str, name: &str, sources: &Sources, layers: &mut Layers, errors: &mut Errors) {
    let (root, syntax) = document::from_toml(text);
    let source = source(text, name, &root, !syntax.is_empty());
    if !syntax.is_empty() {
        // What was made out in spite of them would only add errors that are none.
        return syntax.into_iter().for_each(|error| errors.push(misspelt(&source, error)));
    }
    let mut reader = Reader { source, environment: &sources.environment, layers, errors };
    let Tree::Table(sections) = &root.tree else { return };
    for entry in sections {
        match (entry.key.as_str(), &entry.node.tree) {
            ("upstreams", _) => {
                let upstreams = reader.records("upstreams", UPSTREAM_KEYS, &entry.node);
                reader.layers.upstreams = upstreams;
            }
            (section, _) if !SECTIONS.iter().any(|(known, _)| *known == section) => {
                let hint = did_you_mean(section, SECTIONS.iter().map(|(name, _)| *name));
                reader.error(format!("unknown section `{section}`"), hint, entry.key_span.clone());
            }
            (section, Tree::Table(entries)) => reader.section(section, entries),
            (section, _) => {
                reader.error(format!("expected a section `[{section}]`"), String::new(), entry.node.span.clone());
            }
        }
    }
}

/// The file of `--auth-config`: the keys of `[auth]` in YAML.
pub fn auth_config(text: &str, name: &str, sources: &Sources, layers: &mut Layers, errors: &mut Errors) {
    let root = match yaml::from_yaml(text) {
        Ok(root) => root,
        Err(error) => {
            let nothing = Node { tree: Tree::Null, span: 0..0 };
            return errors.push(misspelt(&source(text, name, &nothing, true), error));
        }
    };
    let source = source(text, name, &root, false);
    let mut reader = Reader { source, environment: &sources.environment, layers, errors };
    match &root.tree {
        Tree::Table(entries) => reader.section("auth", entries),
        _ => reader.error("expected the keys of [auth]", String::new(), root.span),
    }
}

fn misspelt(source: &Arc<Source>, error: SyntaxError) -> Problem {
    Problem { place: error.span.map(|span| (source.clone(), span)), ..Problem::new(error.message) }
}

// --- secrets ---------------------------------------------------------------------------------------------------------

/// The text for excerpts, without its secrets; `broken`: the document is only part of it.
fn source(text: &str, name: &str, root: &Node, broken: bool) -> Arc<Source> {
    let mut source = Source::new(name, text);
    mask_tree(&mut source, text, root);
    if broken {
        mask_lines(&mut source, text);
    }
    Arc::new(source)
}

/// Whether a key of this name holds a secret, or is near enough to be one misspelt.
fn is_secret(key: &str) -> bool {
    let nested = KEYS.iter().filter_map(|key| if let Kind::Tables(keys) = key.kind { Some(keys) } else { None });
    let all = || KEYS.iter().chain(UPSTREAM_KEYS).chain(nested.clone().flatten());
    let secrets = || all().filter(|known| matches!(known.kind, Kind::Secret)).map(|known| known.name);
    secrets().any(|name| name == key) || all().all(|known| known.name != key) && nearest(key, secrets()).is_some()
}

fn mask_tree(source: &mut Source, text: &str, node: &Node) {
    match &node.tree {
        Tree::Table(entries) => {
            for Entry { key, node, .. } in entries {
                let written = text.get(node.span.clone()).unwrap_or_default();
                if is_secret(key) && !written.contains("${") {
                    source.mask(node.span.clone());
                }
                mask_tree(source, text, node);
            }
        }
        Tree::List(items) => items.iter().for_each(|item| mask_tree(source, text, item)),
        Tree::Text(value) if items::without_userinfo(value) != *value => {
            let written = text.get(node.span.clone()).unwrap_or_default();
            if let (Some(from), Some(to)) = (written.find("://"), written.rfind('@')) {
                source.mask(node.span.start + from + 3..node.span.start + to.max(from + 3));
            }
        }
        _ => {}
    }
}

/// Whatever follows the name of a secret on its line.
fn mask_lines(source: &mut Source, text: &str) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let name = line.trim_start_matches([' ', '\t', '-', '"', '\'']);
        let length = name.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        if is_secret(&name[..length]) && !name.contains("${") {
            let from = start + (line.len() - name.len()) + length;
            source.mask(from + 1..start + line.trim_end().len().max(from + 1 - start));
        }
        start += line.len();
    }
}

// --- the reader ------------------------------------------------------------------------------------------------------

struct Reader<'a> {
    source: Arc<Source>,
    environment: &'a BTreeMap<String, String>,
    layers: &'a mut Layers,
    errors: &'a mut Errors,
}

impl Reader<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        Origin::File(self.source.clone(), span)
    }

    fn error(&mut self, message: impl Into<String>, hint: String, span: Range<usize>) {
        let problem = self.origin(span).problem(message).hint(hint);
        self.errors.push(problem);
    }

    fn section(&mut self, section: &str, entries: &[Entry]) {
        let keys = || KEYS.iter().filter(|key| key.section == section);
        for entry in entries {
            let Some(key) = keys().find(|key| key.name == entry.key) else {
                let hint = hint_for(&entry.key, section, keys());
                self.error(format!("unknown key `{}` in [{section}]", entry.key), hint, entry.key_span.clone());
                continue;
            };
            if let Kind::Tables(keys) = key.kind {
                let tables = self.records(&key.path(), keys, &entry.node);
                self.layers.tables.insert(key.path(), tables);
            } else if let Some(setting) = self.setting(key, &entry.node) {
                self.layers.set(key, setting);
            }
        }
    }

    fn records(&mut self, path: &str, keys: &'static [Key], node: &Node) -> Vec<Record> {
        let Tree::List(tables) = &node.tree else {
            self.error(format!("expected `[[{path}]]`"), String::new(), node.span.clone());
            return Vec::new();
        };
        tables.iter().filter_map(|table| self.record(path, keys, table)).collect()
    }

    fn record(&mut self, path: &str, keys: &'static [Key], node: &Node) -> Option<Record> {
        let Tree::Table(entries) = &node.tree else {
            self.error(format!("expected a table `[[{path}]]`"), String::new(), node.span.clone());
            return None;
        };
        let mut settings = BTreeMap::new();
        let before = self.errors.problems().len();
        for entry in entries {
            match keys.iter().find(|key| key.name == entry.key) {
                Some(key) => {
                    if let Some(setting) = self.setting(key, &entry.node) {
                        settings.insert(key.name, setting);
                    }
                }
                None => {
                    let hint = did_you_mean(&entry.key, keys.iter().map(|key| key.name));
                    self.error(format!("unknown key `{}` in [[{path}]]", entry.key), hint, entry.key_span.clone());
                }
            }
        }
        let broken = self.errors.problems().len() > before;
        Some(Record { keys, settings, origin: self.origin(node.span.clone()), broken })
    }

    /// `None`: it was wrong, or it was left open by `${X:-}`.
    fn setting(&mut self, key: &Key, written: &Node) -> Option<Setting> {
        let mut node = written.clone();
        if !self.expand(&mut node) || is_left_open(written, &node) {
            return None;
        }
        match key.kind.read(&node) {
            Ok(value) => Some(Setting { value, origin: self.origin(node.span) }),
            Err(wrong) => {
                self.error(format!("{}: {}", key.path(), wrong.message), wrong.hint, wrong.span);
                None
            }
        }
    }

    /// Replace the references in all texts of `node`; whether that worked.
    fn expand(&mut self, node: &mut Node) -> bool {
        match &mut node.tree {
            // All of them, so that each mistake is told.
            Tree::List(items) => {
                let mut fine = true;
                items.iter_mut().for_each(|item| fine &= self.expand(item));
                fine
            }
            Tree::Table(entries) => {
                let mut fine = true;
                entries.iter_mut().for_each(|entry| fine &= self.expand(&mut entry.node));
                fine
            }
            Tree::Text(text) => {
                let environment = self.environment;
                match expand(text, |name| environment.get(name).map(String::as_str)) {
                    Ok(None) => true,
                    Ok(Some(text)) => {
                        node.tree = Tree::Loose(text);
                        true
                    }
                    Err(refused) => {
                        let span = self.place_of(&refused.reference, node.span.clone());
                        self.error(refused.message, refused.hint.to_owned(), span);
                        false
                    }
                }
            }
            _ => true,
        }
    }

    /// Where this reference stands within `span`; all of it if escapes hide it.
    fn place_of(&self, reference: &str, span: Range<usize>) -> Range<usize> {
        let written = self.source.text().get(span.clone()).unwrap_or_default();
        match written.find(reference) {
            Some(at) => span.start + at..span.start + at + reference.len(),
            None => span,
        }
    }
}

/// `key = "${X:-}"`: the writer says that nothing means the default. A plain `${X}` that is empty is a mistake.
fn is_left_open(written: &Node, expanded: &Node) -> bool {
    match (&written.tree, &expanded.tree) {
        (Tree::Text(before), Tree::Loose(after)) => after.is_empty() && before.contains(":-"),
        _ => false,
    }
}

/// The nearest key of the section, or the section that has a key of this name.
fn hint_for<'k>(written: &str, section: &str, keys: impl Iterator<Item = &'k Key>) -> String {
    let near = did_you_mean(written, keys.map(|key| key.name));
    let elsewhere = || KEYS.iter().find(|key| key.name == written && key.section != section);
    match elsewhere() {
        Some(key) if near.is_empty() => format!("`{written}` is a key of [{}]", key.section),
        _ => near,
    }
}
