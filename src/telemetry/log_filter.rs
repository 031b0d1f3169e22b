//! What is logged now, which an administrator may change while the process runs.

use std::sync::{Mutex, PoisonError};

/// Sets the filter of whatever writes the log.
type Set = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

pub struct LogFilter {
    set: Set,
    now: Mutex<String>,
}

impl LogFilter {
    pub fn new(first: &str, set: Set) -> LogFilter {
        LogFilter { set, now: Mutex::new(first.to_owned()) }
    }

    pub fn now(&self) -> String {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The filter of before.
    ///
    /// # Errors
    /// Whatever writes the log does not take it.
    pub fn change(&self, filter: &str) -> Result<String, String> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        (self.set)(filter)?;
        Ok(std::mem::replace(&mut now, filter.to_owned()))
    }
}
