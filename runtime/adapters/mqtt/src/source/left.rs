//! What an earlier process has left at the broker: sessions that this source had and that its configuration, which was changed
//! while no runtime ran, does not name any more. The record knows them, and at the same address the source empties and ends them as
//! it does after a reload.
//!
//! A client id that another flow has by now is that flow's. What was queued under it for this one cannot be told apart.

use std::sync::Arc;

use super::{
    lease::{Leases, SourceId, Tenancy, Tenant},
    record::{Noted, Record},
    session::Settings,
};
use crate::link::{Dial, LOOK_EXPIRY_S};

/// A session to be emptied.
pub(super) struct Left {
    pub(super) settings: Settings,
    pub(super) tenancy: Tenancy,
}

/// The sessions that are noted at the broker of these settings, but for their own.
pub(super) async fn by_an_earlier_process(
    settings: &Settings,
    source: SourceId,
    leases: &Arc<Leases>,
) -> Vec<Left> {
    let record = Record::in_folder(&settings.context.state_dir);
    let present = settings.dial.session();
    let flow = &settings.context.flow;
    let mut all = Vec::new();
    for Noted { session, shown, .. } in record.read().await {
        if session.client_id == present.client_id || !session.is_at_the_broker_of(&present) {
            continue;
        }
        let mut settings = settings.clone();
        settings.dial = dial(settings.dial, &session.client_id, &shown);
        let mut tenancy = Tenancy::new(leases, Tenant::new(source, flow));
        let taken = match record.also_of(&session).await {
            Some(other) => Some(format!("the flow `{other}` has it by now")),
            None => tenancy.lease(&settings.dial).err().map(|taken| taken.text),
        };
        if let Some(taken) = taken {
            tracing::warn!(
                target: "gristmill::mqtt", flow = &**flow,
                "an earlier run of this flow has left {shown}, and it is not emptied: {taken}. What was queued there for this flow \
                 goes where the rest of it goes"
            );
            record.remove(session).await;
            continue;
        }
        all.push(Left { settings, tenancy });
    }
    all
}

/// The client of before, at the same broker.
fn dial(present: Dial, client_id: &str, shown_session: &str) -> Dial {
    // What was substituted is not in the text of the session.
    let shown = format!("`{client_id}`");
    let shown = if shown_session.contains(&shown) { shown } else { "the client of before".to_owned() };
    let session_expiry_s = match present.session_expiry_s {
        // Of what was kept nothing is wanted.
        seconds if present.clean_start => seconds,
        seconds => seconds.max(LOOK_EXPIRY_S),
    };
    Dial { client_id: client_id.into(), shown: shown.into(), session_expiry_s, ..present }
}
