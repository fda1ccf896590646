//! Locks that a panic elsewhere does not poison: what they guard here is valid between any two statements.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, poisoned or not.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
