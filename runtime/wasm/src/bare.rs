//! The floor for benches: the same component called with nothing around it. No pool, no deadline, no memory limit, no
//! check of the answer. Never for real messages.
#![doc(hidden)]

use std::fmt;

use gristmill_core::plugin::PluginError;
use wasmtime::{Store, component::TypedFunc};

use crate::{
    WasmHost,
    contract::{CallParams, CallResults, ConfigureParams, ConfigureResults, WitMessage, WitOutcome},
    instance::GuestState,
};

/// A transformer, instantiated and configured. WASI answers it, every other import traps.
pub struct BareTransformer {
    store: Store<GuestState>,
    transform: TypedFunc<CallParams<'static>, CallResults<WitOutcome>>,
}

impl BareTransformer {
    /// The plugin of that name, with a configuration as JSON text.
    ///
    /// # Errors
    /// When it cannot be loaded, is not a transformer, or refuses the configuration.
    pub async fn new(host: &WasmHost, name: &str, config: &str) -> Result<Self, PluginError> {
        let loaded = host.load_by_name(name).await?;
        let made = async {
            let links = &loaded.host.links;
            let pre = links.link_sandbox(&loaded.component, loaded.surface.uses_wasi)?;
            let mut store = Store::new(links.engine(), GuestState::new(loaded.host.sandbox()));
            // Far enough away for any bench, and no sum with the current epoch overflows.
            store.set_epoch_deadline(u64::MAX / 2);
            let instance = pre.instantiate_async(&mut store).await?;
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
        Ok(self.transform_body(id, headers, body).await?.map(|body| body.len()))
    }

    /// One call. Gives the new body, if there is one, for a floor that goes on with it.
    ///
    /// # Errors
    /// When the guest traps.
    pub async fn transform_body(
        &mut self,
        id: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, PluginError> {
        let transform: TypedFunc<CallParams<'_>, CallResults<WitOutcome>> = self.transform;
        let message = WitMessage { id, headers, body };
        let (answer,) = transform.call_async(&mut self.store, (message,)).await.map_err(failed)?;
        Ok(match answer {
            Ok(WitOutcome::Change(change)) => change.body,
            _ => None,
        })
    }
}

impl fmt::Debug for BareTransformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BareTransformer").finish_non_exhaustive()
    }
}

fn failed(error: wasmtime::Error) -> PluginError {
    PluginError::new("plugin_trap", format!("{error:#}"))
}
