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

use crate::{assemble, cli::Places, files, telemetry::log};

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
    /// The folder for what has to survive a restart: how far followed files have been read, topics that are subscribed, compiled plugins. A change needs a restart.
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
    /// What is written: `off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,gristmill::plugin=debug`.
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

/// The configuration as far as it is right: defaults stand for what is wrong.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) settings: Settings,
    /// What is wrong.
    pub(crate) mistakes: Vec<Mistake>,
    /// Whether the folder of flows is the one that is meant: what is wrong may have named another.
    pub(crate) knows_flows: bool,
}

impl Settings {
    /// Reads the configuration file, if there is one, and lays the command line over it.
    ///
    /// # Errors
    /// All mistakes.
    pub(crate) fn load(places: &Places) -> Result<Self, Vec<Mistake>> {
        let Found { settings, mistakes, .. } = Self::find(places);
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }

    /// The same, as far as it is right.
    pub(crate) fn find(places: &Places) -> Found {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let named = places.config.as_ref().map(|file| here.join(file));
        let is_named = named.is_some();
        let file = named.unwrap_or_else(|| here.join(DEFAULT_FILE));
        let has_file = is_named || files::is_there(&file);
        let base_dir = file.parent().map_or_else(|| here.clone(), Path::to_path_buf);
        let mut mistakes = Mistakes::new();
        let mut written = if has_file { read(&file, &mut mistakes) } else { None };
        let is_read = written.is_some() || !has_file;
        let was = written.as_ref().and_then(|node| node.get("flows")).map(|flows| flows.span.clone());
        let unresolved = written.as_mut().map(|node| resolve(node, &base_dir)).unwrap_or_default();
        let node = written.unwrap_or_else(|| nothing(&files::shown(&file)));
        let mut config: ConfigFile = config::parse(&node, &mut mistakes).unwrap_or_default();
        let configured = address(&config.admin.listen, node.at(["admin", "listen"]), &mut mistakes);
        let admin = match &places.admin {
            Some(text) => {
                let at = Node::new(Value::Null, Span::nowhere("--admin"));
                address(text, &at, &mut mistakes)
            }
            None => configured,
        };
        if let Err(unfit) = log::check_level(&config.log.level) {
            let at = node.at(["log", "level"]);
            let text = if at.is_substituted() { "this is no log level".to_owned() } else { unfit.text };
            mistakes.push(Mistake::new("invalid_value", &at.span, text).mend(unfit.mend));
            config.log.level = LogConfig::default().level;
        }
        let connections = match node.get("connections") {
            _ if !is_read => Connections::unread(),
            None => Connections::default(),
            Some(at) => {
                let mut found = Mistakes::new();
                let connections = check_connections(at, &assemble::registry(), &base_dir, &mut found);
                // A value that is not there fits nothing; that it does not is no mistake of its own.
                let follows = |mistake: &Mistake| unresolved.iter().any(|it| it.span == mistake.span);
                found.iter().filter(|it| !follows(it)).for_each(|it| mistakes.push(it.clone()));
                connections
            }
        };
        mistakes.extend(unresolved);
        let mistakes = mistakes.into_sorted();
        let is_wrong = was.is_some_and(|was| mistakes.iter().any(|mistake| mistake.span == was));
        let is_misspelt = mistakes.iter().any(|mistake| {
            mistake.code == "unknown_key" && mistake.mend.as_deref().is_some_and(|m| m.contains("`flows`"))
        });
        let knows_flows = places.flows.is_some() || is_read && !is_wrong && !is_misspelt;
        // A place from the command line is relative to where the command was typed, one from the file to the file.
        let place = |given: &Option<PathBuf>, configured: &PathBuf| match given {
            Some(given) => here.join(given),
            None => base_dir.join(configured),
        };
        let settings = Self {
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
        };
        Found { settings, mistakes, knows_flows }
    }
}

/// The file as it is written. `None` when nothing of it can be read.
fn read(file: &Path, mistakes: &mut Mistakes) -> Option<Node> {
    let name = files::shown(file);
    let text = files::read_plain(file, MAX_FILE_BYTES)
        .map_err(|mistake| mistakes.push(mistake.mend("mend that, or name another file with `--config`")))
        .ok()?;
    let (node, wrong) = yaml::read(&name, &text);
    // A file in which nothing is set, or everything is a comment, sets nothing.
    if wrong.iter().any(|mistake| mistake.code == "empty_file") {
        return Some(nothing(&name));
    }
    mistakes.extend(wrong);
    node.map(|node| if node.value == Value::Null { nothing(&name) } else { node })
}

/// Puts values from outside in, and gives what is wrong with them. Keys whose value is not there are taken out: defaults
/// stand for them. Connections have few of those, and keep an empty text.
fn resolve(node: &mut Node, base_dir: &Path) -> Mistakes {
    let mut unresolved = Mistakes::new();
    substitute(node, &ProcessEnvironment::new(base_dir), &mut unresolved);
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|entry| !unresolved.iter().any(|mistake| mistake.span == entry.value.span));
        for entry in entries.iter_mut().filter(|entry| entry.key != "connections") {
            unresolved.iter().for_each(|mistake| take_out(&mut entry.value, &mistake.span));
        }
    }
    unresolved
}

fn nothing(name: &str) -> Node {
    Node::new(Value::Map(Vec::new()), Span::nowhere(name))
}

/// Takes the keys out whose value this is.
fn take_out(node: &mut Node, wrong: &Span) {
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|entry| entry.value.span != *wrong);
        entries.iter_mut().for_each(|entry| take_out(&mut entry.value, wrong));
    }
}

fn address(text: &str, at: &Node, mistakes: &mut Mistakes) -> Option<SocketAddr> {
    if text == "off" {
        return None;
    }
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let problem = match at.is_substituted() {
                true => "this is no address for the admin listener".to_owned(),
                false => format!("`{text}` is no address for the admin listener"),
            };
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

    fn places(file: &Path) -> Places {
        Places { config: Some(file.to_path_buf()), flows: None, plugins: None, admin: None }
    }

    fn load(file: &Path) -> Result<Settings, Vec<Mistake>> {
        Settings::load(&places(file))
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
    /// What is found in a file of this text: what is wrong, with line and column, and the rest.
    fn found(text: &str) -> (Vec<String>, Found) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gristmill.yaml");
        std::fs::write(&file, text).unwrap();
        let found = Settings::find(&places(&file));
        let wrong = |m: &Mistake| {
            format!("{}:{} {} -> {}", m.span.line, m.span.column, m.text, m.mend.as_deref().unwrap())
        };
        (found.mistakes.iter().map(wrong).collect(), found)
    }

    #[test]
    fn a_misspelt_level_is_a_mistake_and_no_filter() {
        let wrong = |level: &str| found(&format!("log: {{ level: \"{level}\" }}")).0;
        let words = "write one of `off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter such as \
                     `info,gristmill::plugin=debug`";
        for good in
            ["warn", "INFO", "off", "info,gristmill::plugin=debug", "gristmill=debug, info", "[load]=trace"]
        {
            assert_eq!(wrong(good), [""; 0], "{good}");
        }
        assert_eq!(wrong("wrn"), ["1:15 `wrn` is no log level -> did you mean `warn`?"]);
        assert_eq!(wrong("lud"), [format!("1:15 `lud` is no log level -> {words}")]);
        assert_eq!(wrong(""), [format!("1:15 the log level is empty -> {words}")]);
        assert_eq!(wrong("info,,"), [format!("1:15 the log level is empty -> {words}")]);
        assert_eq!(wrong("info,gristmill=dbug"), ["1:15 `dbug` is no log level -> did you mean `debug`?"]);
        assert_eq!(wrong("info,gristmill"), [format!("1:15 `gristmill` is no log level -> {words}")]);
    }

    #[test]
    fn all_mistakes_are_found_and_the_rest_is_kept() {
        let (wrong, found) = found(
            "plugins: ext\nadmin: { listen: 9090 }\nlog: { level: lud, format: loud }\nwatch: { debounce_ms: 0 }\n\
             state: ${env:GRISTMILL_TEST_NOWHERE}\n",
        );
        let places: Vec<&str> = wrong.iter().filter_map(|text| text.split(' ').next()).collect();
        assert_eq!(places, ["2:18", "3:15", "3:28", "4:23", "5:8"], "{wrong:#?}");
        let settings = found.settings;
        assert!(found.knows_flows && settings.plugins.ends_with("ext") && settings.flows.ends_with("flows"));
        assert_eq!((settings.log, settings.watch), Default::default());
        assert!(settings.state.ends_with(".gristmill"));
    }

    #[test]
    fn a_connection_that_is_defined_and_wrong_is_known_to_be_there() {
        let (wrong, found) = found(
            "connections:\n  one: { amqp: { urls: ['${env:GRISTMILL_TEST_NOWHERE}'] } }\n  two: { ampq: {} }\n",
        );
        assert_eq!(wrong.len(), 2, "{wrong:#?}");
        assert!(wrong[0].contains("is not set") && wrong[1].contains("did you mean `amqp`"), "{wrong:#?}");
        let connections = found.settings.connections;
        let is_there = |name: &str| connections.get(name).is_some() || connections.is_broken(name);
        assert!(is_there("one") && is_there("two") && !is_there("three"));
        assert!(self::found("connections: [").1.settings.connections.is_broken("any"));
    }

    #[test]
    fn an_address_for_admin_is_checked_wherever_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gristmill.yaml");
        std::fs::write(&file, "admin: { listen: nowhere }\n").unwrap();
        let mistakes = Settings::find(&Places { admin: Some("here".into()), ..places(&file) }).mistakes;
        let at: Vec<(bool, &str)> = mistakes.iter().map(|m| (&*m.span.file == "--admin", m.code)).collect();
        assert_eq!(at, [(true, "invalid_value"), (false, "invalid_value")], "{mistakes:?}");
    }

    #[test]
    fn that_the_folder_of_flows_is_not_known_is_known() {
        for (text, expected) in [
            ("flows: 5", false),
            ("flwos: etc", false),
            ("flows: ${env:GRISTMILL_TEST_NOWHERE}", false),
            ("flows: [", false),
            ("lgo: {}", true),
        ] {
            let (wrong, found) = found(text);
            assert_eq!((wrong.len(), found.knows_flows), (1, expected), "{text}: {wrong:?}");
        }
    }
}
