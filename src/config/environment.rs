//! Settings from outside of files: `SHADOWCAT_*` variables, then flags.

use std::collections::BTreeMap;

use super::Sources;
use super::document::Node;
use super::errors::{Errors, Problem, did_you_mean, nearest};
use super::layers::{Layers, Origin, Record, Setting};
use super::schema::{self, KEYS, Key, UPSTREAM_KEYS};
use super::values::{Kind, Value};

const PREFIX: &str = "SHADOWCAT_";
/// Short variables of the deployment guide, and what they set.
const SHORT_VARIABLES: [(&str, &str); 3] = [
    ("SHADOWCAT_MODE", "proxy.mode"),
    ("SHADOWCAT_BIND", "proxy.bind"),
    ("SHADOWCAT_TELEMETRY_ENDPOINT", "telemetry.otlp_endpoint"),
];
/// URLs, comma separated; they replace the upstreams of the file.
const UPSTREAM_VARIABLE: &str = "SHADOWCAT_UPSTREAM";
/// Variables of ours that are no settings.
const OTHER_VARIABLES: [&str; 3] = ["SHADOWCAT_CONFIG", "SHADOWCAT_FAULTS", "SHADOWCAT_PEERS_DIR"];

/// Lay the environment over `layers`, and the flags over both.
pub fn apply(sources: &Sources, layers: &mut Layers, errors: &mut Errors, warnings: &mut Vec<String>) {
    for name in sources.undecodable.iter().filter(|name| name.starts_with(PREFIX)) {
        errors.push(Problem::new(format!("{name}: its value is not UTF-8")));
    }
    let mut writer = Writer { layers, errors };
    // Upstreams as a whole before the keys of one, whoever sets them.
    if let Some(urls) = variable(sources, UPSTREAM_VARIABLE) {
        writer.upstreams(urls.split(',').map(str::trim), Origin::Variable(UPSTREAM_VARIABLE.into()));
    }
    if !sources.upstreams.is_empty() {
        writer.upstreams(sources.upstreams.iter().map(String::as_str), Origin::Flag("--upstream".into()));
    }
    let unknown = writer.variables(sources);
    writer.flags(sources);
    warn_of(&unknown, warnings);
}

/// A variable that is set to nothing is not set: compose files and manifests pass such.
fn variable<'s>(sources: &'s Sources, name: &str) -> Option<&'s str> {
    sources.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

pub fn variable_of(key: &Key) -> String {
    format!("{PREFIX}{}_{}", key.section, key.name).to_uppercase()
}

/// The key that a variable sets.
fn key_of(variable: &str) -> Option<&'static Key> {
    let short = SHORT_VARIABLES.iter().find(|(name, _)| *name == variable);
    match short {
        Some((_, path)) => schema::find(path),
        None => KEYS.iter().find(|key| variable_of(key) == variable),
    }
}

struct Writer<'a> {
    layers: &'a mut Layers,
    errors: &'a mut Errors,
}

impl Writer<'_> {
    /// Set what the environment sets; the names of ours that set nothing.
    fn variables<'s>(&mut self, sources: &'s Sources) -> Vec<&'s str> {
        let mut seen: BTreeMap<String, (&str, &str)> = BTreeMap::new();
        let mut unknown = Vec::new();
        for name in sources.environment.keys().filter(|name| name.starts_with(PREFIX)) {
            let Some(value) = variable(sources, name) else { continue };
            let origin = Origin::Variable(name.clone());
            if let Some(key) = key_of(name) {
                match seen.insert(key.path(), (name, value)) {
                    Some((other, before)) if before != value => {
                        let message = format!("{other} and {name} are one setting and differ");
                        self.errors.push(Problem::new(message));
                    }
                    _ => self.set(key, value, origin),
                }
            } else if let Some((at, key)) = self.upstream_variable(name) {
                self.set_upstream(at, key, value, origin);
            } else if name != UPSTREAM_VARIABLE && !OTHER_VARIABLES.contains(&name.as_str()) {
                unknown.push(name.as_str());
            }
        }
        unknown
    }

    fn flags(&mut self, sources: &Sources) {
        for (path, value, flag) in &sources.flags {
            let origin = Origin::Flag(flag.clone());
            if let Some(key) = schema::find(path) {
                self.set(key, value, origin);
            } else if let Some((at, key)) = self.upstream_path(path) {
                self.set_upstream(at, key, value, origin);
            } else if let Some((key, name)) = attribute(path) {
                self.set_attribute(key, name, value, origin);
            } else {
                let paths: Vec<String> = KEYS.iter().map(Key::path).collect();
                let hint = did_you_mean(path, paths.iter().map(String::as_str));
                self.errors.push(Problem::new(format!("{flag}: unknown key `{path}`")).hint(hint));
            }
        }
    }

    fn set(&mut self, key: &Key, value: &str, origin: Origin) {
        if let Some(setting) = self.read(key, value, origin) {
            self.layers.set(key, setting);
        }
    }

    fn read(&mut self, key: &Key, value: &str, origin: Origin) -> Option<Setting> {
        match key.kind.read(&Node::loose(value)) {
            Ok(value) => Some(Setting { value, origin }),
            Err(wrong) => {
                self.errors.push(origin.problem(format!("{}: {}", key.path(), wrong.message)).hint(wrong.hint));
                None
            }
        }
    }

    /// These URLs, in place of all upstreams so far.
    fn upstreams<'u>(&mut self, urls: impl Iterator<Item = &'u str>, origin: Origin) {
        let key = UPSTREAM_KEYS.iter().find(|key| key.name == "url");
        let mut records = Vec::new();
        for url in urls.filter(|url| !url.is_empty()) {
            let setting = key.and_then(|key| self.read(key, url, origin.clone()));
            let settings = setting.map(|setting| ("url", setting)).into_iter().collect::<BTreeMap<_, _>>();
            if !settings.is_empty() {
                records.push(Record { keys: UPSTREAM_KEYS, settings, origin: origin.clone(), broken: false });
            }
        }
        self.layers.upstreams = records;
    }

    fn set_upstream(&mut self, at: usize, key: &'static Key, value: &str, origin: Origin) {
        if let Some(setting) = self.read(key, value, origin)
            && let Some(upstream) = self.layers.upstreams.get_mut(at)
        {
            upstream.settings.insert(key.name, setting);
        }
    }

    /// `SHADOWCAT_UPSTREAMS_<NAME>_<KEY>`, or with the upstream's number from 0.
    fn upstream_variable(&self, variable: &str) -> Option<(usize, &'static Key)> {
        let rest = variable.strip_prefix("SHADOWCAT_UPSTREAMS_")?;
        // The longest key first: `A_SERVER_NAME` is `server_name` of `a`, unless there is an upstream `a_server`.
        let mut keys: Vec<&'static Key> = UPSTREAM_KEYS.iter().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.name.len()));
        keys.into_iter().find_map(|key| {
            let name = rest.strip_suffix(&key.name.to_uppercase())?.strip_suffix('_')?;
            let named =
                self.layers.upstreams.iter().position(|upstream| as_variable(upstream).as_deref() == Some(name));
            Some((named.or_else(|| self.number(name))?, key))
        })
    }

    /// `upstreams.<name>.<key>`, or with the upstream's number from 0.
    fn upstream_path(&self, path: &str) -> Option<(usize, &'static Key)> {
        let (name, key) = path.strip_prefix("upstreams.")?.rsplit_once('.')?;
        let key = UPSTREAM_KEYS.iter().find(|known| known.name == key)?;
        let named = self.layers.upstreams.iter().position(|u| u.optional::<String>("name").as_deref() == Some(name));
        Some((named.or_else(|| self.number(name))?, key))
    }

    fn number(&self, text: &str) -> Option<usize> {
        text.parse().ok().filter(|at| *at < self.layers.upstreams.len())
    }

    fn set_attribute(&mut self, key: &Key, name: &str, value: &str, origin: Origin) {
        let mut pairs = match self.layers.get(&key.path()).map(|setting| &setting.value) {
            Some(Value::Attributes(pairs)) => pairs.clone(),
            _ => Vec::new(),
        };
        pairs.retain(|(other, _)| other != name);
        pairs.push((name.to_owned(), value.to_owned()));
        self.layers.set(key, Setting { value: Value::Attributes(pairs), origin });
    }
}

/// An upstream's name as it stands in a variable: upper case, `_` for all that is neither letter nor digit.
fn as_variable(upstream: &Record) -> Option<String> {
    let name = upstream.optional::<String>("name")?;
    Some(name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect())
}

/// `section.key.NAME`, for tables of texts.
fn attribute(path: &str) -> Option<(&'static Key, &str)> {
    KEYS.iter().filter(|key| matches!(key.kind, Kind::Attributes)).find_map(|key| {
        let name = path.strip_prefix(&key.path())?.strip_prefix('.')?;
        (!name.is_empty()).then_some((key, name))
    })
}

/// Odd variables are no errors: Kubernetes sets `SHADOWCAT_PORT` and the like for a Service of this name.
fn warn_of(unknown: &[&str], warnings: &mut Vec<String>) {
    let of_a_service = |name: &&&str| name.starts_with("SHADOWCAT_PORT") || name.starts_with("SHADOWCAT_SERVICE_");
    if let Some(first) = unknown.iter().find(of_a_service) {
        warnings.push(format!(
            "{first} and the like set nothing; Kubernetes sets them for a Service named shadowcat, unless the pod says \
             `enableServiceLinks: false`"
        ));
    }
    let mut names: Vec<String> = KEYS.iter().map(variable_of).collect();
    names.extend(SHORT_VARIABLES.iter().map(|(name, _)| (*name).to_owned()));
    names.extend([UPSTREAM_VARIABLE.to_owned(), "SHADOWCAT_CONFIG".to_owned()]);
    for name in unknown.iter().filter(|name| !of_a_service(name)) {
        let near = nearest(name, names.iter().map(String::as_str));
        let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        warnings.push(format!("the environment variable {name} sets nothing{near}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        let mut names: Vec<String> = KEYS.iter().map(variable_of).collect();
        names.push(UPSTREAM_VARIABLE.into());
        names.extend(OTHER_VARIABLES.map(str::to_owned));
        names.extend(SHORT_VARIABLES.map(|(name, _)| name.to_owned()));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for (name, path) in SHORT_VARIABLES {
            assert_eq!(key_of(name).map(Key::path).as_deref(), Some(path));
        }
    }
}
