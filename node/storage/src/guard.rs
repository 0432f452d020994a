//! Locks without a poison protocol: what a panicking job leaves behind is judged by `Health`, which
//! stops the store, not by every later lock.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn shared<T: ?Sized>(gate: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    gate.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn exclusive<T: ?Sized>(gate: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    gate.write().unwrap_or_else(PoisonError::into_inner)
}
