//! The brokers that the tests talk to: from Debian's packages, never a mock.

use anyhow::{Result, ensure};
use gristmill_brokers::{mosquitto, rabbitmq};

use crate::apt;

/// Makes sure that the brokers are there, installing what is missing. They start no service: the tests start their own.
pub(crate) fn install() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the tests talk to real brokers of their own, and {0} is not here: installing it. Should the system start it as a \
         service, which the tests do not need: systemctl disable --now {1}",
        missing.join(" and "),
        missing.join(" "),
    );
    apt::install(&missing, &why)?;
    let still = self::missing();
    ensure!(still.is_empty(), "{} was installed, and cannot be found", still.join(" and "));
    Ok(())
}

/// The packages that are not here.
fn missing() -> Vec<&'static str> {
    let all = [("rabbitmq-server", rabbitmq::is_installed()), ("mosquitto", mosquitto::is_installed())];
    all.into_iter().filter(|(_, is_there)| !is_there).map(|(package, _)| package).collect()
}
