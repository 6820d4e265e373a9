//! Heartbeats and timeouts of tasks, and undos that nothing stops.

use super::*;

fn timers(world: &World) -> Vec<(u64, DateTime<Utc>)> {
    let timers = world.pending.iter().filter_map(|command| match command {
        Command::StartTimer { token, due } => Some((*token, *due)),
        Command::CallTask { .. } => None,
    });
    timers.collect()
}

fn call(world: &World) -> (u64, String) {
    let calls = world.pending.iter().find_map(|command| match command {
        Command::CallTask { token, resource, .. } => Some((*token, resource.clone())),
        Command::StartTimer { .. } => None,
    });
    calls.expect("there is a call")
}

fn beating(names: &Value) -> World {
    World::new(
        &json!({"StartAt": "T", "States": {
            "T": {"Type": "Task", "Resource": "activity:q", "TimeoutSeconds": 60, "HeartbeatSeconds": 10,
                  "Catch": [{"ErrorEquals": names, "Next": "Caught"}], "End": true},
            "Caught": {"Type": "Pass", "End": true}
        }}),
        json!({}),
    )
}

#[test]
fn heartbeats_keep_a_task_alive_until_its_timeout() {
    let mut world = beating(&json!(["States.HeartbeatTimeout"]));
    assert_eq!(world.feed(Input::Started), None);
    let (task, _) = call(&world);
    let [(timeout, late), (first, due)] = timers(&world)[..] else { panic!("{:?}", world.pending) };
    assert_eq!((late, due), (start() + TimeDelta::seconds(60), start() + TimeDelta::seconds(10)));
    world.now = start() + TimeDelta::seconds(9);
    assert_eq!(world.feed(Input::TaskHeartbeat { token: task }), None);
    let [_, (second, due)] = timers(&world)[..] else { panic!("{:?}", world.pending) };
    assert_eq!(due, start() + TimeDelta::seconds(19));
    assert_eq!(world.feed(Input::TimerFired { token: first }), None, "the old one means nothing any more");
    let outcome = world.feed(Input::TimerFired { token: second });
    assert_eq!(outcome, Some(done(json!({"Error": "States.Timeout", "Cause": ""}))));
    assert!(world.kinds().contains(&"ActivityTimedOut"), "{:?}", world.kinds());

    let mut world = beating(&json!(["States.HeartbeatTimeout"]));
    assert_eq!(world.feed(Input::Started), None);
    let outcome = world.feed(Input::TimerFired { token: timeout });
    assert!(
        matches!(outcome, Some(Outcome::Failed(failure)) if failure.error == "States.Timeout"),
        "it is no heartbeat"
    );
}

#[test]
fn a_late_answer_changes_nothing() {
    let mut world = beating(&json!(["States.Timeout"]));
    assert_eq!(world.feed(Input::Started), None);
    let (token, _) = call(&world);
    let (timeout, _) = timers(&world)[0];
    assert!(world.feed(Input::TimerFired { token: timeout }).is_some());
    assert_eq!(world.feed(Input::TaskDone { token, result: json!(1) }), None);
}

fn with_undo() -> World {
    World::new(
        &json!({"QueryLanguage": "JSONata", "StartAt": "A", "States": {
            "A": {"Type": "Task", "Resource": "grpc:a", "Assign": {"id": "{% $states.result %}"}, "Next": "B",
                  "Compensate": {"Resource": "grpc:undo", "Arguments": {"id": "{% $id %}"}}},
            "B": {"Type": "Wait", "Seconds": 100, "End": true}
        }}),
        json!({}),
    )
}

#[test]
fn an_undo_is_tried_again_and_cannot_be_cancelled() {
    let mut world = with_undo();
    world.feed(Input::Started);
    let (token, _) = call(&world);
    world.feed(Input::TaskDone { token, result: json!(7) });
    assert_eq!(world.feed(Input::Cancel { cause: "enough".to_owned() }), None);
    assert_eq!(world.feed(Input::Cancel { cause: "again".to_owned() }), None);
    let (token, resource) = call(&world);
    assert_eq!(resource, "grpc:undo");
    assert_eq!(world.feed(Input::TaskFailed { token, failure: Failure::new("Busy", "") }), None);
    let (timer, due) = timers(&world)[0];
    world.now = due;
    assert_eq!(world.feed(Input::TimerFired { token: timer }), None);
    let (token, _) = call(&world);
    let outcome = world.feed(Input::TaskDone { token, result: json!(null) });
    assert_eq!(outcome, Some(Outcome::Cancelled { cause: "enough".to_owned() }));
    let kinds = world.kinds();
    assert_eq!(
        kinds[kinds.len() - 5..],
        [
            "CompensationScheduled",
            "CompensationFailed",
            "CompensationScheduled",
            "CompensationSucceeded",
            "ExecutionAborted"
        ]
    );
    let scheduled = world.events.iter().find(|event| event.kind == "CompensationScheduled").unwrap();
    assert_eq!(scheduled.details["parameters"], json!({"id": 7}));
}

#[test]
fn terminating_undoes_nothing() {
    let mut world = with_undo();
    world.feed(Input::Started);
    let (token, _) = call(&world);
    world.feed(Input::TaskDone { token, result: json!(7) });
    let outcome = world.feed(Input::Terminate { cause: "now".to_owned() });
    assert_eq!(outcome, Some(Outcome::Cancelled { cause: "now".to_owned() }));
    assert!(world.pending.is_empty());
}

fn limited(after_ms: u64) -> Failure {
    let limited_by = Some("api.test".to_owned());
    Failure::new("Http.StatusCode.429", "later").pushed_back(Some(Pushback { after_ms, limited_by }))
}

#[test]
fn who_limits_calls_is_not_asked_again_before_its_time_and_is_named_meanwhile() {
    let tried = |retry: Value, failure: Failure| {
        let mut world = World::new(
            &json!({"StartAt": "T", "States": {
                "T": {"Type": "Task", "Resource": "http:invoke", "Retry": [retry], "End": true}}}),
            json!({}),
        );
        world.feed(Input::Started);
        let (token, _) = call(&world);
        world.feed(Input::TaskFailed { token, failure });
        let (timer, due) = timers(&world)[0];
        let limited_by = world.execution.retry(timer).unwrap().limited_by.map(str::to_owned);
        ((due - start()).num_milliseconds(), limited_by)
    };
    let all = |more: Value| {
        let mut retry = json!({"ErrorEquals": ["States.ALL"], "IntervalSeconds": 4});
        more.as_object().unwrap().iter().for_each(|(name, value)| retry[name] = value.clone());
        retry
    };
    let by = Some("api.test".to_owned());
    assert_eq!(tried(all(json!({})), limited(0)), (4_000, by.clone()));
    assert_eq!(tried(all(json!({})), limited(30_500)), (30_500, by.clone()));
    assert_eq!(tried(all(json!({"MaxDelaySeconds": 10})), limited(30_500)), (10_000, by.clone()));
    let (jittered, _) = tried(all(json!({"JitterStrategy": "FULL"})), limited(30_000));
    assert!((30_000..=34_000).contains(&jittered), "{jittered}");
    assert_eq!(tried(all(json!({})), Failure::new("E", "")), (4_000, None));
    let away = Failure::new("E", "").pushed_back(Some(Pushback { after_ms: 9_000, limited_by: None }));
    assert_eq!(tried(all(json!({})), away), (9_000, None));
}

#[test]
fn an_undo_waits_as_long_as_it_is_asked_to() {
    let mut world = with_undo();
    world.feed(Input::Started);
    let (token, _) = call(&world);
    world.feed(Input::TaskDone { token, result: json!(7) });
    world.feed(Input::Cancel { cause: String::new() });
    let (token, _) = call(&world);
    let (bound, _) = timers(&world)[0];
    assert_eq!(world.execution.retry(bound), None, "it bounds the call");
    world.feed(Input::TaskFailed { token, failure: limited(60_000) });
    let (timer, due) = timers(&world)[0];
    assert_eq!(due, start() + TimeDelta::seconds(60));
    assert_eq!(world.execution.retry(timer), Some(Tried { state: "A", limited_by: Some("api.test") }));
}

#[test]
fn a_pause_that_an_older_version_wrote_reads_back() {
    let mut world = World::new(
        &json!({"StartAt": "T", "States": {
            "T": {"Type": "Task", "Resource": "http:invoke", "Retry": [{"ErrorEquals": ["E"]}], "End": true}}}),
        json!({}),
    );
    world.feed(Input::Started);
    let (token, _) = call(&world);
    world.feed(Input::TaskFailed { token, failure: Failure::new("E", "") });
    let mut kept = serde_json::to_value(&world.execution).unwrap();
    let (timer, due) = timers(&world)[0];
    kept["root"]["waiting"] = json!({"Retry": {"token": timer, "due": due}});
    world.execution = Execution::restore(&kept.to_string(), json!({})).unwrap();
    assert_eq!(world.execution.retry(timer), Some(Tried { state: "T", limited_by: None }));
    let failed: Outcome = serde_json::from_value(json!({"Failed": {"error": "E", "cause": ""}})).unwrap();
    assert_eq!(failed, Outcome::Failed(Failure::new("E", "")));
}
