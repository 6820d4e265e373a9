//! Golden histories: what Step Functions tells of the same definitions.

use chrono::DateTime;
use serde_json::{Value, json};

use super::*;
use crate::asl::parse;

mod examples;

fn run_with(definition: &Value, input: Value, mocks: &Value) -> Value {
    let machine = parse(definition, &|_, _| Vec::new()).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let mocks = Mocks::parse(mocks, None, None).unwrap();
    let at = DateTime::from_timestamp(1_735_689_600, 0).unwrap();
    simulate(&machine, mocks, Start { name: "Machine".to_owned(), input, at, seed: 1 }).to_json(Form::Plain)
}

fn run(definition: &Value, input: Value) -> Value {
    run_with(definition, input, &json!({}))
}

/// Each event as `TYPE id<previous`.
fn story(report: &Value) -> Vec<String> {
    let event =
        |event: &Value| format!("{} {}<{}", event["type"].as_str().unwrap(), event["id"], event["previousEventId"]);
    report["events"].as_array().unwrap().iter().map(event).collect()
}

fn details(report: &Value, id: usize) -> &Value {
    &report["events"][id - 1]["details"]
}

fn one(state: &Value) -> Value {
    json!({"StartAt": "S", "States": {"S": state, "After": {"Type": "Pass", "End": true}, }})
}

/// A definition of one state that ends.
fn only(mut state: Value) -> Value {
    if !matches!(state["Type"].as_str(), Some("Succeed" | "Fail" | "Choice")) {
        state["End"] = json!(true);
    }
    json!({"StartAt": "S", "States": {"S": state}})
}

#[test]
fn a_sequential_map_is_chained_past_its_iterations() {
    let map = json!({
        "Type": "Map", "ItemsPath": "$.arr", "MaxConcurrency": 1,
        "Iterator": {"StartAt": "I", "States": {"I": {"Type": "Pass", "End": true}}}
    });
    let report = run(&only(map), json!({"arr": [1, 2]}));
    assert_eq!(report["output"], json!([1, 2]));
    assert_eq!(
        story(&report),
        [
            "ExecutionStarted 1<0",
            "MapStateEntered 2<0",
            "MapStateStarted 3<2",
            "MapIterationStarted 4<3",
            "PassStateEntered 5<4",
            "PassStateExited 6<5",
            "MapIterationSucceeded 7<6",
            "MapIterationStarted 8<6",
            "PassStateEntered 9<8",
            "PassStateExited 10<9",
            "MapIterationSucceeded 11<10",
            "MapStateSucceeded 12<11",
            "MapStateExited 13<11",
            "ExecutionSucceeded 14<13",
        ]
    );
    assert_eq!(details(&report, 3), &json!({"length": 2}));
    assert_eq!(details(&report, 8), &json!({"name": "S", "index": 1}));
    let empty = run(
        &only(json!({
            "Type": "Map", "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Pass", "End": true}}}
        })),
        json!([]),
    );
    let previous: Vec<&Value> =
        empty["events"].as_array().unwrap().iter().map(|event| &event["previousEventId"]).collect();
    assert_eq!(previous, [0, 0, 2, 3, 3, 5]);
}

#[test]
fn a_map_that_is_tried_again_fails_once() {
    let map = json!({
        "Type": "Map", "MaxConcurrency": 1,
        "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 1}],
        "ItemProcessor": {"StartAt": "F", "States": {"F": {"Type": "Fail", "Error": "E", "Cause": "C"}}}
    });
    let report = run(&only(map), json!([1]));
    assert_eq!((&report["status"], &report["error"], &report["cause"]), (&json!("FAILED"), &json!("E"), &json!("C")));
    assert_eq!(
        story(&report)[2..],
        [
            "MapStateStarted 3<2",
            "MapIterationStarted 4<3",
            "FailStateEntered 5<4",
            "MapIterationFailed 6<5",
            "MapStateStarted 7<5",
            "MapIterationStarted 8<7",
            "FailStateEntered 9<8",
            "MapIterationFailed 10<9",
            "MapStateFailed 11<9",
            "ExecutionFailed 12<11",
        ]
    );
}

#[test]
fn tasks_of_a_map_start_side_by_side_and_are_cut_with_the_first_that_fails() {
    let invoke =
        json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "TimeoutSeconds": 5, "End": true});
    let map = json!({"Type": "Map", "ItemProcessor": {"StartAt": "L", "States": {"L": invoke}}});
    let mocks = json!({"L": [{"throw": {"error": "States.Timeout"}}]});
    let report = run_with(&only(map), json!([1, 2]), &mocks);
    assert_eq!(
        story(&report),
        [
            "ExecutionStarted 1<0",
            "MapStateEntered 2<0",
            "MapStateStarted 3<2",
            "MapIterationStarted 4<3",
            "MapIterationStarted 5<3",
            "TaskStateEntered 6<4",
            "TaskScheduled 7<6",
            "TaskStateEntered 8<5",
            "TaskScheduled 9<8",
            "TaskStarted 10<7",
            "TaskStarted 11<9",
            "TaskTimedOut 12<10",
            "MapIterationFailed 13<12",
            "TaskStateAborted 14<12",
            "MapIterationAborted 15<12",
            "TaskStateAborted 16<12",
            "MapStateFailed 17<12",
            "ExecutionFailed 18<17",
        ]
    );
    assert_eq!(
        details(&report, 7),
        &json!({"resourceType": "lambda", "resource": "invoke", "region": "us-east-1", "parameters": 1, "timeoutInSeconds": 5})
    );
    assert_eq!(
        details(&report, 12),
        &json!({"resourceType": "lambda", "resource": "invoke", "error": "States.Timeout"})
    );
    assert_eq!(details(&report, 18), &json!({"error": "States.Timeout"}));
    assert_eq!((&report["error"], &report["cause"]), (&json!("States.Timeout"), &Value::Null));
}

#[test]
fn a_parallel_goes_on_from_the_last_event_of_its_branches() {
    let branch = |name: &str| json!({"StartAt": name, "States": {name: {"Type": "Pass", "End": true}}});
    let report = run(&only(json!({"Type": "Parallel", "Branches": [branch("A"), branch("B")]})), json!({"x": 1}));
    assert_eq!(report["output"], json!([{"x": 1}, {"x": 1}]));
    assert_eq!(
        story(&report)[2..],
        [
            "ParallelStateStarted 3<2",
            "PassStateEntered 4<3",
            "PassStateExited 5<4",
            "PassStateEntered 6<3",
            "PassStateExited 7<6",
            "ParallelStateSucceeded 8<7",
            "ParallelStateExited 9<7",
            "ExecutionSucceeded 10<9",
        ]
    );
}

#[test]
fn failures_of_branches_are_told_as_step_functions_tells_them() {
    let send =
        json!({"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "Parameters": {"a": 1}, "End": true});
    let wait = json!({"Type": "Wait", "Seconds": 20, "End": true});
    let mut parallel = one(&json!({
        "Type": "Parallel",
        "Branches": [{"StartAt": "W", "States": {"W": wait}}, {"StartAt": "Send", "States": {"Send": send}}],
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "After", "ResultPath": "$.error"}],
        "End": true
    }));
    let mocks = json!({"Send": [{"throw": {"error": "Gone", "cause": "no queue"}}]});
    let report = run_with(&parallel, json!({"x": 1}), &mocks);
    assert_eq!(report["output"], json!({"x": 1, "error": {"Error": "Gone", "Cause": "no queue"}}));
    assert_eq!(
        story(&report)[2..],
        [
            "ParallelStateStarted 3<2",
            "WaitStateEntered 4<3",
            "TaskStateEntered 5<3",
            "TaskScheduled 6<5",
            "TaskStarted 7<6",
            "TaskFailed 8<7",
            "TaskStateAborted 9<8",
            "WaitStateAborted 10<8",
            "ParallelStateFailed 11<8",
            "ParallelStateExited 12<11",
            "PassStateEntered 13<12",
            "PassStateExited 14<13",
            "ExecutionSucceeded 15<14",
        ]
    );
    // A broken rule of the language ends the whole execution, whatever is caught.
    parallel["States"]["S"]["Branches"][1]["States"]["Send"]["Parameters"] = json!({"m.$": "$.nope"});
    let report = run_with(&parallel, json!({"x": "a"}), &mocks);
    assert_eq!(story(&report)[5..], ["ExecutionFailed 6<5"]);
    assert_eq!(
        report["cause"],
        "An error occurred while executing the state 'Send' (entered at the event id #5). The JSONPath '$.nope' specified \
         for the field 'm.$' could not be found in the input '{\"x\":\"a\"}'"
    );
    assert_eq!(report["error"], "States.Runtime");
}

#[test]
fn a_failed_expression_has_an_event_for_each_attempt() {
    let send = json!({
        "QueryLanguage": "JSONata", "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage",
        "Arguments": {"MessageBody": "{% $states.input.missing %}"},
        "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 1, "IntervalSeconds": 0}]
    });
    let report = run(&only(send), json!({"x": "a"}));
    assert_eq!(story(&report)[2..], ["EvaluationFailed 3<2", "EvaluationFailed 4<3", "ExecutionFailed 5<4"]);
    let cause = "An error occurred while executing the state 'S' (entered at the event id #2). The JSONata expression \
                 '$states.input.missing' specified for the field 'Arguments/MessageBody' returned nothing (undefined).";
    assert_eq!(
        details(&report, 3),
        &json!({"error": "States.QueryEvaluationError", "cause": cause, "location": "Arguments/MessageBody", "state": "S"})
    );
    // A Catch whose own Output fails goes on from where the state stood before it had failed.
    let fail = json!({"StartAt": "Boom", "States": {"Boom": {"Type": "Fail", "Error": "E"}}});
    let parallel = one(&json!({
        "QueryLanguage": "JSONata", "Type": "Parallel", "Branches": [fail],
        "Catch": [{"ErrorEquals": ["Other"], "Next": "After"},
                  {"ErrorEquals": ["States.ALL"], "Output": {"v": "{% $states.input.no %}"}, "Next": "After"}],
        "End": true
    }));
    let report = run(&parallel, json!({}));
    assert_eq!(
        story(&report)[3..],
        [
            "FailStateEntered 4<3",
            "ParallelStateFailed 5<4",
            "EvaluationFailed 6<4",
            "ParallelStateFailed 7<6",
            "ExecutionFailed 8<7",
        ]
    );
    assert_eq!(details(&report, 6)["location"], "Catch[1]/Output/v");
}

#[test]
fn a_distributed_map_tells_of_its_run_only() {
    let map = json!({
        "Type": "Map", "Label": "Run",
        "ItemBatcher": {"MaxItemsPerBatch": 2, "BatchInput": {"k": "v"}},
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
            "StartAt": "I", "States": {"I": {"Type": "Pass", "End": true}}
        }
    });
    let report = run(&only(map.clone()), json!([1, 2, 3]));
    assert_eq!(
        story(&report)[2..],
        [
            "MapStateStarted 3<2",
            "MapRunStarted 4<3",
            "MapRunSucceeded 5<4",
            "MapStateSucceeded 6<5",
            "MapStateExited 7<4",
            "ExecutionSucceeded 8<7",
        ]
    );
    let batch = |items: Value| json!({"BatchInput": {"k": "v"}, "Items": items});
    assert_eq!(report["output"], json!([batch(json!([1, 2])), batch(json!([3]))]));
    let arn = details(&report, 4)["mapRunArn"].as_str().unwrap();
    assert!(arn.starts_with("arn:aws:states:us-east-1:123456789012:mapRun:Machine/Run:"), "{arn}");

    let mut failing = map;
    failing["ItemProcessor"]["States"]["I"] = json!({
        "Type": "Choice", "Default": "Ok",
        "Choices": [{"Variable": "$.Items[0]", "NumericEquals": 3, "Next": "No"}]
    });
    failing["ItemProcessor"]["States"]["No"] = json!({"Type": "Fail", "Error": "E"});
    failing["ItemProcessor"]["States"]["Ok"] = json!({"Type": "Succeed"});
    let report = run(&only(failing.clone()), json!([1, 2, 3]));
    assert_eq!(report["error"], "States.ExceedToleratedFailureThreshold");
    assert_eq!(story(&report)[4..], ["MapRunFailed 5<4", "MapStateFailed 6<5", "ExecutionFailed 7<6"]);
    failing["ToleratedFailurePercentage"] = json!(50);
    assert_eq!(run(&only(failing), json!([1, 2, 3]))["output"].as_array().map(Vec::len), Some(1));
}

#[test]
fn items_may_be_read_from_elsewhere() {
    let map = json!({
        "Type": "Map", "ItemReader": {"Resource": "arn:aws:states:::s3:getObject", "Parameters": {"Bucket.$": "$.b", "Key": "k"}},
        "ItemSelector": {"v.$": "$$.Map.Item.Value", "b.$": "$.b"},
        "ItemProcessor": {"ProcessorConfig": {"Mode": "DISTRIBUTED"}, "StartAt": "I", "States": {"I": {"Type": "Pass", "End": true}}}
    });
    let report = run_with(&only(map.clone()), json!({"b": "bucket"}), &json!({"S": [{"return": [1, 2]}]}));
    assert_eq!(report["output"], json!([{"v": 1, "b": "bucket"}, {"v": 2, "b": "bucket"}]));
    assert_eq!(details(&report, 3), &json!({"length": 0}));
    let mut map = map;
    map["ItemReader"]["ReaderConfig"] = json!({"InputType": "JSON", "MaxItemsPath": "$.most"});
    let input = json!({"b": "bucket", "most": 1});
    let report = run_with(&only(map.clone()), input, &json!({"S": [{"return": [1, 2]}]}));
    assert_eq!(report["output"], json!([{"v": 1, "b": "bucket"}]));
    map["ItemReader"].as_object_mut().unwrap().remove("ReaderConfig");
    map["ResultWriter"] =
        json!({"Resource": "arn:aws:states:::s3:putObject", "Parameters": {"Bucket": "b", "Prefix": "p"}});
    let report = run_with(&only(map), json!({"b": "bucket"}), &json!({"S": [{"return": []}]}));
    let output = &report["output"];
    assert_eq!(output["ResultWriterDetails"]["Bucket"], "b");
    assert!(output["ResultWriterDetails"]["Key"].as_str().unwrap().ends_with("/manifest.json"), "{output}");
    assert_eq!(output["MapRunArn"], details(&report, 4)["mapRunArn"]);
}

#[test]
fn functions_activities_and_tokens_have_their_own_events() {
    let lambda = "arn:aws:lambda:us-east-1:123456789012:function:f";
    let task = |resource: &str| {
        only(json!({"Type": "Task", "Resource": resource, "HeartbeatSeconds": 5, "TimeoutSeconds": 9}))
    };
    let mocks = json!({"S": [{"return": {"ok": true}}]});
    let report = run_with(&task(lambda), json!({}), &mocks);
    assert_eq!(
        story(&report)[2..5],
        ["LambdaFunctionScheduled 3<2", "LambdaFunctionStarted 4<3", "LambdaFunctionSucceeded 5<4"]
    );
    assert_eq!(details(&report, 3), &json!({"resource": lambda, "input": {}, "timeoutInSeconds": 9}));
    assert_eq!(details(&report, 5), &json!({"output": {"ok": true}}));
    let activity = "arn:aws:states:us-east-1:123456789012:activity:a";
    let report = run_with(&task(activity), json!({}), &json!({"S": [{"throw": {"error": "States.Timeout"}}]}));
    assert_eq!(
        story(&report)[2..],
        ["ActivityScheduled 3<2", "ActivityStarted 4<3", "ActivityTimedOut 5<4", "ExecutionFailed 6<5"]
    );
    assert_eq!(
        details(&report, 3),
        &json!({"resource": activity, "input": {}, "timeoutInSeconds": 9, "heartbeatInSeconds": 5})
    );
    let mut token = task("arn:aws:states:::sqs:sendMessage.waitForTaskToken");
    token["States"]["S"]["Parameters"] =
        json!({"MessageBody": {"TaskToken.$": "$$.Task.Token", "In.$": "$$.Execution.Input.a"}});
    let report = run_with(&token, json!({"a": 7}), &json!({"S": [{"throw": {"error": "No", "cause": "why"}}]}));
    assert_eq!(story(&report)[2..6], ["TaskScheduled 3<2", "TaskStarted 4<3", "TaskSubmitted 5<4", "TaskFailed 6<5"]);
    let body = &details(&report, 3)["parameters"]["MessageBody"];
    assert!(body["TaskToken"].is_string() && body["In"] == 7, "{body}");
    assert_eq!(details(&report, 3)["resource"], "sendMessage.waitForTaskToken");
}

#[test]
fn an_unmocked_task_fails_the_run_and_says_what_to_add() {
    let task = json!({
        "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Next": "After",
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "After"}]
    });
    let report = run(&one(&task), json!({}));
    assert_eq!(report["error"], "States.Runtime");
    assert!(report["cause"].as_str().unwrap().contains(r#"add {"S": [{"return": ...}]}"#), "{}", report["cause"]);
}

#[test]
fn waits_pass_on_virtual_time_and_a_deadline_cuts_them() {
    let year = json!({"Type": "Wait", "SecondsPath": "$.s", "End": true});
    let report = run(&json!({"StartAt": "W", "States": {"W": year}}), json!({"s": 31_536_000}));
    assert_eq!(report["events"][2]["timestamp"], "2026-01-01T00:00:00.000Z");
    let late =
        json!({"StartAt": "W", "TimeoutSeconds": 3, "States": {"W": {"Type": "Wait", "Seconds": 25, "End": true}}});
    let report = run(&late, json!({}));
    assert_eq!(story(&report)[2..], ["ExecutionTimedOut 3<0"]);
    assert_eq!(details(&report, 3), &json!({"error": "States.Timeout"}));
    assert_eq!((&report["status"], &report["error"]), (&json!("TIMED_OUT"), &json!("States.Timeout")));
}

#[test]
fn an_endless_loop_ends_with_event_25000() {
    let looping = json!({"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "A"}}});
    let report = run(&looping, json!({}));
    let last = report["events"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["id"], &last["type"]), (&json!(25_000), &json!("ExecutionFailed")));
    assert_eq!(report["cause"], "The execution reached the maximum number of history events (25000).");
    let retry = json!([{"ErrorEquals": ["E"], "IntervalSeconds": 0, "MaxAttempts": 99_999_999}]);
    let task = json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Retry": retry});
    let report = run_with(&only(task), json!({}), &json!({"S": [{"throw": {"error": "E"}}]}));
    assert_eq!(report["events"].as_array().map(Vec::len), Some(25_000));
}

#[test]
fn undos_run_last_in_first_out_and_go_on_when_one_fails() {
    let task = |next: &str, undo: &str| {
        json!({
            "QueryLanguage": "JSONata", "Type": "Task", "Resource": "grpc:x", "Next": next,
            "Compensate": {"Resource": undo, "Arguments": {"id": "{% $states.result.id %}"}}
        })
    };
    let definition = json!({"StartAt": "A", "States": {
        "A": task("B", "grpc:undo-a"), "B": task("C", "grpc:undo-b"), "C": {"Type": "Fail", "Error": "E"}
    }});
    let mocks = json!({
        "A": [{"return": {"id": 1}}], "B": [{"return": {"id": 2}}],
        "B.Compensate": [{"throw": {"error": "Stuck"}}], "A.Compensate": [{"return": "ok"}]
    });
    let report = run_with(&definition, json!({}), &mocks);
    assert_eq!(report["error"], "E");
    let told: Vec<(&str, &str)> = report["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| {
            let kind = event["type"].as_str()?.strip_prefix("Compensation")?;
            Some((kind, event["details"]["name"].as_str()?))
        })
        .collect();
    let mut expected = [("Scheduled", "B"), ("Failed", "B")].repeat(5);
    expected.extend([("Scheduled", "A"), ("Succeeded", "A")]);
    assert_eq!(told, expected);
    let first =
        report["events"].as_array().unwrap().iter().find(|event| event["type"] == "CompensationScheduled").unwrap();
    assert_eq!(first["details"]["parameters"], json!({"id": 2}));
}

#[test]
fn mock_files_of_step_functions_local_work_as_they_are() {
    let file = json!({
        "StateMachines": {"M": {"TestCases": {"Happy": {"S": "Flaky"}, "Sad": {"S": "Broken"}}}},
        "MockedResponses": {
            "Flaky": {"0-1": {"Throw": {"Error": "Busy", "Cause": "later"}}, "2": {"Return": {"ok": 1}}},
            "Broken": {"0": {"Throw": {"Error": "Down", "Cause": "it is"}}}
        }
    });
    let task = only(json!({
        "Type": "Task", "Resource": "arn:aws:states:::aws-sdk:sqs:sendMessage",
        "Retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 1, "MaxAttempts": 3}]
    }));
    let machine = parse(&task, &|_, _| Vec::new()).unwrap();
    let go = |case: &str| {
        let mocks = Mocks::parse(&file, None, Some(case)).unwrap();
        let at = DateTime::from_timestamp(0, 0).unwrap();
        simulate(&machine, mocks, Start { name: "M".to_owned(), input: json!({}), at, seed: 1 }).to_json(Form::Plain)
    };
    assert_eq!(go("Happy")["output"], json!({"ok": 1}));
    assert_eq!(go("Sad")["error"], "Down");
    // One answer after the other, whichever iteration asks, and none twice; what nobody asks for may be empty.
    let sequence = json!({
        "StateMachines": {"M": {"TestCases": {"C": {"T": "Seq", "Unused": "Empty"}}}},
        "MockedResponses": {"Empty": {}, "Seq": {
            "0": {"Throw": {"Error": "Boom"}}, "1": {"Return": "one"}, "2": {"Return": "two"}
        }}
    });
    let retry = json!([{"ErrorEquals": ["Boom"], "MaxAttempts": 1}]);
    let task = json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Retry": retry, "End": true});
    let map = json!({"Type": "Map", "MaxConcurrency": 1, "ItemProcessor": {"StartAt": "T", "States": {"T": task}}});
    assert_eq!(run_with(&only(map.clone()), json!([1, 2]), &sequence)["output"], json!(["one", "two"]));
    let report = run_with(&only(map), json!([1, 2, 3]), &sequence);
    assert_eq!(report["error"], "States.Runtime");
    assert!(report["cause"].as_str().unwrap().contains("no answer number 3"), "{}", report["cause"]);
    assert_eq!(details(&go("Happy"), 3)["resourceType"], "aws-sdk:sqs");
    for (machine, case) in [(None, None), (Some("X"), Some("Happy")), (None, Some("Nope"))] {
        assert!(Mocks::parse(&file, machine, case).is_err());
    }
    for bad in [json!([]), json!({"S": []}), json!({"S": [{"return": 1, "throw": {}}]}), json!({"S": [{"throw": {}}]})]
    {
        assert!(Mocks::parse(&bad, None, None).is_err(), "{bad}");
    }
}

#[test]
fn data_flows_through_the_fields_in_their_order() {
    let task = json!({
        "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke",
        "InputPath": "$.in", "Parameters": {"p.$": "$.v", "fixed": 1, "n.$": "States.MathAdd($.v, 1)", "past.$": "$.list[9]"},
        "ResultSelector": {"r.$": "$.Payload.r"}, "ResultPath": "$.out.task", "OutputPath": "$.out",
        "Assign": {"raw.$": "$.Payload"}, "Next": "Last"
    });
    let definition = json!({"StartAt": "S", "States": {
        "S": task, "Last": {"Type": "Pass", "Parameters": {"o.$": "$.task.r", "raw.$": "$raw.r", "s.$": "$$.State.Name"}, "End": true}
    }});
    let mocks = json!({"S": [{"return": {"Payload": {"r": 5}}}]});
    let report = run_with(&definition, json!({"in": {"v": 3, "list": [1]}, "other": true}), &mocks);
    assert_eq!(report["output"], json!({"o": 5, "raw": 5, "s": "Last"}), "{report:#}");
    assert_eq!(details(&report, 3)["parameters"], json!({"p": 3, "fixed": 1, "n": 4, "past": null}));
    let pass = |fields: Value, input: Value| {
        let mut state = json!({"Type": "Pass"});
        state.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        run(&only(state), input)["output"].clone()
    };
    assert_eq!(pass(json!({"Result": {"a": 1}, "ResultPath": "$.x"}), json!({"b": 2})), json!({"b": 2, "x": {"a": 1}}));
    assert_eq!(pass(json!({"InputPath": null}), json!({"b": 2})), json!({}));
    assert_eq!(pass(json!({"OutputPath": null}), json!({"b": 2})), json!({}));
    assert_eq!(pass(json!({"ResultPath": null, "Result": 1}), json!({"b": 2})), json!({"b": 2}));
    assert_eq!(pass(json!({"InputPath": "$$.Execution.Name"}), json!({})), json!("simulation"));
    assert_eq!(pass(json!({"Parameters": {"x.$": "$.a[*].b"}}), json!({"a": []})), json!({"x": []}));
}
