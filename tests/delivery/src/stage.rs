//! Where a scenario plays: its folder, the runtime, the proxies and the receivers, and the hands that break and mend them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use gristmill_brokers::free_port;

use crate::{
    brokers::Brokers,
    disk::Disk,
    endpoint::{
        Kind, Work, amqp, file,
        http::{self, Manner},
        mqtt,
    },
    feed::Feed,
    ledger::Ledger,
    plugins::{self, Plugin},
    proxy::Proxy,
    runtime::{Runtime, fake_clock},
    schedule::{End, Fault, Means},
    spec::{Addresses, Spec, Variant},
};

/// How many messages a feeder has unconfirmed at a broker. One where every order is checked: a broker that is killed may
/// forget what it has not confirmed, in no order.
const WINDOW: usize = 50;

/// A scenario's surroundings.
pub struct Stage<'a> {
    /// What is played.
    pub spec: Spec,
    /// What follows from its seed.
    pub variant: Variant,
    /// The book.
    pub ledger: Arc<Ledger>,
    /// The runtime under test.
    pub runtime: Runtime,
    /// What can be broken here.
    pub means: Means,
    /// Why a disk cannot be filled, when it could matter.
    pub no_disk: Option<String>,
    brokers: &'a Brokers,
    folder: PathBuf,
    addresses: Addresses,
    source: Option<Proxy>,
    sinks: Vec<Sink>,
    disk: Option<Arc<Disk>>,
    edition: AtomicU64,
    connections: AtomicU64,
}

/// A sink with what stands before and behind it.
struct Sink {
    proxy: Option<Proxy>,
    collector: Collector,
}

enum Collector {
    Http(http::Receiver),
    File(file::Reader),
    Amqp(amqp::Consumer),
    Mqtt(mqtt::Receiver),
}

impl<'a> Stage<'a> {
    /// Sets everything up, and starts the runtime.
    ///
    /// # Errors
    /// Something of it cannot be had.
    pub fn set_up(spec: &Spec, binary: &Path, folder: &Path, brokers: &'a Brokers) -> Result<Self> {
        let variant = spec.variant();
        let ledger = Arc::new(Ledger::new(crate::message::Messages::new(spec.seed), spec.sinks.len()));
        for name in ["flows", "plugins", "in", "dead", "little"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let (mut disk, mut no_disk) = (None, None);
        if spec.sinks.contains(&Kind::File) {
            match Disk::mount(&folder.join("little")) {
                Ok(mounted) => disk = Some(Arc::new(mounted)),
                Err(error) => no_disk = Some(format!("{error:#}")),
            }
        }
        let little = disk.as_ref().map_or_else(|| folder.join("little"), |disk| disk.path().to_owned());
        let source = match spec.source {
            Kind::Http | Kind::File => None,
            Kind::Amqp => Some(brokers.rabbitmq().address()),
            Kind::Mqtt => Some(brokers.mosquitto().address()),
        };
        let listen = (std::net::Ipv4Addr::LOCALHOST, free_port()?).into();
        let source = match (spec.source, source) {
            (Kind::Http, _) => Some(Proxy::start(listen)?),
            (_, Some(broker)) => Some(Proxy::start(broker)?),
            (_, None) => None,
        };
        let mut sinks = Vec::new();
        for (at, kind) in spec.sinks.iter().enumerate() {
            sinks.push(Sink::set_up(spec, variant, at, *kind, &ledger, &little, brokers)?);
        }
        if spec.source == Kind::Amqp {
            amqp::declare(&brokers.rabbitmq().url(), &[&spec.name("in")])?;
        }
        let addresses = Addresses {
            admin: (std::net::Ipv4Addr::LOCALHOST, free_port()?).into(),
            listen,
            source: source.as_ref().map(Proxy::address).filter(|_| spec.source != Kind::Http),
            sinks: sinks.iter().map(|sink| sink.proxy.as_ref().map(Proxy::address)).collect(),
        };
        let means = Means { disk: disk.is_some(), clock: fake_clock().is_some() };
        let runtime = Runtime::new(binary, folder, addresses.admin, disk.clone(), means.clock);
        let stage = Self {
            spec: spec.clone(),
            variant,
            ledger,
            runtime,
            means,
            no_disk,
            brokers,
            folder: folder.to_owned(),
            addresses,
            source,
            sinks,
            disk,
            edition: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        };
        stage.runtime.set_clock(0)?;
        stage.save_flow()?;
        stage.save("gristmill.yaml", stage.spec.configuration(&stage.addresses, 0))?;
        stage.save("plugins/mark.wasm", Plugin::First.wasm())?;
        stage.save("plugins/both.wasm", plugins::both())?;
        stage.runtime.start()?;
        stage.runtime.wait_until_ready()?;
        Ok(stage)
    }

    /// Starts who sends.
    pub fn feed(&self, feed: &Arc<Feed>) -> Vec<Work> {
        let window = if self.variant.strict { 1 } else { WINDOW };
        match self.spec.source {
            Kind::Http => {
                let address = self.source.as_ref().map_or(self.addresses.listen, Proxy::address);
                http::feed(feed, address)
            }
            Kind::File => {
                let dice = crate::dice::Dice::new(self.spec.seed).branch("files");
                file::feed(feed, self.folder.join("in"), self.variant.taken, dice)
            }
            Kind::Amqp => amqp::feed(feed, self.brokers.rabbitmq().url(), self.spec.name("in"), window),
            Kind::Mqtt => {
                let (address, topic) = (self.brokers.mosquitto().address(), self.spec.name("in"));
                mqtt::feed(feed, address, topic, self.variant.source_qos, window)
            }
        }
    }

    /// How many messages still wait in the queues of the scenario.
    ///
    /// # Errors
    /// The broker cannot be asked.
    pub fn waiting(&self) -> Result<u32> {
        let mut waiting = 0;
        if self.spec.source == Kind::Amqp {
            waiting += amqp::waiting(&self.brokers.rabbitmq().url(), &self.spec.name("in"))?;
        }
        for (at, kind) in self.spec.sinks.iter().enumerate() {
            if *kind == Kind::Amqp {
                waiting +=
                    amqp::waiting(&self.brokers.rabbitmq().url(), &self.spec.name(&format!("out{at}")))?;
            }
        }
        Ok(waiting)
    }

    /// The folder of the dead letters.
    pub fn dead(&self) -> PathBuf {
        self.folder.join("dead")
    }

    /// Ends who receives, after a last look.
    ///
    /// # Errors
    /// One of them has failed.
    pub fn finish(self) -> Result<()> {
        for sink in self.sinks {
            match sink.collector {
                Collector::Http(receiver) => drop(receiver),
                Collector::File(reader) => reader.finish()?,
                Collector::Amqp(consumer) => consumer.finish()?,
                Collector::Mqtt(receiver) => receiver.finish()?,
            }
        }
        Ok(())
    }

    /// Breaks something for so long, and mends it.
    ///
    /// # Errors
    /// It cannot be broken, or not be mended.
    pub fn strike(&self, fault: Fault, lasts: Duration) -> Result<()> {
        let noted = self.ledger.broken(fault.name(), fault.repeats(self.spec.sinks.len()));
        let done = self.hit(fault, lasts).with_context(|| format!("the fault `{}`", fault.name()));
        self.ledger.mended(noted);
        done
    }

    fn hit(&self, fault: Fault, lasts: Duration) -> Result<()> {
        let wait = || thread::sleep(lasts);
        match fault {
            Fault::Kill => {
                self.runtime.kill()?;
                wait();
                self.runtime.start()?;
            }
            Fault::Term => {
                self.runtime.terminate()?;
                wait();
                self.runtime.start()?;
            }
            Fault::RabbitKill => {
                let mut broker = self.brokers.rabbitmq();
                broker.kill();
                wait();
                broker.restart();
            }
            Fault::RabbitFreeze => {
                let broker = self.brokers.rabbitmq();
                broker.suspend();
                wait();
                broker.resume();
            }
            Fault::RabbitAlarm => {
                let broker = self.brokers.rabbitmq();
                broker.memory_alarm(true);
                wait();
                broker.memory_alarm(false);
            }
            Fault::MosquittoRestart => {
                let mut broker = self.brokers.mosquitto();
                broker.stop();
                wait();
                broker.start_again();
            }
            Fault::MosquittoFreeze => {
                let broker = self.brokers.mosquitto();
                broker.freeze();
                wait();
                broker.thaw();
            }
            Fault::Cut(end) => self.proxy(end, Proxy::cut),
            Fault::Half(end) => self.proxy_for(end, lasts, Proxy::halve),
            Fault::Delay(end, milliseconds) => {
                self.proxy_for(end, lasts, |proxy| proxy.delay(Duration::from_millis(milliseconds)));
            }
            Fault::Stall(end) => self.proxy_for(end, lasts, |proxy| proxy.stall(true)),
            Fault::Gone(end) => self.proxy_for(end, lasts, |proxy| proxy.refuse(true)),
            Fault::Refuses(sink) => self.receiver_for(sink, lasts, Manner::Refuses),
            Fault::Silent(sink) => self.receiver_for(sink, lasts, Manner::Silent),
            Fault::DiskFull => {
                if let Some(disk) = &self.disk {
                    disk.fill()?;
                    wait();
                    disk.make_room();
                }
            }
            Fault::Plugin(plugin) => {
                self.save("plugins/mark.wasm", plugin.wasm())?;
                wait();
                self.save("plugins/mark.wasm", Plugin::First.wasm())?;
            }
            Fault::BrokenPlugin => {
                self.save("plugins/mark.wasm", b"\0asm, but no more")?;
                wait();
                self.save("plugins/mark.wasm", Plugin::First.wasm())?;
            }
            Fault::NewPlugin => {
                let file = self.folder.join("plugins/mark.wasm");
                let is_first = fs::read(file)? == Plugin::First.wasm();
                let other = if is_first { Plugin::Second } else { Plugin::First };
                self.save("plugins/mark.wasm", other.wasm())?;
            }
            Fault::NewFlow => {
                self.edition.fetch_add(1, Ordering::Relaxed);
                self.save_flow()?;
            }
            Fault::BrokenFlow => {
                self.save("flows/bench.yaml", "flow: bench\nsource: { nothing: {} }\nsteps: [")?;
                wait();
                self.save_flow()?;
            }
            Fault::NewConnections => {
                let edition = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
                self.save("gristmill.yaml", self.spec.configuration(&self.addresses, edition))?;
            }
            Fault::HangUp => self.runtime.hang_up()?,
            Fault::Clock(seconds) => self.runtime.set_clock(seconds)?,
        }
        Ok(())
    }

    fn proxy(&self, end: End, act: impl FnOnce(&Proxy)) {
        let proxy = match end {
            End::Source => self.source.as_ref(),
            End::Sink(at) => self.sinks.get(at).and_then(|sink| sink.proxy.as_ref()),
        };
        if let Some(proxy) = proxy {
            act(proxy);
        }
    }

    fn proxy_for(&self, end: End, lasts: Duration, act: impl Fn(&Proxy)) {
        self.proxy(end, act);
        thread::sleep(lasts);
        self.proxy(end, Proxy::heal);
    }

    fn receiver_for(&self, sink: usize, lasts: Duration, manner: Manner) {
        if let Some(Sink { collector: Collector::Http(receiver), .. }) = self.sinks.get(sink) {
            receiver.behave(manner);
            thread::sleep(lasts);
            receiver.behave(Manner::Good);
        }
    }

    fn save_flow(&self) -> Result<()> {
        self.save("flows/bench.yaml", self.spec.flow(&self.addresses, self.edition.load(Ordering::Relaxed)))
    }

    /// Saves a file as careful editors do: whole, by renaming. Two lanes may save one at the same time.
    fn save(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.folder.join(name);
        let temporary = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(&self.folder))?;
        fs::write(temporary.path(), content)?;
        temporary.persist(path)?;
        Ok(())
    }
}

impl Sink {
    fn set_up(
        spec: &Spec,
        variant: Variant,
        at: usize,
        kind: Kind,
        ledger: &Arc<Ledger>,
        little: &Path,
        brokers: &Brokers,
    ) -> Result<Self> {
        let name = spec.name(&format!("out{at}"));
        Ok(match kind {
            Kind::Http => {
                let receiver = http::Receiver::start(ledger, at)?;
                Self { proxy: Some(Proxy::start(receiver.address())?), collector: Collector::Http(receiver) }
            }
            Kind::File => {
                let folder = little.join(format!("out{at}"));
                let reader = file::Reader::start(ledger, at, &folder, variant.written)?;
                Self { proxy: None, collector: Collector::File(reader) }
            }
            Kind::Amqp => {
                let broker = brokers.rabbitmq();
                amqp::declare(&broker.url(), &[&name])?;
                let consumer = amqp::Consumer::start(ledger, at, broker.url(), name);
                Self { proxy: Some(Proxy::start(broker.address())?), collector: Collector::Amqp(consumer) }
            }
            Kind::Mqtt => {
                let broker = brokers.mosquitto().address();
                let receiver = mqtt::Receiver::start(ledger, at, broker, &name)?;
                Self { proxy: Some(Proxy::start(broker)?), collector: Collector::Mqtt(receiver) }
            }
        })
    }
}
