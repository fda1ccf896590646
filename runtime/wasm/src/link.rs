//! What a plugin is linked with: WASI if it was compiled for it, and the interfaces that were granted. Nothing else.

use std::sync::{Arc, OnceLock};

use gristmill_core::plugin::{Grant, Grants};
use wasmtime::{
    Engine,
    component::{
        Component, InstancePre, Linker,
        types::{ComponentInstance, ComponentItem},
    },
};

use crate::{contract::PACKAGE, fault::HostRefusal, grants, instance::GuestState};

/// What plugins of one engine are linked with.
#[derive(Clone)]
pub(crate) struct Links {
    engine: Engine,
    /// All of WASI, made when the first plugin needs it: that takes longer than to link a plugin.
    wasi: Arc<OnceLock<Linker<GuestState>>>,
}

impl Links {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine, wasi: Arc::default() }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A plugin linked with what it was granted.
    ///
    /// # Errors
    /// When it imports something else, or an interface with other types than the contract's.
    pub(crate) fn link(
        &self,
        component: &Component,
        uses_wasi: bool,
        grants: Grants,
    ) -> wasmtime::Result<InstancePre<GuestState>> {
        self.linker(uses_wasi, grants)?.instantiate_pre(component)
    }

    /// A plugin in the sandbox in which it describes itself: WASI answers, every other import traps.
    ///
    /// # Errors
    /// When it imports something else.
    pub(crate) fn link_sandbox(
        &self,
        component: &Component,
        uses_wasi: bool,
    ) -> wasmtime::Result<InstancePre<GuestState>> {
        let mut linker = self.linker(uses_wasi, Grants::default())?;
        for (name, import) in component.component_type().imports(&self.engine) {
            if let (true, ComponentItem::ComponentInstance(interface)) =
                (name.starts_with(PACKAGE), import.ty)
            {
                link_traps(&mut linker, &self.engine, name, &interface)?;
            }
        }
        linker.instantiate_pre(component)
    }

    fn linker(&self, uses_wasi: bool, grants: Grants) -> wasmtime::Result<Linker<GuestState>> {
        let mut linker = if uses_wasi { self.with_wasi()?.clone() } else { Linker::new(&self.engine) };
        for grant in Grant::ALL.into_iter().filter(|g| grants.has(*g)) {
            grants::link(&mut linker, grant)?;
        }
        Ok(linker)
    }

    fn with_wasi(&self) -> wasmtime::Result<&Linker<GuestState>> {
        if let Some(made) = self.wasi.get() {
            return Ok(made);
        }
        let mut linker = Linker::new(&self.engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        Ok(self.wasi.get_or_init(|| linker))
    }
}

/// Every function of an interface as a trap. Only for interfaces of the contract: wasmtime's own way of doing this for all
/// that is missing takes WASI of another patch version for missing.
fn link_traps(
    linker: &mut Linker<GuestState>,
    engine: &Engine,
    name: &str,
    interface: &ComponentInstance,
) -> wasmtime::Result<()> {
    let mut instance = linker.instance(name)?;
    for (function, export) in interface.exports(engine) {
        if let ComponentItem::ComponentFunc(_) = export.ty {
            let refusal = format!("`{name}` `{function}` must not be called here");
            instance.func_new(function, move |_, _, _, _| Err(HostRefusal(refusal.clone()).into()))?;
        }
    }
    Ok(())
}
