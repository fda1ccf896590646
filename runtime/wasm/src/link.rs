//! What a plugin is linked with: WASI if it was compiled for it, and the interfaces that were granted. Nothing else.

use gristmill_core::plugin::{Grant, Grants};
use wasmtime::{
    Engine, bail,
    component::{Component, InstancePre, Linker, types::ComponentItem},
};

use crate::{contract::PACKAGE, grants, instance::GuestState};

/// A plugin linked with what it was granted.
///
/// # Errors
/// When it imports something else, or an interface with other types than the contract's.
pub(crate) fn link(
    engine: &Engine,
    component: &Component,
    uses_wasi: bool,
    grants: Grants,
) -> wasmtime::Result<InstancePre<GuestState>> {
    linker(engine, uses_wasi, grants)?.instantiate_pre(component)
}

/// A plugin in the sandbox in which it describes itself: WASI answers, every other import traps.
///
/// # Errors
/// When it imports what cannot be made to trap.
pub(crate) fn link_sandbox(
    engine: &Engine,
    component: &Component,
    uses_wasi: bool,
) -> wasmtime::Result<InstancePre<GuestState>> {
    let mut linker = linker(engine, uses_wasi, Grants::default())?;
    // Not `Linker::define_unknown_imports_as_traps`: it goes by exact names, so a guest made for an older version of WASI than
    // the host's, which links by compatibility, would get traps for it too.
    for (interface, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(functions) = import.ty else { continue };
        if !interface.starts_with(PACKAGE) {
            continue;
        }
        let mut traps = linker.instance(interface)?;
        for (function, export) in functions.exports(engine) {
            if let ComponentItem::ComponentFunc(_) = export.ty {
                let name = format!("{interface}#{function}");
                traps.func_new(function, move |_, _, _, _| bail!("`{name}` is not there yet"))?;
            }
        }
    }
    linker.instantiate_pre(component)
}

fn linker(engine: &Engine, uses_wasi: bool, grants: Grants) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    if uses_wasi {
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    }
    for grant in Grant::ALL.into_iter().filter(|g| grants.has(*g)) {
        grants::link(&mut linker, grant)?;
    }
    Ok(linker)
}
