//! When requests are due. Sans-io: time is what the caller says.
//!
//! Whoever is free takes the next due time and keeps it, so that every arrival of an open loop is sent on time as long as
//! anybody is free, and as soon as somebody is otherwise. Its latency counts from when it was due: that is all that
//! correcting for coordinated omission takes.

use shadowcat::base::Random;

use crate::scenario::Pace;

/// One group of users on one thread.
pub struct Schedule {
    pace: Pace,
    /// How many threads share the rate.
    share: f64,
    /// When measuring begins and all ends, ns.
    begin: u64,
    end: u64,
    /// The next arrival of an open loop, ns.
    next: f64,
    random: Random,
}

impl Schedule {
    /// From `start` on; `begin` is when the warm-up is over. Thread `index` of `threads`.
    pub fn new(
        pace: Pace,
        [start, begin, end]: [u64; 3],
        (index, threads): (usize, usize),
        random: Random,
    ) -> Schedule {
        let mut schedule = Schedule { pace, share: threads as f64, begin, end, next: start as f64, random };
        if let Some(rate) = schedule.rate_at(start) {
            schedule.next += index as f64 * 1e9 / rate;
        }
        schedule
    }

    /// When the next request of a user who is free is due, which may be in the past; `None`: there is none any more.
    pub fn take(&mut self, now: u64) -> Option<u64> {
        if now >= self.end {
            return None;
        }
        let due = self.next as u64;
        let Some(rate) = self.rate_at(due) else { return Some(now) };
        if due >= self.end {
            return None;
        }
        let gap = 1e9 * self.share / rate;
        self.next += if self.is_poisson() { gap * self.exponential() } else { gap };
        Some(due)
    }

    /// How many measured arrivals were due and taken by nobody, once it is over.
    pub fn owed(&mut self) -> u64 {
        let mut owed = 0;
        let now = self.end.saturating_sub(1);
        while self.rate_at(now).is_some()
            && let Some(due) = self.take(now)
        {
            owed += u64::from(due >= self.begin);
        }
        owed
    }

    /// Arrivals a second at a time, of all threads together; `None`: a closed loop.
    pub fn rate_at(&self, at: u64) -> Option<f64> {
        match self.pace {
            Pace::Closed { .. } => None,
            Pace::Open { rate, .. } => Some(rate),
            Pace::Ramp { steps, .. } => {
                let passed = at.saturating_sub(self.begin) as f64 / (self.end - self.begin).max(1) as f64;
                Some(step_rate(self.pace, ((passed * f64::from(steps)) as u32).min(steps - 1)))
            }
        }
    }

    fn is_poisson(&self) -> bool {
        matches!(self.pace, Pace::Open { poisson: true, .. } | Pace::Ramp { poisson: true, .. })
    }

    /// Of mean 1.
    fn exponential(&self) -> f64 {
        let uniform = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
        -(1.0 - uniform).ln()
    }
}

/// The rate of a step of a ramp.
pub fn step_rate(pace: Pace, step: u32) -> f64 {
    match pace {
        Pace::Ramp { from, to, steps, .. } => from + (to - from) * f64::from(step) / f64::from(steps - 1),
        Pace::Open { rate, .. } => rate,
        Pace::Closed { .. } => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn schedule(pace: Pace, share: (usize, usize)) -> Schedule {
        Schedule::new(pace, [0, SECOND, 11 * SECOND], share, Random::new([7; 32]))
    }

    fn all(schedule: &mut Schedule) -> Vec<u64> {
        std::iter::from_fn(|| schedule.take(0)).collect()
    }

    #[test]
    fn a_fixed_rate_has_even_gaps_and_threads_share_it() {
        let pace = Pace::Open { rate: 100.0, poisson: false };
        let whole = all(&mut schedule(pace, (0, 1)));
        assert_eq!(whole.len(), 1100);
        assert!(whole.windows(2).all(|pair| pair[1] - pair[0] == SECOND / 100));
        let mut shared: Vec<u64> = (0..3).flat_map(|index| all(&mut schedule(pace, (index, 3)))).collect();
        shared.sort_unstable();
        assert!(shared.iter().zip(&whole).all(|(one, other)| one.abs_diff(*other) <= 1), "{shared:?}");
    }

    #[test]
    fn random_arrivals_have_the_rate_on_average_and_gaps_that_vary_as_they_should() {
        let arrivals = all(&mut schedule(Pace::Open { rate: 5000.0, poisson: true }, (0, 1)));
        assert!((54_000..56_000).contains(&arrivals.len()), "{}", arrivals.len());
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let spread = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((0.97..1.03).contains(&(spread / mean)), "{}", spread / mean);
    }

    #[test]
    fn a_ramp_climbs_by_even_steps_from_when_measuring_begins() {
        let pace = Pace::Ramp { from: 100.0, to: 1000.0, steps: 10, poisson: false, p99: None };
        let arrivals = all(&mut schedule(pace, (0, 1)));
        let in_second = |second: u64| arrivals.iter().filter(|due| **due / SECOND == second).count();
        assert_eq!(in_second(0), 100, "the warm-up is at the first rate");
        for step in 0..10u64 {
            assert!(in_second(1 + step).abs_diff(100 * (step as usize + 1)) <= 1, "{step}");
        }
    }

    #[test]
    fn nobody_who_comes_late_loses_an_arrival() {
        let mut schedule = schedule(Pace::Open { rate: 10.0, poisson: false }, (0, 1));
        assert_eq!(schedule.take(5 * SECOND), Some(0));
        assert_eq!(schedule.take(5 * SECOND), Some(SECOND / 10));
        // Of 110 two were taken; of those left, 8 belong to the warm-up.
        assert_eq!(schedule.owed(), 100);
        assert_eq!(schedule.take(11 * SECOND), None);
    }

    #[test]
    fn a_closed_loop_is_due_when_somebody_is_free() {
        let mut schedule = schedule(Pace::Closed { think: std::time::Duration::ZERO }, (0, 1));
        assert_eq!(schedule.take(3 * SECOND), Some(3 * SECOND));
        assert_eq!(schedule.take(11 * SECOND), None);
        assert_eq!(schedule.owed(), 0);
    }
}
