//! Amazon States Language: the model of a definition, its validation, and the pure machine that interprets it.
//! No I/O and no async: what time it is and what tasks answered come in as parameters.

mod branches;
mod check;
mod execution;
mod failure;
mod fields;
mod history;
mod interpreter;
mod jsonata;
mod model;
mod parse;
mod template;

pub use execution::{Command, Execution, Input, Outcome, Step};
pub use failure::Failure;
pub use history::Event;
pub use model::Machine;
pub use parse::{CheckTask, Fault, parse};

#[cfg(test)]
mod tests;
