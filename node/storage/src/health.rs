//! Whether the store takes writes: well, refusing for the moment (disk full), failed for good, or
//! closed. Reads never ask.

use crate::error::{IoFailure, WriteError};
use crate::guard::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

/// Shared by everything that writes. Invariant: `failed` is set once and never cleared.
#[derive(Default)]
pub(crate) struct Health {
    failed: OnceLock<String>,
    refusing: Mutex<Option<IoFailure>>,
    is_refusing: AtomicBool,
    closed: AtomicBool,
}

impl Health {
    /// Ends all writing. The first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        let _ = self.failed.set(reason);
    }

    pub(crate) fn failed(&self) -> Option<String> {
        self.failed.get().cloned()
    }

    /// Refuses writes until [`Health::accepts_again`].
    pub(crate) fn refuse(&self, failure: IoFailure) {
        *lock(&self.refusing) = Some(failure);
        self.is_refusing.store(true, Ordering::Release);
    }

    pub(crate) fn accepts_again(&self) {
        if self.is_refusing.load(Ordering::Acquire) {
            *lock(&self.refusing) = None;
            self.is_refusing.store(false, Ordering::Release);
        }
    }

    pub(crate) fn refusing(&self) -> Option<IoFailure> {
        if self.is_refusing.load(Ordering::Acquire) { lock(&self.refusing).clone() } else { None }
    }

    /// `false` if it was closed already.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Why a write is refused now, if it is.
    pub(crate) fn check(&self) -> Result<(), WriteError> {
        if let Some(reason) = self.failed.get() {
            return Err(WriteError::Failed(reason.clone()));
        }
        if self.is_closed() {
            return Err(WriteError::Closed);
        }
        match self.refusing() {
            Some(failure) => Err(WriteError::Full(failure)),
            None => Ok(()),
        }
    }
}
