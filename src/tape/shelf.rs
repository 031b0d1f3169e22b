//! Where tapes are: one file, or a directory with one for each session. Writes lines, checks limits, and stops while the disk
//! takes nothing; what was not written is told in the tape once it goes on.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::file::TapeFile;
use super::frames::{Awaited, Mark};
use super::part::Part;
use super::{Counts, EXTENSION, Source, Voice, limits};
use crate::config::plan::RecordPlan;
use crate::telemetry::moment::Dates;
use crate::wire::tape::{Frame, Gap, Head, Server, Transport, VERSION, Why, Writer};

/// Files that are open at a time.
const OPEN_MAX: usize = 64;
/// Tapes that are known at a time; who was silent longest is ended first.
const TAPES_MAX: usize = 10_000;
/// Bytes of a tape that wait for the end of a pass, at most.
const WAITING_MAX: usize = 256 * 1024;
/// How often the tapes are looked through for what time brings.
const ROUND: Duration = Duration::from_millis(250);
/// A tape that is quiet for this long may be ended to make room.
const QUIET: Duration = Duration::from_secs(5);
/// A tape on which nothing happened is ended after this.
const IDLE: Duration = Duration::from_secs(600);
/// From a frame to the checkpoint that vouches for it.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// How often limits are looked at, and a disk that took nothing is tried again.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked what else is in the directory.
const TIDY: Duration = Duration::from_secs(60);

/// A hash of a session's id, as logs show it; none for what has no session.
pub type Key = Option<[u8; 16]>;

pub struct Shelf {
    place: Place,
    plan: RecordPlan,
    transport: Transport,
    server: Server,
    voice: Voice,
    counts: Arc<Counts>,
    dates: Dates,
    /// Where the recorder's clock begins.
    begun: Instant,
    tapes: HashMap<Key, Tape>,
    /// Those with lines that wait.
    waiting: Vec<Key>,
    /// Those whose files are open, in the order of opening.
    open: VecDeque<Key>,
    stopped: Option<Stop>,
    /// That nothing is written was said.
    is_failing: bool,
    /// Tapes in the place, as far as it is known.
    bytes: u64,
    looked: u64,
    went_round: u64,
    tidied: Option<u64>,
}

/// Nothing is written for a while.
#[derive(Clone, Copy)]
struct Stop {
    /// On the recorder's clock.
    until: u64,
    /// Only another try tells whether it is over.
    is_error: bool,
}

enum Place {
    /// The recording is one tape: its directory, its stem, and the files of it.
    One {
        directory: PathBuf,
        stem: String,
        files: Vec<PathBuf>,
    },
    Many {
        directory: PathBuf,
    },
}

/// One tape.
struct Tape {
    id: String,
    stem: String,
    part: u32,
    /// Of the numbers of its frames: which other ones may stand for later.
    generation: u32,
    /// On the recorder's clock, nanoseconds; as the latest event.
    begun: u64,
    last: u64,
    current: Option<Part>,
    /// Not written, and not told yet.
    lost: Gap,
    awaited: Awaited,
    exchanges: u64,
    /// Exchanges that are under way.
    busy: u32,
}

impl Shelf {
    /// # Errors
    /// What is wrong with the place.
    pub fn open(
        plan: &RecordPlan,
        source: &Source,
        voice: Voice,
        counts: Arc<Counts>,
        begun: Instant,
    ) -> Result<Shelf, String> {
        let says = |what: &str, error: &dyn std::fmt::Display| format!("{}: {what}: {error}", plan.output.display());
        let is_directory = plan.output.is_dir() || plan.output.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (transport, server) = match source {
            Source::Stdio(server) => (Transport::Stdio, server.clone()),
            Source::Http(server) => (Transport::Http, server.clone()),
        };
        let place = match transport {
            Transport::Stdio if !is_directory => {
                let stem = plan.output.file_stem().ok_or_else(|| says("no name of a file", &""))?;
                let stem = stem.to_string_lossy().into_owned();
                let directory = plan.output.parent().filter(|parent| !parent.as_os_str().is_empty());
                Place::One { directory: directory.unwrap_or(Path::new(".")).to_owned(), stem, files: Vec::new() }
            }
            Transport::Http if plan.output.exists() && !plan.output.is_dir() => {
                return Err(says("it is a file", &"a tape of each session needs a directory"));
            }
            _ => {
                let mut builder = std::fs::DirBuilder::new();
                builder
                    .recursive(true)
                    .mode(0o700)
                    .create(&plan.output)
                    .map_err(|error| says("cannot be made", &error))?;
                Place::Many { directory: plan.output.clone() }
            }
        };
        let mut shelf = Shelf {
            place,
            plan: plan.clone(),
            transport,
            server,
            voice,
            counts,
            dates: Dates::default(),
            begun,
            tapes: HashMap::new(),
            waiting: Vec::new(),
            open: VecDeque::new(),
            stopped: None,
            is_failing: false,
            bytes: 0,
            looked: 0,
            went_round: 0,
            tidied: None,
        };
        if transport == Transport::Stdio {
            shelf.begin(None, 0);
            shelf.write_first().map_err(|error| says("no tape can be written there", &error))?;
        } else {
            let probe = TapeFile::create_at(&plan.output.join(format!(".probe-{}", std::process::id())));
            probe.map_err(|error| says("nothing can be written there", &error))?.discard();
        }
        Ok(shelf)
    }

    /// The head of the only tape, so that it is there from the start.
    fn write_first(&mut self) -> io::Result<()> {
        let stem = self.tapes.get(&None).map(|tape| tape.stem.clone()).unwrap_or_default();
        let file = match &mut self.place {
            Place::Many { directory } => TapeFile::create(directory, &stem)?,
            Place::One { directory, stem, files } => {
                // As it was named, if that is free.
                let file = match TapeFile::create_at(&self.plan.output) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => TapeFile::create(directory, stem)?,
                    made => made?,
                };
                *stem = file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
                files.push(file.path().to_owned());
                file
            }
        };
        if let Some(tape) = self.tapes.get_mut(&None) {
            if let Place::One { stem, .. } = &self.place {
                tape.stem.clone_from(stem);
            }
            if let Some(part) = &mut tape.current {
                part.file = Some(file);
                part.write(&self.counts)?;
            }
        }
        Ok(())
    }

    /// Where the only tape is.
    pub fn only_file(&self) -> Option<PathBuf> {
        let part = self.tapes.get(&None)?.current.as_ref()?;
        (self.transport == Transport::Stdio).then(|| part.file.as_ref().map(|file| file.path().to_owned()))?
    }

    // --- what is written ---------------------------------------------------------------------------------------------

    /// Put a frame on the tape of `key`, which answers another one; where it is, if it is there.
    pub fn frame(&mut self, key: Key, at: u64, mut frame: Frame<'_>, answers: Option<Mark>) -> Option<Mark> {
        let bytes = frame.content().map_or(0, |content| content.len() as u64) + frame.cut;
        if self.stopped.is_some() {
            self.counts.unwritten.fetch_add(1, Relaxed);
            self.lose(key, at, 1, bytes);
            return None;
        }
        self.begin(key, at);
        let file_bytes_max = self.plan.file_bytes_max;
        let tape = self.tapes.get_mut(&key)?;
        tape.last = tape.last.max(at);
        let begun = tape.begun;
        let part = tape.current.as_mut()?;
        if part.lines.is_empty() {
            self.waiting.push(key);
        }
        if tape.lost != (Gap { frames: 0, bytes: 0 }) {
            part.writer.gap(std::mem::replace(&mut tape.lost, Gap { frames: 0, bytes: 0 }), &mut part.lines);
        }
        frame.us = at.saturating_sub(begun) / 1000;
        let generation = tape.generation;
        frame.answers = answers.filter(|mark| mark.generation == generation).map(|mark| mark.seq);
        let seq = part.writer.frame(frame, &mut part.lines);
        if part.writer.wants_checkpoint() {
            part.checkpoint(at);
        }
        let (is_full, is_much) = (part.writer.bytes() >= file_bytes_max, part.lines.len() >= WAITING_MAX);
        if is_full {
            self.end(key, Why::Rotated);
        } else if is_much {
            self.write(key);
        }
        Some(Mark { generation, seq })
    }

    /// What was not seen, or cannot be written, of the tape of `key`; told with its next frame.
    pub fn lose(&mut self, key: Key, at: u64, frames: u64, bytes: u64) {
        self.begin(key, at);
        if let Some(tape) = self.tapes.get_mut(&key) {
            tape.last = tape.last.max(at);
            tape.lost = Gap { frames: tape.lost.frames + frames, bytes: tape.lost.bytes + bytes };
        }
    }

    /// A number for an exchange, which is under way from here on.
    pub fn begin_exchange(&mut self, key: Key, at: u64) -> u64 {
        self.begin(key, at);
        self.tapes.get_mut(&key).map_or(0, |tape| {
            tape.busy += 1;
            tape.exchanges += 1;
            tape.exchanges
        })
    }

    pub fn end_exchange(&mut self, key: Key) {
        if let Some(tape) = self.tapes.get_mut(&key) {
            tape.busy = tape.busy.saturating_sub(1);
        }
    }

    pub fn awaited(&mut self, key: Key) -> Option<&mut Awaited> {
        self.tapes.get_mut(&key).map(|tape| &mut tape.awaited)
    }

    /// Write what waits. Called at the end of each pass.
    pub fn flush(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.drain(..).for_each(|key| self.write(key));
        self.waiting = waiting;
    }

    /// The session of `key` is over, or all is.
    pub fn finish(&mut self, key: Key) {
        self.end(key, Why::Finished);
        self.tapes.remove(&key);
        self.counts.open.store(self.tapes.len() as u64, Relaxed);
    }

    pub fn finish_all(&mut self) {
        // What could not be written so far is tried once more.
        self.stopped = None;
        let keys: Vec<Key> = self.tapes.keys().copied().collect();
        keys.into_iter().for_each(|key| self.finish(key));
    }

    /// A tape for `key`, with a part that is written.
    fn begin(&mut self, key: Key, at: u64) {
        if !self.tapes.contains_key(&key) {
            if self.tapes.len() >= TAPES_MAX {
                self.forget_one();
            }
            self.dates.refresh();
            let moment = self.begun + Duration::from_nanos(at);
            let mut started = Vec::new();
            self.dates.write(&mut started, moment);
            let started = String::from_utf8(started).unwrap_or_default();
            let tape = Tape {
                id: random_id(),
                stem: self.stem(key, &started),
                part: 0,
                generation: 0,
                begun: at,
                last: at,
                current: None,
                lost: Gap { frames: 0, bytes: 0 },
                awaited: Awaited::default(),
                exchanges: 0,
                busy: 0,
            };
            self.tapes.insert(key, tape);
        }
        let Some(tape) = self.tapes.get_mut(&key).filter(|tape| tape.current.is_none()) else { return };
        if self.stopped.is_some() {
            return;
        }
        tape.part += 1;
        tape.generation += 1;
        let mut started = Vec::new();
        self.dates.write(&mut started, self.begun + Duration::from_nanos(tape.begun));
        let head = Head {
            version: VERSION,
            id: tape.id.clone(),
            started: String::from_utf8(started).unwrap_or_default(),
            software: concat!("shadowcat ", env!("CARGO_PKG_VERSION")).to_owned(),
            transport: self.transport,
            server: self.server.clone(),
            session: key.map(|hash| String::from_utf8_lossy(&hash).into_owned()),
            part: tape.part,
        };
        let mut lines = Vec::new();
        let writer = Writer::begin(&head, &mut lines);
        tape.current = Some(Part { writer, written: None, lines, file: None, checked: at });
        self.waiting.push(key);
    }

    /// `20261125T200000Z-0123456789abcdef`, or as the one file is called.
    fn stem(&self, key: Key, started: &str) -> String {
        let time: String = started[..19.min(started.len())].chars().filter(|c| !matches!(c, '-' | ':')).collect();
        match (&self.place, key) {
            (Place::One { stem, .. }, _) => stem.clone(),
            (_, Some(hash)) => format!("{time}Z-{}", String::from_utf8_lossy(&hash)),
            (..) if self.transport == Transport::Http => format!("{time}Z-no-session"),
            (..) => {
                let program = self.server.command.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
                let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
                let program: String = program.to_string_lossy().chars().take(64).map(plain).collect();
                format!("{time}Z-{program}")
            }
        }
    }

    fn write(&mut self, key: Key) {
        let Some(tape) = self.tapes.get_mut(&key) else { return };
        let Some(part) = tape.current.as_mut().filter(|part| !part.lines.is_empty()) else { return };
        let was_open = part.file.as_ref().is_some_and(TapeFile::is_open);
        let frames = part.writer.frames() - part.written.as_ref().map_or(0, Writer::frames);
        let length = part.lines.len() as u64;
        let made = match &part.file {
            Some(_) => Ok(()),
            None => self.place.create(&tape.stem, tape.part).map(|file| part.file = Some(file)),
        };
        match made.and_then(|()| part.write(&self.counts)) {
            Ok(()) => {
                self.bytes += length;
                self.goes_on();
            }
            Err(error) => {
                self.counts.unwritten.fetch_add(frames, Relaxed);
                tape.lost.frames += frames;
                tape.lost.bytes += length;
                tape.generation += 1;
                match part.written.clone() {
                    Some(written) => part.writer = written,
                    None => {
                        let part = tape.current.take();
                        part.and_then(|part| part.file).into_iter().for_each(TapeFile::discard);
                        tape.part -= 1;
                    }
                }
                self.stop(&error.to_string(), true);
            }
        }
        if !was_open && self.tapes.get(&key).is_some_and(Tape::is_open) {
            self.open.push_back(key);
        }
        while self.open.len() > OPEN_MAX
            && let Some(oldest) = self.open.pop_front()
        {
            self.tapes.get_mut(&oldest).into_iter().for_each(Tape::close);
        }
        self.counts.open.store(self.tapes.len() as u64, Relaxed);
    }

    /// The part of `key` is done.
    fn end(&mut self, key: Key, why: Why) {
        if let Some(tape) = self.tapes.get_mut(&key)
            && let Some(part) = &mut tape.current
        {
            if tape.lost != (Gap { frames: 0, bytes: 0 }) {
                part.writer.gap(std::mem::replace(&mut tape.lost, Gap { frames: 0, bytes: 0 }), &mut part.lines);
            }
            part.writer.end(why, &mut part.lines);
            self.write(key);
            if let Some(tape) = self.tapes.get_mut(&key) {
                tape.current = None;
            }
        }
    }

    // --- limits ------------------------------------------------------------------------------------------------------

    /// What has to be done as time passes; `now` on the recorder's clock.
    pub fn tend(&mut self, now: u64) {
        if now.saturating_sub(self.looked) >= LOOK.as_nanos() as u64 || self.tidied.is_none() {
            self.looked = now;
            self.look(now);
        }
        if now.saturating_sub(self.went_round) >= ROUND.as_nanos() as u64 {
            self.went_round = now;
            self.go_round(now);
        }
        self.flush();
    }

    /// Checkpoints, and the end of what is silent.
    fn go_round(&mut self, now: u64) {
        let mut idle = Vec::new();
        for (key, tape) in &mut self.tapes {
            let is_idle = now.saturating_sub(tape.last) >= IDLE.as_nanos() as u64 && tape.busy == 0;
            if is_idle && self.transport == Transport::Http {
                idle.push(*key);
            }
            let Some(part) = &mut tape.current else { continue };
            if !self.is_failing
                && part.has_unchecked()
                && now.saturating_sub(part.checked) >= CHECKPOINT.as_nanos() as u64
            {
                if part.lines.is_empty() {
                    self.waiting.push(*key);
                }
                part.checkpoint(now);
            }
        }
        for key in idle {
            self.end(key, Why::Idle);
            self.tapes.remove(&key);
        }
    }

    fn look(&mut self, now: u64) {
        let max = self.plan.total_bytes_max;
        let is_too_much = move |bytes| max.is_some_and(|max| bytes > max);
        let is_time = self.tidied.is_none_or(|tidied| now.saturating_sub(tidied) >= TIDY.as_nanos() as u64);
        if is_time || is_too_much(self.bytes) {
            self.tidied = Some(now);
            self.tidy();
            if is_too_much(self.bytes) && self.transport == Transport::Http {
                self.end_what_is_quiet(now);
                self.tidy();
            }
        }
        let free = limits::free(self.place.directory());
        let is_full = self.plan.free_bytes_min.is_some_and(|min| free.is_some_and(|free| free < min));
        if is_full {
            self.stop("the disk has less room than record.min_free", false);
        } else if is_too_much(self.bytes) {
            self.stop("tapes that are in use take more than record.total_bytes", false);
        } else if let Some(stop) = self.stopped.filter(|stop| now >= stop.until) {
            self.stopped = None;
            if !stop.is_error {
                self.goes_on();
            }
        }
    }

    fn tidy(&mut self) {
        let plan = &self.plan;
        let mine = |path: &Path| match &self.place {
            // However the directory is spelt.
            Place::One { files, .. } => files.iter().any(|file| file.file_name() == path.file_name()),
            Place::Many { .. } => true,
        };
        match limits::tidy(self.place.directory(), mine, plan.total_bytes_max, plan.age_max) {
            Ok(tidied) => {
                self.bytes = tidied.bytes;
                self.counts.deleted.fetch_add(tidied.deleted, Relaxed);
            }
            Err(error) => {
                let place = self.place.directory().display();
                self.say(&format!("cannot look through the tapes in {place}: {error}"));
            }
        }
    }

    /// Nothing is written for a while.
    fn stop(&mut self, why: &str, is_error: bool) {
        let now = self.begun.elapsed() + LOOK;
        self.stopped = Some(Stop { until: now.as_nanos() as u64, is_error });
        self.counts.is_stopped.store(true, Relaxed);
        if !std::mem::replace(&mut self.is_failing, true) {
            let place = self.plan.output.display();
            self.say(&format!("recording to {place} stopped: {why}; it goes on by itself once that is over"));
        }
    }

    fn goes_on(&mut self) {
        if std::mem::replace(&mut self.is_failing, false) {
            self.counts.is_stopped.store(false, Relaxed);
            self.say(&format!("recording to {} goes on; each tape says what is missing", self.plan.output.display()));
        }
    }

    fn say(&self, what: &str) {
        match self.voice {
            Voice::Log => tracing::warn!("{what}"),
            Voice::Stderr => eprintln!("shadowcat: {what}"),
        }
    }

    /// Files that are in use are not deleted: of those that seem not to be, others will be.
    fn end_what_is_quiet(&mut self, now: u64) {
        let is_quiet = |tape: &Tape| tape.busy == 0 && now.saturating_sub(tape.last) >= QUIET.as_nanos() as u64;
        let quiet: Vec<Key> = self.tapes.iter().filter(|(_, tape)| is_quiet(tape)).map(|(key, _)| *key).collect();
        for key in quiet {
            self.end(key, Why::Idle);
            self.tapes.remove(&key);
        }
    }

    /// Make room for another tape.
    fn forget_one(&mut self) {
        let silent = self.tapes.iter().min_by_key(|(_, tape)| (tape.busy > 0, tape.last)).map(|(key, _)| *key);
        if let Some(key) = silent {
            self.end(key, Why::Idle);
            self.tapes.remove(&key);
        }
    }
}

impl Place {
    fn directory(&self) -> &Path {
        let (Place::One { directory, .. } | Place::Many { directory }) = self;
        directory
    }

    /// A file for a part of a tape.
    fn create(&mut self, stem: &str, part: u32) -> io::Result<TapeFile> {
        let name = if part == 1 { stem.to_owned() } else { format!("{stem}.{part}") };
        let file = TapeFile::create(self.directory(), &name)?;
        if let Place::One { files, .. } = self {
            files.push(file.path().to_owned());
            // Those that limits deleted.
            files.retain(|file| file.exists());
        }
        debug_assert!(file.path().extension().is_some_and(|it| it == EXTENSION));
        Ok(file)
    }
}

impl Tape {
    fn is_open(&self) -> bool {
        self.current.as_ref().and_then(|part| part.file.as_ref()).is_some_and(TapeFile::is_open)
    }

    fn close(&mut self) {
        self.current.as_mut().and_then(|part| part.file.as_mut()).into_iter().for_each(TapeFile::close);
    }
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    // Of a generator that fails nothing is left but zeros: the id tells tapes apart, and is no secret.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
