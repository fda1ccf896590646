//! What a floor does with a message: the same renaming of fields as the plugin `bench-rename`, by the bare Wasm call of that
//! plugin or by the same Rust code native.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bench_rename::rename;
use gristmill_wasm::{WasmHost, WasmHostConfig, bare::BareTransformer};

/// Which of the two a floor is to do.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Choice {
    /// The folder of the plugins, for the bare Wasm call [default: the same code native]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
}

/// One of the two, ready.
#[derive(Debug)]
pub(crate) enum Work {
    Bare(Box<BareTransformer>),
    Native,
}

impl Work {
    /// Compiles the plugin, if there is one.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub(crate) async fn new(choice: &Choice) -> Result<Self> {
        let Some(plugins) = &choice.plugins else { return Ok(Self::Native) };
        let host = WasmHost::new(WasmHostConfig::new(plugins))?;
        Ok(Self::Bare(Box::new(BareTransformer::new(&host, "bench-rename", "{}").await?)))
    }

    /// The new body.
    ///
    /// # Errors
    /// When the body is not a JSON object, or the guest traps.
    pub(crate) async fn rename(&mut self, body: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Bare(plugin) => {
                let renamed = plugin.transform_body("", &[], body).await?;
                renamed.context("the plugin refused a message")
            }
            Self::Native => Ok(rename(body)?),
        }
    }
}
