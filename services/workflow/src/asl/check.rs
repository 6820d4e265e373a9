//! Checks what no single field shows: dangling and missing transitions, names used twice, variables of outer scopes.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::{
    fields::{Fault, escape},
    model::{Kind, Machine, Scope, State},
    template::Template,
};

/// Adds what is wrong with the transitions of a definition: it is read as it was written, so that a fault inside of a state
/// hides none between states.
pub(super) fn transitions(definition: &Value, faults: &mut Vec<Fault>) {
    graph(definition, "", faults);
}

fn graph(scope: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let Some(states) = scope["States"].as_object() else { return };
    let start_at = scope["StartAt"].as_str();
    if let Some(start_at) = start_at.filter(|name| !states.contains_key(*name)) {
        let reason = format!("there is no state {start_at} here");
        faults.push(Fault { pointer: format!("{pointer}/StartAt"), reason });
    }
    // Without a beginning nothing is reached, which would say the same of every state.
    let reached = start_at.filter(|name| states.contains_key(*name)).map(|start_at| reach(states, start_at));
    for (name, state) in states {
        let pointer = format!("{pointer}/States/{}", escape(name));
        if reached.as_ref().is_some_and(|reached| !reached.contains(name.as_str())) {
            faults.push(Fault { pointer: pointer.clone(), reason: "no transition leads to this state".to_owned() });
        }
        for (field, target) in targets(state) {
            if !states.contains_key(target) {
                let reason = format!("there is no state {target} here");
                faults.push(Fault { pointer: format!("{pointer}{field}"), reason });
            }
        }
        for (index, branch) in list(state, "Branches").enumerate() {
            graph(branch, &format!("{pointer}/Branches/{index}"), faults);
        }
        for field in ["ItemProcessor", "Iterator"] {
            graph(&state[field], &format!("{pointer}/{field}"), faults);
        }
    }
}

fn reach<'d>(states: &'d Map<String, Value>, start_at: &'d str) -> HashSet<&'d str> {
    let mut reached = HashSet::new();
    let mut waiting = vec![start_at];
    while let Some(name) = waiting.pop() {
        if reached.insert(name) {
            waiting.extend(states.get(name).into_iter().flat_map(targets).map(|(_, target)| target));
        }
    }
    reached
}

/// Where a state can go, with the pointer of each below the state.
fn targets(state: &Value) -> Vec<(String, &str)> {
    let own = ["Next", "Default"].into_iter().map(|field| (format!("/{field}"), &state[field]));
    let inside = ["Catch", "Choices"].into_iter().flat_map(|field| {
        list(state, field).enumerate().map(move |(index, one)| (format!("/{field}/{index}/Next"), &one["Next"]))
    });
    own.chain(inside).filter_map(|(pointer, target)| Some((pointer, target.as_str()?))).collect()
}

fn list<'d>(state: &'d Value, field: &str) -> impl Iterator<Item = &'d Value> + use<'d> {
    state[field].as_array().into_iter().flatten()
}

/// Adds what is wrong with names: those that are used twice, and variables of outer scopes that are assigned to.
pub(super) fn names(machine: &Machine, faults: &mut Vec<Fault>) {
    scope(&machine.scope, "", &mut HashSet::new(), &BTreeSet::new(), faults);
}

fn scope<'m>(
    scope: &'m Scope,
    pointer: &str,
    names: &mut HashSet<&'m str>,
    outer: &BTreeSet<&'m str>,
    faults: &mut Vec<Fault>,
) {
    let assigned: BTreeSet<&str> = scope.states.values().flat_map(variables).collect();
    for (name, state) in &scope.states {
        let pointer = format!("{pointer}/States/{}", escape(name));
        if !names.insert(name) {
            faults.push(Fault { pointer: pointer.clone(), reason: "another state has the same name".to_owned() });
        }
        for variable in variables(state).filter(|variable| outer.contains(variable)) {
            let reason = format!("{variable} belongs to an outer scope, which cannot be assigned to from here");
            faults.push(Fault { pointer: pointer.clone(), reason });
        }
        let visible = outer.union(&assigned).copied().collect();
        for (inner, below) in state.inner() {
            self::scope(below, &format!("{pointer}{inner}"), names, &visible, faults);
        }
    }
}

fn variables(state: &State) -> impl Iterator<Item = &str> {
    let mut assigns: Vec<&Option<Template>> = vec![&state.shape.assign];
    assigns.extend(state.catch.iter().map(|catcher| &catcher.assign));
    if let Kind::Choice { rules, .. } = &state.kind {
        assigns.extend(rules.iter().map(|rule| &rule.assign));
    }
    assigns.into_iter().flat_map(|assign| match assign {
        Some(Template::Object(fields)) => fields.iter().map(|(name, _)| name.as_str()).collect(),
        Some(Template::Literal(value)) => {
            value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
        }
        _ => Vec::new(),
    })
}
