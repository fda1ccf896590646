//! The engine and the plugin host in one process and with no outside world: what is left is what a delivery and a plugin
//! call cost by themselves. `cargo xtask bench` times it beside floors; `cargo xtask instructions` counts its instructions
//! (`benches/instructions.rs`) and holds them against `instructions.txt`.

pub mod counted;
pub mod flows;
pub mod memory;
pub mod mill;
pub mod plugin;
pub mod sample;

pub use mill::Mill;
