//! Leaving a state: ResultSelector, ResultPath and OutputPath, or Output; and Assign.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{
    failure::{Failure, Trouble},
    flow::{Flow, Undo},
    history,
    interpreter::{Interpreter, Turn},
    model::{Catcher, Pick, State},
    path::Place,
    scope::{Frame, Scope},
    template::{Language, Template, bounded},
};

/// What a state is left with.
pub(super) struct Leave<'l> {
    pub(super) next: Option<&'l str>,
    /// What `$` is, and the output unless fields say something else: the result, the input or the error.
    pub(super) value: Value,
    pub(super) result_path: &'l Place,
    pub(super) output: Option<&'l Template>,
    pub(super) assign: Option<&'l Template>,
    /// Where Output and Assign stand, `Catch[0]/`.
    pub(super) prefix: String,
    pub(super) is_result: bool,
    pub(super) is_error: bool,
}

impl<'l> Leave<'l> {
    /// Out by Next or End with the state's own fields.
    pub(super) fn normal(state: &'l State, value: Value) -> Self {
        Self {
            next: state.next.as_deref(),
            value,
            result_path: &state.shape.result_path,
            output: state.shape.output.as_ref(),
            assign: state.shape.assign.as_ref(),
            prefix: String::new(),
            is_result: state.is_tried(),
            is_error: false,
        }
    }

    /// Out by a Catch.
    pub(super) fn caught(index: usize, catcher: &'l Catcher, error: Value) -> Self {
        Self {
            next: Some(&catcher.next),
            value: error,
            result_path: &catcher.result_path,
            output: catcher.output.as_ref(),
            assign: catcher.assign.as_ref(),
            prefix: format!("Catch[{index}]/"),
            is_result: false,
            is_error: true,
        }
    }
}

impl Interpreter<'_> {
    /// Evaluates what stands at the end of a state, with the variables as they were, and leaves it.
    pub(super) fn leave(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        leave: Leave<'_>,
    ) -> Result<Turn, Trouble> {
        let (output, assigned) = {
            let mut scope = self.scope(flow, outer, Cow::Borrowed(&leave.value));
            scope.view.result = leave.is_result.then_some(&leave.value);
            scope.view.error = leave.is_error.then_some(&leave.value);
            let assign = |template: &Template| template.evaluate(&format!("{}Assign", leave.prefix), &scope);
            let assigned = leave.assign.map(assign).transpose()?;
            let output = match state.language {
                Language::Jsonata => {
                    let evaluate = |template: &Template| template.evaluate(&format!("{}Output", leave.prefix), &scope);
                    leave.output.map(evaluate).transpose()?
                }
                Language::JsonPath => self.filtered(state, flow, outer, &leave, &scope)?,
            };
            (output, assigned)
        };
        let undo = state.compensate.is_some() && !leave.is_error;
        let result = undo.then(|| leave.value.clone());
        let output = output.unwrap_or(leave.value);
        bounded(&state.name, &output)?;
        let before = undo.then(|| flow.variables.clone());
        let mut details = Map::new();
        details.insert("output".to_owned(), output.clone());
        if let Some(Value::Object(assigned)) =
            assigned.filter(|assigned| assigned.as_object().is_some_and(|all| !all.is_empty()))
        {
            details.insert("assignedVariables".to_owned(), Value::Object(assigned.clone()));
            flow.variables.extend(assigned);
        }
        if let Some(result) = result
            && let Err(trouble) = self.remember_undo(state, flow, outer, &result)
        {
            flow.variables = before.unwrap_or_default();
            return Err(trouble);
        }
        self.publish(flow, history::exited(&state.kind), &state.name, Value::Object(details));
        Ok(match leave.next {
            Some(next) => Turn::Next(next.to_owned(), output),
            None => Turn::End(output),
        })
    }

    /// The output in JSONPath; `None` when it is the value as it is.
    fn filtered(
        &self,
        state: &State,
        flow: &Flow,
        outer: Option<&Frame<'_>>,
        leave: &Leave<'_>,
        scope: &Scope<'_>,
    ) -> Result<Option<Value>, Trouble> {
        let selector = state.shape.result_selector.as_ref().filter(|_| leave.is_result);
        let selected = selector.map(|template| template.evaluate("ResultSelector", scope)).transpose()?;
        let output = match (selected, leave.result_path) {
            (selected, Place::Whole) => selected,
            (selected, place) => {
                let result = selected.unwrap_or_else(|| leave.value.clone());
                let put = place.put(&flow.input, result);
                Some(put.map_err(|why| Trouble::broken(Failure::RESULT_PATH_MATCH_FAILURE, why))?)
            }
        };
        match &state.shape.output_path {
            // What a Catch leaves behind goes on as it is.
            _ if leave.is_error => Ok(output),
            Pick::Whole => Ok(output),
            Pick::Nothing => Ok(Some(json!({}))),
            Pick::At(query) => {
                let root = output.as_ref().unwrap_or(&leave.value);
                let scope = self.scope(flow, outer, Cow::Borrowed(root));
                Ok(Some(query.evaluate("OutputPath", &scope)?.into_owned()))
            }
        }
    }

    fn remember_undo(
        &mut self,
        state: &State,
        flow: &Flow,
        outer: Option<&Frame<'_>>,
        result: &Value,
    ) -> Result<(), Trouble> {
        let Some(compensate) = &state.compensate else { return Ok(()) };
        let arguments = {
            let mut scope = self.scope(flow, outer, Cow::Borrowed(result));
            scope.view.result = Some(result);
            match &compensate.arguments {
                Some(template) => template.evaluate("Compensate/Arguments", &scope)?,
                None => result.clone(),
            }
        };
        bounded(&state.name, &arguments)?;
        self.head.undos.push(Undo { state: state.name.clone(), resource: compensate.resource.clone(), arguments });
        Ok(())
    }
}
