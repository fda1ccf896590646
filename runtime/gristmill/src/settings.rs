//! The runtime's configuration: `gristmill.yaml`, with what the command line says laid over it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use gristmill_core::{
    config::{self, Mistake, Mistakes, Node, Span, Value},
    connection::Connections,
};
use gristmill_engine::{
    connections::check_connections,
    substitute::{ProcessEnvironment, substitute},
    yaml,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{assemble, cli::Places, files};

/// The name of the configuration file that is read when none is named.
const DEFAULT_FILE: &str = "gristmill.yaml";

/// The largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// `gristmill.yaml`. Relative paths are relative to the folder the file is in.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    /// The folder of flow files. Files named `*.test.yaml` in it are not flows.
    pub(crate) flows: PathBuf,
    /// The folder of plugins.
    pub(crate) plugins: PathBuf,
    /// The folder for what has to survive a restart: progress of half-read files, compiled plugins. A change needs a restart.
    pub(crate) state: PathBuf,
    /// The admin listener: health and metrics.
    pub(crate) admin: AdminConfig,
    /// The log.
    pub(crate) log: LogConfig,
    /// How changes of files are noticed.
    pub(crate) watch: WatchConfig,
    /// Named connections to brokers, which flows share: `<name>: { <adapter>: … }`.
    #[schemars(extend("x-connections" = true))]
    pub(crate) connections: serde_json::Map<String, serde_json::Value>,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AdminConfig {
    /// Its address, or `off`. It has no authentication: keep it on loopback.
    pub(crate) listen: String,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    /// What is written: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,gristmill::plugin=debug`.
    pub(crate) level: String,
    /// How: for people on a terminal and JSON lines otherwise, unless it is said. A change needs a restart.
    pub(crate) format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people on a terminal, JSON lines otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// JSON lines.
    Json,
}

/// How changes of files are noticed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WatchConfig {
    /// Whether files are watched at all; SIGHUP reloads in any case.
    pub(crate) enabled: bool,
    /// How long the files must rest before they are read, in milliseconds.
    #[schemars(range(min = 10, max = 60_000))]
    pub(crate) debounce_ms: u64,
    /// How often the folders are looked through where the system gives no notice of changes, in milliseconds.
    #[schemars(range(min = 100, max = 3_600_000))]
    pub(crate) poll_ms: u64,
}

/// Everything that is set, with absolute places.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// The configuration file, be it there or not: one that appears is taken over.
    pub(crate) file: PathBuf,
    /// Whether it is there.
    pub(crate) has_file: bool,
    /// What relative paths in flows are relative to.
    pub(crate) base_dir: PathBuf,
    pub(crate) flows: PathBuf,
    pub(crate) plugins: PathBuf,
    pub(crate) state: PathBuf,
    /// `None` is off.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) log: LogConfig,
    pub(crate) watch: WatchConfig,
    pub(crate) connections: Connections,
}

impl Default for ConfigFile {
    fn default() -> Self {
        Self {
            flows: "flows".into(),
            plugins: "plugins".into(),
            state: ".gristmill".into(),
            admin: AdminConfig::default(),
            log: LogConfig::default(),
            watch: WatchConfig::default(),
            connections: serde_json::Map::new(),
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".into() }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto }
    }
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self { enabled: true, debounce_ms: 200, poll_ms: 2_000 }
    }
}

impl Settings {
    /// Reads the configuration file, if there is one, and lays the command line over it.
    ///
    /// # Errors
    /// All mistakes in the file.
    pub(crate) fn load(places: &Places, admin: Option<&str>) -> Result<Self, Vec<Mistake>> {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let named = places.config.as_ref().map(|file| here.join(file));
        let is_named = named.is_some();
        let file = named.unwrap_or_else(|| here.join(DEFAULT_FILE));
        let has_file = is_named || files::is_there(&file);
        let base_dir = file.parent().map_or_else(|| here.clone(), Path::to_path_buf);
        let mut mistakes = Mistakes::new();
        let (config, node) = if has_file {
            read(&file, &base_dir)?
        } else {
            (ConfigFile::default(), Node::new(Value::Null, Span::nowhere("--admin")))
        };
        let listen = admin.unwrap_or(&config.admin.listen);
        let at = node.at(["admin", "listen"]);
        let admin = address(listen, at, &mut mistakes);
        if let Err(problem) = config.log.level.parse::<tracing_subscriber::EnvFilter>() {
            let mistake = Mistake::new(
                "invalid_value",
                &node.at(["log", "level"]).span,
                format!("no log level: {problem}"),
            );
            mistakes.push(mistake.mend("one of `error`, `warn`, `info`, `debug`, `trace`"));
        }
        let connections = node.get("connections").map_or_else(Connections::default, |at| {
            check_connections(at, &assemble::registry(), &base_dir, &mut mistakes)
        });
        if !mistakes.is_empty() {
            return Err(mistakes.into_sorted());
        }
        // A place from the command line is relative to where the command was typed, one from the file to the file.
        let place = |given: &Option<PathBuf>, configured: &PathBuf| match given {
            Some(given) => here.join(given),
            None => base_dir.join(configured),
        };
        Ok(Self {
            flows: place(&places.flows, &config.flows),
            plugins: place(&places.plugins, &config.plugins),
            state: base_dir.join(&config.state),
            admin,
            log: config.log,
            watch: config.watch,
            connections,
            file,
            has_file,
            base_dir,
        })
    }
}

fn read(file: &Path, base_dir: &Path) -> Result<(ConfigFile, Node), Vec<Mistake>> {
    let name = files::shown(file);
    let text = files::read_plain(file, MAX_FILE_BYTES)
        .map_err(|mistake| vec![mistake.mend("mend that, or name another file with `--config`")])?;
    let mut node = parse(&name, &text)?;
    let mut mistakes = Mistakes::new();
    substitute(&mut node, &ProcessEnvironment::new(base_dir), &mut mistakes);
    match config::parse::<ConfigFile>(&node, &mut mistakes) {
        Some(config) if mistakes.is_empty() => Ok((config, node)),
        _ => Err(mistakes.into_sorted()),
    }
}

/// A file in which nothing is set, or everything is a comment, sets nothing.
fn parse(name: &str, text: &str) -> Result<Node, Vec<Mistake>> {
    let nothing = || Node::new(Value::Map(Vec::new()), Span::nowhere(name));
    match yaml::parse(name, text) {
        Ok(node) if node.value == Value::Null => Ok(nothing()),
        Ok(node) => Ok(node),
        Err(mistakes) if mistakes.iter().all(|mistake| mistake.code == "empty_file") => Ok(nothing()),
        Err(mistakes) => Err(mistakes.into_sorted()),
    }
}

fn address(text: &str, at: &Node, mistakes: &mut Mistakes) -> Option<SocketAddr> {
    if text == "off" {
        return None;
    }
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let problem = format!("`{text}` is no address for the admin listener");
            mistakes.push(
                Mistake::new("invalid_value", &at.span, problem).mend("e.g. `127.0.0.1:9090`, or `off`"),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_defaults() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, block) = page.split_once("\n```yaml\n").unwrap();
        let (block, _) = block.split_once("\n```").unwrap();
        let node = yaml::parse("operating.md", block).unwrap();
        let mut mistakes = Mistakes::new();
        assert_eq!(config::parse::<ConfigFile>(&node, &mut mistakes), Some(ConfigFile::default()));
        assert!(mistakes.is_empty());
    }

    fn load(file: &Path) -> Result<Settings, Vec<Mistake>> {
        let places = Places { config: Some(file.to_path_buf()), flows: None, plugins: None };
        Settings::load(&places, None)
    }

    #[test]
    fn a_file_that_sets_nothing_means_all_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gristmill.yaml");
        for text in ["", "\n", "# admin: { listen: off }\n", "---\n", "{}"] {
            std::fs::write(&file, text).unwrap();
            let settings = load(&file).ok().unwrap();
            assert_eq!(settings.admin, Some(([127, 0, 0, 1], 9090).into()), "{text:?}");
            assert_eq!(settings.flows, dir.path().join("flows"), "{text:?}");
            assert_eq!((settings.log, settings.watch), Default::default(), "{text:?}");
        }
        std::fs::write(&file, "[]").unwrap();
        assert!(load(&file).is_err());
    }

    #[test]
    fn a_named_file_must_be_there() {
        let mistakes = load(Path::new("/nowhere/gristmill.yaml")).err().unwrap();
        assert_eq!(mistakes[0].code, "unreadable_file");
        assert!(mistakes[0].mend.as_deref().unwrap().contains("--config"), "{mistakes:?}");
    }
}
