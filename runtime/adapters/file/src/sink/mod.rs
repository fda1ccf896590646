//! The sink: messages become files, or lines at the end of one.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | checked configuration, and the opening |
//! | [`name`] | names from messages that can never lead out of the folder |
//! | [`folder`] | the folder as an open handle, and the way into subfolders without following links |
//! | [`group`] | group commit: many sends under way, one sync for all of them |
//! | [`one_file`] | one file a message: temporary name, sync, rename |
//! | [`append`], [`rotation`] | one line a message: write, sync, rotate, cut a torn tail |
//! | [`line`] | a body as a line |
//! | [`failure`] | what an error of the system means for a message |
//!
//! Nothing is confirmed before it is synced, and what cannot be written whole is taken back.

mod append;
mod failure;
mod folder;
mod group;
mod line;
mod name;
mod one_file;
mod rotation;
mod spec;
#[cfg(test)]
mod tests;

pub(crate) use self::{append::OpenFiles, spec::check};
