//! What a plugin is linked with: WASI if it was compiled for it, and the interfaces that were granted. Nothing else.

use gristmill_core::plugin::{Grant, Grants};
use wasmtime::{
    Engine,
    component::{Component, InstancePre, Linker},
};

use crate::{grants, instance::GuestState};

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
    linker.define_unknown_imports_as_traps(component)?;
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
