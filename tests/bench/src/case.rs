//! The cases. To add one: a module with its `run`, and a line here.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;

use crate::{
    amqp, engine, file_lines, gateway, growth, http, idle, mqtt, plugin_call, queue, reload, report::Report,
    start,
};

/// Something that is measured.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    /// Measures, and adds rows to the report.
    pub(crate) run: fn(&Setup, &mut Report) -> Result<()>,
}

/// What cases are run with.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The folder of the bench's plugins.
    pub(crate) plugins: PathBuf,
    /// The binary `gristmill`.
    pub(crate) gristmill: PathBuf,
    /// The library that counts how often a process asks for memory, where there is one.
    pub(crate) counting: Option<PathBuf>,
    pub(crate) effort: Effort,
}

/// How long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds of ours in each comparison.
    pub(crate) rounds: usize,
    /// How long one round of calls in this process is.
    pub(crate) calls: Duration,
    /// How long one round of requests to a server is.
    pub(crate) requests: Duration,
    /// For how long it is watched that has nothing to do, each time.
    pub(crate) idle: Duration,
}

/// Every case, in the order in which they are run.
pub(crate) const CASES: [Case; 15] = [
    Case {
        name: "plugin-call",
        summary: "one call of a plugin, against the bare Wasm call and the same code native",
        run: plugin_call::run,
    },
    Case {
        name: "engine-plugin",
        summary: "deliveries from memory through one plugin, against a loop that calls the plugin",
        run: engine::plugin,
    },
    Case {
        name: "engine-steps",
        summary: "deliveries from memory through a choice and two sets to memory, against a loop with the same CEL",
        run: engine::steps,
    },
    Case {
        name: "engine-lanes",
        summary: "deliveries in 16 lanes through one plugin on two threads, against the same on one",
        run: engine::lanes,
    },
    Case {
        name: "growth",
        summary: "how cost goes with bodies, headers, steps, flows, plugins and instances",
        run: growth::run,
    },
    Case {
        name: "http",
        summary: "requests through a flow with one plugin, against an axum server with the same code native",
        run: http::run,
    },
    Case {
        name: "http-paced",
        summary: "the same at a constant rate, half of the peak",
        run: http::paced::run,
    },
    Case {
        name: "gateway",
        summary: "requests that are sent on by `call`, against a forwarder of axum and hyper's client",
        run: gateway::run,
    },
    Case {
        name: "reload",
        summary: "requests at a constant rate while flow and plugin are reloaded, against the same without",
        run: reload::run,
    },
    Case {
        name: "start",
        summary: "from starting the process to the first answers, with one flow and with a thousand",
        run: start::run,
    },
    Case {
        name: "idle",
        summary: "memory and processor time of ten flows that have nothing to do",
        run: idle::run,
    },
    Case {
        name: "file-lines",
        summary: "lines of a file through one plugin to the end of another, against loops that do the same",
        run: file_lines::run,
    },
    Case {
        name: "amqp",
        summary: "messages from queue to queue through one plugin, against a bare forwarder on lapin",
        run: amqp::run,
    },
    Case {
        name: "mqtt",
        summary: "messages from topic to topic through one plugin, against a bare forwarder on rumqttc",
        run: mqtt::run,
    },
    Case {
        name: "queue",
        summary: "the memory of a flow with a slow sink while a million messages wait in its queue",
        run: queue::run,
    },
];

impl Effort {
    /// Some minutes for all cases.
    pub(crate) const QUICK: Self = Self {
        rounds: 7,
        calls: Duration::from_millis(250),
        requests: Duration::from_secs(1),
        idle: Duration::from_secs(3),
    };
    /// Several times as long.
    pub(crate) const FULL: Self = Self {
        rounds: 15,
        calls: Duration::from_secs(1),
        requests: Duration::from_secs(4),
        idle: Duration::from_secs(20),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_names_is_that_of_the_cases() {
        let listed: Vec<_> = include_str!("../cases.txt").lines().collect();
        assert_eq!(
            CASES.map(|case| case.name).as_slice(),
            listed,
            "cases.txt, which `cargo xtask bench` knows"
        );
    }
}
