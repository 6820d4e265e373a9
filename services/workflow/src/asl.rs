//! Amazon States Language: the model of a definition, its validation, and the pure machine that interprets it.
//! No I/O and no async: what time it is and what tasks answered come in as parameters.

mod branches;
mod check;
mod choice;
mod compensation;
mod execution;
mod failure;
mod field;
mod fields;
mod flow;
mod history;
mod interpreter;
mod intrinsic;
mod jsonata;
mod language;
mod map;
mod model;
mod output;
mod parse;
mod path;
mod resource;
mod scope;
mod task;
mod template;

pub use execution::{Command, Execution, Input, Outcome, Step};
pub use failure::{Failure, Pushback};
pub use flow::Tried;
pub use history::Event;
pub use model::Machine;
pub use parse::{CheckTask, Fault, parse};
pub use resource::is_aws;

#[cfg(test)]
mod tests;
