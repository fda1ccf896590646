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
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the tests talk to real brokers of their own and let a clock jump, and {} is not here: installing it. Should the \
         system start a broker as a service, which the tests do not need: systemctl disable --now rabbitmq-server mosquitto",
        missing.join(" and "),
    );
    apt::install(&missing, &why)?;
    let still = self::missing();
    ensure!(still.is_empty(), "{} was installed, and cannot be found", still.join(" and "));
    Ok(())
}

fn missing() -> Vec<&'static str> {
    PACKAGES.iter().filter(|(_, is_there)| !is_there()).map(|(package, _)| *package).collect()
}

/// Debian has it in a folder of the machine's architecture.
fn has_a_clock_that_jumps() -> bool {
    let folders = std::fs::read_dir(Path::new("/usr/lib")).into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).any(|library| library.is_file())
}
