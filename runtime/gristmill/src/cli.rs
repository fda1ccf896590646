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
    #[command(subcommand)]
    Plugin(PluginCommand),
    Schema(SchemaArguments),
    /// Begin a flow or a plugin.
    #[command(subcommand)]
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
}

/// Run the flows of a folder, and reload them when they change.
///
/// SIGHUP reloads at once. SIGTERM and Ctrl-C stop taking messages, finish those that were accepted, and exit with 0; a second
/// one exits at once. The log is for people on a terminal and JSON lines otherwise.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) places: Places,
    /// Address of the admin listener, or `off`; wins over `admin.listen` [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<String>,
}

/// Find every mistake in flows, without running them.
///
/// Shows all mistakes at once, each with file, line, column and the mend. Exits with 1 when there is one.
#[derive(Debug, Args)]
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
    /// With the place in the file and a caret, for people
    Human,
    /// One JSON document, for tools
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    Inspect(InspectArguments),
}

/// Show what a plugin is, wants, imports, needs granted, and its configuration's schema.
#[derive(Debug, Args)]
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
pub(crate) struct NewFlowArguments {
    /// Its id: lower-case letters, digits, `-` and `_`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The folder to write it to
    #[arg(long, value_name = "DIR", default_value = "flows")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct NewPluginArguments {
    /// Its name: lower-case letters, digits and `-`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The folder in which a folder of its name is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
}
