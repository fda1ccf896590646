//! The floor for benches: the same component called with nothing around it. No pool, no deadline, no memory limit, no
//! check of the answer. Never for real messages.
#![doc(hidden)]

use gristmill_core::plugin::PluginError;
use wasmtime::{
    Store,
    component::{Component, Linker, TypedFunc},
};

use crate::{
    binary::{kind_of, to_component},
    contract::{CallParams, CallResults, ConfigureParams, ConfigureResults, WitMessage, WitOutcome},
    engine::new_engine,
};

/// A transformer without imports, instantiated and configured.
pub struct BareTransformer {
    store: Store<()>,
    transform: TypedFunc<CallParams<'static>, CallResults<WitOutcome>>,
}

impl BareTransformer {
    /// From the file's content and a configuration as JSON text.
    ///
    /// # Errors
    /// When it is not a transformer without imports.
    pub async fn new(wasm: &[u8], config: &str) -> Result<Self, PluginError> {
        let engine = new_engine().map_err(failed)?;
        let wasm = to_component(&engine, kind_of(wasm)?, wasm)?;
        let made = async {
            let component = Component::from_binary(&engine, &wasm)?;
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(u64::MAX / 2);
            let instance = Linker::new(&engine).instantiate_async(&mut store, &component).await?;
            let configure =
                instance.get_typed_func::<ConfigureParams<'_>, ConfigureResults>(&mut store, "configure")?;
            let (configured,) = configure.call_async(&mut store, (config,)).await?;
            configured.map_err(wasmtime::Error::msg)?;
            let transform = instance.get_typed_func(&mut store, "transform")?;
            wasmtime::Result::Ok(Self { store, transform })
        };
        made.await.map_err(failed)
    }

    /// One call. Gives the size of the new body, if there is one.
    ///
    /// # Errors
    /// When the guest traps.
    pub async fn transform(
        &mut self,
        id: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Option<usize>, PluginError> {
        let transform: TypedFunc<CallParams<'_>, CallResults<WitOutcome>> = self.transform;
        let message = WitMessage { id, headers, body };
        let (answer,) = transform.call_async(&mut self.store, (message,)).await.map_err(failed)?;
        Ok(match answer {
            Ok(WitOutcome::Change(change)) => change.body.map(|b| b.len()),
            _ => None,
        })
    }
}

fn failed(error: wasmtime::Error) -> PluginError {
    PluginError::new("plugin_trap", format!("{error:#}"))
}
