//! Waiting for one of two things, and for a thing with a limit.
//!
//! Neither drops a future that it was lent: the caller keeps the loser and may poll it again, so no completed read is
//! ever thrown away.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

#[derive(Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    First(A),
    Second(B),
}

/// The one that is ready first; `first` wins a tie.
pub async fn race<A: Future, B: Future>(
    mut first: Pin<&mut A>,
    mut second: Pin<&mut B>,
) -> Either<A::Output, B::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(value) = first.as_mut().poll(cx) {
            return Poll::Ready(Either::First(value));
        }
        second.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

/// The time was up.
#[derive(Debug, PartialEq, Eq)]
pub struct Expired;

/// `future`, unless it takes longer than `limit`. It is dropped then: only for waits that own nothing (readiness,
/// channels) and where the connection closes afterwards.
pub fn within<F: Future>(limit: Duration, future: F) -> Within<F> {
    Within { future, limit, timer: None }
}

pin_project_lite::pin_project! {
    /// See [`within`]. A type of its own: an `async fn` would hold the future twice, as its argument and as its pinned
    /// self. The timer is boxed: monoio's is padded to cache lines, and would make every future around it large.
    pub struct Within<F> {
        #[pin]
        future: F,
        limit: Duration,
        timer: Option<Pin<Box<monoio::time::Sleep>>>,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Result<F::Output, Expired>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.future.poll(cx) {
            return Poll::Ready(Ok(value));
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(monoio::time::sleep(*this.limit)));
        timer.as_mut().poll(cx).map(|()| Err(Expired))
    }
}
