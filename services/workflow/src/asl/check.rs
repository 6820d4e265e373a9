//! Checks what no single field shows: dangling and missing transitions, names used twice, variables of outer scopes.

use std::collections::{BTreeSet, HashSet};

use super::{
    fields::{Fault, escape},
    model::{Kind, Machine, Scope, State},
    template::Template,
};

/// Adds every fault of the graph.
pub(super) fn machine(machine: &Machine, faults: &mut Vec<Fault>) {
    let mut names = HashSet::new();
    scope(&machine.scope, "", &mut names, &BTreeSet::new(), faults);
}

fn scope<'m>(
    scope: &'m Scope,
    pointer: &str,
    names: &mut HashSet<&'m str>,
    outer: &BTreeSet<&'m str>,
    faults: &mut Vec<Fault>,
) {
    if !scope.states.contains_key(&scope.start_at) {
        let reason = format!("there is no state {} here", scope.start_at);
        faults.push(Fault { pointer: format!("{pointer}/StartAt"), reason });
    }
    let reached = reach(scope);
    let assigned: BTreeSet<&str> = scope.states.values().flat_map(variables).collect();
    for (name, state) in &scope.states {
        let pointer = format!("{pointer}/States/{}", escape(name));
        if !names.insert(name) {
            faults.push(Fault { pointer: pointer.clone(), reason: "another state has the same name".to_owned() });
        }
        if !reached.contains(name.as_str()) {
            faults.push(Fault { pointer: pointer.clone(), reason: "no transition leads to this state".to_owned() });
        }
        for (field, target) in transitions(state) {
            if !scope.states.contains_key(target) {
                let reason = format!("there is no state {target} here");
                faults.push(Fault { pointer: format!("{pointer}{field}"), reason });
            }
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

fn reach(scope: &Scope) -> HashSet<&str> {
    let mut reached = HashSet::new();
    let mut waiting = vec![scope.start_at.as_str()];
    while let Some(name) = waiting.pop() {
        if reached.insert(name) {
            waiting.extend(scope.states.get(name).into_iter().flat_map(State::successors));
        }
    }
    reached
}

/// Where a state can go, with the pointer of each below the state.
fn transitions(state: &State) -> Vec<(String, &str)> {
    let mut all: Vec<(String, &str)> = state.next.iter().map(|next| ("/Next".to_owned(), next.as_str())).collect();
    for (index, catcher) in state.catch.iter().enumerate() {
        all.push((format!("/Catch/{index}/Next"), &catcher.next));
    }
    if let Kind::Choice { rules, default } = &state.kind {
        for (index, rule) in rules.iter().enumerate() {
            all.push((format!("/Choices/{index}/Next"), &rule.next));
        }
        all.extend(default.iter().map(|default| ("/Default".to_owned(), default.as_str())));
    }
    all
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
