//! What a session has subscribed: brought in line with what is wanted, noted before the broker hears of it, and what the broker
//! answers.

use std::collections::BTreeSet;

use rumqttc_v5::mqttbytes::v5::{
    SubAck, Subscribe, SubscribeReasonCode, UnsubAck, UnsubAckReason, Unsubscribe,
};
use tokio::time::Instant;

use super::{Asked, Otherwise, Phase, Session, Settings, Subscription};
use crate::{
    link::{Link, LinkError, Welcome},
    source::record::{Noted, Record},
    wire::Packet,
};

impl Session {
    pub(super) fn record(&self) -> Record {
        Record::in_folder(&self.settings.context.state_dir)
    }

    /// Whether an earlier process may have left this session at the broker.
    pub(super) async fn is_noted(&self) -> bool {
        let session = self.settings.dial.session();
        self.record().read().await.iter().any(|noted| noted.session == session)
    }

    /// Reads what an earlier process has noted: of this session, what it has subscribed; of others, that they were left.
    pub(super) async fn find_noted(&mut self, welcome: &Welcome) {
        self.is_fresh = !welcome.session_present;
        let (session, record) = (self.settings.dial.session(), self.record());
        // Beside another session of the flow, it is not for this one to say what else there is.
        let is_alone =
            self.waiting.as_ref().is_none_or(|waiting| !matches!(waiting.otherwise, Otherwise::End));
        for Noted { session: other, shown, filters } in record.read().await {
            // One client id at another address: when the broker knows it, it is the same broker by another name.
            let is_alias = is_alone && welcome.session_present && other.client_id == session.client_id;
            if other == session || is_alias {
                self.subscribed.extend(filters.into_iter().map(|filter| (filter, Subscription::UNKNOWN)));
                self.also_noted_as.push(other);
            } else if is_alone && self.phase == Phase::Open && !other.is_at_the_broker_of(&session) {
                let queueing = if filters.is_empty() { "" } else { ", and goes on queueing" };
                tracing::warn!(
                    target: "gristmill::mqtt", flow = &*self.settings.context.flow, file = %record.path.display(),
                    "an earlier run of this flow has left {shown}: the broker keeps what it has queued there{queueing}, as long \
                     as it keeps the session. To take that in, put the old connection back until nothing more comes; else end \
                     the session at the broker and delete this file"
                );
            }
        }
    }

    /// Notes what the broker's session may have subscribed, and `more`.
    async fn note(&mut self, more: &[(String, Subscription)]) {
        let Some(session) = self.session.clone() else { return };
        let filters =
            self.subscribed.keys().chain(&self.leaving).chain(more.iter().map(|(filter, _)| filter));
        let filters = filters.cloned().collect::<BTreeSet<_>>();
        let now = Some((session.clone(), filters.clone()));
        if self.noted == now {
            return;
        }
        let noted = Noted { session, shown: self.settings.dial.shown_session(), filters };
        let instead_of = std::mem::take(&mut self.also_noted_as);
        if let Err(error) = self.record().write(noted, instead_of).await {
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*self.settings.context.flow,
                "what is subscribed cannot be noted in the state folder; a topic that is taken out of the flow while no runtime \
                 runs would stay subscribed: {error}"
            );
        }
        self.noted = now;
    }

    /// Subscribes what is wanted and not subscribed, and the other way round.
    pub(super) async fn reconcile(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let Settings { topics, subscription, .. } = &self.settings;
        let stays = self.emptying.after.is_some();
        let dropped: Vec<String> =
            self.subscribed.keys().filter(|filter| !topics.contains(filter) && !stays).cloned().collect();
        let wanted: Vec<(String, Subscription)> = topics
            .iter()
            .filter(|filter| self.subscribed.get(*filter) != Some(subscription))
            .map(|filter| (filter.clone(), *subscription))
            .collect();
        // Before the broker hears of it: a process may end at any time.
        self.note(&wanted).await;
        if !dropped.is_empty() {
            for filter in &dropped {
                self.subscribed.remove(filter);
            }
            self.leaving.extend(dropped.iter().cloned());
            self.unsubscribe = self.packet();
            let unsubscribe = Unsubscribe { pkid: self.unsubscribe, filters: dropped, properties: None };
            link.send(Packet::Unsubscribe(unsubscribe))?;
        }
        if wanted.is_empty() {
            self.asked = None;
            self.is_up();
            return Ok(());
        }
        let packet = self.packet();
        let filters = wanted.iter().map(|(filter, subscription)| subscription.filter(filter)).collect();
        link.send(Packet::Subscribe(Subscribe { pkid: packet, filters, properties: None }))?;
        // Whatever the broker answers, from now on it may have them.
        self.subscribed.extend(wanted.iter().cloned());
        let until = Instant::now() + self.settings.dial.connection.connect_timeout;
        self.asked = Some(Asked { packet, filters: wanted, until });
        Ok(())
    }

    /// The next packet identifier of our own. One is under way at most, of each kind.
    fn packet(&mut self) -> u16 {
        let packet = self.next_packet;
        self.next_packet = packet.checked_add(1).unwrap_or(1);
        packet
    }

    pub(super) async fn unsubscribed(&mut self, answer: &UnsubAck) {
        use UnsubAckReason::{NoSubscriptionExisted, Success};
        let refused = answer.reasons.iter().find(|reason| !matches!(reason, Success | NoSubscriptionExisted));
        if let Some(reason) = refused
            && self.phase == Phase::Emptying
        {
            self.emptying.problem = format!("the broker refuses UNSUBSCRIBE: {reason:?}");
            self.leave_it_full();
            return;
        }
        self.leaving.clear();
        self.emptying.lost_at = None;
        self.stir();
        self.note(&[]).await;
    }

    pub(super) async fn subscribed(&mut self, answer: &SubAck, link: &mut Link) -> Result<(), LinkError> {
        let Some(Asked { filters, .. }) = self.asked.take_if(|asked| asked.packet == answer.pkid) else {
            return Ok(());
        };
        let shows = self.settings.shows_topics;
        let shown = |filter: &str| if shows { format!("`{filter}`") } else { "one of its topics".to_owned() };
        let mut refused = Vec::new();
        for ((filter, wanted), code) in filters.iter().zip(&answer.return_codes) {
            match code {
                SubscribeReasonCode::Success(granted) if (*granted as u8) < wanted.qos => {
                    refused.push(format!("{} (only QoS {} is granted)", shown(filter), *granted as u8));
                }
                SubscribeReasonCode::Success(_) => {}
                code => refused.push(format!("{} ({code:?})", shown(filter))),
            }
        }
        if refused.is_empty() {
            self.is_up();
            return Ok(());
        }
        for (filter, _) in &filters {
            // To be asked for again, with the settings of before or at the next connection.
            self.subscribed.insert(filter.clone(), Subscription::UNKNOWN);
        }
        let text = format!(
            "{} does not let {} subscribe to {}: see the broker's access list",
            self.settings.dial.place(),
            self.settings.dial.shown,
            refused.join(", ")
        );
        let goes_back = self.before().is_some();
        let error = LinkError::refused(text);
        if goes_back {
            self.is_down(error);
            return self.reconcile(link).await;
        }
        Err(error)
    }
}
