//! The source: a client of its own at the broker, whose session keeps what the flow has not settled.

mod inbox;
mod lease;
mod ledger;
mod left;
mod record;
mod session;
mod spec;
mod take_over;

use std::{any::Any, collections::VecDeque, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use gristmill_core::{
    Acknowledgement, Delivery,
    adapter::Checker,
    config::Node,
    source::{Claim, EndpointContext, Order, PreparedSource, Source, SourceError, SourceSpec, TakeOverError},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use self::{
    inbox::{Inbox, Offer, Taken},
    lease::{SourceId, Standing, Tenancy, Tenant},
    left::Left,
    session::{Command, Otherwise, Session, Settings},
    spec::CheckedSource,
};
use crate::{
    NAME,
    config::Version,
    link::{self, Dial},
    monitor::Monitors,
};

pub(crate) use self::lease::Leases;

/// Checked configuration of a source.
pub(crate) struct MqttSourceSpec {
    checked: CheckedSource,
    tasks: TaskTracker,
    monitors: Arc<Monitors>,
    leases: Arc<Leases>,
}

/// A source whose files are read. It connects when it starts, for two clients of one id cannot be.
struct PreparedMqttSource {
    settings: Settings,
    tasks: TaskTracker,
    leases: Arc<Leases>,
}

/// A running source.
struct MqttSource {
    id: SourceId,
    /// Sessions of before, the oldest first. What they still give comes before what the present one gives.
    emptying: VecDeque<Part>,
    present: Part,
}

/// A session, from the side of who takes messages from it. It goes on after this is dropped until everything is acknowledged.
struct Part {
    settings: Settings,
    inbox: Arc<Inbox>,
    commands: mpsc::UnboundedSender<Command>,
    tenant: Arc<Tenant>,
}

/// Checks the configuration of a source. `None` when there are mistakes.
pub(crate) fn check(
    node: &Node,
    checker: &mut Checker<'_>,
    tasks: &TaskTracker,
    monitors: &Arc<Monitors>,
    leases: &Arc<Leases>,
) -> Option<MqttSourceSpec> {
    let checked = spec::check(node, checker)?;
    let (monitors, leases) = (Arc::clone(monitors), Arc::clone(leases));
    Some(MqttSourceSpec { checked, tasks: tasks.clone(), monitors, leases })
}

// === impl MqttSourceSpec ===

impl MqttSourceSpec {
    /// By what brokers know the connection: two clients of one id there are one.
    fn broker(&self) -> String {
        let broker = &self.checked.connection.broker;
        format!("{}:{}", broker.host, broker.port)
    }
}

#[async_trait]
impl SourceSpec for MqttSourceSpec {
    /// Whatever the connection and the client id are: of a session that is given up for another, nothing may be lost, and only
    /// who takes over can see to it.
    fn identity(&self) -> String {
        NAME.to_owned()
    }

    fn origin(&self) -> String {
        format!("{NAME} {}", self.checked.named.name)
    }

    fn claims(&self) -> Vec<Claim> {
        let CheckedSource { known_as, client_id, connection, named, .. } = &self.checked;
        let is_shown = client_id.as_ref().map_or(connection.shows_client_id, |own| own.is_shown);
        let claim = |id: &String| {
            let shown = if is_shown { format!(" {id}") } else { String::new() };
            Claim::new(format!("mqtt client {id} of {}", self.broker()))
                .shown_as(format!("the MQTT client id{shown} on the connection {}", named.name))
        };
        known_as.iter().map(claim).collect()
    }

    fn configuration_files(&self) -> Vec<PathBuf> {
        // Those of the connection are part of its fingerprint.
        Vec::new()
    }

    fn order(&self) -> Order {
        Order::Total
    }

    fn keeps_rejected(&self) -> bool {
        false
    }

    fn replies(&self) -> bool {
        false
    }

    async fn prepare(&self, context: EndpointContext) -> Result<Box<dyn PreparedSource>, SourceError> {
        let CheckedSource {
            named,
            connection,
            topics,
            shows_topics,
            subscription,
            client_id,
            known_as: _,
            buffer_messages,
        } = self.checked.clone();
        let tls = link::load_tls(&connection).await.map_err(SourceError::new)?;
        let shows_client = client_id.as_ref().map_or(connection.shows_client_id, |own| own.is_shown);
        let client_id =
            client_id.map_or_else(|| spec::client_id_of(&connection, &context.flow).into(), |own| own.text);
        let dial = Dial {
            name: Arc::clone(&named.name),
            shown: if shows_client { format!("`{client_id}`").into() } else { "this client".into() },
            client_id,
            clean_start: connection.clean_start,
            session_expiry_s: match connection.version {
                // One flag says both.
                Version::V311 if connection.clean_start => 0,
                _ => connection.session_expiry_s,
            },
            receive_maximum: session::receive_maximum(
                connection.receive_maximum,
                connection.version,
                context.limits.in_flight,
            ),
            monitor: self.monitors.get(&named.name, &format!("source {}", context.flow)),
            connection,
        };
        let settings = Settings {
            dial,
            tls,
            fingerprint: named.fingerprint,
            topics,
            shows_topics,
            subscription,
            buffer_messages,
            context,
        };
        Ok(Box::new(PreparedMqttSource {
            settings,
            tasks: self.tasks.clone(),
            leases: Arc::clone(&self.leases),
        }))
    }
}

impl std::fmt::Debug for MqttSourceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MqttSourceSpec").field(&self.checked).finish()
    }
}

// === impl PreparedMqttSource ===

#[async_trait]
impl PreparedSource for PreparedMqttSource {
    async fn start(self: Box<Self>) -> Result<Box<dyn Source>, SourceError> {
        let Self { settings, tasks, leases } = *self;
        let id = leases.source();
        let mut tenancy = Tenancy::new(&leases, Tenant::new(id, &settings.context.flow));
        // Else it is waited for. That another flow has the client for good the runtime has seen before it comes here, unless that
        // flow goes as soon as this one has started; and that of this flow is all that there is of the flow.
        if let Err(taken) = tenancy.lease_soon(&settings.dial).await
            && taken.is_on_its_way
        {
            return Err(SourceError::new(taken.refusal()));
        }
        let left = left::by_an_earlier_process(&settings, id, &leases).await;
        let (present, subscribes) = Part::start(settings, &tasks, Otherwise::TryForEver, tenancy).await?;
        let emptying = left.into_iter().map(|it| Part::empty(it, &tasks, subscribes.clone())).collect();
        Ok(Box::new(MqttSource { id, emptying, present }))
    }

    async fn take_over(self: Box<Self>, mut old: Box<dyn Source>) -> Result<Box<dyn Source>, TakeOverError> {
        let Self { settings, tasks, leases } = *self;
        let any: &mut dyn Any = &mut *old;
        let taken = match any.downcast_mut::<MqttSource>() {
            Some(source) => take_over::take_over(source, settings, &tasks, &leases).await,
            None => Err(SourceError::new("the source of before is not one of MQTT")),
        };
        match taken {
            Ok(()) => Ok(old),
            Err(error) => Err(TakeOverError { old, error }),
        }
    }
}

fn ended() -> SourceError {
    SourceError::new("the session with the broker has ended; the flow has to be started again")
}

// === impl Part ===

impl Part {
    /// Starts a session. Gives whether it has subscribed, which it may later, as well.
    ///
    /// # Errors
    /// As `otherwise` says.
    async fn start(
        settings: Settings,
        tasks: &TaskTracker,
        otherwise: Otherwise,
        tenancy: Tenancy,
    ) -> Result<(Self, watch::Receiver<bool>), SourceError> {
        let (started, starts) = oneshot::channel();
        // It ends when this is dropped.
        let (part, obeyed) = Self::new(&settings, &tenancy);
        let inbox = Arc::clone(&part.inbox);
        let session = Session::new(settings, inbox, obeyed, tenancy, started, otherwise);
        let subscribes = session.watch();
        tasks.spawn(session.run());
        starts.await.map_err(|_| ended())??;
        Ok((part, subscribes))
    }

    /// Empties a session that an earlier process has left, once another has subscribed.
    fn empty(left: Left, tasks: &TaskTracker, subscribes: watch::Receiver<bool>) -> Self {
        let Left { settings, tenancy } = left;
        tracing::info!(
            target: "gristmill::mqtt", flow = &*settings.context.flow,
            "an earlier run of this flow has left {}: what is queued there is taken first, and then it is ended",
            settings.dial.shown_session()
        );
        let (part, obeyed) = Self::new(&settings, &tenancy);
        part.tenant.will(Standing::Emptied);
        let inbox = Arc::clone(&part.inbox);
        tasks.spawn(Session::left(settings, inbox, obeyed, tenancy, subscribes).run());
        part
    }

    fn new(settings: &Settings, tenancy: &Tenancy) -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, obeyed) = mpsc::unbounded_channel();
        let (settings, tenant) = (settings.clone(), Arc::clone(tenancy.tenant()));
        (Self { settings, inbox: Arc::default(), commands, tenant }, obeyed)
    }

    fn delivery(&self, offer: Offer) -> Delivery {
        let Offer { sequence, message, redelivered } = offer;
        let commands = self.commands.clone();
        let acknowledgement = Acknowledgement::new(move |outcome| {
            // A session that is gone acknowledges nothing: the broker sends the message again.
            let _gone = commands.send(Command::Settled(sequence, outcome.settlement));
        });
        Delivery { message, acknowledgement, redelivered }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.tenant.will(Standing::Ends);
        let _gone = self.commands.send(Command::Abandon);
    }
}

// === impl MqttSource ===

impl MqttSource {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.emptying.iter().chain([&self.present])
    }

    /// Lets go of sessions that have ended and of which everything was given.
    fn drop_ended(&mut self) {
        self.emptying.retain(|part| !part.commands.is_closed() || part.inbox.len() > 0);
    }
}

#[async_trait]
impl Source for MqttSource {
    async fn next(&mut self) -> Result<Option<Delivery>, SourceError> {
        self.drop_ended();
        for part in self.parts() {
            match part.inbox.take().await {
                Taken::Offer(offer) => return Ok(Some(part.delivery(offer))),
                Taken::Down(why) => return Err(SourceError::new(why)),
                // It has no more, and may still wait for settlements.
                Taken::End => {}
            }
        }
        Ok(None)
    }

    fn ready(&mut self) -> Option<Delivery> {
        self.drop_ended();
        // What is in a session that is being emptied came before everything in the next.
        let oldest = self.parts().next()?;
        oldest.inbox.take_ready().map(|offer| oldest.delivery(offer))
    }

    fn retire(&mut self) {
        for part in self.parts() {
            part.tenant.will(Standing::Ends);
            let _gone = part.commands.send(Command::Retire);
        }
    }

    async fn close(&mut self) {
        for part in self.parts() {
            // Refused at once, so that what was taken is all that `next` still gives.
            part.inbox.close();
            part.tenant.will(Standing::Ends);
            let _gone = part.commands.send(Command::Close);
        }
    }
}
