//! Tapes as others read them: lines of JSON.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use shadowcat::wire::tape::Reader;

/// A tape that was read.
pub struct Tape {
    pub path: PathBuf,
    pub text: String,
    pub lines: Vec<Value>,
}

impl Tape {
    /// Read it; what is torn at its end is left out.
    pub fn read(path: &Path) -> Tape {
        let text = std::fs::read_to_string(path).expect("a tape");
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines = text[..whole].lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", path.display()))
        });
        Tape { path: path.to_owned(), lines: lines.collect(), text }
    }

    pub fn head(&self) -> &Value {
        &self.lines[0]
    }

    pub fn frames(&self) -> Vec<&Value> {
        self.lines.iter().filter(|line| line.get("seq").is_some()).collect()
    }

    /// Frames of HTTP of this kind.
    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.frames().into_iter().filter(|frame| frame["http"]["kind"] == kind).collect()
    }

    pub fn gaps(&self) -> Vec<&Value> {
        self.lines.iter().filter_map(|line| line.get("gap")).collect()
    }

    /// Why it ended, if it did.
    pub fn end(&self) -> Option<&str> {
        self.lines.last()?.get("end")?["why"].as_str()
    }

    /// Numbers rise, time does not fall, checksums are right, and nobody else may read it.
    pub fn check(&self) {
        assert_eq!(self.head()["shadowcat_tape"], 1, "{}", self.text);
        let mode = std::fs::metadata(&self.path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", self.path.display());
        let (mut seq, mut us) = (0, 0);
        for frame in self.frames() {
            assert_eq!(frame["seq"].as_u64(), Some(seq + 1), "{frame}");
            seq += 1;
            assert!(frame["us"].as_u64().is_some_and(|at| at >= us), "{frame}");
            us = frame["us"].as_u64().unwrap_or_default();
            if let Some(answers) = frame.get("answers") {
                assert!(answers.as_u64().is_some_and(|asked| asked < seq), "{frame}");
            }
        }
        let mut reader = Reader::new();
        reader.feed(self.text.as_bytes());
        while let Some(entry) = reader.next_entry() {
            assert!(entry.line.is_ok(), "{}: line {}: {:?}", self.path.display(), entry.number, entry.line);
        }
    }
}

/// All tapes of a directory, the oldest first.
pub fn tapes(directory: &Path) -> Vec<Tape> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|it| it == "tape")).collect();
    paths.sort();
    let whole = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0);
    paths.iter().filter(whole).map(|path| Tape::read(path)).collect()
}
