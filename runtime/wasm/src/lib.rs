//! Hosts WebAssembly plugins: the only crate that knows what an engine, a component or an instance is.
//!
//! A plugin can hurt only itself. It sees nothing that was not granted, every call has a deadline, every instance a memory
//! limit, every answer a size limit; what breaks one of them is a failure of that message, and the instance is thrown away.
//!
//! The life of a plugin: [`WasmHost`] reads a file from the plugins folder (`folder`), tells what it is and makes a
//! component of it (`binary`), compiles it or takes the code from the cache (`cache`), looks at what it imports and
//! exports (`surface`) and asks it to describe itself (`describe`). Binding it to a step links what was granted
//! (`link`, `grants`, `wasi`) and configures a first instance (`instance`); calls then take instances from a warm
//! pool (`bound`) under a deadline (`guest_time`), and what comes back is checked (`answer`) or becomes a failure
//! (`fault`), which may hold the plugin back (`quarantine`).

mod answer;
pub mod bare;
mod binary;
mod bound;
mod cache;
mod contract;
mod describe;
mod engine;
mod fault;
mod folder;
mod grants;
mod guest_time;
mod host;
mod inspect;
mod instance;
mod link;
mod loaded;
mod memory;
mod output;
mod quarantine;
mod schema_cost;
mod secrets;
mod surface;
mod sync;
mod text;
mod ticker;
mod wasi;

pub use host::{WasmHost, WasmHostConfig};
pub use inspect::{Inspection, Kind, inspect};
