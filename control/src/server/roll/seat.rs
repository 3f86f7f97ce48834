//! Where whoever speaks for an instance hears how that stands: the newest of it, since what was before matters to nobody. Cold.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use config::wire::evenkeel::v1::JoinResponse;
use futures_util::task::AtomicWaker;

/// One place to hear.
#[derive(Clone, Default)]
pub(crate) struct Seat(Arc<Shared>);

#[derive(Default)]
struct Shared {
    news: Mutex<News>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct News {
    /// Not heard so far.
    next: Option<JoinResponse>,
    /// What was heard last.
    last: Option<JoinResponse>,
    /// Somebody else sits here.
    is_closed: bool,
}

impl Seat {
    /// That is how it stands; who has heard it last hears nothing.
    pub(crate) fn say(&self, told: JoinResponse) {
        let mut news = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = news.last.as_ref() == Some(&told);
        news.next = Some(told).filter(|_| !is_known);
        drop(news);
        self.0.waker.wake();
    }

    /// There is nothing to hear any more.
    pub(crate) fn close(&self) {
        self.0.news.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.0.waker.wake();
    }

    /// What there is to hear; None: nothing any more.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<JoinResponse>> {
        self.0.waker.register(context.waker());
        let mut news = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
        match news.next.take() {
            Some(told) => {
                news.last = Some(told.clone());
                Poll::Ready(Some(told))
            }
            None if news.is_closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
