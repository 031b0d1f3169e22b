//! Whether every worker moves: each counts its heartbeat up about twice a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::telemetry::WorkerCells;

pub struct Beats(Vec<Beat>);

struct Beat {
    count: u64,
    /// When the count was first seen as it is.
    since: Instant,
    reported: bool,
}

impl Beats {
    pub fn new(workers: &[Arc<WorkerCells>], now: Instant) -> Beats {
        let beat = |cells: &Arc<WorkerCells>| Beat { count: cells.heartbeat.value(), since: now, reported: false };
        Beats(workers.iter().map(beat).collect())
    }

    pub fn look(&mut self, workers: &[Arc<WorkerCells>], now: Instant) {
        for (beat, cells) in self.0.iter_mut().zip(workers) {
            let count = cells.heartbeat.value();
            if count != beat.count {
                *beat = Beat { count, since: now, reported: false };
            }
        }
    }

    /// Whether every worker moved within this time.
    pub fn all_within(&self, time: Duration, now: Instant) -> bool {
        self.0.iter().all(|beat| now.duration_since(beat.since) <= time)
    }

    /// Workers that stand still for so long; each is named once until it moves again.
    pub fn still_for(&mut self, time: Duration, now: Instant) -> Vec<usize> {
        let mut named = Vec::new();
        for (index, beat) in self.0.iter_mut().enumerate() {
            if !beat.reported && now.duration_since(beat.since) >= time {
                beat.reported = true;
                named.push(index);
            }
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stands_still_is_named_once_and_holds_up_all() {
        let workers: Vec<Arc<WorkerCells>> = (0..2).map(|_| Arc::default()).collect();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let limit = Duration::from_secs(3);
        let mut beats = Beats::new(&workers, start);
        for second in 1..=5 {
            workers[0].heartbeat.add(1);
            beats.look(&workers, at(second));
            assert_eq!(beats.all_within(limit, at(second)), second <= 3, "after {second}");
            let named = beats.still_for(limit, at(second));
            assert_eq!(named, if second == 3 { vec![1] } else { vec![] }, "after {second}");
        }
        workers[1].heartbeat.add(1);
        beats.look(&workers, at(6));
        assert!(beats.all_within(limit, at(6)));
        beats.look(&workers, at(10));
        assert_eq!(beats.still_for(limit, at(10)), [0, 1]);
    }
}
