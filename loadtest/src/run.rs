//! One run against one target: threads are started, listened to, and what they tell is put together.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use shadowcat::net::driver::{Choice, Driver};

use crate::outcome::{Outcome, Round, Step};
use crate::pace::Clock;
use crate::progress::Progress;
use crate::scenario::{Pace, Scenario};
use crate::schedule::step_rate;
use crate::tally::Interval;
use crate::target::Target;
use crate::thread::{self, Done, News, Plan};

/// Pieces that the time is cut into, and the shortest of them.
const INTERVALS: u32 = 120;
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Of a ramp's step.
const INTERVALS_A_STEP: u32 = 10;
/// Between all being ready and the first request.
const LEAD: Duration = Duration::from_millis(20);
/// How long all users may take to be ready.
const GATHERING_MAX: Duration = Duration::from_secs(120);
/// A step of a ramp has been kept up with if so much of what was due was answered, and no more failed.
const KEPT_UP: f64 = 0.97;
const FAILED_MAX: f64 = 0.01;

/// Run the scenario once.
///
/// # Errors
/// It could not begin.
pub fn once(
    scenario: &Arc<Scenario>,
    target: &Target,
    driver: Choice,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<Outcome, String> {
    target.reach()?;
    let interval = interval_of(scenario);
    let plan = Arc::new(Plan {
        scenario: scenario.clone(),
        dial: target.dial.clone(),
        address: target.address.clone(),
        driver,
        threads: scenario.threads,
        clock: Clock(Instant::now()),
        interval,
        start: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let (tell, news) = channel();
    let threads: Vec<_> = (0..plan.threads)
        .map(|index| {
            let (plan, tell) = (plan.clone(), tell.clone());
            let thread = std::thread::Builder::new().name(format!("load-{index}"));
            thread.spawn(move || thread::run(plan, index, tell)).map_err(|error| format!("no thread: {error}"))
        })
        .collect::<Result<_, _>>()?;
    drop(tell);
    let driver = all_ready(&news, plan.threads, &target.url)?;
    plan.start.store(plan.clock.now() + LEAD.as_nanos() as u64, Relaxed);
    let mut listener = Listener::new(&plan, interrupted);
    listener.listen(&news, progress)?;
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(listener.outcome(target, driver))
}

/// A piece of the run: so many make a step of a ramp, or the whole.
fn interval_of(scenario: &Scenario) -> Duration {
    match ramp_of(scenario) {
        Some(Pace::Ramp { steps, .. }) => scenario.duration / steps / INTERVALS_A_STEP,
        _ => {
            let count = (scenario.duration.as_millis() / INTERVAL_MIN.as_millis()).clamp(1, INTERVALS.into());
            scenario.duration / count as u32
        }
    }
}

fn ramp_of(scenario: &Scenario) -> Option<Pace> {
    scenario.users.iter().map(|users| users.pace).find(|pace| matches!(pace, Pace::Ramp { .. }))
}

fn all_ready(news: &Receiver<News>, threads: usize, url: &str) -> Result<Driver, String> {
    let deadline = Instant::now() + GATHERING_MAX;
    let mut driver = Driver::Epoll;
    for _ in 0..threads {
        match news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(News::Ready(Ok(found))) => driver = found,
            Ok(News::Ready(Err(error))) => return Err(format!("{url}: {error}")),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("{url}: not all users were ready in {GATHERING_MAX:?}"));
            }
            Err(RecvTimeoutError::Disconnected) => return Err("a thread of the generator died".into()),
        }
    }
    Ok(driver)
}

/// Puts together what threads tell.
struct Listener<'a> {
    plan: &'a Plan,
    interrupted: &'a AtomicBool,
    /// By number: how many threads told it, and all of them together.
    series: Vec<(usize, Interval)>,
    whole: usize,
    done: Done,
    finished: usize,
    steps: Vec<Step>,
}

impl Listener<'_> {
    fn new<'a>(plan: &'a Plan, interrupted: &'a AtomicBool) -> Listener<'a> {
        let (series, steps, done) = (Vec::new(), Vec::new(), Done::default());
        Listener { plan, interrupted, series, whole: 0, done, finished: 0, steps }
    }

    fn listen(&mut self, news: &Receiver<News>, progress: &mut Progress) -> Result<(), String> {
        let scenario = &self.plan.scenario;
        let begun = Instant::now();
        while self.finished < self.plan.threads {
            if self.interrupted.load(Relaxed) {
                self.plan.stop.store(true, Relaxed);
            }
            match news.recv_timeout(INTERVAL_MIN) {
                Ok(News::Interval { number, interval }) => {
                    if self.series.len() <= number {
                        self.series.resize_with(number + 1, Default::default);
                    }
                    let (told, all) = &mut self.series[number];
                    *told += 1;
                    all.add(&interval);
                    while self.series.get(self.whole).is_some_and(|(told, _)| *told == self.plan.threads) {
                        self.whole += 1;
                        progress.interval(&self.series[self.whole - 1].1, self.plan.interval, self.whole);
                        self.judge_step();
                    }
                }
                Ok(News::Done(done)) => {
                    self.finished += 1;
                    self.done.tally.add(&done.tally);
                    self.done.cpu += done.cpu;
                    self.done.unfinished += done.unfinished;
                }
                Ok(News::Ready(Err(error))) => return Err(error),
                Ok(News::Ready(Ok(_))) => {}
                Err(RecvTimeoutError::Timeout) => {
                    if self.whole == 0 {
                        progress.warming(begun.elapsed().min(scenario.warmup), scenario.warmup);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err("a thread of the generator died".into()),
            }
        }
        progress.end();
        Ok(())
    }

    /// At the end of a ramp's step: whether the target kept up. If not, that was the last one.
    fn judge_step(&mut self) {
        let Some(ramp @ Pace::Ramp { p99, .. }) = ramp_of(&self.plan.scenario) else { return };
        let length = INTERVALS_A_STEP as usize;
        if !self.whole.is_multiple_of(length) {
            return;
        }
        let mut all = Interval::default();
        self.series[self.whole - length..self.whole].iter().for_each(|(_, interval)| all.add(interval));
        let seconds = self.plan.interval.as_secs_f64() * length as f64;
        let offered = step_rate(ramp, self.steps.len() as u32);
        let achieved = all.good as f64 / seconds;
        let others: f64 = self
            .plan
            .scenario
            .users
            .iter()
            .map(|users| match users.pace {
                Pace::Open { rate, .. } => rate,
                _ => 0.0,
            })
            .sum();
        let failed = all.bad as f64 / (all.good + all.bad).max(1) as f64;
        let too_slow = p99.is_some_and(|most| u128::from(all.latency.value_at_quantile(0.99)) > most.as_nanos());
        let why = if failed > FAILED_MAX {
            format!("{:.1} % of requests failed", failed * 100.0)
        } else if achieved - others < KEPT_UP * offered {
            "answers fell behind".to_owned()
        } else if too_slow {
            "p99 was too long".to_owned()
        } else {
            String::new()
        };
        let kept_up = why.is_empty();
        self.steps.push(Step { offered, achieved, bad: all.bad, latency: all.latency, why });
        if !kept_up {
            self.plan.stop.store(true, Relaxed);
        }
    }

    fn outcome(self, target: &Target, driver: Driver) -> Outcome {
        let series: Vec<Interval> = self.series.into_iter().take(self.whole).map(|(_, interval)| interval).collect();
        let scenario = &self.plan.scenario;
        let stopped = self.plan.stop.load(Relaxed);
        let seconds = if stopped {
            self.plan.interval.as_secs_f64() * series.len() as f64
        } else {
            scenario.duration.as_secs_f64()
        };
        let mut outcome = Outcome {
            name: target.name.clone(),
            url: target.url.clone(),
            is_direct: target.is_direct,
            driver: driver.name(),
            threads: self.plan.threads,
            seconds,
            interval: self.plan.interval,
            series,
            tally: self.done.tally,
            cpu: self.done.cpu,
            unfinished: self.done.unfinished,
            rounds: Vec::new(),
            steps: self.steps,
            interrupted: self.interrupted.load(Relaxed),
        };
        let all = outcome.requests(scenario);
        outcome.rounds.push(Round {
            rate: all.good as f64 / seconds.max(1e-9),
            p50: all.latency.value_at_quantile(0.5),
            p99: all.latency.value_at_quantile(0.99),
            bad: all.bad,
        });
        outcome
    }
}
