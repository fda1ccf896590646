//! What the tests need from Debian's packages: the brokers that they talk to, never a mock, and the library that lets the
//! clock of one process jump.

use std::path::Path;

use anyhow::{Result, ensure};
use gristmill_brokers::{mosquitto, rabbitmq};

use crate::apt;

/// A package, and how one sees that it is installed.
type Package = (&'static str, fn() -> bool);

const PACKAGES: [Package; 3] = [
    ("rabbitmq-server", rabbitmq::is_installed),
    ("mosquitto", mosquitto::is_installed),
    ("libfaketime", has_a_clock_that_jumps),
];

/// Makes sure that all of it is there, installing what is missing. The brokers start no service: the tests start their own.
pub(crate) fn install() -> Result<()> {
    let [rabbitmq, mosquitto, clock] = PACKAGES;
    install_all(
        &[rabbitmq, mosquitto, clock],
        "the tests talk to real brokers of their own and let a clock jump",
    )
}

/// Makes sure that the brokers alone are there, as [`install`] does.
pub(crate) fn install_brokers() -> Result<()> {
    let [rabbitmq, mosquitto, _] = PACKAGES;
    install_all(&[rabbitmq, mosquitto], "the bench talks to real brokers of its own")
}

fn install_all(packages: &[Package], what_for: &str) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "{what_for}, and {} is not here: installing it. Should the system start a broker as a service, which nothing here \
         needs: systemctl disable --now rabbitmq-server mosquitto",
        missing.join(" and "),
    );
    apt::install(&missing, &why)?;
    let still = self::missing(packages);
    ensure!(still.is_empty(), "{} was installed, and cannot be found", still.join(" and "));
    Ok(())
}

fn missing(packages: &[Package]) -> Vec<&'static str> {
    packages.iter().filter(|(_, is_there)| !is_there()).map(|(package, _)| *package).collect()
}

/// Debian has it in a folder of the machine's architecture.
fn has_a_clock_that_jumps() -> bool {
    let folders = std::fs::read_dir(Path::new("/usr/lib")).into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).any(|library| library.is_file())
}
