//! The machine, driven by hand: golden histories, errors, and a crash after every step.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::*;

mod crashes;
mod timers;

const FREE: CheckTask<'static> = &|_, _| Vec::new();

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// Runs to the end on virtual time; the state is written and read back after each input, as after a crash.
struct World {
    machine: Machine,
    execution: Execution,
    input: Value,
    now: DateTime<Utc>,
    pending: Vec<Command>,
    events: Vec<Event>,
    calls: Vec<(u64, String, Value)>,
    /// Whether the engine dies before this input; the last one says it for all further ones.
    dies: Vec<bool>,
}

impl World {
    fn new(definition: &Value, input: Value) -> Self {
        let machine = parse(definition, FREE).unwrap();
        let execution = Execution::new(&machine, "runs/run_1", "workflows/test", input.clone(), 7, start());
        let (pending, events, calls) = (Vec::new(), Vec::new(), Vec::new());
        Self { machine, execution, input, now: start(), pending, events, calls, dies: vec![true] }
    }

    fn feed(&mut self, input: Input) -> Option<Outcome> {
        let step = self.execution.advance(&self.machine, input, self.now);
        self.events.extend(step.events);
        let dies = if self.dies.len() > 1 { self.dies.remove(0) } else { self.dies[0] };
        if dies {
            let state = serde_json::to_string(&self.execution).unwrap();
            self.execution = Execution::restore(&state, self.input.clone()).unwrap();
        }
        self.pending = self.execution.outstanding();
        step.outcome
    }

    /// `answer` is asked for each call, with its number from 0.
    fn run(&mut self, mut answer: impl FnMut(usize, &str, &Value) -> Result<Value, Failure>) -> Outcome {
        let mut outcome = self.feed(Input::Started);
        for _ in 0..10_000 {
            if let Some(outcome) = outcome {
                return outcome;
            }
            let call = self.pending.iter().find_map(|command| match command {
                Command::CallTask { token, resource, arguments, .. } => {
                    Some((*token, resource.clone(), arguments.clone()))
                }
                Command::StartTimer { .. } => None,
            });
            let input = if let Some((token, resource, arguments)) = call {
                let answered = answer(self.calls.len(), &resource, &arguments);
                self.calls.push((token, resource, arguments));
                match answered {
                    Ok(result) => Input::TaskDone { token, result },
                    Err(failure) => Input::TaskFailed { token, failure },
                }
            } else {
                let timers = self.pending.iter().filter_map(|command| match command {
                    Command::StartTimer { token, due } => Some((*due, *token)),
                    Command::CallTask { .. } => None,
                });
                let (due, token) = timers.min().expect("a run that goes on waits for something");
                self.now = self.now.max(due);
                Input::TimerFired { token }
            };
            outcome = self.feed(input);
        }
        panic!("no end: {:?}", self.events.last());
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.events.iter().map(|event| event.kind).collect()
    }
}

fn run(definition: &Value, input: Value) -> (Outcome, World) {
    let mut world = World::new(definition, input);
    let outcome = world.run(|_, _, arguments| Ok(arguments.clone()));
    (outcome, world)
}

fn done(output: Value) -> Outcome {
    Outcome::Succeeded { output }
}

#[test]
fn three_steps_leave_their_history() {
    let definition = json!({
        "StartAt": "Hello",
        "States": {
            "Hello": {
                "Type": "Pass",
                "Assign": {"name": "{% $states.input.name %}"},
                "Output": {"greeting": "{% 'Hello, ' & $states.input.name %}", "literal": 1},
                "Next": "Ask"
            },
            "Ask": {
                "Type": "Task",
                "Resource": "grpc:tenon.billing.v1.UsageService/GetUsage",
                "Arguments": {"who": "{% $name %}"},
                "TimeoutSeconds": 5,
                "Output": "{% $states.result.who & '/' & $states.input.greeting %}",
                "Next": "Sleep"
            },
            "Sleep": {"Type": "Wait", "Seconds": "{% 60 * 2 %}", "Next": "Done"},
            "Done": {"Type": "Succeed"}
        }
    });
    let (outcome, world) = run(&definition, json!({"name": "Ada"}));
    assert_eq!(outcome, done(json!("Ada/Hello, Ada")));
    assert_eq!(world.now, start() + TimeDelta::seconds(120));
    let ids: Vec<_> = world.events.iter().map(|event| (event.previous, event.id)).collect();
    let chained = ids.iter().skip(2).enumerate().all(|(at, ids)| *ids == (at as u64 + 2, at as u64 + 3));
    assert!(chained && ids[..2] == [(0, 1), (0, 2)], "{ids:?}");
    assert_eq!(
        world.kinds(),
        [
            "ExecutionStarted",
            "PassStateEntered",
            "PassStateExited",
            "TaskStateEntered",
            "TaskScheduled",
            "TaskStarted",
            "TaskSucceeded",
            "TaskStateExited",
            "WaitStateEntered",
            "WaitStateExited",
            "SucceedStateEntered",
            "SucceedStateExited",
            "ExecutionSucceeded",
        ]
    );
    assert_eq!(world.events[2].details["assignedVariables"], json!({"name": "Ada"}));
    assert_eq!(
        world.events[4].details,
        json!({
            "resourceType": "grpc", "resource": "tenon.billing.v1.UsageService/GetUsage",
            "parameters": {"who": "Ada"}, "timeoutInSeconds": 5
        })
    );
}

#[test]
fn a_choice_takes_the_first_rule_that_holds() {
    let definition = json!({
        "StartAt": "Which",
        "States": {
            "Which": {
                "Type": "Choice",
                "Choices": [
                    {"Condition": "{% $states.input > 10 %}", "Next": "Big", "Output": "{% $states.input * 2 %}"},
                    {"Condition": "{% $states.input > 5 %}", "Next": "Middle"}
                ],
                "Default": "Small",
                "Output": "small"
            },
            "Big": {"Type": "Succeed"},
            "Middle": {"Type": "Pass", "End": true},
            "Small": {"Type": "Pass", "Next": "Big"}
        }
    });
    assert_eq!(run(&definition, json!(11)).0, done(json!(22)));
    assert_eq!(run(&definition, json!(7)).0, done(json!(7)));
    assert_eq!(run(&definition, json!(1)).0, done(json!("small")));
    let Outcome::Failed(failure) = run(&definition, json!({"a": 1})).0 else { panic!("compares an object") };
    assert_eq!(failure.error, "States.QueryEvaluationError");
}

fn flaky(retry: &Value, catch: &Value) -> Value {
    json!({
        "StartAt": "Call",
        "States": {
            "Call": {"Type": "Task", "Resource": "grpc:x", "Retry": retry, "Catch": catch, "End": true},
            "Caught": {"Type": "Pass", "Output": {"was": "{% $states.input.Error %}", "n": "{% $n %}"}, "End": true}
        }
    })
}

#[test]
fn retries_back_off_then_catch() {
    let retry = json!([
        {"ErrorEquals": ["Slow"], "MaxAttempts": 0},
        {"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 2, "BackoffRate": 3, "MaxDelaySeconds": 10}
    ]);
    let catch = json!([{"ErrorEquals": ["States.ALL"], "Next": "Caught", "Assign": {"n": "{% $states.context.State.RetryCount %}"}}]);
    let mut world = World::new(&flaky(&retry, &catch), json!({}));
    let outcome = world.run(|_, _, _| Err(Failure::new("Broken", "it is")));
    assert_eq!(outcome, done(json!({"was": "Broken", "n": 3})));
    assert_eq!(world.now, start() + TimeDelta::seconds(2 + 6 + 10));
    let tokens: Vec<u64> = world.calls.iter().map(|call| call.0).collect();
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]) && tokens.len() == 4, "a token an attempt: {tokens:?}");

    let mut world = World::new(&flaky(&retry, &catch), json!({}));
    let outcome = world.run(|call, _, _| if call < 2 { Err(Failure::new("Broken", "")) } else { Ok(json!("ok")) });
    assert_eq!(outcome, done(json!("ok")));

    let mut world = World::new(&flaky(&retry, &catch), json!({}));
    world.run(|_, _, _| Err(Failure::new("Slow", "")));
    assert_eq!(world.calls.len(), 1, "MaxAttempts 0 never retries");

    let mut world = World::new(
        &flaky(&retry, &json!([{"ErrorEquals": ["States.Timeout"], "Next": "Caught", "Assign": {"n": 1}}])),
        json!({}),
    );
    let outcome = world.run(|_, _, _| Err(Failure::new(Failure::TIMEOUT, "")));
    assert_eq!(outcome, done(json!({"was": "States.Timeout", "n": 1})), "States.TaskFailed is no timeout");
    assert!(world.kinds().contains(&"TaskTimedOut"));
}

#[test]
fn parallel_branches_see_outer_variables_and_join_in_order() {
    let definition = json!({
        "StartAt": "Set",
        "States": {
            "Set": {"Type": "Pass", "Assign": {"x": 5}, "Next": "Both"},
            "Both": {
                "Type": "Parallel",
                "Arguments": {"y": 1},
                "Branches": [
                    {"StartAt": "A", "States": {
                        "A": {"Type": "Task", "Resource": "grpc:a", "Assign": {"own": 1}, "Next": "A2"},
                        "A2": {"Type": "Pass", "Output": "{% $x + $own + $states.input.y %}", "End": true}
                    }},
                    {"StartAt": "B", "States": {"B": {"Type": "Pass", "Output": "{% $x * 2 %}", "End": true}}}
                ],
                "Assign": {"sum": "{% $sum($states.result) %}"},
                "Next": "End"
            },
            "End": {"Type": "Pass", "Output": {"sum": "{% $sum %}", "all": "{% $states.input %}", "own": "{% $exists($own) %}"}, "End": true}
        }
    });
    let (outcome, world) = run(&definition, json!({}));
    assert_eq!(outcome, done(json!({"sum": 17, "all": [7, 10], "own": false})));
    let of = |kind| world.events.iter().find(|event| event.kind == kind).unwrap();
    let started = of("ParallelStateStarted").id;
    let entered = world.events.iter().filter(|event| event.previous == started);
    assert_eq!(entered.count(), 2, "both branches come from the start");
}

#[test]
fn a_failing_branch_fails_the_parallel_and_lets_the_others_go() {
    let definition = json!({
        "StartAt": "Both",
        "States": {
            "Both": {
                "Type": "Parallel",
                "Branches": [
                    {"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "grpc:a", "End": true}}},
                    {"StartAt": "B", "States": {"B": {"Type": "Fail", "Error": "No", "Cause": "{% 'be' & 'cause' %}"}}}
                ],
                "Catch": [{"ErrorEquals": ["No"], "Next": "Sorry"}],
                "End": true
            },
            "Sorry": {"Type": "Pass", "End": true}
        }
    });
    let (outcome, world) = run(&definition, json!({}));
    assert_eq!(outcome, done(json!({"Error": "No", "Cause": "because"})));
    assert!(world.calls.is_empty(), "the call of the other branch is not made");
    assert!(world.kinds().contains(&"ParallelStateFailed"));
}

#[test]
fn a_map_keeps_order_and_bounds_concurrency() {
    let definition = json!({
        "StartAt": "Each",
        "States": {"Each": {
            "Type": "Map",
            "Items": "{% $states.input.numbers %}",
            "ItemSelector": {"n": "{% $states.context.Map.Item.Value %}", "i": "{% $states.context.Map.Item.Index %}"},
            "MaxConcurrency": 2,
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "INLINE"},
                "StartAt": "Call",
                "States": {"Call": {"Type": "Task", "Resource": "grpc:x", "Output": "{% $states.result.n * 10 + $states.context.Map.Item.Index %}", "End": true}}
            },
            "End": true
        }}
    });
    let (outcome, world) = run(&definition, json!({"numbers": [3, 1, 2]}));
    assert_eq!(outcome, done(json!([30, 11, 22])));
    let kinds = world.kinds();
    assert_eq!(
        &kinds[..8],
        [
            "ExecutionStarted",
            "MapStateEntered",
            "MapStateStarted",
            "MapIterationStarted",
            "MapIterationStarted",
            "TaskStateEntered",
            "TaskScheduled",
            "TaskStateEntered",
        ]
    );
    assert_eq!(kinds.iter().filter(|kind| **kind == "MapIterationSucceeded").count(), 3);
    assert_eq!(run(&definition, json!({"numbers": []})).0, done(json!([])));

    let mut world = World::new(&definition, json!({"numbers": [1, 2]}));
    let outcome = world.run(|_, _, _| Err(Failure::new("Broken", "it is")));
    assert_eq!(outcome, Outcome::Failed(Failure::new("Broken", "it is")));
    assert!(world.kinds().contains(&"MapIterationFailed") && world.kinds().contains(&"MapStateFailed"));
}

#[test]
fn a_run_times_out_and_a_run_is_cancelled() {
    let definition = json!({
        "StartAt": "Sleep",
        "TimeoutSeconds": 10,
        "States": {"Sleep": {"Type": "Wait", "Timestamp": "2099-01-01T00:00:00Z", "End": true}}
    });
    let (outcome, world) = run(&definition, json!({}));
    assert!(matches!(outcome, Outcome::TimedOut(failure) if failure.error == "States.Timeout"));
    assert_eq!((world.now, world.kinds().last()), (start() + TimeDelta::seconds(10), Some(&"ExecutionTimedOut")));

    let mut world = World::new(&definition, json!({}));
    assert_eq!(world.feed(Input::Started), None);
    let outcome = world.feed(Input::Cancel { cause: "enough".to_owned() });
    assert_eq!(outcome, Some(Outcome::Cancelled { cause: "enough".to_owned() }));
    assert!(world.pending.is_empty(), "nothing is waited for any more");
    assert_eq!(world.feed(Input::TimerFired { token: 1 }), None);
    assert_eq!(world.kinds().last(), Some(&"ExecutionAborted"));
}

#[test]
fn an_endless_loop_gives_way_and_ends_at_the_limit_of_the_history() {
    let definition = json!({
        "StartAt": "A",
        "States": {
            "A": {"Type": "Choice", "Choices": [{"Condition": "{% false %}", "Next": "Z"}], "Default": "A"},
            "Z": {"Type": "Succeed"}
        }
    });
    let mut world = World::new(&definition, json!({}));
    assert_eq!(world.feed(Input::Started), None);
    assert!(world.events.len() < 300, "one step does not run for ever");
    let (outcome, world) = run(&definition, json!({}));
    assert!(matches!(outcome, Outcome::Failed(failure) if failure.error == "States.Runtime"));
    assert!(world.events.len() < 25_100);
}

#[test]
fn answers_that_nobody_waits_for_change_nothing() {
    let mut world = World::new(
        &flaky(&json!([{"ErrorEquals": ["X"]}]), &json!([{"ErrorEquals": ["X"], "Next": "Caught"}])),
        json!({}),
    );
    assert_eq!(world.feed(Input::Started), None);
    let before = (serde_json::to_value(&world.execution).unwrap(), world.events.len());
    for input in [Input::TaskDone { token: 99, result: json!(1) }, Input::TimerFired { token: 1 }] {
        assert_eq!(world.feed(input), None);
    }
    assert_eq!((serde_json::to_value(&world.execution).unwrap(), world.events.len()), before);
}

fn faults(definition: &Value) -> Vec<String> {
    let faults = parse(definition, FREE).unwrap_err();
    faults.into_iter().map(|fault| format!("{} {}", fault.pointer, fault.reason)).collect()
}

#[test]
fn every_fault_is_found_with_its_pointer() {
    let found = faults(&json!({
        "QueryLanguage": "JSONata",
        "StartAt": "A/b",
        "Extra": 1,
        "States": {
            "A/b": {"Type": "Pass", "Output": {"x": ["{% 1 + %}"]}, "Assign": {"states": 1}, "InputPath": "$", "Next": "Gone", "End": true},
            "W": {"Type": "Wait", "Seconds": -1, "End": true},
            "T": {"Type": "Task", "Resource": "r", "End": true, "Retry": [{"ErrorEquals": ["States.ALL", "X"]}]},
            "H": {"Type": "Task", "Resource": "r", "End": true, "TimeoutSeconds": 3, "HeartbeatSeconds": 3},
            "U": {"Type": "Activity"},
            "N": {"Type": "Pass"}
        }
    }));
    let expected = [
        "/States/A~1b/Output/x/0 bad JSONata",
        "/States/A~1b/Assign/states states is not a name for a variable",
        "/States/A~1b Next and End exclude each other",
        "/States/A~1b/InputPath InputPath belongs to JSONPath",
        "/States/H/HeartbeatSeconds must be less than TimeoutSeconds",
        "/States/W/Seconds must be an integer from 0",
        "/States/T/Retry/0/ErrorEquals States.ALL stands alone",
        "/States/U/Type unknown type Activity",
        "/States/N Next or End is missing",
        "/Extra Extra is not a field of a state machine",
        "/States/A~1b/Next there is no state Gone here",
        "/States/W no transition leads to this state",
        "/States/T no transition leads to this state",
        "/States/H no transition leads to this state",
        "/States/U no transition leads to this state",
        "/States/N no transition leads to this state",
    ];
    for expected in expected {
        assert!(found.iter().any(|fault| fault.starts_with(expected)), "{expected} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn faults_of_the_graph_are_found() {
    let found = faults(&json!({
        "StartAt": "P",
        "States": {
            "P": {"Type": "Pass", "Assign": {"x": 1}, "Next": "M"},
            "M": {"Type": "Map", "ItemProcessor": {"StartAt": "P", "States": {
                "P": {"Type": "Pass", "Assign": {"x": 2}, "End": true}
            }}, "Next": "Gone"},
            "Alone": {"Type": "Succeed"}
        }
    }));
    assert_eq!(
        found,
        [
            "/States/M/Next there is no state Gone here",
            "/States/Alone no transition leads to this state",
            "/States/M/ItemProcessor/States/P x belongs to an outer scope, which cannot be assigned to from here",
            "/States/P another state has the same name",
        ]
    );
    assert_eq!(
        faults(&json!({"QueryLanguage": "XPath", "StartAt": "A", "States": {"A": {"Type": "Succeed"}}})),
        ["/QueryLanguage must be JSONata or JSONPath"]
    );
    assert_eq!(faults(&json!([])), [" must be an object"]);
    assert_eq!(faults(&json!({})), [" StartAt is missing", " States is missing"]);
}

#[test]
fn values_that_are_too_large_fail_the_state() {
    let definition = json!({
        "StartAt": "Grow",
        "States": {"Grow": {"Type": "Pass", "Output": "{% $pad('', 300000, 'x') %}", "End": true}}
    });
    let Outcome::Failed(failure) = run(&definition, json!({})).0 else { panic!("too large") };
    assert!(failure.cause.contains("size limit") || failure.error == "States.DataLimitExceeded", "{failure:?}");
    let deepens = json!({
        "StartAt": "A",
        "States": {
            "A": {"Type": "Pass", "Output": {"in": ["{% $states.input %}"]}, "Next": "A2"},
            "A2": {"Type": "Pass", "Next": "A"}
        }
    });
    let Outcome::Failed(failure) = run(&deepens, json!({})).0 else { panic!("too deep") };
    assert_eq!(failure.error, "States.DataLimitExceeded");
    let (outcome, _) = run(
        &json!({"StartAt": "A", "States": {"A": {"Type": "Pass", "Output": "{% $states.context.Execution.Id & $states.context.StateMachine.Name %}", "End": true}}}),
        json!({}),
    );
    assert_eq!(outcome, done(json!("runs/run_1test")));
}

#[test]
fn hostile_paths_and_templates_are_capped() {
    let deep = (0..40).fold(json!("x".repeat(100_000)), |inner, _| json!({ "a": inner }));
    let many: serde_json::Map<String, Value> = (0..5_000).map(|at| (format!("k{at}.$"), json!("$"))).collect();
    let zeros = vec!["0"; 900].join(",");
    let each = json!((0..60_000).collect::<Vec<_>>());
    for (parameters, input) in [
        (json!({"v.$": "$..*..*..*..*"}), deep.clone()),
        (Value::Object(many), deep.clone()),
        (json!({"v.$": format!("$[{zeros}]")}), json!([deep.clone()])),
        (json!({"v.$": format!("States.Format('{}', {})", "{}".repeat(900), vec!["$"; 900].join(","))}), deep),
        (
            json!({"v.$": format!("{}$.q{}", "States.JsonToString(".repeat(9), ")".repeat(9))}),
            json!({"q": "\"".repeat(60_000)}),
        ),
    ] {
        let definition =
            json!({"StartAt": "P", "States": {"P": {"Type": "Pass", "Parameters": parameters, "End": true}}});
        let Outcome::Failed(failure) = run(&definition, input).0 else { panic!("it is capped") };
        assert!(failure.cause.len() > 10, "{}", failure.error);
    }
    let unique = json!({"StartAt": "P", "States": {"P": {"Type": "Pass", "End": true,
        "Parameters": {"n.$": "States.ArrayLength(States.ArrayUnique($))"}}}});
    assert_eq!(run(&unique, each).0, done(json!({"n": 60_000})));
}

#[test]
fn a_history_may_be_bounded_further() {
    let mut world = World::new(&json!({"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "A"}}}), json!({}));
    world.execution =
        Execution::new(&world.machine, "runs/run_1", "workflows/test", json!({}), 7, start()).within(None, Some(9));
    let outcome = world.run(|_, _, _| unreachable!("there is no task"));
    assert!(matches!(&outcome, Outcome::Failed(failure) if failure.cause.contains("(9)")), "{outcome:?}");
    assert_eq!((world.kinds().last(), world.events.len()), (Some(&"ExecutionFailed"), 9));
}
