//! Flows that run between a source and a sink that cost nothing.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use gristmill_core::{Message, SystemClock, observe::ReloadResult, plugin::PluginHost};
use gristmill_engine::{
    flow::{FlowFile, Registry, SetContext},
    runtime::{Runtime, RuntimeParts},
    substitute::ProcessEnvironment,
};
use gristmill_wasm::WasmHost;

use crate::{
    counted::Counted,
    memory::{Memory, MemoryAdapter},
};

/// Flows, with all that they run in.
pub struct Mill {
    memory: Arc<Memory>,
    runtime: Runtime,
}

impl Mill {
    /// Starts the flow of this text, whose source gives copies of `message`.
    ///
    /// # Errors
    /// When the flow does not run.
    pub async fn start(flow: &str, message: &Message, plugins: Arc<WasmHost>) -> Result<Self> {
        Self::start_all(&[flow.to_owned()], message, plugins).await
    }

    /// Starts flows, which all take from the same memory. Several are for a runtime of one thread.
    ///
    /// # Errors
    /// When one of them does not run.
    pub async fn start_all(flows: &[String], message: &Message, plugins: Arc<WasmHost>) -> Result<Self> {
        let memory = Memory::new(message, flows.len());
        let runtime = Runtime::new(RuntimeParts {
            context: SetContext {
                registry: Registry::new().with(Arc::new(MemoryAdapter(Arc::clone(&memory)))),
                plugins: plugins as Arc<dyn PluginHost>,
                environment: Arc::new(ProcessEnvironment::new(".")),
                base_dir: ".".into(),
                connections: Arc::default(),
            },
            observer: Arc::new(Counted),
            clock: Arc::new(SystemClock),
            state_dir: ".".into(),
        });
        let file = |(index, text): (usize, &String)| FlowFile {
            path: format!("bench-{index}.yaml").into(),
            text: Ok(text.as_str().into()),
        };
        let applied = runtime.apply(flows.iter().enumerate().map(file).collect()).await;
        if applied.iter().any(|one| one.result != ReloadResult::Applied) {
            bail!("a flow does not run: {applied:?}");
        }
        Ok(Self { memory, runtime })
    }

    /// Sends this many messages through, and waits until the last has settled.
    ///
    /// # Errors
    /// When one was not delivered.
    pub async fn pass(&self, messages: u64) -> Result<()> {
        self.memory.pass(messages).await;
        let wrong = self.memory.wrong();
        ensure!(wrong == 0, "{wrong} messages were not delivered: {:?}", self.runtime.status());
        Ok(())
    }

    /// The first message that the sink got.
    pub fn first_sent(&self) -> Option<&Message> {
        self.memory.first_sent()
    }
}
