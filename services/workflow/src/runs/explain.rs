//! Why a run is not further: its situation, in words.

use chrono::{DateTime, Utc};
use tenon_chassis::directory::Status;

use super::model::{RunId, State};
use crate::{
    asl::{Command, Execution, Tried},
    quotas,
    tasks::{Family, family},
};

/// A kind of reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ready,
    RunningTask,
    WaitingForWorker,
    NoWorker,
    WorkerAtWork,
    WaitingTimer,
    WaitingSignal,
    WaitingApproval,
    WaitingChild,
    Retry,
    RateLimited,
    ConcurrencyLimit,
    Paused,
    WorkflowPaused,
    TenantPaused,
    TenantSuspended,
    TenantUnpaid,
    Crashed,
    Quota,
    ActiveLimit,
}

/// A reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    pub code: Code,
    pub text: String,
    pub subject: String,
    pub until: Option<DateTime<Utc>>,
}

/// A wait that is answered from outside, as the database has it.
#[derive(Debug)]
pub struct Awaited {
    pub token: i64,
    pub worker: Option<String>,
    /// Whether a worker of its queue is connected.
    pub served: bool,
    /// The run that was started for it.
    pub child: Option<RunId>,
}

/// All that is known of where a run stands.
#[derive(Debug)]
pub struct Situation {
    pub state: State,
    pub workflow_id: String,
    pub paused: Option<String>,
    pub crashes: i16,
    pub concurrency_key: Option<String>,
    /// The first that is at work with its key, and how many are queued before it.
    pub ahead: Option<(RunId, i64)>,
    pub standing: Option<Status>,
    /// When the period ends whose quota holds it back, while nothing is left.
    pub quota_until: Option<DateTime<Utc>>,
    /// Whether the tenant has as many runs at work as it may.
    pub is_crowded: bool,
    pub execution: Option<Execution>,
    pub awaited: Vec<Awaited>,
}

impl Situation {
    /// The reasons, what holds the run back as a whole first.
    #[must_use]
    pub fn explain(&self) -> Vec<Why> {
        if self.state.has_ended() {
            return Vec::new();
        }
        let mut reasons = self.holds();
        if self.state == State::Queued {
            let key = self.concurrency_key.as_deref().unwrap_or_default();
            let (run, before) = self.ahead.map_or((String::new(), 0), |(run, before)| (format!("runs/{run}"), before));
            let text = format!("others with the concurrency key {key} are at work, and {before} are queued before it");
            reasons.push(why(Code::ConcurrencyLimit, text, run, None));
        } else if reasons.is_empty() {
            reasons.extend(self.waits());
            if reasons.is_empty() && self.is_crowded {
                let text =
                    "the tenant has as many runs at work as its plan allows; it is taken up when one rests or ends";
                reasons.push(why(Code::ActiveLimit, text.to_owned(), String::new(), None));
            }
            if reasons.is_empty() {
                reasons.push(why(Code::Ready, "an engine takes it up in a moment".to_owned(), String::new(), None));
            }
        }
        if self.crashes > 0 {
            let text = format!("{} engines died while they had it, since its last step", self.crashes);
            reasons.push(why(Code::Crashed, text, String::new(), None));
        }
        reasons
    }

    fn holds(&self) -> Vec<Why> {
        let mut holds = Vec::new();
        match self.standing {
            Some(Status::Suspended) => {
                let text = "the tenant is suspended; runs go on when it is active again".to_owned();
                holds.push(why(Code::TenantSuspended, text, String::new(), None));
            }
            Some(Status::PendingPayment) => {
                let text = "the tenant has an open payment; runs go on when it is settled".to_owned();
                holds.push(why(Code::TenantUnpaid, text, String::new(), None));
            }
            _ => {}
        }
        let workflow = format!("workflows/{}", self.workflow_id);
        match self.paused.as_deref() {
            None | Some("standing") => {}
            Some("workflow") => {
                let text = format!("{workflow} is paused; DeletePause lets its runs go on");
                holds.push(why(Code::WorkflowPaused, text, workflow, None));
            }
            Some("tenant") => {
                let text = "everything in the tenant is paused; DeletePause lets it go on".to_owned();
                holds.push(why(Code::TenantPaused, text, String::new(), None));
            }
            Some(by) if by.starts_with(quotas::HELD) => {
                let meter = by.trim_start_matches(quotas::HELD).to_owned();
                let text = format!(
                    "nothing is left of {meter} in the plan; the run goes on with the next period or another plan"
                );
                holds.push(why(Code::Quota, text, meter, self.quota_until));
            }
            Some(by) => {
                let text = format!("paused by {by}; ResumeRun lets it go on");
                holds.push(why(Code::Paused, text, by.to_owned(), None));
            }
        }
        holds
    }

    fn waits(&self) -> Vec<Why> {
        let Some(execution) = &self.execution else { return Vec::new() };
        execution.outstanding().into_iter().map(|command| self.wait(execution, command)).collect()
    }

    fn wait(&self, execution: &Execution, command: Command) -> Why {
        match command {
            Command::StartTimer { token, due } => match execution.retry(token) {
                Some(Tried { state, limited_by: Some(by) }) => {
                    let text = format!("{by} limits how often it is called; {state} is tried again at {due}");
                    why(Code::RateLimited, text, by.to_owned(), Some(due))
                }
                Some(Tried { state, limited_by: None }) => {
                    why(Code::Retry, format!("{state} failed, and is tried again at {due}"), String::new(), Some(due))
                }
                None => why(Code::WaitingTimer, format!("a timer is due at {due}"), String::new(), Some(due)),
            },
            Command::CallTask { token, resource, .. } => {
                let awaited = self.awaited.iter().find(|awaited| awaited.token == token.cast_signed());
                match family(&resource) {
                    Family::Call => why(Code::RunningTask, format!("{resource} is called"), resource, None),
                    Family::Wait { kind, name } => outside(kind, name, awaited),
                }
            }
        }
    }
}

fn outside(kind: &str, name: String, awaited: Option<&Awaited>) -> Why {
    match kind {
        "signal" => why(Code::WaitingSignal, format!("no signal {name} was sent yet"), name, None),
        "approval" => why(Code::WaitingApproval, "nobody has decided yet".to_owned(), name, None),
        "workflow" => {
            let child = awaited.and_then(|awaited| awaited.child).map(|run| format!("runs/{run}")).unwrap_or_default();
            why(Code::WaitingChild, format!("a run of workflows/{name} has not ended"), child, None)
        }
        _ => match awaited.and_then(|awaited| awaited.worker.clone()) {
            Some(worker) => why(Code::WorkerAtWork, format!("{worker} is at work on a task of {name}"), worker, None),
            None if awaited.is_some_and(|awaited| !awaited.served) => {
                let text = format!("no worker is connected that takes tasks of the queue {name}");
                why(Code::NoWorker, text, name, None)
            }
            None => {
                let text = format!("workers of the queue {name} are connected, and none has taken the task yet");
                why(Code::WaitingForWorker, text, name, None)
            }
        },
    }
}

fn why(code: Code, text: String, subject: String, until: Option<DateTime<Utc>>) -> Why {
    Why { code, text, subject, until }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation() -> Situation {
        Situation {
            state: State::Running,
            workflow_id: "hello".to_owned(),
            paused: None,
            crashes: 0,
            concurrency_key: None,
            ahead: None,
            standing: None,
            quota_until: None,
            is_crowded: false,
            execution: None,
            awaited: Vec::new(),
        }
    }

    fn codes(situation: &Situation) -> Vec<Code> {
        situation.explain().iter().map(|why| why.code).collect()
    }

    #[test]
    fn what_holds_a_run_back_as_a_whole_comes_before_what_it_waits_for() {
        assert_eq!(codes(&situation()), [Code::Ready]);
        assert_eq!(codes(&Situation { is_crowded: true, ..situation() }), [Code::ActiveLimit]);
        let paused = |by: &str| Situation { paused: Some(by.to_owned()), ..situation() };
        assert_eq!(codes(&paused("usr_1")), [Code::Paused]);
        assert_eq!(codes(&paused("workflow")), [Code::WorkflowPaused]);
        assert_eq!(codes(&paused("tenant")), [Code::TenantPaused]);
        assert_eq!(codes(&paused("quota:ai_tokens")), [Code::Quota]);
        assert_eq!(paused("quota:ai_tokens").explain()[0].subject, "ai_tokens");
        let unpaid = Situation { standing: Some(Status::PendingPayment), crashes: 2, ..paused("standing") };
        assert_eq!(codes(&unpaid), [Code::TenantUnpaid, Code::Crashed]);
        assert_eq!(codes(&Situation { state: State::Queued, ..situation() }), [Code::ConcurrencyLimit]);
        assert!(codes(&Situation { state: State::Failed, ..paused("usr_1") }).is_empty());
        assert_eq!(outside("activity", "mail".to_owned(), None).code, Code::WaitingForWorker);
        let of = |worker: Option<&str>, served| {
            let awaited = Awaited { token: 1, worker: worker.map(str::to_owned), served, child: None };
            outside("activity", "mail".to_owned(), Some(&awaited)).code
        };
        // A worker that has lost its connection may be at work still.
        assert_eq!(of(Some("w1"), false), Code::WorkerAtWork);
        assert_eq!(of(None, true), Code::WaitingForWorker);
        assert_eq!(of(None, false), Code::NoWorker);
    }
}
