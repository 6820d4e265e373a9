//! A crash between any two inputs changes nothing.

use proptest::prelude::*;

use super::*;

/// Definitions with a task `T` that may fail, in all kinds of surroundings.
fn definitions() -> Vec<Value> {
    let task = json!({
        "Type": "Task", "Resource": "grpc:t", "TimeoutSeconds": 50, "HeartbeatSeconds": 10,
        "Retry": [{"ErrorEquals": ["Broken"], "MaxAttempts": 2, "JitterStrategy": "FULL"}],
        "Catch": [{"ErrorEquals": ["States.TaskFailed"], "Next": "Caught"}], "Next": "Done"
    });
    let inner = |task: &Value| {
        json!({"StartAt": "T", "States": {
            "T": task, "Caught": {"Type": "Pass", "Parameters": {"id.$": "States.UUID()"}, "End": true},
            "Done": {"Type": "Wait", "Seconds": 3, "End": true}
        }})
    };
    let mut bare = task.clone();
    bare.as_object_mut().unwrap().remove("Catch");
    bare["Compensate"] = json!({"Resource": "grpc:undo"});
    let mut bare = inner(&bare);
    bare["States"].as_object_mut().unwrap().remove("Caught");
    // A name stands once in a definition.
    let other = |scope: Value| {
        let text = scope.to_string();
        let renamed = ["T", "Done", "Caught"]
            .iter()
            .fold(text, |text, name| text.replace(&format!("\"{name}\""), &format!("\"{name}2\"")));
        serde_json::from_str::<Value>(&renamed).unwrap()
    };
    let around = |state: Value| json!({"StartAt": "S", "TimeoutSeconds": 3000, "States": {"S": state}});
    vec![
        inner(&task),
        around(
            json!({"Type": "Map", "ItemProcessor": inner(&task), "ItemsPath": "$.items", "MaxConcurrency": 2, "End": true}),
        ),
        around(json!({"Type": "Map", "ItemProcessor": bare.clone(), "ItemsPath": "$.items", "End": true,
            "ToleratedFailureCount": 1, "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 1}]})),
        around(
            json!({"Type": "Parallel", "Branches": [bare, other(inner(&task))], "ResultPath": "$.all", "End": true}),
        ),
    ]
}

fn told(definition: &Value, answers: &[u8], dies: Vec<bool>) -> (Outcome, Vec<Event>) {
    let mut world = World::new(definition, json!({"items": [1, 2, 3]}));
    world.dies = dies;
    let outcome = world.run(|call, _, arguments| match answers[call % answers.len()] {
        0 => Err(Failure::new("Broken", "it is")),
        1 => Err(Failure::new("States.Timeout", "")),
        2 => Err(Failure::new("Other", "")),
        _ => Ok(arguments.clone()),
    });
    (outcome, world.events)
}

proptest! {
    #[test]
    fn the_history_is_the_same_with_and_without_them(
        which in 0..4_usize,
        answers in prop::collection::vec(0..8_u8, 1..6),
        dies in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let definition = &definitions()[which];
        let (outcome, events) = told(definition, &answers, dies);
        let (calm_outcome, calm_events) = told(definition, &answers, vec![false]);
        prop_assert_eq!(outcome, calm_outcome);
        prop_assert_eq!(&events, &calm_events);
        for (at, event) in events.iter().enumerate() {
            prop_assert!(event.id == at as u64 + 1 && event.previous < event.id, "{:?}", event);
        }
    }
}
