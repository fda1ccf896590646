//! The command line. Its texts are what a person learns the program from.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs integration flows: YAML files that wire HTTP, files and more through sandboxed WebAssembly plugins.
///
/// Flows and plugins are replaced while messages are in the air: save a file, and the next message takes the new version. What
/// was accepted is finished by the version that accepted it, and a file with mistakes changes nothing.
#[derive(Debug, Parser)]
#[command(
    name = "gristmill",
    version,
    arg_required_else_help = true,
    after_help = "A first flow:\n  gristmill new flow hello       writes flows/hello.yaml\n  gristmill validate             finds every mistake before it runs\n  gristmill run                  runs it, and reloads it when you save it"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The texts of most commands stand at their arguments: a text here would hide those.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArguments),
    Validate(ValidateArguments),
    /// Look at plugins.
    #[command(
        subcommand,
        after_help = "Example:\n  gristmill plugin inspect plugins/json-map.wasm      shows what it is and what it needs"
    )]
    Plugin(PluginCommand),
    Schema(SchemaArguments),
    /// Begin a flow or a plugin.
    #[command(
        subcommand,
        after_help = "Examples:\n  gristmill new flow orders           writes flows/orders.yaml\n  gristmill new plugin normaliser     writes the folder normaliser, with the SDK in it"
    )]
    New(NewCommand),
}

/// Where things are. What is given here wins over the configuration file.
#[derive(Debug, Args, Clone)]
pub(crate) struct Places {
    /// The configuration file [default: gristmill.yaml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The folder of flow files [default: flows]
    #[arg(long, value_name = "DIR")]
    pub(crate) flows: Option<PathBuf>,
    /// The folder of plugins [default: plugins]
    #[arg(long, value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
    /// Address of the admin listener, or `off`; wins over `admin.listen` [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<String>,
}

/// Run the flows of a folder, and reload them when they change.
///
/// SIGHUP reloads at once. SIGTERM and Ctrl-C stop taking messages, finish those that were accepted, and exit with 0; a second
/// one exits at once. The log is for people on a terminal and JSON lines otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gristmill run                                    runs flows/ with plugins/, as gristmill.yaml says
  gristmill run --flows etc/flows --admin off      runs another folder, without health and metrics
  kill -HUP PID                                    reloads what is not watched

Exit codes:
  0  stopped by a signal: what was accepted is finished, or released at the drain limit
  1  could not start, or was stopped at once by a second signal; the reason is on standard error
  2  the command line cannot be understood")]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) places: Places,
}

/// Find every mistake in flows, without running them.
///
/// Shows all mistakes at once, each with file, line, column and the mend. Exits with 1 when there is one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gristmill validate                                all flows
  gristmill validate flows/orders.yaml              one of them
  gristmill validate --format json                  for an editor or a build

Exit codes:
  0  there is no mistake
  1  there is one, or the flows cannot be read
  2  the command line cannot be understood")]
pub(crate) struct ValidateArguments {
    #[command(flatten)]
    pub(crate) places: Places,
    /// How to show mistakes
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Flow files or folders [default: the folder of flow files]
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Human,
    /// One JSON document on standard output, for tools
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    Inspect(InspectArguments),
}

/// Show what a plugin is, wants, imports, needs granted, and its configuration's schema.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gristmill plugin inspect plugins/json-map.wasm
  gristmill plugin inspect --format json plugins/json-map.wasm | jq .description.config_schema

Exit codes:
  0  it is a plugin
  1  it is none, or cannot be read; with `--format json` the document then is {\"error\": \"…\"}
  2  the command line cannot be understood")]
pub(crate) struct InspectArguments {
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// The plugin's file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// Print the JSON Schema of flow files, for editors.
///
/// E.g. `gristmill schema > flow.schema.json`, and in a flow file the first line
/// `# yaml-language-server: $schema=../flow.schema.json`.
#[derive(Debug, Args)]
pub(crate) struct SchemaArguments {
    /// The schema of the configuration file (gristmill.yaml) instead
    #[arg(long)]
    pub(crate) config: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NewCommand {
    /// Write a flow that runs at once, to change.
    Flow(NewFlowArguments),
    /// Write a plugin in Rust that builds and passes its test at once, to change.
    Plugin(NewPluginArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  gristmill new flow orders && gristmill run
  curl -i -d '{\"name\":\"Ada\"}' http://127.0.0.1:8080/orders")]
pub(crate) struct NewFlowArguments {
    /// Its id: lower-case letters, digits, `-` and `_`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The folder to write it to
    #[arg(long, value_name = "DIR", default_value = "flows")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  gristmill new plugin normaliser
  cd normaliser && cargo test && cargo build --release --target wasm32-wasip2
  cp target/wasm32-wasip2/release/normaliser.wasm ../plugins/")]
pub(crate) struct NewPluginArguments {
    /// Its name: lower-case letters, digits and `-`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The folder in which a folder of its name is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
}
