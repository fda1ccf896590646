//! The engine's configuration: the one place that says how guests are compiled and run.

use wasmtime::{Config, Engine};

/// The engine that every plugin of a host shares. Its settings are part of the key of the compiled-code cache.
///
/// Instances come from the system on demand, not from a pool of a fixed size: they live for many calls, so what a pool
/// saves is small, while a pool that one flow has emptied would be felt by all others.
///
/// # Errors
/// When this machine cannot run compiled guests.
pub(crate) fn new_engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // Turns off the component model's own concurrency, which no plugin uses: a call costs a third without it.
        .concurrency_support(false);
    Engine::new(&config)
}
