//! The desk: reads what runs ask, mails it to whom it names, and ends what is too late.

use std::time::Duration;

use chrono::TimeDelta;
use tenon_chassis::{Caller, TenantId, db, fail, pulse::Beat, telemetry};
use tokio::{
    sync::broadcast,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Approvals,
    link::Link,
    model::{Approval, Asked, Name},
    page, store,
};
use crate::{asl::Failure, engine::TASKS, error::Error, tasks::Mail};

/// How often it is looked at what is too late, and what a lost beat costs at most.
const TICK: Duration = Duration::from_secs(1);
/// Tries to mail a question, 1, 2, 4 ... minutes apart.
pub(super) const TRIES: i16 = 8;

impl Approvals {
    /// Works until stopped. Any number of replicas may: each row is one's.
    pub async fn run(self, stop: CancellationToken) {
        let mut beats = self.0.db.pulse().subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                () = beaten(&mut beats) => {}
            }
            if let Err(error) = self.look().instrument(telemetry::quiet()).await {
                tracing::warn!(%error, "approvals were not looked after; they are with the next look");
            }
        }
    }

    async fn look(&self) -> Result<(), Error> {
        let mut tx = self.0.db.system().await?;
        let unread = store::list_unprepared(&mut tx).await?;
        let mut nonsense = Vec::new();
        for (tenant, name, arguments, created_at) in unread {
            match Asked::parse(&arguments) {
                Ok(asked) => {
                    let is_mailed = !asked.notify.email.is_empty() && self.0.mailer.is_configured();
                    store::update_prepared(&mut tx, (tenant, name), asked.expires_at(created_at), is_mailed).await?;
                }
                Err(why) => nonsense.push((tenant, name, why)),
            }
        }
        let late = store::list_expired(&mut tx).await?;
        let unsent = store::claim_unnotified(&mut tx).await?;
        fail::at("desk.commit.before").await?;
        tx.commit().await?;
        fail::at("desk.commit.after").await?;
        for (tenant, name, why) in nonsense {
            self.fail(&self.acting_for(tenant)?, name, Failure::new("INVALID_ARGUMENTS", why)).await?;
        }
        for (tenant, name) in late {
            let failure = Failure::new(Failure::TIMEOUT, "nobody decided in time");
            self.fail(&self.acting_for(tenant)?, name, failure).await?;
        }
        for (tenant, approval) in unsent {
            self.mail(tenant, &approval).await?;
        }
        Ok(())
    }

    pub(super) fn acting_for(&self, tenant: TenantId) -> Result<Caller, Error> {
        let method = self.0.mesh.contract.method("/tenon.workflow.v1.ApprovalService/ListApprovals");
        let caller = Caller::service(crate::NAME, method.expect("the service is in the contract"));
        Ok(caller.acting_for(tenant).map_err(db::Error::from)?)
    }

    /// Mails a question to everyone whom it names, each with a link of their own. One that fails comes again; what was sent
    /// already is sent twice then, under the same Message-ID.
    async fn mail(&self, tenant: TenantId, approval: &Approval) -> Result<(), Error> {
        let now = self.0.mesh.clock.now();
        let mut all_sent = true;
        for (index, to) in approval.asked.notify.email.iter().enumerate() {
            let link = Link::new(tenant, approval.name, to, (now, approval.expires_at));
            let link = format!("{}/approve/{}", self.0.public_url, link.sign(&self.0.mesh.config.master_key));
            fail::at("ask.call.before").await?;
            let sent = self.0.mailer.send(mail(approval, index, to, &link)).await;
            fail::at("ask.call.after").await?;
            match sent {
                Ok(_) => {}
                // It would be refused again.
                Err(failure) if failure.error != "Email.Unavailable" => {
                    tracing::warn!(approval = %approval.name, error = failure.error, "a question cannot be mailed");
                }
                Err(_) => all_sent = false,
            }
        }
        if all_sent {
            let mut tx = self.0.db.begin(&self.acting_for(tenant)?).await?;
            store::update_notified(&mut tx, approval.name).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

fn mail(approval: &Approval, index: usize, to: &str, link: &str) -> Mail {
    let Asked { title, description, .. } = &approval.asked;
    let until = approval.expires_at.map(|at| format!("\n\nUntil {}.", at.format("%Y-%m-%d %H:%M UTC")));
    let until = until.unwrap_or_default();
    let text = format!("{title}\n\n{description}\n\nDecide here: {link}{until}\n");
    let html = format!(
        "<p><strong>{}</strong></p><p style=\"white-space:pre-wrap\">{}</p><p><a href=\"{link}\">Decide here</a>{until}</p>",
        page::escaped(title),
        page::escaped(description)
    );
    let Name { run, token } = approval.name;
    let id = format!("{run}.{token}.{index}");
    Mail { to: vec![to.to_owned()], subject: title.clone(), text: Some(text), html: Some(html), id, ..Mail::default() }
}

/// The pause before a try, after so many.
pub(super) fn pause(tries: i16) -> TimeDelta {
    TimeDelta::minutes(1 << tries.clamp(0, 10))
}

/// Returns when something was asked, and when that may have been missed.
async fn beaten(beats: &mut broadcast::Receiver<Beat>) {
    loop {
        match beats.recv().await {
            Ok(Beat::Notified { channel, .. }) if channel != TASKS => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
