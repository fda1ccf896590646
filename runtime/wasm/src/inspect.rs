//! What `gristmill plugin inspect` shows: all that can be known of a file without a flow.

use std::{collections::BTreeSet, path::Path};

use gristmill_core::plugin::{Description, Grant, PluginError, World};
use serde::Serialize;

pub use crate::binary::Kind;
use crate::{
    WasmHost, WasmHostConfig,
    folder::{ReadError, read_file},
};

/// What a plugin's file is.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Lower-case hexadecimal SHA-256 of the file.
    pub digest: String,
    /// The file's size.
    pub size_bytes: usize,
    /// Component or core module.
    pub kind: Kind,
    /// Its world.
    pub world: World,
    /// What it says of itself: name, version, what it wants, its configuration's schema.
    pub description: Description,
    /// What a flow has to grant it.
    pub needs: BTreeSet<Grant>,
    /// Every import, by its full name.
    pub imports: Vec<String>,
}

/// Inspects a file: compiles it and asks it to describe itself, in a sandbox, as loading does. Must be called within a
/// tokio runtime.
///
/// # Errors
/// As loading: what the file is not.
pub async fn inspect(path: &Path) -> Result<Inspection, PluginError> {
    let config = WasmHostConfig::new(path.parent().unwrap_or(Path::new(".")));
    let limit = config.plugin_file_bytes;
    let host = WasmHost::new(config)?;
    let shown = path.display().to_string();
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_file(&path, limit)).await;
    let file = match read {
        Ok(Ok(file)) => file,
        Ok(Err(ReadError::Other(error))) => return Err(error),
        Ok(Err(ReadError::Missing)) => {
            return Err(PluginError::new("plugin_not_found", format!("there is no file {shown}")));
        }
        Err(error) => return Err(PluginError::new("plugin_host", error.to_string())),
    };
    let loaded = host.load_file(file).await?;
    Ok(Inspection {
        digest: loaded.digest.clone(),
        size_bytes: loaded.size_bytes,
        kind: loaded.kind,
        world: loaded.surface.world,
        description: loaded.description.clone(),
        needs: loaded.surface.needs.clone(),
        imports: loaded.surface.imports.clone(),
    })
}
