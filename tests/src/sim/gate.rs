//! Holds a node up: paused, it does nothing while time goes on for everybody else; slow, it rests
//! between any two things that it does; and where what it does costs time ([`super::processor`]), it
//! rests as long as that has taken.
//!
//! The gate stands around the one future that is a whole node. What arrives meanwhile (frames, timers,
//! answers of its disk) waits inside and is met all at once afterwards, as after SIGSTOP and SIGCONT.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

#[derive(Default)]
struct State {
    paused: Cell<bool>,
    rest: Cell<Duration>,
    owed_us: Cell<u64>,
    more_slowly: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

/// The gate of one host. Clones are the same.
#[derive(Clone, Default)]
pub struct Gate(Rc<State>);

impl Gate {
    /// Stops or lets go on.
    pub fn pause(&self, on: bool) {
        self.0.paused.set(on);
        if let Some(waker) = self.0.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// How long the node rests after each thing that it does.
    pub fn slow(&self, rest: Duration) {
        self.0.rest.set(rest);
    }

    /// How many times longer than that of others what the node does takes; 0 and 1: as long.
    pub fn times_slower(&self, times: u64) {
        self.0.more_slowly.set(times);
    }

    /// What the node did, or was given to do, takes so long on a usual host.
    pub fn charge(&self, us: u64) {
        let owed = self.0.owed_us.get() + us * self.0.more_slowly.get().max(1);
        self.0.owed_us.set(owed);
    }

    /// Whole milliseconds of what was charged; timers know no less. What is left is kept.
    fn settle(&self) -> Duration {
        let owed = self.0.owed_us.get();
        self.0.owed_us.set(owed % 1_000);
        Duration::from_millis(owed / 1_000)
    }

    /// The future behind this gate.
    pub fn around<F: Future<Output = ()>>(&self, inner: F) -> impl Future<Output = ()> + use<F> {
        Gated { inner: Box::pin(inner), gate: self.clone(), rest: None }
    }
}

struct Gated<F> {
    inner: Pin<Box<F>>,
    gate: Gate,
    rest: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Gated<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        *self.gate.0.waker.borrow_mut() = Some(cx.waker().clone());
        if self.gate.0.paused.get() {
            return Poll::Pending;
        }
        if let Some(rest) = &mut self.rest {
            if rest.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.rest = None;
        }
        if self.inner.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let rest = self.gate.0.rest.get() + self.gate.settle();
        if !rest.is_zero() {
            let mut sleep = Box::pin(sleep(rest));
            // It has only begun: this registers the waker.
            let _ = sleep.as_mut().poll(cx);
            self.rest = Some(sleep);
        }
        Poll::Pending
    }
}
