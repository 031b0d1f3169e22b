//! Where lines go: standard output, standard error, or a file that is opened anew when somebody rotated it.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use signal_hook::consts::SIGHUP;

use crate::config::plan::LogOutput;

/// Logs name clients and users.
const MODE: u32 = 0o640;

pub struct Output {
    place: LogOutput,
    file: File,
    /// SIGHUP came: what follows belongs into the file that has the name now.
    reopen: Arc<AtomicBool>,
    /// The last write ended within a line.
    torn: bool,
}

impl Output {
    /// # Errors
    /// The file cannot be opened or made.
    pub fn open(place: &LogOutput) -> io::Result<Output> {
        let file = match place {
            LogOutput::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            LogOutput::Stderr => File::from(io::stderr().as_fd().try_clone_to_owned()?),
            LogOutput::File(path) => open_file(path)?,
        };
        let reopen: Arc<AtomicBool> = Arc::default();
        if matches!(place, LogOutput::File(_)) {
            signal_hook::flag::register(SIGHUP, reopen.clone())?;
        }
        Ok(Output { place: place.clone(), file, reopen, torn: false })
    }

    pub fn place(&self) -> &LogOutput {
        &self.place
    }

    pub fn is_terminal(&self) -> bool {
        self.file.is_terminal()
    }

    /// Whether the journal reads what is written here (systemd.exec(5), `$JOURNAL_STREAM`).
    pub fn is_journal(&self) -> bool {
        let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        self.file.metadata().is_ok_and(|found| told == format!("{}:{}", found.dev(), found.ino()))
    }

    /// Heed a rotation; the error if the file of this name cannot be opened, in which case the old one stays.
    pub fn heed_rotation(&mut self) -> io::Result<()> {
        if let LogOutput::File(path) = &self.place
            && self.reopen.swap(false, Relaxed)
        {
            self.file = open_file(path)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Write whole lines.
    ///
    /// # Errors
    /// Why, and how many bytes of them were written.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while done < lines.len() {
            // What a full disk cut off stays a line of its own.
            let written = match self.torn {
                true => self.file.write(b"\n").map(|_| 0),
                false => self.file.write(&lines[done..]),
            };
            match written {
                Ok(0) if !self.torn => return Err((done, io::ErrorKind::WriteZero.into())),
                Ok(bytes) => {
                    self.torn = false;
                    done += bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody who shares the pipe made it so; it is as good as waiting.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::park_timeout(super::writer::PAUSE);
                }
                Err(error) => {
                    if done > 0 {
                        self.torn = lines[done - 1] != b'\n';
                    }
                    return Err((done, error));
                }
            }
        }
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}
