//! What a file is, told from its bytes, and how it becomes a component.

use std::borrow::Cow;

use gristmill_core::plugin::PluginError;
use serde::Serialize;
use wasmtime::{Engine, Module};
use wit_component::ComponentEncoder;

/// The first bytes of everything in Wasm.
const MAGIC: &[u8] = b"\0asm";
/// Version and layer of a core module.
const MODULE: &[u8] = &[1, 0, 0, 0];
/// Version and layer of a component.
const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];

const HOW_TO_BUILD: &str =
    "build the plugin for `wasm32-wasip2`, or for `wasm32-unknown-unknown` with wit-bindgen";

/// What can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A component.
    Component,
    /// A core module that carries its component type, which the host makes a component of.
    CoreModule,
}

/// What the bytes are.
///
/// # Errors
/// Not Wasm, another version of it, or code that someone else has compiled.
pub(crate) fn kind_of(bytes: &[u8]) -> Result<Kind, PluginError> {
    if Engine::detect_precompiled(bytes).is_some() {
        let text = "the file holds precompiled machine code, which could do anything: only the host's own is trusted";
        return Err(PluginError::new("plugin_precompiled", text).mend("give the `.wasm` file itself"));
    }
    match bytes.strip_prefix(MAGIC).and_then(|rest| rest.get(..4)) {
        Some(COMPONENT) => Ok(Kind::Component),
        Some(MODULE) => Ok(Kind::CoreModule),
        Some(_) => {
            let text = "the file is Wasm of a version that this host does not know";
            Err(PluginError::new("plugin_not_wasm", text).mend(HOW_TO_BUILD))
        }
        None => Err(not_wasm(bytes)),
    }
}

fn not_wasm(bytes: &[u8]) -> PluginError {
    let start = bytes.trim_ascii_start();
    let error = |what: &str| PluginError::new("plugin_not_wasm", format!("the file is not Wasm: {what}"));
    if bytes.is_empty() {
        error("it is empty").mend("was it read while it was written? write beside it and rename")
    } else if start.starts_with(b"(module") || start.starts_with(b"(component") || start.starts_with(b";;") {
        error("it is Wasm's text form").mend("translate it with `wasm-tools parse`")
    } else {
        let first: String = bytes.iter().take(8).flat_map(|b| b.escape_ascii()).map(char::from).collect();
        error(&format!("it begins with `{first}`")).mend(HOW_TO_BUILD)
    }
}

/// The file as a component: as it is, or made of the core module with the component type that it carries.
///
/// # Errors
/// An invalid module, one that carries no type, or whose imports and exports do not fit it.
pub(crate) fn to_component<'a>(
    engine: &Engine,
    kind: Kind,
    bytes: &'a [u8],
) -> Result<Cow<'a, [u8]>, PluginError> {
    if kind == Kind::Component {
        return Ok(Cow::Borrowed(bytes));
    }
    // What follows works on whole modules only, and panics on others.
    Module::validate(engine, bytes).map_err(|e| invalid(&e))?;
    let wrong = |text: String| PluginError::new("plugin_wrong_contract", text).mend(HOW_TO_BUILD);
    let (typed, _) = wit_component::metadata::decode(bytes)
        .map_err(|e| wrong(format!("the core module's component type cannot be read: {e:#}")))?;
    if typed.is_none() {
        return Err(wrong(
            "the file is a core module that carries no component type, so it is for another host".into(),
        ));
    }
    let mut encoder = ComponentEncoder::default();
    encoder
        .module(bytes)
        .map_err(|e| wrong(format!("the core module does not fit its component type: {e:#}")))?
        .validate(true)
        .encode()
        .map(Cow::Owned)
        .map_err(|e| wrong(format!("the core module cannot be made a component: {e:#}")))
}

/// The file is Wasm by its first bytes and no further.
pub(crate) fn invalid(error: &wasmtime::Error) -> PluginError {
    PluginError::new(
        "plugin_invalid",
        format!("the file is not valid Wasm, or of a feature that is not supported: {error:#}"),
    )
    .mend("is the file whole? `wasm-tools validate` says more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_plugin_is_named() {
        for (bytes, code, says) in [
            (&b""[..], "plugin_not_wasm", "empty"),
            (b"#!/bin/sh\n", "plugin_not_wasm", "begins with `#!/bin/s`"),
            (b"  (component)", "plugin_not_wasm", "text form"),
            (b"\0asm\x02\0\0\0", "plugin_not_wasm", "version"),
            (b"\0asm", "plugin_not_wasm", "begins with"),
        ] {
            let error = kind_of(bytes).unwrap_err();
            assert_eq!(error.code, code);
            assert!(error.text.contains(says), "{error}");
            assert!(error.mend.is_some());
        }
    }
}
