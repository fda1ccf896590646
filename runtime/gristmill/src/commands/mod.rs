//! The commands, one a file.

pub(crate) mod inspect;
pub(crate) mod new;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod validate;
