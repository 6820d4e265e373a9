//! Approvals: what runs ask people, by a list, by mail with a signed link, and until it is too late.

mod desk;
mod link;
pub mod model;
mod page;
mod rpc;
mod store;

use std::sync::Arc;

use serde_json::json;
use tenon_chassis::{Caller, Db, Mesh, TenantTx};

use crate::{
    asl::Failure,
    config::Config,
    engine::Waker,
    error::Error,
    runs::mail::{self, Message},
    tasks::Mailer,
};
use model::{Approval, Decided, Name};

/// Asks people, and takes their decisions.
#[derive(Clone)]
pub struct Approvals(Arc<Shared>);

struct Shared {
    mesh: Mesh,
    db: Db,
    waker: Arc<Waker>,
    mailer: Mailer,
    /// Where people reach the edge.
    public_url: String,
}

impl Approvals {
    #[must_use]
    pub fn new(mesh: Mesh, db: Db, waker: Arc<Waker>, config: &Config) -> Self {
        let (mailer, public_url) = (Mailer::new(config), config.public_url.trim_end_matches('/').to_owned());
        Self(Arc::new(Shared { mesh, db, waker, mailer, public_url }))
    }

    /// Decides, if nobody has: the run goes on with the decision as the state's result. Commit, and wake the engine.
    async fn decide(&self, caller: &Caller, name: Name, decided: &Decided) -> Result<TenantTx, Error> {
        let mut tx = self.0.db.begin(caller).await?;
        let result = json!({
            "decision": decided.decision,
            "by": decided.by,
            "comment": decided.comment,
            "form": decided.form,
            "decidedAt": decided.at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        });
        let message = Message::TaskDone { token: name.token, result };
        // The run first: it is what all that answer a task lock first.
        mail::send(&mut tx, name.run, &message).await?;
        if !store::delete(&mut tx, name).await? {
            return Err(Error::ApprovalNotFound);
        }
        Ok(tx)
    }

    /// Ends what cannot be decided: it is too late, or nobody could understand it.
    async fn fail(&self, caller: &Caller, name: Name, failure: Failure) -> Result<(), Error> {
        let mut tx = self.0.db.begin(caller).await?;
        mail::send(&mut tx, name.run, &Message::TaskFailed { token: name.token, failure }).await?;
        if store::delete(&mut tx, name).await? {
            tx.commit().await?;
            self.0.waker.wake();
        }
        Ok(())
    }

    async fn get(&self, caller: &Caller, name: Name) -> Result<Approval, Error> {
        let mut tx = self.0.db.begin(caller).await?;
        let approval = store::get(&mut tx, name).await?;
        tx.commit().await?;
        let now = self.0.mesh.clock.now();
        approval.filter(|approval| !approval.is_over(now)).ok_or(Error::ApprovalNotFound)
    }
}
