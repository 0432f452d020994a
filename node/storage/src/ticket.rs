//! A value that arrives later, once: how the engine answers without blocking a caller.
//!
//! A [`Ticket`] is a plain `std` future (any runtime may poll it) and can also be waited for by a
//! thread. Whoever owes the value holds the [`Completer`]; dropping it without completing yields
//! [`Abandon::abandoned`], so that nobody waits for ever on a job that was lost. Where many wait for
//! the progress of one thing, a ticket is only a point in it ([`Source`]) and costs no memory of its
//! own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A type that has a value for "whoever owed this answer is gone".
pub trait Abandon {
    /// That value. For results: an error that says the outcome is not known.
    fn abandoned() -> Self;
}

impl<V, E: Abandon> Abandon for Result<V, E> {
    fn abandoned() -> Self {
        Err(E::abandoned())
    }
}

/// One thing that many tickets wait for, each up to a point of its own. Asking may be what sets the
/// work for it in motion.
pub trait Source<T>: Send + Sync {
    /// The value of a point if it is there; if not, `waker` is woken when it may be.
    fn poll(&self, point: u64, waker: Option<&Waker>) -> Option<T>;

    /// Blocks this thread until the value is there, and may do the work on it.
    fn wait(&self, point: u64) -> T;
}

/// The receiving half. Polling it again after it was ready panics, as with any future.
pub struct Ticket<T>(Inner<T>);

enum Inner<T> {
    Ready(Option<T>),
    Shared(Arc<Shared<T>>),
    Source(Arc<dyn Source<T>>, u64),
}

/// The owing half: complete it, or drop it to say "abandoned".
pub struct Completer<T: Abandon>(Option<Arc<Shared<T>>>);

struct Shared<T> {
    slot: Mutex<Slot<T>>,
    arrived: Condvar,
}

enum Slot<T> {
    Waiting(Option<Waker>),
    Arrived(T),
    Taken,
}

impl<T> Shared<T> {
    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, value: T) {
        let before = std::mem::replace(&mut *self.slot(), Slot::Arrived(value));
        self.arrived.notify_all();
        if let Slot::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Ticket<T> {
    /// A ticket whose value is already here.
    pub fn ready(value: T) -> Self {
        Self(Inner::Ready(Some(value)))
    }

    /// A ticket for a point of a source.
    pub fn at(source: Arc<dyn Source<T>>, point: u64) -> Self {
        Self(Inner::Source(source, point))
    }

    /// Whether taking the value would not wait.
    pub fn is_ready(&self) -> bool {
        match &self.0 {
            Inner::Ready(value) => value.is_some(),
            Inner::Shared(shared) => matches!(*shared.slot(), Slot::Arrived(_)),
            Inner::Source(source, point) => source.poll(*point, None).is_some(),
        }
    }

    /// Takes the value if it is here, else gives the ticket back.
    pub fn try_take(self) -> Result<T, Self> {
        if !self.is_ready() {
            return Err(self);
        }
        Ok(self.wait())
    }

    /// Blocks this thread until the value is here. Never call it on a thread that serves requests.
    pub fn wait(self) -> T {
        match self.0 {
            Inner::Source(source, point) => source.wait(point),
            Inner::Ready(value) => value.expect("a ticket is taken once"),
            Inner::Shared(shared) => {
                let mut slot = shared.slot();
                loop {
                    match std::mem::replace(&mut *slot, Slot::Taken) {
                        Slot::Arrived(value) => return value,
                        waiting => *slot = waiting,
                    }
                    slot = shared.arrived.wait(slot).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl<T: Abandon> Ticket<T> {
    /// A ticket and the half that owes its value.
    pub fn pair() -> (Self, Completer<T>) {
        let slot = Mutex::new(Slot::Waiting(None));
        let shared = Arc::new(Shared { slot, arrived: Condvar::new() });
        (Self(Inner::Shared(shared.clone())), Completer(Some(shared)))
    }
}

impl<T: Abandon> Completer<T> {
    /// Delivers the value and wakes who waits.
    pub fn complete(mut self, value: T) {
        if let Some(shared) = self.0.take() {
            shared.put(value);
        }
    }
}

impl<T: Abandon> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.put(T::abandoned());
        }
    }
}

// Nothing in a ticket is pinned by address.
impl<T> Unpin for Ticket<T> {}

impl<T> Future for Ticket<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Inner::Ready(value) => Poll::Ready(value.take().expect("polled after it was ready")),
            Inner::Source(source, point) => match source.poll(*point, Some(context.waker())) {
                Some(value) => Poll::Ready(value),
                None => Poll::Pending,
            },
            Inner::Shared(shared) => {
                let mut slot = shared.slot();
                match std::mem::replace(&mut *slot, Slot::Taken) {
                    Slot::Arrived(value) => Poll::Ready(value),
                    Slot::Waiting(_) => {
                        *slot = Slot::Waiting(Some(context.waker().clone()));
                        Poll::Pending
                    }
                    Slot::Taken => panic!("polled after it was ready"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    type Answer = Result<u32, Gone>;

    #[derive(Debug, PartialEq)]
    struct Gone;

    impl Abandon for Gone {
        fn abandoned() -> Self {
            Gone
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_thread_waits_for_another() {
        for round in 0..200u32 {
            let (ticket, completer) = Ticket::<Answer>::pair();
            let owing = std::thread::spawn(move || completer.complete(Ok(round)));
            assert_eq!(ticket.wait(), Ok(round));
            owing.join().unwrap();
        }
    }

    #[test]
    fn a_dropped_completer_answers_abandoned() {
        let (ticket, completer) = Ticket::<Answer>::pair();
        let owing = std::thread::spawn(move || drop(completer));
        assert_eq!(ticket.wait(), Err(Gone));
        owing.join().unwrap();
    }

    #[test]
    fn polling_wakes_once_and_takes_the_last_waker() {
        let (mut ticket, completer) = Ticket::<Answer>::pair();
        let (old, new) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for count in [&old, &new] {
            let waker = Waker::from(count.clone());
            assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(!ticket.is_ready());
        completer.complete(Ok(7));
        assert_eq!((old.0.load(Ordering::SeqCst), new.0.load(Ordering::SeqCst)), (0, 1));
        let waker = Waker::from(new);
        let polled = Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Ready(Ok(7)));
    }

    #[test]
    fn ready_is_ready() {
        assert!(matches!(Ticket::ready(3u32).try_take(), Ok(3)));
        let (ticket, completer) = Ticket::<Answer>::pair();
        let Err(ticket) = ticket.try_take() else { panic!("nothing was completed") };
        completer.complete(Ok(1));
        assert!(matches!(ticket.try_take(), Ok(Ok(1))));
    }
}
