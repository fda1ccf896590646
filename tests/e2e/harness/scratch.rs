//! A folder as an operator has it: flows, plugins, a configuration, and room for what goes in and out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use gristmill_guests::Guest;
use tempfile::TempDir;

use super::Running;

/// The configuration of the tests: reloads are noticed at once, and free ports are taken.
const CONFIG: &str = "
admin: { listen: 127.0.0.1:0 }
log: { level: info, format: json }
watch: { debounce_ms: 10, poll_ms: 100 }
";

/// A folder, deleted when dropped.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// With a configuration and empty folders `flows` and `plugins`.
    pub(crate) fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        for folder in ["flows", "plugins"] {
            fs::create_dir(scratch.path(folder)).unwrap();
        }
        scratch.save("gristmill.yaml", CONFIG);
        scratch
    }

    /// With one flow, of the name `name`.
    pub(crate) fn with_flow(name: &str, flow: &str) -> Self {
        let scratch = Self::new();
        scratch.flow(name, flow);
        scratch
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Saves a file as careful editors do: whole, by renaming.
    pub(crate) fn save(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        let folder = path.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        let temporary = folder.join(".saving~");
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    /// Saves the configuration with these connections: their names, adapters, and what stands below, in YAML.
    pub(crate) fn connections(&self, connections: &[(&str, &str, &str)]) {
        let line =
            |(name, adapter, keys): &(&str, &str, &str)| format!("  {name}: {{ {adapter}: {keys} }}\n");
        let lines: String = connections.iter().map(line).collect();
        self.save("gristmill.yaml", format!("{CONFIG}connections:\n{lines}"));
    }

    /// Saves `flows/<name>.yaml`.
    pub(crate) fn flow(&self, name: &str, flow: &str) {
        self.save(format!("flows/{name}.yaml"), flow);
    }

    /// Saves `plugins/<name>.wasm`.
    pub(crate) fn plugin(&self, name: &str, guest: &Guest) {
        self.save(format!("plugins/{name}.wasm"), guest.module());
    }

    pub(crate) fn remove(&self, name: impl AsRef<Path>) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Puts each of two in the place of the other, in one step.
    pub(crate) fn exchange(&self, one: &str, other: &str) {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, self.path(one), CWD, self.path(other), RenameFlags::EXCHANGE).unwrap();
    }

    /// The text of a file; empty when there is none.
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The names in a folder, sorted; hidden ones left out.
    pub(crate) fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// The dead letters in a folder.
    pub(crate) fn letters(&self, folder: &str) -> Vec<serde_json::Value> {
        let read = |name: &String| serde_json::from_str(&self.read(format!("{folder}/{name}"))).unwrap();
        self.names(folder).iter().map(read).collect()
    }

    /// The binary, to be run in this folder.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
        command.current_dir(self.0.path()).env_remove("NO_COLOR");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn gristmill(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// `gristmill run`, ready to be asked.
    pub(crate) fn run(&self) -> Running {
        let mut command = self.command();
        command.arg("run");
        Running::start(command)
    }
}
