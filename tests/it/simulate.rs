//! `tenon workflow validate` and `tenon workflow simulate`, as people and scripts use them.

use std::{
    fs,
    io::Write as _,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::tenon;

/// An order as it is written for Step Functions: a function with Retry and Catch, Map in Parallel, a task token.
fn order() -> Value {
    json!({
        "Comment": "JSONPath is what a definition means that names no language",
        "StartAt": "Check",
        "States": {
            "Check": {
                "Type": "Task", "Resource": "arn:aws:lambda:us-east-1:123456789012:function:check",
                "ResultPath": "$.checked",
                "Retry": [{"ErrorEquals": ["Lambda.TooManyRequestsException"], "IntervalSeconds": 2, "BackoffRate": 2}],
                "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Refused"}],
                "Next": "Both"
            },
            "Both": {
                "Type": "Parallel", "ResultPath": "$.done", "Next": "Approve",
                "Branches": [
                    {"StartAt": "Each", "States": {"Each": {
                        "Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 1, "End": true,
                        "ItemSelector": {"n.$": "$$.Map.Item.Value", "i.$": "$$.Map.Item.Index"},
                        "ItemProcessor": {"StartAt": "Double", "States": {"Double": {
                            "Type": "Pass", "Parameters": {"twice.$": "States.MathAdd($.n, $.n)"}, "OutputPath": "$.twice",
                            "End": true
                        }}}
                    }}},
                    {"StartAt": "Note", "States": {"Note": {"Type": "Pass", "Result": "noted", "End": true}}}
                ]
            },
            "Approve": {
                "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
                "Parameters": {"QueueUrl": "q", "MessageBody": {"token.$": "$$.Task.Token"}},
                "ResultSelector": {"by.$": "$.approver"}, "ResultPath": "$.approved", "End": true
            },
            "Refused": {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "States.Format('order {}', $.id)"}
        }
    })
}

struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn put(&self, name: &str, value: &Value) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        tenon().current_dir(self.0.path()).arg("workflow").args(arguments).output().unwrap()
    }

    fn simulate(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(&[&["simulate"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"))
    }
}

fn kinds(report: &Value) -> Vec<&str> {
    report["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn a_definition_for_step_functions_runs_as_it_is() {
    let desk = Desk::new();
    let definition = desk.put("order.asl.json", &order());
    let mocks = desk.put(
        "mocks.json",
        &json!({
            "Check": [
                {"throw": {"error": "Lambda.TooManyRequestsException", "cause": "slow down"}},
                {"return": {"ok": true}}
            ],
            "Approve": [{"return": {"approver": "Ada"}}]
        }),
    );
    let input = r#"{"id": 7, "items": [1, 2]}"#;
    let report = desk.simulate(&[&definition, "--input", input, "--mocks", &mocks], 0);
    assert_eq!(
        report["output"],
        json!({"id": 7, "items": [1, 2], "checked": {"ok": true}, "done": [[2, 4], "noted"], "approved": {"by": "Ada"}})
    );
    assert_eq!(
        (&report["status"], &report["error"], &report["cause"]),
        (&json!("SUCCEEDED"), &json!(null), &json!(null))
    );
    assert_eq!(
        kinds(&report),
        [
            "ExecutionStarted",
            "TaskStateEntered",
            "LambdaFunctionScheduled",
            "LambdaFunctionStarted",
            "LambdaFunctionFailed",
            "LambdaFunctionScheduled",
            "LambdaFunctionStarted",
            "LambdaFunctionSucceeded",
            "TaskStateExited",
            "ParallelStateEntered",
            "ParallelStateStarted",
            "MapStateEntered",
            "MapStateStarted",
            "MapIterationStarted",
            "PassStateEntered",
            "PassStateExited",
            "MapIterationSucceeded",
            "MapIterationStarted",
            "PassStateEntered",
            "PassStateExited",
            "MapIterationSucceeded",
            "MapStateSucceeded",
            "MapStateExited",
            "PassStateEntered",
            "PassStateExited",
            "ParallelStateSucceeded",
            "ParallelStateExited",
            "TaskStateEntered",
            "TaskScheduled",
            "TaskStarted",
            "TaskSubmitted",
            "TaskSucceeded",
            "TaskStateExited",
            "ExecutionSucceeded",
        ]
    );
    // The pause before the retry passed on the virtual clock.
    assert_eq!(report["events"][4]["timestamp"], "2025-01-01T00:00:00.000Z");
    assert_eq!(report["events"][5]["timestamp"], "2025-01-01T00:00:02.000Z");
    let again = desk.simulate(&[&definition, "--input", input, "--mocks", &mocks], 0);
    assert_eq!(report, again, "a simulation is repeatable");
}

#[test]
fn mock_files_of_step_functions_local_are_taken() {
    let desk = Desk::new();
    let definition = desk.put("order.asl.json", &order());
    let config = desk.put(
        "MockConfigFile.json",
        &json!({
            "StateMachines": {"Order": {"TestCases": {
                "Happy": {"Check": "CheckOk", "Approve": "Approved"},
                "Refused": {"Check": "CheckDown"}
            }}},
            "MockedResponses": {
                "CheckOk": {"0": {"Return": {"ok": 1}}},
                "CheckDown": {"0-3": {"Throw": {"Error": "Lambda.TooManyRequestsException", "Cause": "slow down"}}},
                "Approved": {"0": {"Return": {"approver": "Bob"}}}
            }
        }),
    );
    let input = desk.put("input.json", &json!({"id": 7, "items": []}));
    let input = format!("@{input}");
    let common = [definition.as_str(), "--input", &input, "--mocks", &config];
    let report = desk.simulate(&[&common[..], &["--test-case", "Happy", "--pretty"]].concat(), 0);
    assert_eq!(report["output"]["approved"], json!({"by": "Bob"}));
    let report = desk.simulate(&[&common[..], &["--test-case", "Refused"]].concat(), 1);
    assert_eq!(report["status"], "FAILED");
    assert_eq!(report["error"], "Lambda.TooManyRequestsException");
    assert_eq!(report["cause"], "order 7");
    assert_eq!(kinds(&report).iter().filter(|kind| **kind == "LambdaFunctionFailed").count(), 4, "three retries");
    let output = desk.run(&[&["simulate"], &common[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("choose a test case with --test-case; there are: Happy, Refused"), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    let desk = Desk::new();
    let mut bad = order();
    bad["States"]["Both"]["Next"] = json!("Gone");
    bad["States"]["Check"]["ResultPath"] = json!("$.a[*]");
    let definition = desk.put("bad.json", &bad);
    let expected = [
        "/States/Check/ResultPath $.a[*] is no reference path: names and indexes from $ on only",
        "/States/Both/Next there is no state Gone here",
        "/States/Approve no transition leads to this state",
    ];
    let output = desk.run(&["validate", &definition]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    let mut sorted = expected;
    sorted.sort_unstable();
    assert_eq!(lines, sorted);
    let output = desk.run(&["simulate", &definition]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 3);

    let good = desk.put("good.json", &json!({"definition": order(), "triggers": {}}));
    let output = desk.run(&["validate", &good]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("sqs:sendMessage.waitForTaskToken is a resource of AWS"));
    let envelope = desk.put("envelope.json", &json!({"definition": bad}));
    let said = String::from_utf8(desk.run(&["validate", &envelope]).stdout).unwrap();
    assert!(said.lines().count() == 3 && said.lines().all(|line| line.starts_with("/definition/States/")), "{said}");
    let ours = desk.put(
        "ours.json",
        &json!({"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "grpc:tenon.billing.v1.No/No", "End": true}}}),
    );
    let output = desk.run(&["validate", &ours]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "/States/A/Resource there is no gRPC method tenon.billing.v1.No/No\n");
    let report = desk.simulate(&[&ours], 1);
    assert!(report["cause"].as_str().unwrap().contains("there is no mock for it"), "{}", report["cause"]);
    for arguments in [["--input", "{"], ["--input", "@nowhere.json"], ["--mocks", "nowhere.json"]] {
        let output = desk.run(&["simulate", &ours, arguments[0], arguments[1]]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
    }
}

#[test]
fn a_definition_comes_from_standard_input_too() {
    let definition =
        json!({"StartAt": "W", "TimeoutSeconds": 60, "States": {"W": {"Type": "Wait", "Seconds": 90, "End": true}}});
    let mut child = tenon()
        .args(["workflow", "simulate", "-", "--at", "2030-02-03T04:05:06Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(definition.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["status"], kinds(&report)),
        (&json!("TIMED_OUT"), vec!["ExecutionStarted", "WaitStateEntered", "ExecutionTimedOut"])
    );
    assert_eq!(report["events"][2]["timestamp"], "2030-02-03T04:06:06.000Z");
}

#[test]
fn a_history_is_written_as_step_functions_writes_it() {
    let desk = Desk::new();
    let sync = json!({
        "Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2", "TimeoutSeconds": 9,
        "Parameters": {"Name": "n"}, "Assign": {"out.$": "$.Output"}, "Next": "Each"
    });
    let each = json!({
        "Type": "Map", "ItemsPath": "$.Output", "End": true,
        "ItemProcessor": {"StartAt": "L", "States": {"L": {
            "Type": "Task", "Resource": "arn:aws:lambda:us-east-1:1:function:f", "End": true
        }}}
    });
    let definition = desk.put("d.json", &json!({"StartAt": "Sync", "States": {"Sync": sync, "Each": each}}));
    let mocks = json!({"Sync": [{"return": {"Output": [7]}}], "L": [{"return": "ok"}]});
    let mocks = desk.put("mocks.json", &mocks);
    let report = desk.simulate(&[&definition, "--mocks", &mocks, "--history", "step-functions"], 0);
    let told: Vec<(&str, Value)> = report["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            let mut fields = event.as_object().unwrap().clone();
            for name in ["id", "previousEventId", "timestamp"] {
                assert!(fields.remove(name).is_some());
            }
            fields.remove("type");
            (event["type"].as_str().unwrap(), Value::Object(fields))
        })
        .collect();
    assert_eq!(told[1..], as_step_functions_tells());
}

fn as_step_functions_tells() -> Vec<(&'static str, Value)> {
    let whole = json!({"truncated": false});
    let service = |more: Value| {
        let mut details = json!({"resourceType": "states", "resource": "startExecution.sync:2"});
        details.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        details
    };
    let answered = json!({"output": r#"{"Output":[7]}"#, "outputDetails": whole});
    let input = |name: &str, input: &str| json!({"stateEnteredEventDetails": {"name": name, "input": input, "inputDetails": whole}});
    vec![
        ("TaskStateEntered", input("Sync", "{}")),
        (
            "TaskScheduled",
            json!({"taskScheduledEventDetails": service(json!({
                "region": "us-east-1", "parameters": r#"{"Name":"n"}"#, "timeoutInSeconds": 9
            }))}),
        ),
        ("TaskStarted", json!({"taskStartedEventDetails": service(json!({}))})),
        ("TaskSubmitted", json!({"taskSubmittedEventDetails": service(answered.clone())})),
        ("TaskSucceeded", json!({"taskSucceededEventDetails": service(answered)})),
        (
            "TaskStateExited",
            json!({"stateExitedEventDetails": {
                "name": "Sync", "output": r#"{"Output":[7]}"#, "outputDetails": whole,
                "assignedVariables": {"out": "[7]"}, "assignedVariablesDetails": whole
            }}),
        ),
        ("MapStateEntered", input("Each", r#"{"Output":[7]}"#)),
        ("MapStateStarted", json!({"mapStateStartedEventDetails": {"length": 1}})),
        ("MapIterationStarted", json!({"mapIterationStartedEventDetails": {"name": "Each", "index": 0}})),
        ("TaskStateEntered", input("L", "7")),
        (
            "LambdaFunctionScheduled",
            json!({"lambdaFunctionScheduledEventDetails": {
                "resource": "arn:aws:lambda:us-east-1:1:function:f", "input": "7", "inputDetails": whole
            }}),
        ),
        ("LambdaFunctionStarted", json!({})),
        (
            "LambdaFunctionSucceeded",
            json!({"lambdaFunctionSucceededEventDetails": {
                "output": r#""ok""#, "outputDetails": whole
            }}),
        ),
        (
            "TaskStateExited",
            json!({"stateExitedEventDetails": {
                "name": "L", "output": r#""ok""#, "outputDetails": whole
            }}),
        ),
        ("MapIterationSucceeded", json!({"mapIterationSucceededEventDetails": {"name": "Each", "index": 0}})),
        ("MapStateSucceeded", json!({})),
        (
            "MapStateExited",
            json!({"stateExitedEventDetails": {
                "name": "Each", "output": r#"["ok"]"#, "outputDetails": whole
            }}),
        ),
        (
            "ExecutionSucceeded",
            json!({"executionSucceededEventDetails": {
                "output": r#"["ok"]"#, "outputDetails": whole
            }}),
        ),
    ]
}

#[test]
fn services_of_ones_own_are_known_by_their_descriptors() {
    let desk = Desk::new();
    let task = |arguments: Value| {
        let task = json!({"Type": "Task", "Resource": "grpc:inventory.v1.StockService/MoveStock", "End": true,
                          "Parameters": arguments});
        json!({"StartAt": "Move", "States": {"Move": task}})
    };
    let (good, bad) = (json!({"name.$": "$.name", "pieces": 1}), json!({"nam.$": "$.name"}));
    let (good, bad) = (desk.put("good.json", &task(good)), desk.put("bad.json", &task(bad)));
    let set = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/inventory/inventory.binpb");
    let said = |arguments: &[&str]| {
        let output = desk.run(arguments);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(said(&["validate", &good, "--descriptors", set]), (Some(0), String::new()));
    let (code, fault) = said(&["validate", &bad, "--descriptors", set]);
    assert_eq!(code, Some(2));
    assert_eq!(fault, "/States/Move/Parameters/nam.$ inventory.v1.MoveStockRequest has no field nam\n");
    let (code, fault) = said(&["validate", &good]);
    assert_eq!(code, Some(2));
    assert!(fault.starts_with("/States/Move/Resource there is no gRPC method"), "{fault}");
}
