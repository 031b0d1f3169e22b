//! One thread of the generator: its runtime, its users, its tally. Threads share nothing but the plan.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::Sender;
use std::time::Duration;

use futures_channel::oneshot;
use shadowcat::base::Random;
use shadowcat::net;
use shadowcat::net::driver::{self, Choice, Driver};

use crate::client::{Client, Dial, Watch};
use crate::fault::Fault;
use crate::message::Address;
use crate::pace::{Clock, Pacer};
use crate::scenario::{Operation, Scenario};
use crate::schedule::Schedule;
use crate::tally::{Interval, Tally};
use crate::user::User;

/// How often what takes too long is looked for.
const SWEEP: Duration = Duration::from_millis(50);
/// Users of a thread that begin their sessions at the same time.
const BEGINNERS: usize = 32;
/// How long answers that are still to come are waited for when it is over.
const DRAIN: Duration = Duration::from_secs(5);
/// How long ending the sessions may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// One run, as all threads know it.
pub struct Plan {
    pub scenario: Arc<Scenario>,
    pub dial: Dial,
    pub address: Address,
    pub driver: Choice,
    pub threads: usize,
    pub clock: Clock,
    pub interval: Duration,
    /// When it starts, ns; 0: not yet.
    pub start: AtomicU64,
    /// It ends early.
    pub stop: AtomicBool,
}

/// What a thread tells the one that started it.
pub enum News {
    /// All its users are there, or why not.
    Ready(Result<Driver, String>),
    Interval {
        number: usize,
        interval: Interval,
    },
    Done(Box<Done>),
}

#[derive(Default)]
pub struct Done {
    pub tally: Tally,
    /// Of the thread while it was measured, ns.
    pub cpu: u64,
    /// Requests that were cut since the run was over.
    pub unfinished: u64,
}

pub struct Thread {
    pub plan: Arc<Plan>,
    pub dial: Rc<Dial>,
    pub pacer: Rc<Pacer>,
    pub random: Random,
    pub open: Rc<Cell<u64>>,
    schedules: RefCell<Vec<Schedule>>,
    tally: RefCell<Tally>,
    interval: RefCell<Interval>,
    watches: RefCell<Vec<Rc<Watch>>>,
    /// When measuring begins, and when it ends, ns.
    begin: Cell<u64>,
    end: Cell<u64>,
    over: Cell<bool>,
    unfinished: Cell<u64>,
}

/// Run thread `index` to its end.
pub fn run(plan: Arc<Plan>, index: usize, news: Sender<News>) {
    let told = news.clone();
    let result = driver::run(plan.driver, |driver| async move {
        let (stop, stopped) = oneshot::channel();
        let pacer = Pacer::start(plan.clock, stopped)?;
        let thread = Thread::new(plan, index, pacer);
        thread.clone().main(driver, index, &news).await;
        drop(stop);
        // The timer's task sees it.
        net::sleep(Duration::from_millis(1)).await;
        io::Result::Ok(())
    });
    if let Err(error) = result.and_then(|done| done) {
        let _ = told.send(News::Ready(Err(format!("no runtime: {error}"))));
    }
}

impl Thread {
    fn new(plan: Arc<Plan>, index: usize, pacer: Rc<Pacer>) -> Rc<Thread> {
        let operations = plan.scenario.operations.len();
        Rc::new(Thread {
            dial: Rc::new(plan.dial.clone()),
            pacer,
            random: random(&plan, index, 0),
            open: Rc::default(),
            schedules: RefCell::default(),
            tally: RefCell::new(Tally::new(operations)),
            interval: RefCell::default(),
            watches: RefCell::default(),
            begin: Cell::new(u64::MAX),
            end: Cell::new(u64::MAX),
            over: Cell::new(false),
            unfinished: Cell::new(0),
            plan,
        })
    }

    async fn main(self: Rc<Thread>, driver: Driver, index: usize, news: &Sender<News>) {
        net::spawn(sweep(self.clone()));
        let users = match self.gather(index).await {
            Ok(users) => users,
            Err(error) => {
                let _ = news.send(News::Ready(Err(error)));
                return;
            }
        };
        let _ = news.send(News::Ready(Ok(driver)));
        let start = loop {
            match self.plan.start.load(Relaxed) {
                0 => net::sleep(Duration::from_millis(1)).await,
                start => break start,
            }
        };
        self.schedule(start, index);
        let left = Rc::new(RefCell::new(Vec::with_capacity(users.len())));
        let count = users.len();
        for mut user in users {
            let (thread, left) = (self.clone(), left.clone());
            net::spawn(async move {
                thread.pacer.until(start).await;
                user.live(&thread).await;
                left.borrow_mut().push(user);
            });
        }
        let cpu = self.tell_intervals(news).await;
        let deadline = self.plan.clock.now() + DRAIN.as_nanos() as u64;
        while left.borrow().len() < count {
            self.over.set(self.plan.clock.now() > deadline);
            net::sleep(Duration::from_millis(2)).await;
        }
        if !self.is_stopped() {
            let owed: u64 = self.schedules.borrow_mut().iter_mut().map(Schedule::owed).sum();
            self.tally.borrow_mut().unsent += owed;
        }
        let tally = self.tally.take();
        let _ = news.send(News::Done(Box::new(Done { tally, cpu, unfinished: self.unfinished.get() })));
        self.over.set(false);
        let thread = self.clone();
        let farewell = in_groups(left.take(), move |mut user| {
            let thread = thread.clone();
            async move {
                user.leave(&thread).await;
                Ok(user)
            }
        });
        drop(net::within(FAREWELL, farewell).await);
        self.watches.take();
    }

    /// All users of this thread, each with what it has before it is measured.
    async fn gather(self: &Rc<Thread>, index: usize) -> Result<Vec<User>, String> {
        let mut users = Vec::new();
        for (group, all) in self.plan.scenario.users.iter().enumerate() {
            for number in (index..all.connections).step_by(self.plan.threads) {
                let client = Client::new(self.dial.clone(), self.plan.clock, all.resumes_tls, self.open.clone());
                self.watches.borrow_mut().push(client.watch.clone());
                users.push(User::new(self, group, number, client));
            }
        }
        let thread = self.clone();
        in_groups(users, move |mut user| {
            let thread = thread.clone();
            async move {
                let begun = user.begin(&thread).await;
                begun.map(|()| user).map_err(|fault| format!("a session could not be begun: {fault}"))
            }
        })
        .await
    }

    fn schedule(&self, start: u64, index: usize) {
        let begin = start + self.plan.scenario.warmup.as_nanos() as u64;
        let end = begin + self.plan.scenario.duration.as_nanos() as u64;
        self.begin.set(begin);
        self.end.set(end);
        let share = (index, self.plan.threads);
        let schedules = self.plan.scenario.users.iter().enumerate().map(|(group, users)| {
            Schedule::new(users.pace, [start, begin, end], share, random(&self.plan, index, group + 1))
        });
        *self.schedules.borrow_mut() = schedules.collect();
    }

    /// Until it is over; the CPU time of this thread meanwhile, ns.
    async fn tell_intervals(&self, news: &Sender<News>) -> u64 {
        self.wait(self.begin.get()).await;
        self.interval.take();
        let before = cpu();
        let step = self.plan.interval.as_nanos() as u64;
        let count = (self.end.get() - self.begin.get()) / step;
        for number in 0..count {
            if self.now() < self.begin.get() || !self.wait(self.begin.get() + (number + 1) * step).await {
                break;
            }
            let interval = Interval { connections: self.open.get(), ..self.interval.take() };
            let _ = news.send(News::Interval { number: number as usize, interval });
        }
        cpu() - before
    }

    pub fn now(&self) -> u64 {
        self.plan.clock.now()
    }

    pub fn end(&self) -> u64 {
        self.end.get()
    }

    /// It was ended early.
    pub fn is_stopped(&self) -> bool {
        self.plan.stop.load(Relaxed)
    }

    /// Wait until then; false: in vain, for it was ended.
    pub async fn wait(&self, at: u64) -> bool {
        while self.now() < at && !self.is_stopped() {
            self.pacer.until(at.min(self.now() + SWEEP.as_nanos() as u64)).await;
        }
        !self.is_stopped()
    }

    /// When the next request of this group is due.
    pub fn due(&self, group: usize, now: u64) -> Option<u64> {
        if self.is_stopped() {
            return None;
        }
        self.schedules.borrow_mut()[group].take(now)
    }

    fn is_measured(&self, due: u64) -> bool {
        (self.begin.get()..self.end.get()).contains(&due)
    }

    fn operation(&self, operation: usize) -> &Operation {
        &self.plan.scenario.operations[operation]
    }

    /// A right answer: when it was due, when it was sent, when it was there.
    pub fn good(&self, operation: usize, [due, sent, done]: [u64; 3], bytes: u64) {
        let is_request = self.operation(operation).is_request;
        let latency = done.saturating_sub(due);
        if is_request && (self.begin.get()..self.end.get()).contains(&done) {
            let mut interval = self.interval.borrow_mut();
            interval.good += 1;
            interval.bytes += bytes;
            interval.latency.saturating_record(latency);
        }
        if self.is_measured(due) {
            let mut tally = self.tally.borrow_mut();
            tally.bytes += bytes;
            let count = &mut tally.operations[operation];
            count.good += 1;
            count.latency.saturating_record(latency);
            count.service.saturating_record(done.saturating_sub(sent));
        }
    }

    pub fn bad(&self, operation: usize, due: u64, fault: Fault) {
        if self.over.get() {
            self.unfinished.set(self.unfinished.get() + 1);
            return;
        }
        if self.operation(operation).is_request && (self.begin.get()..self.end.get()).contains(&self.now()) {
            self.interval.borrow_mut().bad += 1;
        }
        if self.is_measured(due) {
            let mut tally = self.tally.borrow_mut();
            tally.operations[operation].bad += 1;
            tally.fault(fault);
        }
    }

    /// How late a request left that somebody waited to send.
    pub fn late(&self, due: u64, now: u64) {
        let late = now.saturating_sub(due);
        if self.is_measured(due)
            && let Some(histogram) = &mut self.tally.borrow_mut().late
        {
            histogram.saturating_record(late);
        }
    }

    pub fn streamed(&self, events: u64, bytes: u64) {
        let now = self.now();
        if self.is_measured(now) {
            let (mut tally, mut interval) = (self.tally.borrow_mut(), self.interval.borrow_mut());
            tally.events += events;
            tally.bytes += bytes;
            interval.events += events;
            interval.bytes += bytes;
        }
    }

    pub fn lost_session(&self) {
        self.tally.borrow_mut().sessions_lost += 1;
    }
}

/// Do something with all, so many at a time.
///
/// # Errors
/// The first error; what was not begun by then is not.
async fn in_groups<F>(users: Vec<User>, each: impl Fn(User) -> F + 'static + Clone) -> Result<Vec<User>, String>
where
    F: Future<Output = Result<User, String>> + 'static,
{
    let count = users.len();
    let waiting = Rc::new(RefCell::new(users));
    let done: Rc<RefCell<Result<Vec<User>, String>>> = Rc::new(RefCell::new(Ok(Vec::with_capacity(count))));
    let running = Rc::new(Cell::new(0));
    for _ in 0..BEGINNERS.min(count) {
        let (waiting, done, running, each) = (waiting.clone(), done.clone(), running.clone(), each.clone());
        running.set(running.get() + 1);
        net::spawn(async move {
            loop {
                let next = waiting.borrow_mut().pop();
                let Some(user) = next else { break };
                let result = each(user).await;
                let mut done = done.borrow_mut();
                match (&mut *done, result) {
                    (Ok(done), Ok(user)) => done.push(user),
                    (Ok(_), Err(error)) => {
                        *done = Err(error);
                        waiting.borrow_mut().clear();
                    }
                    (Err(_), _) => {}
                }
            }
            running.set(running.get() - 1);
        });
    }
    while running.get() > 0 {
        net::sleep(Duration::from_millis(1)).await;
    }
    done.replace(Ok(Vec::new()))
}

async fn sweep(thread: Rc<Thread>) {
    while Rc::strong_count(&thread) > 1 {
        net::sleep(SWEEP).await;
        let now = if thread.over.get() { u64::MAX } else { thread.now() };
        thread.watches.borrow().iter().for_each(|watch| watch.look(now));
    }
}

/// The same numbers in every run of a scenario.
fn random(plan: &Plan, index: usize, part: usize) -> Random {
    let mut seed = [0; 32];
    let words = [plan.scenario.seed, index as u64, part as u64, 0x9e37_79b9_7f4a_7c15];
    seed.chunks_exact_mut(8).zip(words).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_be_bytes()));
    let random = Random::new(seed);
    // Seeds that differ in few bits take some turns to show it.
    for _ in 0..32 {
        random.next();
    }
    random
}

/// CPU time of this thread so far, ns.
fn cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}
