//! How a session is emptied that another one takes the place of: when it is at rest, when the broker is asked whether that was
//! all, and when it is given up.

use tokio::time::Instant;

use super::{Phase, SILENCE, Session};
use crate::config::Version;

impl Session {
    /// Something came or went, so the broker may have more.
    pub(super) fn stir(&mut self) {
        if self.phase == Phase::Emptying {
            (self.emptying.stirred_at, self.emptying.asked) = (Some(Instant::now()), None);
        }
    }

    /// Whether all is settled and unsubscribed, of a session that is emptied.
    fn is_at_rest(&self) -> bool {
        self.phase == Phase::Emptying
            && self.ledger.is_empty()
            && self.ledger.is_let_go()
            && self.inbox.len() == 0
            && self.leaving.is_empty()
            && self.emptying.after.is_none()
    }

    /// When to ask the broker whether there is more.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let is_asked = self.emptying.asked.is_some();
        self.emptying.stirred_at.filter(|_| self.is_at_rest() && !is_asked).map(|at| at + SILENCE)
    }

    /// A ping is answered. Whether the session is known to be empty.
    ///
    /// That rests on this: the broker has answered UNSUBSCRIBE, so that it adds nothing (MQTT 5.0, 3.10.4); it goes on with what
    /// it has queued, which 3.10.4 allows and every broker does that was looked at; it sends what is queued as soon as there is
    /// room for it, and there is, since all is acknowledged; it was silent for a while, see [`SILENCE`]; and what it sent
    /// before it answered the ping is here before the answer, for a connection keeps the order.
    pub(super) fn answered(&mut self, ping: u64) -> bool {
        if let Some((answer, _)) = self.alive.take_if(|(_, asked)| asked.is_some_and(|asked| asked <= ping)) {
            let _gave_up = answer.send(self.links);
        }
        let is_empty = self.is_at_rest() && self.emptying.asked.is_some_and(|asked| asked <= ping);
        if is_empty {
            (self.phase, self.retires) = (Phase::Abandoned, true);
        }
        is_empty
    }

    /// When a session that cannot be reached is not waited for any longer, for others wait behind it.
    pub(super) fn leave_at(&self) -> Option<Instant> {
        let lost_at = self.emptying.lost_at.filter(|_| self.phase == Phase::Emptying);
        lost_at.map(|at| at + self.settings.context.limits.prepare() / 2)
    }

    /// Gives a session up that could not be emptied. What the flow has of it, it still settles; the broker does not hear of it.
    pub(super) fn leave_it_full(&mut self) {
        let is_unsubscribed = self.subscribed.is_empty() && self.leaving.is_empty();
        tracing::warn!(
            target: "gristmill::mqtt", flow = &*self.settings.context.flow,
            "{} could not be emptied ({}), and the source goes on with the session in its place. The broker keeps what it has \
             queued there{}, {}. To take that in, put the old connection back until nothing more comes",
            self.settings.dial.shown_session(),
            self.emptying.problem,
            if is_unsubscribed { "" } else { ", and goes on queueing" },
            match self.settings.dial.connection.version {
                Version::V5 => "until the session expires (`session_expiry_s`)",
                Version::V311 => "as long as it keeps sessions",
            },
        );
        self.phase = Phase::Abandoned;
    }
}
