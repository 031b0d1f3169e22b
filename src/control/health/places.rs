//! How many checks run at a time: first come, first served, on one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use futures_channel::oneshot;

pub struct Places {
    free: Cell<usize>,
    line: RefCell<VecDeque<oneshot::Sender<Place>>>,
}

/// Given to the next in the line when it is dropped.
pub struct Place(Rc<Places>);

impl Places {
    pub fn new(count: usize) -> Rc<Places> {
        Rc::new(Places { free: Cell::new(count), line: RefCell::default() })
    }

    /// Wait for a place. May be dropped at any time.
    pub async fn enter(self: &Rc<Places>) -> Place {
        if self.free.get() > 0 {
            self.free.set(self.free.get() - 1);
            return Place(self.clone());
        }
        let (give, given) = oneshot::channel();
        self.line.borrow_mut().push_back(give);
        match given.await {
            Ok(place) => place,
            Err(oneshot::Canceled) => unreachable!("who waits in the line is given a place"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = &self.0;
        let next = {
            let mut line = places.line.borrow_mut();
            std::iter::from_fn(|| line.pop_front()).find(|waiting| !waiting.is_canceled())
        };
        match next {
            // Nobody left in between: there is one thread.
            Some(next) => drop(next.send(Place(places.clone()))),
            None => places.free.set(places.free.get() + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn places_are_bounded_and_pass_over_who_left() {
        let places = Places::new(1);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(places.enter()).poll(&mut context) else { panic!("it is free") };
        let mut left = Box::pin(places.enter());
        let mut second = Box::pin(places.enter());
        let mut third = Box::pin(places.enter());
        for waiting in [&mut left, &mut second, &mut third] {
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        drop(left);
        drop(first);
        // It was given the place and goes before it takes it.
        drop(second);
        let Poll::Ready(place) = third.as_mut().poll(&mut context) else { panic!("the place came on") };
        assert_eq!(places.free.get(), 0);
        drop(place);
        assert_eq!(places.free.get(), 1);
    }
}
