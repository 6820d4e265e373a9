//! What a Resource is to the history: which events tell of it, and under which names.

use serde_json::{Map, Value, json};

/// The region that the history names for services of AWS.
const REGION: &str = "us-east-1";

/// A Resource by the events that Step Functions has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource<'r> {
    /// `arn:aws:lambda:...:function:NAME`: LambdaFunction* events.
    Lambda(&'r str),
    /// `arn:aws:states:...:activity:NAME` and `activity:QUEUE`: Activity* events.
    Activity(&'r str),
    /// Everything else: Task* events.
    Service { kind: &'r str, action: &'r str, aws: bool },
}

/// What is told of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Scheduled,
    Started,
    Succeeded,
    Failed,
    TimedOut,
}

/// Whether a Resource is one of AWS.
pub fn is_aws(resource: &str) -> bool {
    resource.starts_with("arn:")
}

impl<'r> Resource<'r> {
    pub(super) fn of(resource: &'r str) -> Self {
        if is_aws(resource) {
            let parts: Vec<&str> = resource.splitn(7, ':').collect();
            return match parts.as_slice() {
                [_, _, "lambda", ..] => Self::Lambda(resource),
                [_, _, "states", _, _, "activity", _] => Self::Activity(resource),
                [_, _, "states", _, _, rest @ ..] => {
                    // aws-sdk:SERVICE:ACTION, or SERVICE:ACTION with .sync, .sync:2 or .waitForTaskToken.
                    let rest = &resource[resource.len()
                        - rest.iter().map(|part| part.len()).sum::<usize>()
                        - rest.len().saturating_sub(1)..];
                    let (kind, action) = match rest.strip_prefix("aws-sdk:") {
                        Some(inner) => {
                            let end = "aws-sdk:".len() + inner.find(':').unwrap_or(inner.len());
                            (&rest[..end], rest[end..].trim_start_matches(':'))
                        }
                        None => rest.split_once(':').unwrap_or((rest, "")),
                    };
                    Self::Service { kind, action, aws: true }
                }
                _ => Self::Service { kind: parts.get(2).copied().unwrap_or(resource), action: resource, aws: true },
            };
        }
        match resource.split_once(':') {
            Some(("activity", _)) => Self::Activity(resource),
            Some((kind, action)) => Self::Service { kind, action, aws: false },
            None => Self::Service { kind: resource, action: "", aws: false },
        }
    }

    /// Whether the task gets a token by which it is answered later.
    pub(super) fn waits_for_token(self) -> bool {
        matches!(self, Self::Service { action, aws: true, .. } if action.ends_with(".waitForTaskToken"))
    }

    /// Whether the history tells that the service took the request, before it tells of the result.
    pub(super) fn is_submitted(self) -> bool {
        let Self::Service { action, aws: true, .. } = self else { return false };
        action.ends_with(".waitForTaskToken") || action.ends_with(".sync") || action.contains(".sync:")
    }

    /// Whether a worker says when it starts, which is not before it answers.
    pub(super) fn starts_late(self) -> bool {
        matches!(self, Self::Activity(_))
    }

    /// How a result that is too large names it.
    pub(super) fn name(self) -> &'r str {
        match self {
            Self::Lambda(arn) | Self::Activity(arn) => arn,
            Self::Service { kind, .. } => kind,
        }
    }

    pub(super) fn event(self, told: Told) -> &'static str {
        match (self, told) {
            (Self::Lambda(_), Told::Scheduled) => "LambdaFunctionScheduled",
            (Self::Lambda(_), Told::Started) => "LambdaFunctionStarted",
            (Self::Lambda(_), Told::Succeeded) => "LambdaFunctionSucceeded",
            (Self::Lambda(_), Told::Failed) => "LambdaFunctionFailed",
            (Self::Lambda(_), Told::TimedOut) => "LambdaFunctionTimedOut",
            (Self::Activity(_), Told::Scheduled) => "ActivityScheduled",
            (Self::Activity(_), Told::Started) => "ActivityStarted",
            (Self::Activity(_), Told::Succeeded) => "ActivitySucceeded",
            (Self::Activity(_), Told::Failed) => "ActivityFailed",
            (Self::Activity(_), Told::TimedOut) => "ActivityTimedOut",
            (Self::Service { .. }, Told::Scheduled) => "TaskScheduled",
            (Self::Service { .. }, Told::Started) => "TaskStarted",
            (Self::Service { .. }, Told::Succeeded) => "TaskSucceeded",
            (Self::Service { .. }, Told::Failed) => "TaskFailed",
            (Self::Service { .. }, Told::TimedOut) => "TaskTimedOut",
        }
    }

    /// What each event of the task names: nothing for functions and activities.
    pub(super) fn details(self) -> Map<String, Value> {
        let mut details = Map::new();
        if let Self::Service { kind, action, .. } = self {
            details.insert("resourceType".to_owned(), json!(kind));
            details.insert("resource".to_owned(), json!(action));
        }
        details
    }

    /// The details of the event that schedules it.
    pub(super) fn scheduled(self, arguments: &Value, timeout: Option<u32>, heartbeat: Option<u32>) -> Value {
        let mut details = self.details();
        match self {
            Self::Lambda(arn) | Self::Activity(arn) => {
                details.insert("resource".to_owned(), json!(arn));
                details.insert("input".to_owned(), arguments.clone());
            }
            Self::Service { aws, .. } => {
                if aws {
                    details.insert("region".to_owned(), json!(REGION));
                }
                details.insert("parameters".to_owned(), arguments.clone());
            }
        }
        if let Some(seconds) = timeout {
            details.insert("timeoutInSeconds".to_owned(), json!(seconds));
        }
        if let Some(seconds) = heartbeat.filter(|_| !matches!(self, Self::Lambda(_))) {
            details.insert("heartbeatInSeconds".to_owned(), json!(seconds));
        }
        Value::Object(details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_as_step_functions_names_them() {
        let service = |resource, kind, action| {
            assert_eq!(Resource::of(resource), Resource::Service { kind, action, aws: is_aws(resource) }, "{resource}");
        };
        service("arn:aws:states:::lambda:invoke", "lambda", "invoke");
        service("arn:aws:states:::aws-sdk:sqs:sendMessage", "aws-sdk:sqs", "sendMessage");
        service("arn:aws:states:::sqs:sendMessage.waitForTaskToken", "sqs", "sendMessage.waitForTaskToken");
        service("arn:aws:states:::states:startExecution.sync:2", "states", "startExecution.sync:2");
        service("arn:aws-cn:states:us-east-1:1:http:invoke", "http", "invoke");
        service("grpc:a.b.C/D", "grpc", "a.b.C/D");
        service("x", "x", "");
        let lambda = "arn:aws:lambda:us-east-1:123456789012:function:f:1";
        assert_eq!(Resource::of(lambda), Resource::Lambda(lambda));
        let activity = "arn:aws:states:us-east-1:123456789012:activity:a";
        assert_eq!(Resource::of(activity), Resource::Activity(activity));
        assert!(Resource::of("arn:aws:states:::ecs:runTask.sync").is_submitted());
        assert!(Resource::of("arn:aws:states:::sqs:sendMessage.waitForTaskToken").waits_for_token());
        assert!(!Resource::of("arn:aws:states:::sqs:sendMessage").is_submitted());
    }
}
