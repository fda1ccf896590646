//! Stories of flows: what goes into them and what must come out, played against a runtime, shown and checked.
//!
//! | module | holds |
//! |---|---|
//! | [`file`] | the files, `<name>.test.yaml` |
//! | [`mill`] | a runtime over a copy of flows |
//! | [`play`] | what goes in, and what came out held against it |
//! | [`http`] | the requests |
//! | [`show`] | what a person sees of all that |

pub(crate) mod file;
pub(crate) mod http;
pub(crate) mod mill;
pub(crate) mod play;
pub(crate) mod show;
