//! The host against guests, most of them hostile. Guests are written as Wasm text (see the package
//! `gristmill-guests`), so that these tests need no compiler for Wasm.
//!
//! | module | holds |
//! |---|---|
//! | `bench` | a host over a folder, settings, a recording observer |
//! | `load` | what can be loaded, and what each file that cannot is told |
//! | `calls` | messages in and out: headers, bodies, pools, retirement, cancellation |
//! | `hostile` | guests that break every limit |
//! | `grants` | the capabilities, and WASI with and without them |
//! | `cache` | compiled code on disk |
//! | `contracts` | one plugin of every released contract |

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod bench;
mod cache;
mod calls;
mod contracts;
mod grants;
mod hostile;
mod load;

use gristmill_guests as guest;
