//! `cargo xtask instructions`: counts the instructions of a plugin call and of a delivery, and holds them against what they
//! were. A count is the same on a busy machine as on an idle one, so unlike a time it can be a condition for a merge.
//!
//! The counting is gungraun's, over callgrind; what is counted is in `tests/mill/benches/instructions.rs`.

mod limits;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::limits::{Count, Limits, Verdict, grouped};
use crate::{apt, bench, binary, cargo, plugins};

/// The arguments of `cargo xtask instructions`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Takes the counts of this run as the new limits, and writes them to `tests/mill/instructions.txt`.
    #[arg(long)]
    accept: bool,
}

/// Where the limits are.
const LIMITS: &str = "tests/mill/instructions.txt";

/// The package and its bench target.
const PACKAGE: &str = "gristmill-mill";
const BENCH: &str = "instructions";

/// The profile of the workspace with which it is built.
const PROFILE: &str = "instructions";

/// The group of gungraun in which everything is.
const GROUP: &str = "all";

/// How many calls or deliveries a count is the mean of.
const COUNTED: u64 = 500;

const LIBRARY: &str = "gungraun";
const RUNNER: &str = "gungraun-runner";

/// Runs `cargo xtask instructions`.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let target = plugins::target_folder(root)?;
    valgrind()?;
    let tools = runner(root, &target)?;
    // As it is released, all that is counted: what an optimiser has not seen says little of what is run.
    let bench = binary::build_target(
        root,
        &["build", "--profile", PROFILE, "--package", PACKAGE, "--bench", BENCH],
        BENCH,
        "bench",
    )?;
    let plugins = bench::guests(root, target.join(PROFILE).join("bench-plugins"))?;
    let counts = count(root, &target, &tools, &bench, &plugins)?;

    let file = root.join(LIMITS);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {LIMITS}"))?;
    let limits = Limits::parse(&text).with_context(|| format!("{LIMITS} is not as it should be"))?;
    let compiler = compiler()?;
    let verdicts = limits.judge(&counts);
    println!("{}", limits::table(&verdicts));
    if arguments.accept {
        fs::write(&file, limits::accept(&text, &counts, &compiler))
            .with_context(|| format!("cannot write {LIMITS}"))?;
        println!("these are the limits now, in {LIMITS}; if one was raised, the commit has to say why");
        return Ok(());
    }
    for verdict in &verdicts {
        if let Verdict::Less { name, counted, limit, .. } = verdict {
            println!(
                "{name} has become less, from {} to {} instructions: `cargo xtask instructions --accept` keeps it so",
                grouped(*limit),
                grouped(*counted)
            );
        }
    }
    let problems: Vec<_> = verdicts.iter().filter_map(Verdict::problem).collect();
    if problems.is_empty() {
        return Ok(());
    }
    let other_compiler = match limits.compiler.as_deref() {
        Some(of_limits) if of_limits != compiler => format!(
            "\nThe limits were counted with {of_limits}, and this is {compiler}: count the commit before with this one, to see \
             which of the two it is."
        ),
        _ => String::new(),
    };
    bail!(
        "{}\nWhere they are spent: callgrind_annotate --inclusive=yes {}/FUNCTION.ID/callgrind.FUNCTION.ID.t1.p1.out, here and \
         before the change.\nIf the change is worth them: `cargo xtask instructions --accept` writes the counts to {LIMITS}, \
         and the commit says why.{other_compiler}",
        problems.join("\n"),
        target.join(LIBRARY).join(PACKAGE).join(BENCH).join(GROUP).display(),
    )
}

/// Runs the bench under callgrind.
fn count(root: &Path, target: &Path, tools: &Path, bench: &Path, plugins: &Path) -> Result<Vec<Count>> {
    let output = Command::new(bench)
        .args(["--bench", "--output-format=json", "--nocapture=stderr"])
        .current_dir(root.join("tests/mill"))
        .env("PATH", before_path(tools)?)
        .env("CARGO", cargo())
        // Names the folder of what callgrind leaves; otherwise it would be the package of whoever calls.
        .env("CARGO_PKG_NAME", PACKAGE)
        .env("GUNGRAUN_HOME", target.join(LIBRARY))
        .env("GRISTMILL_BENCH_PLUGINS", plugins)
        .env("GRISTMILL_BENCH_COUNTED", COUNTED.to_string())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", bench.display()))?;
    ensure!(output.status.success(), "counting failed, see above");
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let counts = lines.map(|line| {
        let summary: Value = serde_json::from_slice(line).context("gungraun wrote what is not JSON")?;
        counted(&summary).with_context(|| format!("no count in what gungraun wrote: {summary}"))
    });
    counts.collect()
}

/// The count of one summary of gungraun.
fn counted(summary: &Value) -> Option<Count> {
    let text = |key: &str| summary.get(key)?.as_str();
    let profiles = summary.get("profiles")?.as_array()?;
    let callgrind =
        profiles.iter().find(|profile| profile.get("tool").is_some_and(|tool| tool == "Callgrind"))?;
    // Of this run, without the one before that gungraun has kept.
    let values = callgrind.pointer("/data/total/metrics/Ir/values")?;
    let new = values.get("new")?.as_u64()?;
    Some(Count { name: format!("{}/{}", text("function_name")?, text("id")?), instructions: new / COUNTED })
}

/// The compiler, as it names itself.
fn compiler() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().context("cannot run rustc")?;
    let version = String::from_utf8(output.stdout).context("the version of rustc is not text")?;
    // Without the commit and its date.
    Ok(version.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

// === tools ===

fn valgrind() -> Result<()> {
    let is_there = || {
        let output = Command::new("valgrind").arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    };
    if !is_there() {
        apt::install(
            &["valgrind"],
            "instructions are counted by valgrind, which is not here: installing it",
        )?;
        ensure!(is_there(), "valgrind was installed, and cannot be run");
    }
    Ok(())
}

/// Makes sure that the runner is there, of the version of the library; another one would refuse. Gives its folder.
fn runner(root: &Path, target: &Path) -> Result<PathBuf> {
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let version = locked_version(&lock, LIBRARY).with_context(|| format!("Cargo.lock has no {LIBRARY}"))?;
    let tools = target.join("tools");
    let is_there = || {
        let output = Command::new(tools.join("bin").join(RUNNER)).arg("--version").output();
        output.is_ok_and(|it| it.status.success() && it.stdout.trim_ascii().ends_with(version.as_bytes()))
    };
    if !is_there() {
        println!(
            "{RUNNER} {version} is not here: installing it below {}, which takes minutes, once",
            tools.display()
        );
        // A folder that is there would be shared with the workspace, whose crates have other features.
        let build = tools.join("build");
        let installed = Command::new(cargo())
            // It only starts valgrind and adds up a file, so it need not be fast.
            .args(["install", "--locked", "--debug", "--version", &format!("={version}"), "--root"])
            .arg(&tools)
            .arg(RUNNER)
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .env("CARGO_TARGET_DIR", &build)
            .status()
            .context("cannot run cargo")?;
        ensure!(installed.success() && is_there(), "{RUNNER} {version} cannot be installed, see above");
        // Hundreds of megabytes that nothing reads again.
        fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    }
    Ok(tools.join("bin"))
}

/// The version of a package that the workspace has once.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("\nname = \"{package}\"\nversion = \""))?;
    rest.split_once('"').map(|(version, _)| version)
}

fn before_path(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_owned()].into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).context("the folder of the tools cannot be in PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_is_of_the_version_of_the_library() {
        let lock = "\n[[package]]\nname = \"gungraun-common\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"gungraun\"\nversion \
                    = \"0.20.0\"\nsource = \"registry\"\n";
        assert_eq!(locked_version(lock, LIBRARY), Some("0.20.0"));
        assert_eq!(locked_version(lock, RUNNER), None);
    }
}
