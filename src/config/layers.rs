//! Settings as written: the file, the environment, the flags, each value with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Sources;
use super::environment;
use super::errors::{Errors, Problem, Source};
use super::file;
use super::schema::{self, Key};
use super::values::Value;

/// Where a file is looked for when none is named.
pub const PLACES: [&str; 3] = ["./shadowcat.toml", "/config/shadowcat.toml", "/etc/shadowcat/config.toml"];

/// Who said it.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A file and the bytes of it.
    File(Arc<Source>, Range<usize>),
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Variable(name) => f.write_str(name),
            Origin::File(source, span) => f.write_str(&source.position(span.start)),
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

    /// Higher wins.
    pub fn rank(&self) -> u8 {
        match self {
            Origin::File(..) => 1,
            Origin::Variable(_) => 2,
            Origin::Flag(_) => 3,
        }
    }
}

/// One value.
#[derive(Clone, Debug)]
pub struct Setting {
    pub value: Value,
    pub origin: Origin,
}

/// One table of a list of tables, such as an upstream.
#[derive(Clone, Debug)]
pub struct Record {
    pub keys: &'static [Key],
    pub settings: BTreeMap<&'static str, Setting>,
    pub origin: Origin,
    /// Some key of it was wrong, which is told already.
    pub broken: bool,
}

/// All that was said; what wins replaced what lost.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// By `section.key`.
    settings: BTreeMap<String, Setting>,
    pub upstreams: Vec<Record>,
    /// Further lists of tables, by `section.key`.
    pub tables: BTreeMap<String, Vec<Record>>,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
}

/// A type that options have.
pub trait FromValue: Sized {
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($variant:ident => $type:ty),* $(,)?) => {
        $(impl FromValue for $type {
            fn from_value(value: Value) -> Option<$type> {
                match value {
                    Value::$variant(value) => Some(value.into()),
                    _ => None,
                }
            }
        })*
    };
}

from_value! {
    Text => String,
    Text => PathBuf,
    Bool => bool,
    Count => u64,
    Ratio => f64,
    Duration => Option<Duration>,
    Size => Option<u64>,
    Address => SocketAddr,
    List => Vec<String>,
    Attributes => Vec<(String, String)>,
}

impl FromValue for Duration {
    fn from_value(value: Value) -> Option<Duration> {
        Option::<Duration>::from_value(value).flatten()
    }
}

impl FromValue for usize {
    fn from_value(value: Value) -> Option<usize> {
        match value {
            Value::Count(number) | Value::Size(Some(number)) => usize::try_from(number).ok(),
            _ => None,
        }
    }
}

impl Layers {
    pub fn get(&self, path: &str) -> Option<&Setting> {
        self.settings.get(path)
    }

    pub fn set(&mut self, key: &Key, setting: Setting) {
        self.settings.insert(key.path(), setting);
    }

    /// What was said in this section, in the order of the keys' names.
    pub fn said_in<'a>(&'a self, section: &'a str) -> impl Iterator<Item = (&'a str, &'a Origin)> {
        let within = move |path: &str| path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'));
        let settings = self.settings.iter().map(|(path, setting)| (path.as_str(), &setting.origin));
        let tables = self.tables.iter().filter_map(|(path, tables)| Some((path.as_str(), &tables.first()?.origin)));
        settings.chain(tables).filter(move |(path, _)| within(path))
    }

    /// What was said, else the default.
    pub fn optional<T: FromValue>(&self, path: &str) -> Option<T> {
        let value = match self.settings.get(path) {
            Some(setting) => setting.value.clone(),
            None => schema::find(path)?.default_value()?,
        };
        T::from_value(value)
    }

    /// As `optional`, for options that have a default.
    pub fn required<T: FromValue>(&self, path: &str) -> T {
        self.optional(path).unwrap_or_else(|| unreachable!("{path} has no default of this type"))
    }
}

impl Record {
    pub fn optional<T: FromValue>(&self, name: &str) -> Option<T> {
        let value = match self.settings.get(name) {
            Some(setting) => setting.value.clone(),
            None => self.keys.iter().find(|key| key.name == name)?.default_value()?,
        };
        T::from_value(value)
    }

    pub fn required<T: FromValue>(&self, name: &str) -> T {
        self.optional(name).unwrap_or_else(|| unreachable!("`{name}` has no default of this type"))
    }
}

/// Read everything; what is wrong with it, and what is merely odd.
pub fn gather(sources: &Sources) -> (Layers, Errors, Vec<String>) {
    let (mut layers, mut errors, mut warnings) = (Layers::default(), Errors::default(), Vec::new());
    if let Some(path) = file_to_read(sources, &PLACES) {
        match file::read(&path) {
            Ok(text) => file::configuration(&text, &path.display().to_string(), sources, &mut layers, &mut errors),
            Err(why) => errors.push(Problem::new(format!("{}: {why}", path.display()))),
        }
        layers.file = Some(path);
    }
    if let Some(path) = &sources.auth_config {
        match file::read(path) {
            Ok(text) => file::auth_config(&text, &path.display().to_string(), sources, &mut layers, &mut errors),
            Err(why) => errors.push(Problem::new(format!("--auth-config {}: {why}", path.display()))),
        }
    }
    environment::apply(sources, &mut layers, &mut errors, &mut warnings);
    (layers, errors, warnings)
}

/// The file that is named, else the first that there is.
fn file_to_read(sources: &Sources, places: &[impl AsRef<Path>]) -> Option<PathBuf> {
    if sources.no_usual_places {
        return sources.file.clone();
    }
    let by_variable = || sources.environment.get("SHADOWCAT_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let first_there = || places.iter().map(AsRef::as_ref).find(|path| path.is_file()).map(Path::to_owned);
    sources.file.clone().or_else(by_variable).or_else(first_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_wins_then_the_variable_then_the_first_place() {
        let directory = tempfile::tempdir().unwrap();
        let places = ["a", "b", "c"].map(|name| directory.path().join(name));
        let mut sources = Sources::default();
        assert_eq!(file_to_read(&sources, &places), None);
        std::fs::write(&places[2], "").unwrap();
        std::fs::write(&places[1], "").unwrap();
        std::fs::create_dir(&places[0]).unwrap();
        assert_eq!(file_to_read(&sources, &places), Some(places[1].clone()));
        sources.environment.insert("SHADOWCAT_CONFIG".into(), String::new());
        assert_eq!(file_to_read(&sources, &places), Some(places[1].clone()));
        sources.environment.insert("SHADOWCAT_CONFIG".into(), "/v".into());
        assert_eq!(file_to_read(&sources, &places), Some("/v".into()));
        sources.no_usual_places = true;
        assert_eq!(file_to_read(&sources, &places), None);
        sources.file = Some("/f".into());
        assert_eq!(file_to_read(&sources, &places), Some("/f".into()));
    }
}
