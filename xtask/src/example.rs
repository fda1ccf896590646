//! `cargo xtask example orders-amqp-mqtt`: starts the brokers that an example needs and its flows on a copy, sends its samples
//! through them, and shows and checks what came out where. Then it is left running for its reader; with `--once` it ends.

use std::{
    fs::File,
    io::{Seek as _, SeekFrom},
    path::Path,
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::Result;
use clap::ValueEnum;
use gristmill_brokers::{mosquitto::Mosquitto, rabbitmq::RabbitMq};

use crate::{
    binary, brokers, plugins,
    story::{
        file,
        mill::{Origin, Place},
        show,
    },
};

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The arguments of `cargo xtask example`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which one.
    name: Example,
    /// End when everything has come out: with 0 when it is right, else with 1.
    #[arg(long)]
    once: bool,
}

/// The examples that need more than the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Example {
    /// Orders over HTTP and AMQP, telemetry over MQTT.
    OrdersAmqpMqtt,
}

impl Example {
    /// Its folder below `examples/`, and below the root while it runs, with `-run` after it.
    fn folder(self) -> &'static str {
        match self {
            Self::OrdersAmqpMqtt => "orders-amqp-mqtt",
        }
    }
}

/// Runs `cargo xtask example`.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    brokers::install()?;
    println!("The plugins and the runtime are built, if they are not yet.");
    plugins::build(root, &plugins::Options::first_party(root)?)?;
    let binary = binary::gristmill(root)?;
    play(root, &binary, arguments.name, arguments.once)
}

/// An example with `--once`, of a binary, plugins and brokers that are there already.
pub(crate) fn play_once(root: &Path, binary: &Path, example: Example) -> Result<()> {
    play(root, binary, example, true)
}

fn play(root: &Path, binary: &Path, example: Example, once: bool) -> Result<()> {
    let folder = root.join("examples").join(example.folder());
    let copy = format!("{}-run", example.folder());
    let stories = file::read_all(&folder.join("flows"))?;
    let interrupted = show::interrupts()?;

    println!("1. Brokers of its own:");
    let (rabbitmq, mosquitto) = (RabbitMq::start(), Mosquitto::start());
    let environment = [("AMQP_URL", rabbitmq.url()), ("MQTT_URL", mosquitto.url())];
    for (name, url) in &environment {
        println!("   {name}={url}");
    }
    let place =
        Place::prepare(&Origin { folder: &folder, plugins: &root.join("plugins") }, &root.join(&copy))?;
    println!("\n2. The flows, started with `gristmill run --admin {}` in {copy}/:", place.admin());
    let environment = environment.each_ref().map(|(name, url)| (*name, url.as_str()));
    let mut mill = show::start(binary, &place, &environment, &interrupted)?;
    println!("3. What went in, as flows/<name>.test.yaml says, and what came out where, in {copy}/:");
    show::play_through(&folder, &place, &mut mill, &stories)?;

    if !once {
        println!(
            "4. It goes on running. Now try:\n\
             \n   curl -i http://{}/orders -H 'content-type: application/json' -d @examples/{}/samples/order-1001.json\
             \n   tail {copy}/out/warehouse/*.jsonl\
             \n\nCtrl-C stops it, and the brokers. The runtime's log follows.\n",
            place.address,
            example.folder(),
        );
        let mut log = File::open(&mill.log)?;
        log.seek(SeekFrom::End(0))?;
        while !interrupted.load(Ordering::Relaxed) {
            if let Err(problem) = mill.check_alive()
                && !interrupted.load(Ordering::Relaxed)
            {
                return Err(problem);
            }
            show::log_lines(&mut log)?;
            std::thread::sleep(LOOK_EVERY);
        }
        println!("\nStopping: the runtime finishes what it has accepted.");
    }
    mill.stop()
}
