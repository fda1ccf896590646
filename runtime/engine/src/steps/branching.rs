//! Expressions that choose, and what `choice` and `route` say when none does.

use gristmill_core::{ErrorClass, Failure};

/// No branch fits.
pub(super) fn no_branch(text: impl Into<String>) -> Failure {
    Failure::new(ErrorClass::NoBranch, text.into())
}
