//! The time of a turn of the loop: what came in one turn came at one time, when the turn began. Who was told of it later
//! waited for those before him.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

pub(super) fn begin() {
    BEGUN.set(Some(Instant::now()));
}

pub(super) fn end() {
    BEGUN.set(None);
}

/// When the turn of this thread began; now, outside of one. Costs a fifth of what the time costs.
pub fn time() -> Instant {
    BEGUN.get().unwrap_or_else(Instant::now)
}
