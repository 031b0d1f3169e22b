//! A backup's file: made beside its place under another name, checked, and only then given its name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::failure;
use crate::cli::{Failure, STORE_CHECK};
use crate::store;

/// What a store's file is called, so that it can be opened to be checked.
const DATA: &str = "data.mdb";

/// Have `write` fill a file that becomes `output`.
///
/// # Errors
/// Those of `write`; the file cannot be made; what was written is no whole store.
pub fn write_checked(output: &Path, write: impl FnOnce(&mut File) -> Result<(), Failure>) -> Result<Value, Failure> {
    let broken = |error: io::Error| failure(format!("{}: {error}", output.display()));
    let name = output.file_name().ok_or_else(|| failure(format!("{} is no name of a file", output.display())))?;
    if output.is_dir() {
        return Err(failure(format!("{} is a directory: name a file in it", output.display())));
    }
    let home = output.parent().filter(|home| !home.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let making = Making(home.join(format!(".{}.{}", name.to_string_lossy(), std::process::id())));
    DirBuilder::new().mode(0o700).create(&making.0).map_err(broken)?;
    let new = making.0.join(DATA);
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&new).map_err(broken)?;
    write(&mut file)?;
    file.sync_all().map_err(broken)?;
    let bytes = file.metadata().map_err(broken)?.len();
    let program = std::env::current_exe().map_err(broken)?;
    let checked = store::check(&program, &[STORE_CHECK.into()], &making.0, bytes);
    checked.map_err(|why| failure(format!("the backup is not sound ({why}) and was thrown away")))?;
    fs::rename(&new, output).and_then(|()| File::open(home)?.sync_all()).map_err(broken)?;
    Ok(json!({ "file": output.display().to_string(), "bytes": bytes }))
}

/// Gone when dropped.
struct Making(PathBuf);

impl Drop for Making {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
