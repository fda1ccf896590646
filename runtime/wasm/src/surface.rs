//! What a component imports and exports, held against the contract: which world it is, which grants it needs, and every
//! reason why it is not a plugin. Nothing runs.

use std::collections::BTreeSet;

use gristmill_core::{
    config::nearest,
    plugin::{Grant, Grants, PluginError, World},
};
use wasmtime::{
    Engine,
    component::{
        Component,
        types::{Component as ComponentType, ComponentItem},
    },
};

use crate::{
    contract::{PACKAGE, RANGE, VERSION},
    link::Links,
};

/// The packages of WASI 0.2 that are linked, empty as they are.
const WASI: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// The interface of the contract that holds types only.
const TYPES: &str = "types";

/// The outside of a plugin.
#[derive(Debug, Clone)]
pub(crate) struct Surface {
    pub(crate) world: World,
    pub(crate) needs: BTreeSet<Grant>,
    pub(crate) uses_wasi: bool,
    /// Every import, by its full name.
    pub(crate) imports: Vec<String>,
}

/// The name of the function that a world is about.
pub(crate) const fn entry_of(world: World) -> &'static str {
    match world {
        World::Transformer => "transform",
        World::Router => "route",
    }
}

/// Looks at a component.
///
/// # Errors
/// `plugin_wrong_contract`, `plugin_unknown_import`.
pub(crate) fn examine(links: &Links, component: &Component) -> Result<Surface, PluginError> {
    let engine = links.engine();
    let ty = component.component_type();
    let world = world_of(engine, &ty)?;
    let mut surface = Surface { world, needs: BTreeSet::new(), uses_wasi: false, imports: Vec::new() };
    let mut unknown = Vec::new();
    for (name, import) in ty.imports(engine) {
        surface.imports.push(name.to_owned());
        if let Some(interface) = name.strip_prefix(PACKAGE) {
            match grant_of(interface)? {
                Some(grant) => drop(surface.needs.insert(grant)),
                None if interface.starts_with(TYPES) => {}
                None => unknown.push(name.to_owned()),
            }
        } else if WASI.iter().any(|package| name.starts_with(package)) {
            surface.uses_wasi = true;
        } else if !is_types_only(engine, &import.ty) {
            unknown.push(name.to_owned());
        }
    }
    if !unknown.is_empty() {
        return Err(unknown_imports(&unknown));
    }
    // Whatever is left that does not fit (an interface with other functions than the contract's) the linker finds.
    let everything = Grants { log: true, clock: true, random: true, metrics: true, state: true };
    links
        .link(component, surface.uses_wasi, everything)
        .map_err(|e| wrong_contract(format!("the plugin's imports are not those of the contract: {e:#}")))?;
    Ok(surface)
}

/// The world that the exports make by their names. That each has the contract's type is seen when the plugin is asked to
/// describe itself.
fn world_of(engine: &Engine, ty: &ComponentType) -> Result<World, PluginError> {
    let has = |name: &str| ty.get_export(engine, name).is_some();
    let world = match (has("transform"), has("route")) {
        (true, false) => World::Transformer,
        (false, true) => World::Router,
        (true, true) => {
            return Err(wrong_contract(
                "the plugin exports both `transform` and `route`, so it is of no one world",
            ));
        }
        (false, false) => {
            let exports: Vec<_> = ty.exports(engine).map(|(name, _)| format!("`{name}`")).collect();
            let exports = if exports.is_empty() { "nothing".into() } else { exports.join(", ") };
            return Err(wrong_contract(format!(
                "a plugin exports `transform` (world transformer) or `route` (world router); this exports {exports}"
            )));
        }
    };
    for name in ["describe", "configure", entry_of(world)] {
        match ty.get_export(engine, name).map(|export| export.ty) {
            Some(ComponentItem::ComponentFunc(func)) if !func.async_() => {}
            Some(_) => {
                return Err(wrong_contract(format!("the plugin's export `{name}` is not a plain function")));
            }
            None => return Err(wrong_contract(format!("the plugin does not export `{name}`"))),
        }
    }
    Ok(world)
}

/// The grant that links this interface of the contract, `name@version`.
fn grant_of(interface: &str) -> Result<Option<Grant>, PluginError> {
    let (name, version) = interface.split_once('@').unwrap_or((interface, ""));
    if !is_compatible(version) {
        return Err(wrong_contract(format!(
            "the plugin is built for `{PACKAGE}{name}` {version}; this runtime knows {RANGE}"
        )));
    }
    Ok(Grant::ALL.into_iter().find(|g| g.name() == name))
}

/// Whether a version is in the range that loads: before 1.0 what differs in the second number is another contract.
fn is_compatible(version: &str) -> bool {
    let series = |v: &str| v.rsplit_once('.').map(|(series, _)| series.to_owned());
    series(version).is_some() && series(version) == series(VERSION)
}

fn is_types_only(engine: &Engine, item: &ComponentItem) -> bool {
    match item {
        ComponentItem::Type(_) => true,
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(engine).all(|(_, export)| matches!(export.ty, ComponentItem::Type(_)))
        }
        _ => false,
    }
}

fn unknown_imports(unknown: &[String]) -> PluginError {
    let names: Vec<_> = unknown.iter().map(|n| format!("`{n}`")).collect();
    let text = format!("the plugin imports {}, which this runtime does not have", names.join(", "));
    let known: Vec<_> = Grant::ALL.iter().map(|g| g.name()).collect();
    let meant = unknown
        .iter()
        .filter_map(|n| n.strip_prefix(PACKAGE)?.split('@').next())
        .find_map(|n| nearest(n, known.iter().copied()));
    let mend = match meant {
        Some(meant) => format!("did you mean `{PACKAGE}{meant}`?"),
        None => {
            format!("a plugin may import `{PACKAGE}` {} and WASI 0.2 without http", known.join(", "))
        }
    };
    PluginError::new("plugin_unknown_import", text).mend(mend)
}

pub(crate) fn wrong_contract(text: impl Into<String>) -> PluginError {
    PluginError::new("plugin_wrong_contract", text)
        .mend(format!("build it against `gristmill:plugin` {RANGE}, world transformer or router"))
}

#[cfg(test)]
mod tests {
    use super::is_compatible;

    #[test]
    fn the_second_number_is_the_contract() {
        assert!(is_compatible("0.1.0") && is_compatible("0.1.7"));
        assert!(!is_compatible("0.2.0") && !is_compatible("1.0.0") && !is_compatible(""));
    }
}
