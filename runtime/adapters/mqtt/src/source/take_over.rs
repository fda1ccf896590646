//! How a source goes on with other settings.
//!
//! What an MQTT broker keeps for a source hangs from a session: a client id at a broker. Settings that leave it the same are
//! taken by the session that runs. When the client id or the broker is another, a second session is made beside the first,
//! which from then on is emptied: it unsubscribes, what the broker still has for it is offered before anything of the second,
//! and when there is nothing more it is ended. The second has subscribed before the first unsubscribes, so that no message falls
//! between the two; what comes in that moment comes twice.
//!
//! An address tells less than it seems to: `mqtts://host:8883` may be the broker of `mqtt://host:1883`. There the second session
//! of one client id would be the first one, and would be emptied under the hands of the source. Whether it is the same broker
//! shows by who is thrown out: a broker lets only one client of an id be (MQTT 5.0, 3.1.4).

use std::{sync::Arc, time::Duration};

use gristmill_core::source::SourceError;
use tokio::{sync::oneshot, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    MqttSource, Part, ended,
    lease::{Leases, Standing, Tenancy, Tenant},
    session::{Command, Otherwise, Settings},
};
use crate::link::LOOK_EXPIRY_S;

/// The source as it was goes on with other settings.
///
/// # Errors
/// Why not. The source is as it was.
pub(super) async fn take_over(
    source: &mut MqttSource,
    settings: Settings,
    tasks: &TaskTracker,
    leases: &Arc<Leases>,
) -> Result<(), SourceError> {
    let wanted = settings.dial.session();
    source.drop_ended();
    if let Some(part) = source.emptying.iter().find(|part| part.settings.dial.session() == wanted) {
        return Err(SourceError::new(format!(
            "{} was given up by an earlier change, and is still being emptied; the log says when it is ended. This change is tried \
             again by itself",
            part.settings.dial.shown_session()
        )));
    }
    if source.present.settings.dial.session() == wanted {
        return in_place(&mut source.present, settings, leases).await;
    }
    // From before it is looked who the broker knows: to look is to be that client.
    let mut tenancy = Tenancy::new(leases, Tenant::new(source.id, &settings.context.flow));
    tenancy.lease(&settings.dial).map_err(|taken| SourceError::new(taken.refusal()))?;
    if is_same_session(&source.present, &settings).await? {
        in_place(&mut source.present, settings, leases).await
    } else {
        beside(source, settings, tasks, tenancy).await
    }
}

/// The session of before goes on.
async fn in_place(part: &mut Part, settings: Settings, leases: &Arc<Leases>) -> Result<(), SourceError> {
    let is_moved = part.settings.dial.session() != settings.dial.session();
    let lease = is_moved.then(|| leases.lease(&settings.dial, &part.tenant)).transpose();
    let lease = lease.map_err(|taken| SourceError::new(taken.refusal()))?;
    let (answer, changed) = oneshot::channel();
    let limit = settings.change_limit();
    let change = Command::Change(Box::new(settings.clone()), lease, answer);
    part.commands.send(change).map_err(|_gone| ended())?;
    // The session gives up in time by itself; this is for one that hangs.
    timeout(limit, changed).await.ok().and_then(Result::ok).unwrap_or_else(|| Err(ended()))?;
    part.settings = settings;
    Ok(())
}

/// Another session is made, and that of before is emptied.
async fn beside(
    source: &mut MqttSource,
    settings: Settings,
    tasks: &TaskTracker,
    tenancy: Tenancy,
) -> Result<(), SourceError> {
    let (part, _) = Part::start(settings, tasks, Otherwise::End, tenancy).await?;
    let before = std::mem::replace(&mut source.present, part);
    before.tenant.will(Standing::Emptied);
    // One that is gone gives what it had, and ends.
    let _gone = before.commands.send(Command::Empty);
    source.emptying.push_back(before);
    Ok(())
}

/// Whether the settings, which name another client or address, are of the session that runs.
async fn is_same_session(part: &Part, settings: &Settings) -> Result<bool, SourceError> {
    let (before, wanted) = (&part.settings.dial, &settings.dial);
    if before.client_id != wanted.client_id {
        return Ok(false);
    }
    if before.session_expiry_s == 0 {
        // It ends with its connection wherever it is, and of two connections one could throw the other out.
        return Ok(true);
    }
    let patience = settings.change_limit() / 8;
    let link = alive(part, patience).await;
    let mut look = wanted.clone();
    // Whatever is there is to stay as it is.
    (look.clean_start, look.session_expiry_s) = (false, LOOK_EXPIRY_S.max(wanted.session_expiry_s));
    let looked = timeout(settings.change_limit() / 4, look.open(settings.tls.as_ref())).await;
    let (there, welcome) = looked
        .map_err(|_elapsed| SourceError::new(format!("{} does not answer", look.place())))?
        .map_err(|error| SourceError::new(error.text))?;
    let is_other = !welcome.session_present || link.is_some() && alive(part, patience).await == link;
    let leaves_nothing = !welcome.session_present;
    there.disconnect(leaves_nothing.then_some(0)).await;
    if !is_other && link.is_none() {
        tracing::warn!(
            target: "gristmill::mqtt", flow = &*settings.context.flow,
            "{} could not be reached; {} knows the same client, and is taken for the same broker. If it is another one, the broker \
             of before keeps what it has queued: to take that in, put the old connection back until nothing more comes",
            before.shown_session(), wanted.connection.broker.shown
        );
    }
    Ok(!is_other)
}

/// Which connection of a session stands; `None` when none does.
async fn alive(part: &Part, patience: Duration) -> Option<u64> {
    let (answer, alive) = oneshot::channel();
    part.commands.send(Command::Alive(answer)).ok()?;
    timeout(patience, alive).await.ok()?.ok()
}
