//! Which fault strikes when: out of the seed alone, so that a scenario can be repeated. What is broken in one place is
//! mended there before the next fault strikes it, so each place has a lane of its own, and the lanes overlap.

use std::time::Duration;

use crate::{dice::Dice, endpoint::Kind, plugins::Plugin, spec::Spec};

/// Something that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of the runtime, and a new start.
    Kill,
    /// SIGTERM to the runtime, and a new start.
    Term,
    /// `kill -9` of RabbitMQ, and a new start.
    RabbitKill,
    /// RabbitMQ is held for longer than the heartbeat.
    RabbitFreeze,
    /// The memory alarm of RabbitMQ.
    RabbitAlarm,
    /// Mosquitto is restarted by SIGTERM.
    MosquittoRestart,
    /// Mosquitto is held for longer than the keep-alive.
    MosquittoFreeze,
    /// All connections at one end are cut.
    Cut(End),
    /// A chunk is sent by half, and its connection cut.
    Half(End),
    /// Each chunk waits so many milliseconds.
    Delay(End, u64),
    /// Nothing passes.
    Stall(End),
    /// Connections are closed at once.
    Gone(End),
    /// The receiver of this sink answers 503.
    Refuses(usize),
    /// It takes messages and does not say so.
    Silent(usize),
    /// The disk of the file sinks is full.
    DiskFull,
    /// The plugin's file is another one for a while.
    Plugin(Plugin),
    /// It is no plugin for a while.
    BrokenPlugin,
    /// The plugin has a new version.
    NewPlugin,
    /// The flow has a new version.
    NewFlow,
    /// The flow's file is broken for a while.
    BrokenFlow,
    /// The connections have other settings.
    NewConnections,
    /// SIGHUP.
    HangUp,
    /// The wall clock jumps by so many seconds.
    Clock(i64),
}

/// A side of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where messages come in.
    Source,
    /// A sink.
    Sink(usize),
}

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, after the first fault may.
    pub at: Duration,
    /// How long it lasts; nothing for those that are a moment.
    pub lasts: Duration,
    /// What it is.
    pub fault: Fault,
}

/// Faults that strike one place, one after the other.
pub type Lane = Vec<Planned>;

/// What can be broken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// The disk of the file sinks can be filled.
    pub disk: bool,
    /// The clock can jump.
    pub clock: bool,
}

impl Fault {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Term => "term",
            Self::RabbitKill => "rabbitmq_kill",
            Self::RabbitFreeze => "rabbitmq_freeze",
            Self::RabbitAlarm => "rabbitmq_alarm",
            Self::MosquittoRestart => "mosquitto_restart",
            Self::MosquittoFreeze => "mosquitto_freeze",
            Self::Cut(_) => "cut",
            Self::Half(_) => "half",
            Self::Delay(..) => "delay",
            Self::Stall(_) => "stall",
            Self::Gone(_) => "gone",
            Self::Refuses(_) => "refuses",
            Self::Silent(_) => "silent",
            Self::DiskFull => "disk_full",
            Self::Plugin(Plugin::Traps) => "plugin_traps",
            Self::Plugin(Plugin::Loops) => "plugin_loops",
            Self::Plugin(Plugin::Slow) => "plugin_slow",
            Self::Plugin(Plugin::Flaky) => "plugin_flaky",
            Self::Plugin(Plugin::First | Plugin::Second) | Self::NewPlugin => "plugin_reload",
            Self::BrokenPlugin => "plugin_broken",
            Self::NewFlow => "flow_reload",
            Self::BrokenFlow => "flow_broken",
            Self::NewConnections => "connection_reload",
            Self::HangUp => "sighup",
            Self::Clock(_) => "clock",
        }
    }

    /// Whether it can make someone send something again. What fails before a sink has seen the message, or says that it
    /// has not taken it, repeats nothing; but where there are two sinks, what fails at one may repeat what is at the other.
    pub fn repeats(self, sinks: usize) -> bool {
        match self {
            Self::Kill
            | Self::RabbitKill
            | Self::RabbitFreeze
            | Self::RabbitAlarm
            | Self::MosquittoRestart
            | Self::MosquittoFreeze
            | Self::Cut(_)
            | Self::Half(_)
            | Self::Delay(..)
            | Self::Stall(_)
            | Self::Gone(_)
            | Self::Silent(_) => true,
            Self::Refuses(_) | Self::DiskFull => sinks > 1,
            // What was accepted is finished, and told so, before the end.
            Self::Term
            | Self::Plugin(_)
            | Self::BrokenPlugin
            | Self::NewPlugin
            | Self::NewFlow
            | Self::BrokenFlow
            | Self::NewConnections
            | Self::HangUp
            | Self::Clock(_) => false,
        }
    }
}

/// All lanes of a scenario.
pub fn lanes(spec: &Spec, means: Means) -> Vec<Lane> {
    let dice = Dice::new(spec.seed).branch(&spec.pair()).branch("faults");
    let mut lanes = Vec::new();
    let mut lane = |name: &str, gap: (u64, u64), fault: &dyn Fn(&mut Dice) -> (Fault, u64)| {
        let mut dice = dice.branch(name);
        let mut at = dice.within(gap.0 / 3, gap.1 / 2);
        let mut lane = Lane::new();
        while u128::from(at) < spec.lasts.as_millis() {
            let (fault, lasts) = fault(&mut dice);
            let milliseconds = Duration::from_millis;
            lane.push(Planned { at: milliseconds(at), lasts: milliseconds(lasts), fault });
            at += lasts + dice.within(gap.0, gap.1);
        }
        lanes.push(lane);
    };
    lane("flow", (300, 1500), &|dice| match dice.below(10) {
        0 | 1 => (Fault::BrokenFlow, dice.within(100, 600)),
        2 => (Fault::HangUp, 0),
        3 => (Fault::NewConnections, 0),
        _ => (Fault::NewFlow, 0),
    });
    let calm = spec.calm;
    lane("plugin", (700, 2500), &|dice| match dice.below(10) {
        0 if !calm => (Fault::Plugin(Plugin::Traps), dice.within(300, 1500)),
        1 if !calm => (Fault::Plugin(Plugin::Loops), dice.within(300, 1500)),
        2 if !calm => (Fault::Plugin(Plugin::Flaky), dice.within(300, 2000)),
        3 => (Fault::Plugin(Plugin::Slow), dice.within(300, 1500)),
        4 => (Fault::BrokenPlugin, dice.within(100, 800)),
        _ => (Fault::NewPlugin, 0),
    });
    if means.clock {
        lane("clock", (800, 3000), &|dice| {
            let seconds = i64::try_from(dice.within(1, 200_000)).unwrap_or(1);
            (Fault::Clock(if dice.chance(50) { seconds } else { -seconds }), 0)
        });
    }
    lane("runtime", (1500, 4000), &|dice| {
        let fault = if !calm && dice.chance(60) { Fault::Kill } else { Fault::Term };
        (fault, dice.within(0, 400))
    });
    if calm {
        return lanes;
    }
    if spec.has(Kind::Amqp) {
        lane("rabbitmq", (6000, 12_000), &|dice| match dice.below(3) {
            0 => (Fault::RabbitKill, dice.within(0, 500)),
            1 => (Fault::RabbitFreeze, dice.within(4500, 6000)),
            _ => (Fault::RabbitAlarm, dice.within(1000, 3000)),
        });
    }
    if spec.has(Kind::Mqtt) {
        lane("mosquitto", (2500, 6000), &|dice| {
            if dice.chance(60) {
                (Fault::MosquittoRestart, dice.within(0, 1000))
            } else {
                (Fault::MosquittoFreeze, dice.within(2500, 4000))
            }
        });
    }
    let link = |end: End| {
        move |dice: &mut Dice| match dice.below(10) {
            0..=2 => (Fault::Cut(end), 0),
            3..=5 => (Fault::Half(end), 200),
            6 => (Fault::Delay(end, dice.within(5, 80)), dice.within(300, 1500)),
            7 | 8 => (Fault::Stall(end), dice.within(200, 3000)),
            _ => (Fault::Gone(end), dice.within(200, 1500)),
        }
    };
    if spec.source != Kind::File {
        lane("source link", (600, 3000), &link(End::Source));
    }
    for (at, kind) in spec.sinks.iter().enumerate() {
        if *kind != Kind::File {
            // Of two sinks the second one fails more.
            let gap = if at == 0 && spec.sinks.len() > 1 { (4000, 8000) } else { (600, 3000) };
            lane(&format!("sink link {at}"), gap, &link(End::Sink(at)));
        }
        if *kind == Kind::Http {
            lane(&format!("receiver {at}"), (1000, 3500), &|dice| {
                let fault = if dice.chance(60) { Fault::Refuses(at) } else { Fault::Silent(at) };
                (fault, dice.within(100, 1500))
            });
        }
    }
    if spec.sinks.contains(&Kind::File) && means.disk {
        lane("disk", (1500, 4000), &|dice| (Fault::DiskFull, dice.within(300, 2000)));
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(seed: u64) -> Spec {
        Spec {
            source: Kind::Amqp,
            sinks: vec![Kind::File],
            seed,
            lasts: Duration::from_secs(60),
            rate: 100,
            calm: false,
        }
    }

    const MEANS: Means = Means { disk: true, clock: true };

    #[test]
    fn the_seed_decides_and_nothing_else() {
        assert_eq!(lanes(&spec(1), MEANS), lanes(&spec(1), MEANS));
        assert_ne!(lanes(&spec(1), MEANS), lanes(&spec(2), MEANS));
    }

    #[test]
    fn every_place_is_struck_and_in_each_one_fault_after_the_other() {
        let lanes = lanes(&spec(3), MEANS);
        assert_eq!(
            lanes.len(),
            7,
            "flow, plugin, clock, runtime, RabbitMQ, the link of the source, the disk"
        );
        for lane in &lanes {
            assert!(!lane.is_empty());
            assert!(lane.windows(2).all(|two| two[0].at + two[0].lasts <= two[1].at));
        }
    }

    #[test]
    fn in_a_calm_scenario_nothing_repeats() {
        let spec = Spec { calm: true, ..spec(4) };
        assert!(lanes(&spec, MEANS).iter().flatten().all(|planned| !planned.fault.repeats(1)));
    }
}
