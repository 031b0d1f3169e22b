//! `tape stats`: calls, errors and times by method and tool, in constant memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::filter::{About, Filter};
use super::over::{self, Item, short, took};
use crate::cli::Failure;
use crate::cli::admin::args::Output;
use crate::cli::print::{bare, print, titled};
use crate::wire::tape::{Frame, Side};

/// Methods and names that get a row of their own; all others share one.
const NAMES_MAX: usize = 1000;
const OTHERS: &str = "(others)";
/// Buckets an octave of microseconds: at most 6 % off.
const SUB_BITS: u32 = 4;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

#[derive(Default)]
struct Stats {
    tapes: u64,
    frames: u64,
    bytes: u64,
    lost: u64,
    us: u64,
    client: u64,
    server: u64,
    proxy: u64,
    errors: u64,
    all: Group,
    groups: BTreeMap<(String, String), Group>,
}

#[derive(Default)]
struct Group {
    calls: u64,
    notices: u64,
    answers: u64,
    errors: u64,
    bytes: u64,
    times: Times,
}

/// # Errors
/// A tape cannot be read.
pub fn run(tapes: &[PathBuf], filter: &Filter, output: Output) -> Result<ExitCode, Failure> {
    let mut stats = Stats::default();
    for path in tapes {
        let (mut last, mut wanted) = (0, true);
        over::frames(path, filter, |head, item| {
            wanted = filter.wants_tape(head);
            match item {
                Item::Frame { frame, about, line } if wanted => {
                    last = frame.us;
                    stats.count(frame, &about, line.len() as u64 + 1);
                }
                Item::Gap(gap) if wanted => stats.lost += gap.frames,
                _ => {}
            }
            Ok(wanted)
        })?;
        if wanted {
            stats.tapes += 1;
            stats.us += last;
        }
    }
    print(&match output {
        Output::Json => format!("{:#}\n", stats.in_json()),
        Output::Table => stats.in_words(),
    })
}

impl Stats {
    fn count(&mut self, frame: &Frame<'_>, about: &About, bytes: u64) {
        self.frames += 1;
        self.bytes += bytes;
        self.errors += u64::from(frame.error);
        *match frame.from {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
            Side::Proxy => &mut self.proxy,
        } += 1;
        let Some(method) = &about.method else { return };
        let mut key = (method.clone(), about.name.clone().unwrap_or_default());
        if self.groups.len() >= NAMES_MAX && !self.groups.contains_key(&key) {
            key = (OTHERS.to_owned(), String::new());
        }
        for group in [self.groups.entry(key).or_default(), &mut self.all] {
            group.bytes += bytes;
            group.errors += u64::from(frame.error);
            match &frame.rpc {
                Some(rpc) if rpc.id.is_some() => group.calls += 1,
                Some(_) => group.notices += 1,
                None => {}
            }
            // The head of an event stream answers too, and says nothing yet.
            if let (Some(asked), Some(_), Some(_)) = (&about.answers, frame.answers, frame.message) {
                group.answers += 1;
                group.times.record(frame.us.saturating_sub(asked.us));
            }
        }
    }

    fn in_words(&self) -> String {
        let mut summary = bare();
        for (name, value) in [
            ("tapes", self.tapes.to_string()),
            ("lasted", took(self.us)),
            (
                "frames",
                format!(
                    "{}: {} of clients, {} of servers, {} of the proxy",
                    self.frames, self.client, self.server, self.proxy
                ),
            ),
            ("size", bytesize::ByteSize(self.bytes).to_string()),
            ("calls", format!("{}, {} answered", self.all.calls, self.all.answers)),
            ("errors", self.errors.to_string()),
            ("not recorded", if self.lost == 0 { "-".to_owned() } else { format!("{} frames", self.lost) }),
        ] {
            summary.add_row([name.to_owned(), value]);
        }
        let titles = ["method", "name", "calls", "notices", "answered", "errors", "p50", "p90", "p99", "max", "size"];
        let mut table = titled(&titles, &[2, 3, 4, 5, 6, 7, 8, 9, 10]);
        for ((method, name), group) in self.by_calls() {
            let at = |share| group.times.quantile(share).map_or_else(|| "-".to_owned(), took);
            table.add_row([
                short(method, 40),
                if name.is_empty() { "-".to_owned() } else { short(name, 40) },
                group.calls.to_string(),
                group.notices.to_string(),
                group.answers.to_string(),
                group.errors.to_string(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(1.0),
                bytesize::ByteSize(group.bytes).to_string(),
            ]);
        }
        format!("{summary}\n\n{table}\n")
    }

    fn in_json(&self) -> Value {
        let groups: Vec<Value> = self
            .by_calls()
            .into_iter()
            .map(|((method, name), group)| {
                let at = |share| group.times.quantile(share).map(|us| us as f64 / 1e6);
                json!({
                    "method": method, "name": if name.is_empty() { Value::Null } else { json!(name) }, "calls": group.calls,
                    "notices": group.notices, "answered": group.answers, "errors": group.errors, "bytes": group.bytes,
                    "p50_seconds": at(0.5), "p90_seconds": at(0.9), "p99_seconds": at(0.99), "max_seconds": at(1.0),
                })
            })
            .collect();
        json!({
            "tapes": self.tapes, "seconds": self.us as f64 / 1e6, "frames": self.frames, "bytes": self.bytes,
            "from": { "client": self.client, "server": self.server, "proxy": self.proxy }, "calls": self.all.calls,
            "answered": self.all.answers, "errors": self.errors, "frames_not_recorded": self.lost, "methods": groups,
        })
    }

    fn by_calls(&self) -> Vec<(&(String, String), &Group)> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, group)| std::cmp::Reverse((group.calls, group.notices)));
        groups
    }
}

/// A log-linear histogram of microseconds.
#[derive(Default)]
struct Times {
    /// Made when the first comes.
    buckets: Vec<u32>,
    count: u64,
    max: u64,
}

impl Times {
    fn record(&mut self, us: u64) {
        self.buckets.resize(BUCKETS, 0);
        self.buckets[bucket(us)] += 1;
        self.count += 1;
        self.max = self.max.max(us);
    }

    /// The upper end of the bucket that the quantile falls into.
    fn quantile(&self, share: f64) -> Option<u64> {
        let rank = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|&count| {
            seen += u64::from(count);
            seen >= rank
        })?;
        Some(upper_end(found).min(self.max))
    }
}

fn bucket(us: u64) -> usize {
    if us < 1 << SUB_BITS {
        return us as usize;
    }
    let octave = us.ilog2() - SUB_BITS;
    ((octave as usize + 1) << SUB_BITS) + ((us >> octave) as usize - (1 << SUB_BITS))
}

fn upper_end(bucket: usize) -> u64 {
    let (octave, sub) = (bucket >> SUB_BITS, (bucket & ((1 << SUB_BITS) - 1)) as u64);
    match octave {
        0 => sub,
        _ => (((1u128 << SUB_BITS) + u128::from(sub) + 1) << (octave - 1)).saturating_sub(1).min(u128::from(u64::MAX))
            as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_a_sixteenth_off() {
        let mut times = Times::default();
        assert_eq!(times.quantile(0.5), None);
        (1..=100_000).for_each(|us| times.record(us));
        for share in [0.01, 0.5, 0.9, 0.99] {
            let (exact, found) = (100_000.0 * share, times.quantile(share).unwrap() as f64);
            assert!(found >= exact && found <= exact * 1.07, "{share}: {found}");
        }
        assert_eq!(times.quantile(1.0), Some(100_000));
        times.record(u64::MAX);
        assert_eq!(times.quantile(1.0), Some(u64::MAX));
    }
}
