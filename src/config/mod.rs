//! L2: configuration in two shapes: settings as written (`layers`: from file, environment and flags, each with its
//! origin, checked against one table, `schema`) and the plan as run (`plan`).
//!
//! ```text
//! file    --document/yaml--> nodes --file: expand, schema--+
//! variables, flags --------- nodes --environment: schema---+--> Layers --planning, checks--> Plan
//! ```

mod admin;
mod auth;
mod auth_plan;
mod checks;
pub mod cpus;
mod document;
mod environment;
pub mod errors;
mod expand;
mod file;
mod filter;
mod fixed;
mod items;
mod json_schema;
mod layers;
mod logging;
pub mod plan;
mod planning;
mod reference;
pub mod schema;
mod show;
mod tables;
mod unbuilt;
mod upstreams;
mod values;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use errors::{Errors, Problem};
pub use filter::check as check_log_filter;
pub use items::{address, duration, is_loopback};
pub use json_schema::json_schema;
pub use layers::{Layers, Origin, PLACES};
use plan::Plan;
use planning::Planner;
pub use reference::{example, reference};
pub use show::show;

/// Where settings come from. Flags win over the environment, that over the file, that over the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; else the usual places are looked at.
    pub file: Option<PathBuf>,
    /// Only a file that is named is read, and not one that lies in the usual places.
    pub no_usual_places: bool,
    /// `--auth-config`: keys of `[auth]` in YAML, which win over those of the file.
    pub auth_config: Option<PathBuf>,
    /// `--upstream`, in order; replace those of the file.
    pub upstreams: Vec<String>,
    /// Other flags and `--set`: `section.key`, its value, and the flag as it was written.
    pub flags: Vec<(String, String, String)>,
    /// The environment; only `SHADOWCAT_*`, `RUST_LOG`, what `${...}` names and the places of state are read.
    pub environment: BTreeMap<String, String>,
    /// Names of variables whose values are not UTF-8.
    pub undecodable: Vec<String>,
    /// Sessions are kept in memory, unless something says otherwise (the demo).
    pub in_memory: bool,
}

/// A configuration that can run.
#[derive(Debug)]
pub struct Loaded {
    pub plan: Plan,
    /// For the operator, one line each.
    pub warnings: Vec<String>,
    /// What was said, and by whom.
    pub layers: Layers,
}

/// What a configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A server: what it cannot do and files it cannot read are errors.
    Run,
    /// To check it, maybe on another machine: both are warnings.
    Check,
    /// The text alone: no file system.
    Text,
}

/// Load for a server: everything is checked, and what this version cannot do is an error, never ignored.
///
/// # Errors
/// All of them at once.
pub fn load(sources: &Sources) -> Result<Loaded, Errors> {
    let (layers, errors, warnings) = layers::gather(sources);
    finish(sources, layers, errors, warnings, Purpose::Run)
}

/// Load to check: the whole schema is accepted, also what this version cannot run yet (that is a warning).
///
/// # Errors
/// All of them at once.
pub fn check(sources: &Sources) -> Result<Loaded, Errors> {
    let (layers, errors, warnings) = layers::gather(sources);
    finish(sources, layers, errors, warnings, Purpose::Check)
}

/// Where the administrator's socket is, as far as a configuration that may be wrong elsewhere tells.
pub fn admin_socket(sources: &Sources) -> Option<PathBuf> {
    let (layers, mut errors, mut warnings) = layers::gather(sources);
    let purpose = Purpose::Check;
    let mut planner = Planner { layers: &layers, sources, purpose, errors: &mut errors, warnings: &mut warnings };
    planning::plan(&mut planner).admin.socket.map(|socket| socket.path)
}

/// Check the text of a file alone: no file system, no environment.
///
/// # Errors
/// All of them at once.
pub fn check_text(text: &str) -> Result<(), Errors> {
    let (sources, mut layers, mut errors) = (Sources::default(), Layers::default(), Errors::default());
    file::configuration(text, "shadowcat.toml", &sources, &mut layers, &mut errors);
    finish(&sources, layers, errors, Vec::new(), Purpose::Text).map(|_| ())
}

/// As `check_text`, for the YAML of `--auth-config`.
///
/// # Errors
/// All of them at once.
pub fn check_auth_text(text: &str) -> Result<(), Errors> {
    let (sources, mut layers, mut errors) = (Sources::default(), Layers::default(), Errors::default());
    file::auth_config(text, "auth.yaml", &sources, &mut layers, &mut errors);
    finish(&sources, layers, errors, Vec::new(), Purpose::Text).map(|_| ())
}

fn finish(
    sources: &Sources,
    layers: Layers,
    mut errors: Errors,
    mut warnings: Vec<String>,
    purpose: Purpose,
) -> Result<Loaded, Errors> {
    for feature in unbuilt::enabled(&layers) {
        match purpose {
            Purpose::Run => errors.push(feature),
            _ => warnings.push(format!("{}: a server does not start on it", feature.message)),
        }
    }
    let (errors_so_far, warnings_so_far) = (&mut errors, &mut warnings);
    let mut planner = Planner { layers: &layers, sources, purpose, errors: errors_so_far, warnings: warnings_so_far };
    let plan = planning::plan(&mut planner);
    if errors.is_empty() { Ok(Loaded { plan, warnings, layers }) } else { Err(errors) }
}
