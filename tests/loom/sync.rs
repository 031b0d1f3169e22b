//! What `src/table/sync.rs` has, as loom models it.

use std::collections::VecDeque;
use std::task::Waker;

use loom::cell::UnsafeCell;
use loom::sync::Mutex;

pub use loom::hint::spin_loop;
pub use loom::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, fence};

/// So few that one who leaves can sweep.
pub const GONE_LEAST: u32 = 0;

/// First in, first out, one operation at a time, as is promised of the real one.
pub struct SegQueue<T>(Mutex<VecDeque<T>>);

impl<T> SegQueue<T> {
    pub fn new() -> SegQueue<T> {
        SegQueue(Mutex::new(VecDeque::new()))
    }

    pub fn push(&self, item: T) {
        self.0.lock().unwrap().push_back(item);
    }

    pub fn pop(&self) -> Option<T> {
        self.0.lock().unwrap().pop_front()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Without an order of its own: loom fails if what is written is not seen by way of another word, or is written twice.
pub struct OnceLock<T>(UnsafeCell<Option<T>>);

// SAFETY: loom watches every access and fails the model when two are not ordered.
unsafe impl<T: Send + Sync> Sync for OnceLock<T> {}

impl<T> OnceLock<T> {
    pub fn new() -> OnceLock<T> {
        OnceLock(UnsafeCell::new(None))
    }

    pub fn set(&self, value: T) -> Result<(), T> {
        // SAFETY: nobody reads or writes meanwhile, or loom fails the model.
        let slot = self.0.with_mut(|slot| unsafe { &mut *slot });
        assert!(slot.is_none(), "written twice");
        *slot = Some(value);
        Ok(())
    }

    pub fn get(&self) -> Option<&T> {
        // SAFETY: nobody writes meanwhile, or loom fails the model; and nobody writes again.
        self.0.with(|slot| unsafe { (*slot).as_ref() })
    }
}

pub struct AtomicWaker(loom::future::AtomicWaker);

impl AtomicWaker {
    pub fn new() -> AtomicWaker {
        AtomicWaker(loom::future::AtomicWaker::new())
    }

    pub fn register(&self, waker: &Waker) {
        self.0.register_by_ref(waker);
    }

    pub fn wake(&self) {
        self.0.wake();
    }
}
