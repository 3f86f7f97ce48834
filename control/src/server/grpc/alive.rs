//! Whether a peer is there, which mostly says nothing: it is asked (RFC 9113, 6.7). Cold.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use crate::server::wire::Link;

/// How often a peer is asked, and how long it may take to say so.
const EVERY: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(5);

/// Of one connection.
pub(super) struct Alive {
    ping: PingPong,
    timer: Pin<Box<Sleep>>,
    is_asked: bool,
}

impl Alive {
    pub(super) fn new(ping: PingPong) -> Alive {
        Alive { ping, timer: Box::pin(sleep(EVERY)), is_asked: false }
    }

    /// Ready: it has gone.
    pub(super) fn poll(&mut self, link: &Link, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.is_asked && self.ping.poll_pong(context).is_ready() {
                link.note_answer(std::time::Instant::now());
                self.is_asked = false;
                self.wait(EVERY);
            }
            // What is under way already is asked again once it is answered.
            if self.is_asked || !link.take_asked() {
                ready!(self.timer.as_mut().poll(context));
            }
            if self.is_asked {
                return Poll::Ready(());
            }
            // That one is under way already cannot be.
            let _ = self.ping.send_ping(Ping::opaque());
            self.is_asked = true;
            self.wait(WITHIN);
        }
    }

    fn wait(&mut self, time: Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }
}
