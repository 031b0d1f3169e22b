//! L2: configuration in two shapes: settings as written (`layers`, from file, environment and flags, checked against one
//! table, `schema`) and the plan as run (`plan`).

pub mod cpus;
pub mod errors;
mod layers;
pub mod plan;
mod planning;
pub mod schema;
mod show;
mod unbuilt;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use errors::{Errors, Problem};
pub use layers::{Layers, Origin};
use plan::Plan;
pub use show::show;

/// Where settings come from. Flags win over the environment, that over the file, that over the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; else the usual places are looked at.
    pub file: Option<PathBuf>,
    /// `--upstream`, in order; replace those of the file.
    pub upstreams: Vec<String>,
    /// Other flags and `--set`: `section.key`, its value, and the flag as it was written.
    pub flags: Vec<(String, String, String)>,
    /// The environment; only `SHADOWCAT_*`, `RUST_LOG` and what `${...}` names are read.
    pub environment: BTreeMap<String, String>,
    /// Sessions are kept in memory, unless something says otherwise (the demo).
    pub in_memory: bool,
}

/// A configuration that can run.
#[derive(Debug)]
pub struct Loaded {
    pub plan: Plan,
    /// For the operator, one line each.
    pub warnings: Vec<String>,
    pub layers: Layers,
}

/// Load for a server: everything is checked, and what this version cannot do is an error, never ignored.
///
/// # Errors
/// All of them at once.
pub fn load(sources: &Sources) -> Result<Loaded, Errors> {
    load_with(sources, true)
}

/// Load to check: the whole schema is accepted, also what this version cannot run yet (that is a warning).
///
/// # Errors
/// All of them at once.
pub fn check(sources: &Sources) -> Result<Loaded, Errors> {
    load_with(sources, false)
}

fn load_with(sources: &Sources, to_run: bool) -> Result<Loaded, Errors> {
    let (layers, mut errors, mut warnings) = layers::gather(sources);
    for feature in unbuilt::enabled(&layers) {
        if to_run {
            errors.push(feature);
        } else {
            warnings.push(format!("{}: this version checks it but cannot run it", feature.message));
        }
    }
    let plan = planning::plan(&layers, sources, &mut errors, &mut warnings);
    match plan {
        Some(plan) if errors.is_empty() => Ok(Loaded { plan, warnings, layers }),
        _ => Err(errors),
    }
}

/// Check the text of a file alone: no file system, no environment.
///
/// # Errors
/// All of them at once.
pub fn check_text(text: &str) -> Result<(), Errors> {
    let mut errors = Errors::default();
    let mut layers = Layers::default();
    layers::read_text(text, "shadowcat.toml", &BTreeMap::new(), &mut layers, &mut errors);
    planning::plan(&layers, &Sources::default(), &mut errors, &mut Vec::new());
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
