//! Installs Debian's packages, after saying which and why.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// Installs these packages. `why` is said first, with the command.
///
/// # Errors
/// This is not Debian, or apt-get cannot install them: the text has the command to type by hand.
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    let (command, by_hand) = (command(packages), by_hand(packages));
    ensure!(
        Path::new("/etc/debian_version").is_file(),
        "this is not Debian: {why}: install {}",
        packages.join(", ")
    );
    println!("{why}\n  {by_hand}");
    let run = |words: &[String]| elevated(words).with_context(|| format!("install by hand: {by_hand}"));
    // The lists of packages may be missing or too old, so a failure gets one more try with fresh ones.
    if !run(&command)? {
        run(&["apt-get", "update"].map(String::from))?;
        ensure!(run(&command)?, "apt-get could not install {}", packages.join(", "));
    }
    Ok(())
}

/// The same as a command to type.
pub(crate) fn by_hand(packages: &[&str]) -> String {
    command(packages).join(" ")
}

fn command(packages: &[&str]) -> Vec<String> {
    ["apt-get", "install", "-y", "--no-install-recommends"]
        .iter()
        .chain(packages)
        .map(|word| (*word).to_owned())
        .collect()
}

/// Runs a command as root: by itself, or with sudo, which may ask for a password on a terminal.
fn elevated(command: &[String]) -> Result<bool> {
    let id = Command::new("id").arg("-u").output().context("cannot run id")?;
    let is_root = id.stdout.trim_ascii() == b"0";
    let sudo = ["sudo".to_owned()];
    let mut words = if is_root { command.iter() } else { sudo.iter() };
    let program = words.next().context("an empty command")?;
    let arguments = if is_root { words } else { command.iter() };
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    Ok(status.success())
}
