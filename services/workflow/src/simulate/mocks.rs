//! What tasks answer in a simulation: our own mock files, and those of Step Functions Local as they are.

use std::collections::HashMap;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::asl::Failure;

/// The highest number of an answer in a file of Step Functions Local.
const NUMBER_MAX: usize = 10_000;

/// Why a mock file cannot be used.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct BadMocks(String);

/// The answers of each state.
#[derive(Debug, Default)]
pub struct Mocks {
    states: HashMap<String, Answers>,
}

#[derive(Debug)]
struct Answers {
    /// What the file says, or what is wrong with it: that matters only once a task asks.
    list: Result<Vec<Answer>, String>,
    /// Whether the last answer repeats; in files of Step Functions Local it does not.
    repeats: bool,
    calls: usize,
}

type Answer = Result<Value, Failure>;

impl Mocks {
    /// Reads `{"State": [{"return": X} | {"throw": {"error", "cause"}}, ...]}`, or a MockConfigFile.json of Step Functions
    /// Local, of which `state_machine` and `test_case` choose a part; each may be left out when there is but one.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn parse(file: &Value, state_machine: Option<&str>, test_case: Option<&str>) -> Result<Self, BadMocks> {
        let file = file.as_object().ok_or_else(|| bad("a mock file is a JSON object"))?;
        let is_local = file.get("StateMachines").is_some_and(Value::is_object)
            && file.get("MockedResponses").is_none_or(Value::is_object);
        if is_local {
            return local(file, state_machine, test_case);
        }
        if test_case.is_some() {
            return Err(bad("--test-case is for mock files of Step Functions Local"));
        }
        let mut states = HashMap::new();
        for (state, answers) in file {
            let answers = answers.as_array().filter(|answers| !answers.is_empty());
            let answers = answers.ok_or_else(|| bad(format!("{state}: must be a non-empty array of answers")))?;
            let each = answers.iter().enumerate().map(|(index, value)| own(value, &format!("{state}[{index}]")));
            let list = Ok(each.collect::<Result<_, _>>()?);
            states.insert(state.clone(), Answers { list, repeats: true, calls: 0 });
        }
        Ok(Self { states })
    }

    /// What a state's task answers to its next call; an error says what the file lacks. Retries, and visits of the state,
    /// take one answer after the other, as in Step Functions Local.
    pub(super) fn answer(&mut self, state: &str) -> Result<Answer, String> {
        let Some(answers) = self.states.get_mut(state) else {
            return Err(format!(
                "there is no mock for it: add {{\"{state}\": [{{\"return\": ...}}]}} to the file of --mocks"
            ));
        };
        let list = answers.list.as_ref().map_err(|why| format!("its mock cannot be used: {why}"))?;
        let index = if answers.repeats { answers.calls.min(list.len() - 1) } else { answers.calls };
        let answer = list.get(index).cloned().ok_or_else(|| format!("its mock has no answer number {index}"))?;
        answers.calls += 1;
        Ok(answer)
    }
}

/// `{"return": X}` or `{"throw": {"error": E, "cause": C}}`.
fn own(value: &Value, place: &str) -> Result<Answer, BadMocks> {
    let fields = value.as_object().filter(|fields| fields.len() == 1);
    let field = fields.and_then(|fields| fields.iter().next());
    match field.map(|(key, value)| (key.as_str(), value)) {
        Some(("return" | "Return", result)) => Ok(Ok(result.clone())),
        Some(("throw" | "Throw", thrown)) => throw(thrown, place).map(Err),
        _ => Err(bad(format!("{place}: must be an object with either return or throw"))),
    }
}

fn throw(value: &Value, place: &str) -> Result<Failure, BadMocks> {
    let text = |lower: &str, upper: &str| match value.get(lower).or_else(|| value.get(upper)) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(bad(format!("{place}: {lower} must be a string"))),
    };
    let (error, cause) = (text("error", "Error")?, text("cause", "Cause")?);
    if error.is_empty() {
        return Err(bad(format!("{place}: what is thrown needs an error")));
    }
    Ok(Failure::new(error, cause))
}

fn local(file: &Map<String, Value>, state_machine: Option<&str>, test_case: Option<&str>) -> Result<Mocks, BadMocks> {
    let machines =
        file.get("StateMachines").and_then(Value::as_object).ok_or_else(|| bad("StateMachines is missing"))?;
    let (machine_name, machine) = choose(machines, state_machine, "state machine", "--state-machine")?;
    let cases = machine.get("TestCases").and_then(Value::as_object);
    let cases = cases.ok_or_else(|| bad(format!("StateMachines.{machine_name}: TestCases is missing")))?;
    let (case_name, case) = choose(cases, test_case, "test case", "--test-case")?;
    let case = case.as_object().ok_or_else(|| bad(format!("TestCases.{case_name}: must be an object")))?;
    let responses = file.get("MockedResponses").and_then(Value::as_object);
    let mut states = HashMap::new();
    for (state, name) in case {
        let name = name.as_str().ok_or_else(|| bad(format!("TestCases.{case_name}.{state}: must be a name")))?;
        let response = responses.and_then(|responses| responses.get(name)).and_then(Value::as_object);
        let list = match response {
            None => Err(format!("MockedResponses.{name} is missing")),
            Some(response) => numbered(name, response).map_err(|why| why.to_string()),
        };
        states.insert(state.clone(), Answers { list, repeats: false, calls: 0 });
    }
    Ok(Mocks { states })
}

fn choose<'f>(
    all: &'f Map<String, Value>,
    wanted: Option<&str>,
    what: &str,
    flag: &str,
) -> Result<(&'f String, &'f Value), BadMocks> {
    let names = || all.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match wanted {
        Some(wanted) => {
            all.get_key_value(wanted).ok_or_else(|| bad(format!("there is no {what} {wanted}; there are: {}", names())))
        }
        None if all.len() == 1 => Ok(all.iter().next().expect("there is one")),
        None => Err(bad(format!("choose a {what} with {flag}; there are: {}", names()))),
    }
}

/// `{"0": {"Return": X}, "1-2": {"Throw": {"Error", "Cause"}}}`: every number from 0 on, once.
fn numbered(name: &str, response: &Map<String, Value>) -> Result<Vec<Answer>, BadMocks> {
    let mut list: Vec<Option<Answer>> = Vec::new();
    for (range, value) in response {
        let place = format!("MockedResponses.{name}.{range}");
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number <= NUMBER_MAX);
        let bounds = match range.split_once('-') {
            None => number(range).map(|at| (at, at)),
            Some((from, to)) => number(from).zip(number(to)),
        };
        let (from, to) =
            bounds.filter(|(from, to)| from <= to).ok_or_else(|| bad(format!("{place}: is no number and no range")))?;
        let answer = own(value, &place)?;
        if list.len() <= to {
            list.resize(to + 1, None);
        }
        for slot in &mut list[from..=to] {
            if slot.replace(answer.clone()).is_some() {
                return Err(bad(format!("{place}: a number is there twice")));
            }
        }
    }
    let whole: Option<Vec<Answer>> = list.into_iter().collect();
    whole
        .filter(|list| !list.is_empty())
        .ok_or_else(|| bad(format!("MockedResponses.{name}: numbers must go on from 0 without holes")))
}

fn bad(why: impl Into<String>) -> BadMocks {
    BadMocks(why.into())
}
