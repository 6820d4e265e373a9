//! Definitions and mock files in the forms that AWS documents for Step Functions Local, and what becomes of them.

use serde_json::{Value, json};

use super::{details, only, run_with};

/// Types of events after the first, with runs of the same left together.
fn kinds(report: &Value) -> Vec<&str> {
    report["events"].as_array().unwrap()[1..].iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// When tasks were scheduled, in seconds from the start.
fn scheduled_at(report: &Value) -> Vec<i64> {
    let events = report["events"].as_array().unwrap();
    let time = |event: &Value| chrono::DateTime::parse_from_rfc3339(event["timestamp"].as_str().unwrap()).unwrap();
    let start = time(&events[0]);
    let scheduled = events.iter().filter(|event| event["type"] == "TaskScheduled");
    scheduled.map(|event| (time(event) - start).num_seconds()).collect()
}

fn case(responses: &Value) -> Value {
    let states: serde_json::Map<String, Value> =
        responses.as_object().unwrap().keys().map(|state| (state.clone(), json!(state))).collect();
    json!({ "StateMachines": { "M": { "TestCases": { "C": states } } }, "MockedResponses": responses })
}

/// The tutorial of the mock file: a function that is not ready, then too slow, then answers; and a queue.
#[test]
fn a_function_is_tried_again_as_in_the_tutorial() {
    let definition = json!({ "StartAt": "LambdaState", "States": {
        "LambdaState": {
            "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Next": "SQSState",
            "Parameters": { "Payload.$": "$", "FunctionName": "HelloWorldFunction" },
            "Retry": [{ "ErrorEquals": ["States.ALL"], "IntervalSeconds": 2, "MaxAttempts": 3, "BackoffRate": 2 }]
        },
        "SQSState": {
            "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "End": true,
            "Parameters": { "QueueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/myQueue", "MessageBody.$": "$" }
        }
    } });
    let answer = json!({ "StatusCode": 200, "Payload": { "StatusCode": 200, "body": "Hello from Lambda!" } });
    let throw = |error: &str, cause: &str| json!({ "Throw": { "Error": error, "Cause": cause } });
    let mocks = case(&json!({
        "LambdaState": {
            "0": throw("Lambda.ResourceNotReadyException", "Lambda resource is not ready."),
            "1-2": throw("Lambda.TimeoutException", "Lambda timed out."),
            "3": { "Return": answer }
        },
        "SQSState": { "0": { "Return": { "MessageId": "3bcb6e8e" } } }
    }));
    let report = run_with(&definition, json!({ "key": "value" }), &mocks);
    assert_eq!((&report["status"], &report["output"]), (&json!("SUCCEEDED"), &json!({ "MessageId": "3bcb6e8e" })));
    assert_eq!(scheduled_at(&report), [0, 2, 6, 14, 14]);
    let attempt = ["TaskScheduled", "TaskStarted", "TaskFailed"];
    let mut expected = vec!["TaskStateEntered"];
    expected.extend(attempt.iter().cycle().take(9));
    let last = ["TaskScheduled", "TaskStarted", "TaskSucceeded", "TaskStateExited"];
    expected.extend(last.iter().chain(&["TaskStateEntered"]).chain(&last).chain(&["ExecutionSucceeded"]));
    assert_eq!(kinds(&report), expected);
    let sent = report["events"].as_array().unwrap().iter().rfind(|event| event["type"] == "TaskScheduled").unwrap();
    assert_eq!(sent["details"]["parameters"]["MessageBody"], answer);
}

#[test]
fn what_is_thrown_decides_which_event_tells_of_it() {
    let of = |resource: &str, error: &str| {
        let task = only(json!({ "Type": "Task", "Resource": resource, "HeartbeatSeconds": 2, "TimeoutSeconds": 9 }));
        let mocks = case(&json!({ "S": { "0": { "Throw": { "Error": error, "Cause": "c" } } } }));
        let report = run_with(&task, json!({}), &mocks);
        let told: Vec<String> = kinds(&report).into_iter().map(str::to_owned).collect();
        assert_eq!((&report["status"], &report["error"]), (&json!("FAILED"), &json!(error)), "{resource} {error}");
        (told[3..told.len() - 1].join(" "), details(&report, told.len()).clone())
    };
    let (token, sync) = ("arn:aws:states:::sqs:sendMessage.waitForTaskToken", "arn:aws:states:::ecs:runTask.sync");
    for (resource, error, told) in [
        (token, "States.Timeout", "TaskSubmitted TaskTimedOut"),
        (token, "States.HeartbeatTimeout", "TaskSubmitted TaskTimedOut"),
        (token, "Denied", "TaskSubmitted TaskFailed"),
        (sync, "States.TaskFailed", "TaskSubmitted TaskFailed"),
        ("arn:aws:states:::aws-sdk:s3:getObject", "S3.NoSuchKeyException", "TaskFailed"),
    ] {
        let (kinds, last) = of(resource, error);
        assert_eq!((kinds.as_str(), &last["error"]), (told, &json!(error)), "{resource} {error}");
    }
}

/// A Parallel cuts what its other branches are in: states, iterations, and the Map around them.
#[test]
fn a_branch_that_fails_cuts_the_map_beside_it() {
    let wait = json!({ "StartAt": "W", "States": { "W": { "Type": "Wait", "Seconds": 60, "End": true } } });
    let map = json!({ "StartAt": "M", "States": { "M": {
        "Type": "Map", "ItemsPath": "$.items", "ItemProcessor": wait, "End": true } } });
    let task = json!({ "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true });
    let branches = json!([map, { "StartAt": "T", "States": { "T": task } }]);
    let definition = json!({ "StartAt": "P", "States": {
        "P": { "Type": "Parallel", "Branches": branches, "Next": "After",
               "Catch": [{ "ErrorEquals": ["Boom"], "ResultPath": "$.why", "Next": "After" }] },
        "After": { "Type": "Pass", "OutputPath": "$.why.Error", "End": true }
    } });
    let mocks = case(&json!({ "T": { "0": { "Throw": { "Error": "Boom", "Cause": "c" } } } }));
    let report = run_with(&definition, json!({ "items": [1, 2] }), &mocks);
    assert_eq!((&report["status"], &report["output"]), (&json!("SUCCEEDED"), &json!("Boom")));
    let mut cut: Vec<&str> = kinds(&report).into_iter().filter(|kind| kind.contains("Aborted")).collect();
    cut.sort_unstable();
    let wait = "WaitStateAborted";
    assert_eq!(cut, ["MapIterationAborted", "MapIterationAborted", "MapStateAborted", "TaskStateAborted", wait, wait]);
    let at = |kind: &str| kinds(&report).iter().position(|found| *found == kind).unwrap();
    assert!(at("ParallelStateFailed") > at("MapStateAborted") && at("ParallelStateExited") > at("ParallelStateFailed"));
}

/// How many iterations may fail is a number or a share of them, and both are bounds.
#[test]
fn a_map_bears_as_many_failures_as_it_says() {
    let run = |more: Value| {
        let task = json!({ "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true });
        let mut map = json!({
            "Type": "Map", "MaxConcurrency": 1,
            "ItemProcessor": { "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" },
                               "StartAt": "T", "States": { "T": task } }
        });
        map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mocks = case(&json!({ "T": {
            "0": { "Return": 0 }, "1-2": { "Throw": { "Error": "Boom" } }, "3": { "Return": 3 }
        } }));
        run_with(&only(map), json!([0, 1, 2, 3]), &mocks)
    };
    for (more, comes_through) in [
        (json!({}), false),
        (json!({ "ToleratedFailureCount": 1 }), false),
        (json!({ "ToleratedFailureCount": 2 }), true),
        (json!({ "ToleratedFailurePercentage": 49 }), false),
        (json!({ "ToleratedFailurePercentage": 50 }), true),
        (json!({ "ToleratedFailurePercentage": 50, "ToleratedFailureCount": 1 }), false),
    ] {
        let report = run(more.clone());
        if comes_through {
            assert_eq!(report["output"], json!([0, 3]), "{more}");
            continue;
        }
        assert_eq!(report["error"], "States.ExceedToleratedFailureThreshold", "{more}");
        assert_eq!(report["cause"], "The specified tolerated failure threshold was exceeded", "{more}");
    }
}
