//! The cases `engine-…`: what a delivery costs between a source and a sink that cost nothing.
//!
//! | what | the flow | floor |
//! |---|---|---|
//! | `plugin` | one `transform` | a loop that calls the same plugin through the same host; and one that makes the new message, too |
//! | `steps` | `choice`, `set`, `set`, `send` | a loop written by hand with the same expressions, compiled the same way |
//! | `lanes` | `plugin` in 16 lanes, two threads | the same on one thread |

use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use gristmill_core::{Message, Stopwatch, limits::FlowLimits, plugin::Transformed, step::FlowFacts};
use gristmill_engine::expression::{Expression, Scope, Template};
use gristmill_mill::{
    Mill,
    flows::{CUSTOMER, LARGE, ORDER, SIZE, WITH_PLUGIN, with_steps},
    plugin::{bind, failed, message},
};
use gristmill_wasm::{WasmHost, WasmHostConfig};
use tokio::runtime::Runtime as Tokio;

use crate::{
    case::Setup,
    in_process::{self, Clock, Round},
    machine::processors,
    report::{Goal, Report, Row, Unit},
    stats::alternate,
};

/// How many messages pass before the clock is looked at.
const BATCH: u64 = 2_000;

const IN_LANES: &str = "flow: bench
source: { memory: {} }
parallel: { by: message.id, lanes: 16 }
steps:
  - transform: { plugin: bench-rename, limits: { instances: 2 } }
";

/// Runs the case `engine-plugin`.
pub(crate) fn plugin(setup: &Setup, report: &mut Report) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let message = message()?;
    let host = Arc::new(WasmHost::new(WasmHostConfig::new(&setup.plugins))?);
    let plugin = tokio.block_on(bind(&host, "bench-set-header"))?;
    let mill = tokio.block_on(Mill::start(WITH_PLUGIN, &message, host))?;
    let watch = Stopwatch::unread();
    let mut floor = || {
        timed(&tokio, setup, async || {
            for _ in 0..BATCH {
                let message = black_box(message.clone());
                watch.forget();
                black_box(plugin.transform(&message, &watch).await.map_err(failed)?);
            }
            Ok(())
        })
    };
    let limits = FlowLimits::default();
    let mut changing = || {
        timed(&tokio, setup, async || {
            for _ in 0..BATCH {
                let message = black_box(message.clone());
                watch.forget();
                let Transformed::Change(change) = plugin.transform(&message, &watch).await.map_err(failed)?
                else {
                    bail!("the plugin did not change the message");
                };
                black_box(change.apply(message, &limits).map_err(failed)?);
            }
            Ok(())
        })
    };
    let mut ours = || timed(&tokio, setup, async || mill.pass(BATCH).await);
    let measured = alternate(setup.effort.rounds, &mut [&mut floor, &mut changing], &mut ours)?;
    let against = |floor| measured.compare(floor, Round::per_second);
    report.costs.push(in_process::cost("engine-plugin", &measured)?);
    report.rows.push(
        Row::compared("engine-plugin", "a loop that calls the plugin", Unit::PerSecond, against(0)?)
            .goal(Goal::RatioAtLeast(0.8)),
    );
    let floor = "the same, and makes the message";
    report.rows.push(Row::compared("engine-plugin", floor, Unit::PerSecond, against(1)?));
    Ok(())
}

/// Runs the case `engine-steps`.
pub(crate) fn steps(setup: &Setup, report: &mut Report) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let message = message()?;
    let host = Arc::new(WasmHost::new(WasmHostConfig::new(&setup.plugins))?);
    let mill = tokio.block_on(Mill::start(&with_steps(), &message, host))?;
    let by_hand = ByHand::new()?;
    let expected = by_hand.pass(&message.clone())?;
    let got = expected.headers().get("x-order");
    ensure!(got == Some("north-4711"), "the loop by hand set {got:?}");
    tokio.block_on(mill.pass(1))?;
    let sent = mill.first_sent().context("nothing came to the sink")?;
    ensure!(sent.headers() == expected.headers(), "the flow made {:?}", sent.headers());
    let mut floor = || {
        timed(&tokio, setup, async || {
            for _ in 0..BATCH {
                // A message of its own, as one that comes in: nothing of it was read before.
                black_box(by_hand.pass(&black_box(message.clone()))?);
            }
            Ok(())
        })
    };
    let mut ours = || timed(&tokio, setup, async || mill.pass(BATCH).await);
    let measured = alternate(setup.effort.rounds, &mut [&mut floor], &mut ours)?;
    let compared = measured.compare(0, Round::per_second)?;
    report.costs.push(in_process::cost("engine-steps", &measured)?);
    report.rows.push(
        Row::compared("engine-steps", "a loop with the same CEL", Unit::PerSecond, compared)
            .goal(Goal::RatioAtLeast(0.7)),
    );
    Ok(())
}

/// Runs the case `engine-lanes`. Rates by the wall: two threads are of use only when there are two processors for them.
pub(crate) fn lanes(setup: &Setup, report: &mut Report) -> Result<()> {
    if processors().len() < 2 {
        report.remarks.push("engine-lanes: not measured, there is one processor only".into());
        return Ok(());
    }
    let message = message()?;
    let on = |threads: usize| -> Result<(Tokio, Mill)> {
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        let host = Arc::new(WasmHost::new(WasmHostConfig::new(&setup.plugins))?);
        let mill = tokio.block_on(Mill::start(IN_LANES, &message, host))?;
        Ok((tokio, mill))
    };
    let (one, two) = (on(1)?, on(2)?);
    let round = |(tokio, mill): &(Tokio, Mill)| -> Result<f64> {
        tokio.block_on(async {
            let (began, mut messages) = (Instant::now(), 0);
            while began.elapsed() < setup.effort.calls {
                mill.pass(BATCH).await?;
                messages += BATCH;
            }
            Ok(messages as f64 / began.elapsed().as_secs_f64())
        })
    };
    let measured = alternate(setup.effort.rounds, &mut [&mut || round(&one)], &mut || round(&two))?;
    let compared = measured.compare(0, |rate| *rate)?;
    report.rows.push(
        Row::compared("engine-lanes", "one thread", Unit::PerSecond, compared).goal(Goal::RatioAtLeast(1.8)),
    );
    Ok(())
}

/// What one message takes, over about the time of a round. Everything happens on this thread.
fn timed(tokio: &Tokio, setup: &Setup, mut batch: impl AsyncFnMut() -> Result<()>) -> Result<Round> {
    tokio.block_on(async {
        let (began, clock) = (Instant::now(), Clock::start());
        let mut messages = 0;
        while began.elapsed() < setup.effort.calls {
            batch().await?;
            messages += BATCH;
        }
        Ok(clock.stop(messages))
    })
}

/// What the flow of `steps` does, as one would write it for this flow alone.
struct ByHand {
    large: Expression,
    size: Template,
    customer: Template,
    order: Template,
    facts: FlowFacts,
}

impl ByHand {
    fn new() -> Result<Self> {
        let template = |text| Template::compile(text).map_err(|e| anyhow::anyhow!("{e:?}"));
        let large = Expression::compile_condition(LARGE).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        let facts = FlowFacts { id: "bench".into(), version: "1".into() };
        Ok(Self {
            large,
            size: template(SIZE)?,
            customer: template(CUSTOMER)?,
            order: template(ORDER)?,
            facts,
        })
    }

    /// The body is parsed once.
    fn pass(&self, message: &Message) -> Result<Message> {
        let scope = Scope::new(message, &self.facts);
        let size = if self.large.evaluate_bool(&scope).map_err(failed)? {
            self.size.render(&scope).map_err(failed)?
        } else {
            "small".to_owned()
        };
        let customer = self.customer.render(&scope).map_err(failed)?;
        let order = self.order.render(&scope).map_err(failed)?;
        let mut message = message.clone();
        let headers = message.headers_mut();
        headers.set("x-size", &size)?;
        headers.set("x-customer", &customer)?;
        headers.set("x-order", &order)?;
        Ok(message)
    }
}
