//! Settings as written: the file, the environment, the flags, each value with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Sources;
use super::errors::{Errors, Problem, Source};
use super::schema::{self, KEYS, Key, SECTIONS, UPSTREAM_KEYS};
use super::values::{Kind, Raw, split_list};

/// Where a file is looked for when none is named.
const PLACES: [&str; 3] = ["shadowcat.toml", "/config/shadowcat.toml", "/etc/shadowcat/config.toml"];
/// Short variables of the deployment guide, and what they set.
const SHORT_VARIABLES: [(&str, &str); 3] = [
    ("SHADOWCAT_MODE", "proxy.mode"),
    ("SHADOWCAT_BIND", "proxy.bind"),
    ("SHADOWCAT_TELEMETRY_ENDPOINT", "telemetry.otlp_endpoint"),
];
const UPSTREAM_VARIABLE: &str = "SHADOWCAT_UPSTREAM";
/// Variables of ours that are no settings.
const OTHER_VARIABLES: [&str; 3] = ["SHADOWCAT_CONFIG", "SHADOWCAT_FAULTS", "SHADOWCAT_PEERS_DIR"];

/// Who said it.
#[derive(Clone, Debug)]
pub enum Origin {
    Flag(String),
    Variable(String),
    File(Arc<Source>, Range<usize>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Variable(name) => f.write_str(name),
            Origin::File(..) => f.write_str(&self.problem("").position().unwrap_or_default()),
        }
    }
}

impl Origin {
    /// Something is wrong with what stands there.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        let problem = Problem::new(message);
        match self {
            Origin::File(source, span) => Problem { place: Some((source.clone(), span.clone())), ..problem },
            Origin::Flag(name) | Origin::Variable(name) => {
                Problem { message: format!("{name}: {}", problem.message), ..problem }
            }
        }
    }
}

/// One value.
#[derive(Clone, Debug)]
pub struct Setting {
    pub raw: Raw,
    pub origin: Origin,
}

/// All that was said; what wins replaced what lost.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// By `section.key`.
    pub settings: BTreeMap<String, Setting>,
    pub upstreams: Vec<UpstreamLayer>,
    /// Sections that stand in the file, also empty ones.
    pub sections: Vec<String>,
}

/// One upstream as written.
#[derive(Clone, Debug)]
pub struct UpstreamLayer {
    pub settings: BTreeMap<String, Setting>,
    pub origin: Origin,
}

impl Layers {
    pub fn get(&self, path: &str) -> Option<&Setting> {
        self.settings.get(path)
    }
}

/// Read everything; what is wrong with it, and what is merely odd.
pub fn gather(sources: &Sources) -> (Layers, Errors, Vec<String>) {
    let (mut layers, mut errors, mut warnings) = (Layers::default(), Errors::default(), Vec::new());
    if let Some(path) = file_to_read(sources) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let name = path.display().to_string();
                read_text(&text, &name, &sources.environment, &mut layers, &mut errors);
            }
            Err(error) => errors.push(Problem::new(format!("{}: {error}", path.display()))),
        }
    }
    read_environment(sources, &mut layers, &mut errors, &mut warnings);
    read_flags(sources, &mut layers, &mut errors);
    (layers, errors, warnings)
}

fn file_to_read(sources: &Sources) -> Option<PathBuf> {
    let named = sources.file.clone().or_else(|| sources.environment.get("SHADOWCAT_CONFIG").map(PathBuf::from));
    named.or_else(|| PLACES.iter().map(PathBuf::from).find(|path| path.is_file()))
}

// --- the file --------------------------------------------------------------------------------------------------------

/// Read the text of a file.
pub fn read_text(
    text: &str,
    name: &str,
    environment: &BTreeMap<String, String>,
    layers: &mut Layers,
    errors: &mut Errors,
) {
    let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in syntax {
        let place = error.span().map(|span| (source.clone(), span));
        errors.push(Problem { message: error.message().to_owned(), hint: String::new(), place });
    }
    let mut reader = Reader { source, environment, errors };
    for (name, value) in root.get_ref() {
        let section = name.get_ref().as_ref();
        if !SECTIONS.iter().any(|(known, _)| *known == section) {
            let names = SECTIONS.iter().map(|(name, _)| *name);
            reader.unknown(format!("unknown section `{section}`"), section, names, name.span());
            continue;
        }
        layers.sections.push(section.to_owned());
        match (section, value.get_ref()) {
            ("upstreams", DeValue::Array(tables)) => {
                for table in tables {
                    layers.upstreams.extend(reader.upstream(table));
                }
            }
            ("upstreams", _) => reader.error("expected `[[upstreams]]`, one for each upstream", value.span()),
            (_, DeValue::Table(table)) => reader.section(section, table, layers),
            _ => reader.error(format!("expected a section `[{section}]`"), value.span()),
        }
    }
}

struct Reader<'a> {
    source: Arc<Source>,
    environment: &'a BTreeMap<String, String>,
    errors: &'a mut Errors,
}

impl Reader<'_> {
    fn error(&mut self, message: impl Into<String>, span: Range<usize>) {
        self.errors.push(Origin::File(self.source.clone(), span).problem(message));
    }

    fn unknown<'n>(
        &mut self,
        message: String,
        written: &str,
        names: impl Iterator<Item = &'n str>,
        span: Range<usize>,
    ) {
        let hint = nearest(written, names).map(|name| format!("did you mean `{name}`?")).unwrap_or_default();
        self.errors.push(Origin::File(self.source.clone(), span).problem(message).hint(hint));
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>, layers: &mut Layers) {
        for (name, value) in table {
            let keys = || KEYS.iter().filter(|key| key.section == section);
            let written = name.get_ref().as_ref();
            match keys().find(|key| key.name == written) {
                Some(key) => {
                    if let Some(setting) = self.setting(key, value) {
                        layers.settings.insert(key.path(), setting);
                    }
                }
                None => {
                    let message = format!("unknown key `{written}` in [{section}]");
                    self.unknown(message, written, keys().map(|key| key.name), name.span());
                }
            }
        }
    }

    fn upstream(&mut self, table: &Spanned<DeValue<'_>>) -> Option<UpstreamLayer> {
        let DeValue::Table(entries) = table.get_ref() else {
            self.error("expected a table", table.span());
            return None;
        };
        let mut settings = BTreeMap::new();
        for (name, value) in entries {
            let written = name.get_ref().as_ref();
            match UPSTREAM_KEYS.iter().find(|key| key.name == written) {
                Some(key) => {
                    if let Some(setting) = self.setting(key, value) {
                        settings.insert(written.to_owned(), setting);
                    }
                }
                None => {
                    let message = format!("unknown key `{written}` in [[upstreams]]");
                    self.unknown(message, written, UPSTREAM_KEYS.iter().map(|key| key.name), name.span());
                }
            }
        }
        Some(UpstreamLayer { settings, origin: Origin::File(self.source.clone(), table.span()) })
    }

    fn setting(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) -> Option<Setting> {
        let raw = self.raw(value)?;
        if let Err(why) = key.kind.check(&raw) {
            self.error(format!("{}: {why}", key.path()), value.span());
            return None;
        }
        Some(Setting { raw, origin: Origin::File(self.source.clone(), value.span()) })
    }

    fn raw(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Raw> {
        Some(match value.get_ref() {
            DeValue::String(text) => Raw::Text(self.expanded(text, value.span())?),
            DeValue::Integer(number) => Raw::Number(number.as_str().to_owned()),
            DeValue::Float(number) => Raw::Number(number.as_str().to_owned()),
            DeValue::Boolean(value) => Raw::Bool(*value),
            DeValue::Datetime(time) => Raw::Text(time.to_string()),
            DeValue::Array(items) => {
                Raw::List(items.iter().map(|item| self.raw(item).map(|raw| raw.text())).collect::<Option<_>>()?)
            }
            DeValue::Table(pairs) => Raw::Attributes(
                pairs
                    .iter()
                    .map(|(key, value)| Some((key.get_ref().to_string(), self.raw(value)?.text())))
                    .collect::<Option<_>>()?,
            ),
        })
    }

    /// `${X}`, `${X:-default}`, `${X:?message}`; `$${` is a plain `${`. On parsed text, so that no value can break the
    /// file's syntax.
    fn expanded(&mut self, text: &str, span: Range<usize>) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}') else {
                self.error("`${` without its `}`", span);
                return None;
            };
            let inner = &rest[at + 2..at + end];
            let (name, fallback) = match inner.find(":-").or_else(|| inner.find(":?")) {
                Some(colon) => (&inner[..colon], Some((inner.as_bytes()[colon + 1], &inner[colon + 2..]))),
                None => (inner, None),
            };
            match (self.environment.get(name).filter(|value| !value.is_empty()), fallback) {
                (Some(value), _) => out.push_str(value),
                (None, Some((b'-', default))) => out.push_str(default),
                (None, Some((_, message))) => {
                    self.error(format!("${{{name}}}: {message}"), span);
                    return None;
                }
                (None, None) => {
                    self.error(format!("the environment variable `{name}` is not set"), span);
                    return None;
                }
            }
            rest = &rest[at + end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }
}

/// The nearest of the names, if it is near.
fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

// --- the environment and the flags -----------------------------------------------------------------------------------

fn variable_of(key: &Key) -> String {
    format!("SHADOWCAT_{}_{}", key.section.to_uppercase(), key.name.to_uppercase())
}

fn read_environment(sources: &Sources, layers: &mut Layers, errors: &mut Errors, warnings: &mut Vec<String>) {
    for (variable, value) in sources.environment.iter().filter(|(name, _)| name.starts_with("SHADOWCAT_")) {
        let short = SHORT_VARIABLES.iter().find(|(name, _)| name == variable).and_then(|(_, path)| schema::find(path));
        let origin = Origin::Variable(variable.clone());
        if let Some(key) = short.or_else(|| KEYS.iter().find(|key| variable_of(key) == *variable)) {
            set(key, value, origin, layers, errors);
        } else if variable == UPSTREAM_VARIABLE {
            layers.upstreams = split_list(value).iter().map(|url| upstream_of_url(url, origin.clone())).collect();
        } else if !OTHER_VARIABLES.contains(&variable.as_str()) {
            let names: Vec<String> = KEYS.iter().map(variable_of).collect();
            let near = nearest(variable, names.iter().map(String::as_str));
            let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            warnings.push(format!("the environment variable {variable} sets nothing{near}"));
        }
    }
}

fn read_flags(sources: &Sources, layers: &mut Layers, errors: &mut Errors) {
    for (path, value, flag) in &sources.flags {
        match schema::find(path) {
            Some(key) => set(key, value, Origin::Flag(flag.clone()), layers, errors),
            None => {
                let paths: Vec<String> = KEYS.iter().map(Key::path).collect();
                let near = nearest(path, paths.iter().map(String::as_str));
                let hint = near.map(|name| format!("did you mean `{name}`?")).unwrap_or_default();
                errors.push(Problem::new(format!("{flag}: unknown key `{path}`")).hint(hint));
            }
        }
    }
    if !sources.upstreams.is_empty() {
        let origin = Origin::Flag("--upstream".into());
        layers.upstreams = sources.upstreams.iter().map(|url| upstream_of_url(url, origin.clone())).collect();
    }
}

fn set(key: &Key, value: &str, origin: Origin, layers: &mut Layers, errors: &mut Errors) {
    let raw = match key.kind {
        Kind::List => Raw::List(split_list(value)),
        Kind::Attributes => Raw::Attributes(
            split_list(value)
                .iter()
                .filter_map(|pair| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
                .collect(),
        ),
        _ => Raw::Text(value.to_owned()),
    };
    match key.kind.check(&raw) {
        Ok(()) => {
            layers.settings.insert(key.path(), Setting { raw, origin });
        }
        Err(why) => errors.push(origin.problem(format!("{}: {why}", key.path()))),
    }
}

fn upstream_of_url(url: &str, origin: Origin) -> UpstreamLayer {
    let setting = Setting { raw: Raw::Text(url.to_owned()), origin: origin.clone() };
    UpstreamLayer { settings: BTreeMap::from([("url".to_owned(), setting)]), origin }
}
