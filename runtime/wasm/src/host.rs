//! The host: from a name to a plugin that can be bound.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use gristmill_core::{
    Clock, SystemClock,
    background::{self, GiveWay},
    plugin::{LoadedPlugin, PluginError, PluginHost},
};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use wasmtime::component::Component;

use crate::{
    binary::{invalid, kind_of, to_component},
    cache::{Cache, Entry},
    contract::WitDescription,
    describe,
    engine::new_engine,
    folder::{Folder, PluginFile},
    link::Links,
    loaded::{HostParts, Loaded},
    surface::{Surface, examine},
    sync::lock,
    ticker::Ticker,
};

/// How a host is set up.
#[derive(Debug, Clone)]
pub struct WasmHostConfig {
    /// The plugins folder. The plugin `name` is its file `name.wasm`.
    pub plugins_dir: PathBuf,
    /// Where compiled code is kept; nowhere when `None`. A folder that others than its owner can enter is not used.
    pub cache_dir: Option<PathBuf>,
    /// How large that may grow, in bytes; what was not used for longest goes first. 1 GiB.
    pub cache_bytes: u64,
    /// How large a plugin's file may be, in bytes. 64 MiB.
    pub plugin_file_bytes: u64,
    /// How long a plugin may take to describe itself, its runtime's start included, in milliseconds. 10,000.
    pub describe_timeout_ms: u64,
    /// How long a plugin may take to compile, in milliseconds. One that takes longer is refused; others are loaded while
    /// the compiler, which cannot be stopped, ends with it. 60,000.
    pub compile_timeout_ms: u64,
    /// Where plugins with the grant `clock` get the time.
    pub clock: Arc<dyn Clock>,
}

/// Loads plugins and runs them. Their state lives in it, so there is one for the whole runtime.
pub struct WasmHost {
    parts: HostParts,
    folder: Folder,
    cache: Option<Arc<Cache>>,
    describe_timeout: Duration,
    compile_timeout: Duration,
    /// The digests of what is being compiled, also of what no one waits for any more.
    in_compiler: Arc<Mutex<HashSet<String>>>,
    /// One plugin is compiled at a time: the compiler uses every processor by itself, and messages need some too.
    compiling: Semaphore,
    /// What is loaded, by content. The lock of an entry is held while it is loaded.
    loaded: Mutex<HashMap<String, Slot>>,
}

/// Code of plugins of so many bytes is found within milliseconds.
const SMALL_BYTES: usize = 8 << 20;

type Slot = Arc<AsyncMutex<Weak<Loaded>>>;

/// Code with what is known of it without running it.
struct Compiled {
    component: Component,
    surface: Surface,
    kind: crate::Kind,
    /// From the cache.
    description: Option<WitDescription>,
}

/// A digest that is in the compiler, until this is dropped.
struct InCompiler {
    all: Arc<Mutex<HashSet<String>>>,
    digest: String,
}

// === impl InCompiler ===

impl InCompiler {
    /// `None` when it is in the compiler already.
    fn enter(all: &Arc<Mutex<HashSet<String>>>, digest: &str) -> Option<Self> {
        let entered = lock(all).insert(digest.to_owned());
        entered.then(|| Self { all: all.clone(), digest: digest.to_owned() })
    }
}

impl Drop for InCompiler {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.digest);
    }
}

// === impl WasmHostConfig ===

impl WasmHostConfig {
    /// A host over this plugins folder, without a cache.
    pub fn new(plugins_dir: impl Into<PathBuf>) -> Self {
        Self {
            plugins_dir: plugins_dir.into(),
            cache_dir: None,
            cache_bytes: 1 << 30,
            plugin_file_bytes: 64 << 20,
            describe_timeout_ms: 10_000,
            compile_timeout_ms: 60_000,
            clock: Arc::new(SystemClock),
        }
    }
}

// === impl WasmHost ===

impl WasmHost {
    /// Sets up a host. A cache that cannot be used is logged and done without.
    ///
    /// # Errors
    /// `plugin_host`: this machine cannot run compiled guests, or gives no thread.
    pub fn new(config: WasmHostConfig) -> Result<Self, PluginError> {
        let failed = |text: String| {
            PluginError::new("plugin_host", format!("plugins cannot be run on this machine: {text}"))
        };
        let engine = new_engine().map_err(|e| failed(format!("{e:#}")))?;
        let ticker = Ticker::start(&engine).map_err(|e| failed(e.to_string()))?;
        let cache = config.cache_dir.and_then(|dir| {
            Cache::open(dir.clone(), config.cache_bytes, &engine)
                .inspect_err(|error| {
                    tracing::warn!(folder = %dir.display(), %error, "compiled plugins are not kept on disk");
                })
                .ok()
                .map(Arc::new)
        });
        Ok(Self {
            parts: HostParts {
                links: Links::new(engine),
                ticker: Arc::new(ticker),
                memories: Arc::default(),
                clock: config.clock,
                monotonic_base: Instant::now(),
            },
            folder: Folder::new(config.plugins_dir, config.plugin_file_bytes),
            cache,
            describe_timeout: Duration::from_millis(config.describe_timeout_ms),
            compile_timeout: Duration::from_millis(config.compile_timeout_ms),
            in_compiler: Arc::default(),
            compiling: Semaphore::new(1),
            loaded: Mutex::default(),
        })
    }

    /// Loads the plugin of that name.
    pub(crate) async fn load_by_name(&self, name: &str) -> Result<Arc<Loaded>, PluginError> {
        let (folder, owned) = (self.folder.clone(), name.to_owned());
        let file = in_background(GiveWay::Wholly, "gristmill-read", move || folder.read(&owned)).await??;
        self.load_file(file).await.map_err(|mut error| {
            error.text = format!("plugin `{name}`: {}", error.text);
            error
        })
    }

    /// Loads a file's content, once for as long as anyone uses it.
    pub(crate) async fn load_file(&self, file: PluginFile) -> Result<Arc<Loaded>, PluginError> {
        let slot = self.slot(&file.digest);
        let mut slot = slot.lock().await;
        if let Some(loaded) = slot.upgrade() {
            return Ok(loaded);
        }
        let loaded = Arc::new(self.make(file).await?);
        *slot = Arc::downgrade(&loaded);
        Ok(loaded)
    }

    fn slot(&self, digest: &str) -> Slot {
        let mut loaded = lock(&self.loaded);
        // What no one uses and no one loads is forgotten, so that replaced versions do not add up.
        loaded.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|loaded| loaded.strong_count() > 0)
        });
        loaded.entry(digest.to_owned()).or_default().clone()
    }

    async fn make(&self, file: PluginFile) -> Result<Loaded, PluginError> {
        let permit = self.compiling.acquire().await.map_err(|e| broken(&e))?;
        // Whoever asks again for what has once taken too long must not add a second thread that does.
        let in_compiler = InCompiler::enter(&self.in_compiler, &file.digest)
            .ok_or_else(|| compiles_for_long("is still being compiled, for whoever asked for it before"))?;
        let compiling = self.compile_or_find(file, in_compiler);
        let (file, compiled) =
            tokio::time::timeout(self.compile_timeout, compiling).await.map_err(|_| {
                let limit = self.compile_timeout.as_millis();
                compiles_for_long(&format!("did not compile within {limit} ms (compile_timeout_ms)"))
            })??;
        drop(permit);
        self.loaded(file, compiled).await
    }

    async fn compile_or_find(
        &self,
        mut file: PluginFile,
        mut in_compiler: InCompiler,
    ) -> Result<(PluginFile, Compiled), PluginError> {
        if let Some(cache) = self.cache.clone() {
            let how = if file.bytes.len() <= SMALL_BYTES { GiveWay::Wholly } else { GiveWay::Mostly };
            let links = self.parts.links.clone();
            let finding = in_background(how, "gristmill-find", move || {
                let found = find(&links, &cache, &file);
                (file, in_compiler, found)
            });
            let found;
            (file, in_compiler, found) = finding.await?;
            if let Some(found) = found {
                return Ok((file, found?));
            }
        }
        let links = self.parts.links.clone();
        let compiling = in_background(GiveWay::Mostly, "gristmill-compile", move || {
            let compiled = compile(&links, &file);
            drop(in_compiler);
            (file, compiled)
        });
        let (file, compiled) = compiling.await?;
        Ok((file, compiled?))
    }

    /// With what it says of itself.
    async fn loaded(&self, file: PluginFile, compiled: Compiled) -> Result<Loaded, PluginError> {
        let Compiled { component, surface, kind, description } = compiled;
        let (description, validator) = match description {
            Some(raw) => describe::check(raw)?,
            None => {
                let raw = self.describe(&component, &surface).await?;
                let checked = describe::check(raw.clone())?;
                self.keep(file.digest.clone(), component.clone(), raw).await?;
                checked
            }
        };
        Ok(Loaded {
            host: self.parts.clone(),
            component,
            kind,
            surface,
            description,
            validator,
            size_bytes: file.bytes.len(),
            digest: file.digest,
        })
    }

    async fn describe(
        &self,
        component: &Component,
        surface: &Surface,
    ) -> Result<WitDescription, PluginError> {
        let pre = self.parts.links.link_sandbox(component, surface.uses_wasi).map_err(|e| {
            PluginError::new(
                "plugin_wrong_contract",
                format!("the plugin cannot be asked to describe itself: {e:#}"),
            )
        })?;
        let shared = self.parts.sandbox();
        describe::ask(&pre, surface.world, shared, self.describe_timeout, &self.parts.ticker).await
    }

    async fn keep(
        &self,
        digest: String,
        component: Component,
        description: WitDescription,
    ) -> Result<(), PluginError> {
        let Some(cache) = self.cache.clone() else { return Ok(()) };
        tokio::task::spawn_blocking(move || cache.put(&digest, &component, &description))
            .await
            .map_err(|e| broken(&e))
    }
}

#[async_trait]
impl PluginHost for WasmHost {
    async fn load(&self, name: &str) -> Result<Arc<dyn LoadedPlugin>, PluginError> {
        self.load_by_name(name).await.map(|loaded| loaded as _)
    }

    fn names(&self) -> Vec<String> {
        self.folder.names()
    }
}

impl fmt::Debug for WasmHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmHost").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Does this on a thread in the background. A task that blocks waits for it: tokio's clock, where it is paused, stands still for one.
async fn in_background<T: Send + 'static>(
    how: GiveWay,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PluginError> {
    let task = tokio::task::spawn_blocking(move || background::give_way(how, name, work));
    task.await.map_err(|e| broken(&e))?.map_err(|e| broken(&e))
}

/// Code that was made of this file before. Runs for milliseconds: off the async threads.
fn find(links: &Links, cache: &Cache, file: &PluginFile) -> Option<Result<Compiled, PluginError>> {
    let Entry { component, description } = cache.get(links.engine(), &file.digest)?;
    let compiled = || {
        let (kind, surface) = (kind_of(&file.bytes)?, examine(links, &component)?);
        Ok(Compiled { component, surface, kind, description: Some(description) })
    };
    Some(compiled())
}

/// Makes code of a file. Runs for long: off the async threads.
fn compile(links: &Links, file: &PluginFile) -> Result<Compiled, PluginError> {
    let (engine, kind) = (links.engine(), kind_of(&file.bytes)?);
    let binary = to_component(engine, kind, &file.bytes)?;
    let component = Component::from_binary(engine, &binary).map_err(|e| invalid(&e))?;
    let surface = examine(links, &component)?;
    Ok(Compiled { component, surface, kind, description: None })
}

fn compiles_for_long(text: &str) -> PluginError {
    PluginError::new("plugin_compile_timeout", format!("the plugin {text}"))
        .mend("make it smaller, or try again when the machine is less busy")
}

/// A fault of the host itself.
fn broken(error: &dyn fmt::Display) -> PluginError {
    PluginError::new("plugin_host", format!("the plugin host failed: {error}"))
}
