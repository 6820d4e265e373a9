//! Intrinsic functions of JSONPath states: `States.Format('Hello, {}', $.name)`.

mod functions;

pub(super) use functions::{hash, mix, partition, range, uuid};

use serde_json::Value;

use super::{path::Path, template::weight};
use functions::Function;

/// Characters of a call, and functions in functions.
const TEXT_MAX: usize = 10_000;
const DEPTH_MAX: usize = 10;
/// How much room the value of a function may take.
const VALUE_MAX_WEIGHT: usize = 4 * 1024 * 1024;

/// A parsed call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) text: String,
    call: Inner,
}

#[derive(Debug, Clone, PartialEq)]
struct Inner {
    function: Function,
    arguments: Vec<Argument>,
}

#[derive(Debug, Clone, PartialEq)]
enum Argument {
    Literal(Value),
    /// A string as it was written: `States.Format` tells `{}` from an escaped `\{\}`.
    Text {
        value: String,
        raw: String,
    },
    Path(Path),
    Call(Inner),
}

/// Why a call has no value.
#[derive(Debug)]
pub(super) enum Broken {
    /// An argument's path found nothing.
    Missing(String),
    /// The function refuses its arguments.
    Refused(String),
}

/// What the functions see.
pub(super) trait Source {
    /// The value of a path, if it finds one.
    fn find(&self, path: &Path) -> Option<Value>;
    /// A number that looks random; another for each call.
    fn random(&self) -> u64;
}

impl Call {
    /// Whether a text is meant as a call.
    pub(super) fn is_one(text: &str) -> bool {
        text.starts_with("States.")
    }

    /// Parses a call.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("an intrinsic function has at most {TEXT_MAX} characters"));
        }
        let mut reader = Reader { rest: text };
        let call = reader.call(0)?;
        reader.skip_blanks();
        if reader.rest.is_empty() {
            Ok(Self { text: text.to_owned(), call })
        } else {
            Err(format!("what is '{}' behind the function?", reader.rest))
        }
    }

    /// Its value.
    pub(super) fn evaluate(&self, source: &dyn Source) -> Result<Value, Broken> {
        self.call.evaluate(source)
    }
}

impl Inner {
    fn evaluate(&self, source: &dyn Source) -> Result<Value, Broken> {
        let mut values = Vec::with_capacity(self.arguments.len());
        let mut template = None;
        for argument in &self.arguments {
            values.push(match argument {
                Argument::Literal(value) => value.clone(),
                Argument::Text { value, raw } => {
                    template = template.or(Some(raw.as_str()));
                    Value::String(value.clone())
                }
                Argument::Path(path) => source.find(path).ok_or_else(|| Broken::Missing(path.text.clone()))?,
                Argument::Call(inner) => inner.evaluate(source)?,
            });
        }
        let written = matches!(self.arguments.first(), Some(Argument::Text { .. }));
        let template = template.filter(|_| written);
        let value = self.function.apply(&values, template, &|| source.random()).map_err(Broken::Refused)?;
        if weight(&value) > VALUE_MAX_WEIGHT {
            return Err(Broken::Refused("its value is too large".to_owned()));
        }
        Ok(value)
    }
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, char: char) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(char) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn split(&mut self, end: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn call(&mut self, depth: usize) -> Result<Inner, String> {
        if depth >= DEPTH_MAX {
            return Err(format!("intrinsic functions are nested at most {DEPTH_MAX} deep"));
        }
        self.skip_blanks();
        let end = self.rest.find('(').ok_or("an intrinsic function needs its arguments in parentheses")?;
        let name = self.split(end).trim_end();
        let function = Function::named(name).ok_or_else(|| format!("there is no intrinsic function {name}"))?;
        self.take('(');
        let mut arguments = Vec::new();
        if !self.take(')') {
            loop {
                arguments.push(self.argument(depth)?);
                if self.take(')') {
                    break;
                }
                if !self.take(',') {
                    return Err(format!("the arguments of {name} lack a comma or a closing parenthesis"));
                }
            }
        }
        let (least, most) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            return Err(format!("{name} does not take {} arguments", arguments.len()));
        }
        Ok(Inner { function, arguments })
    }

    fn argument(&mut self, depth: usize) -> Result<Argument, String> {
        self.skip_blanks();
        match self.rest.chars().next() {
            Some('\'') => self.text(),
            Some('$') => {
                let end = self.end_of_path();
                Ok(Argument::Path(Path::parse(self.split(end).trim_end())?))
            }
            Some('S') => Ok(Argument::Call(self.call(depth + 1)?)),
            _ => {
                let end = self.rest.find([',', ')']).unwrap_or(self.rest.len());
                let word = self.split(end).trim_end();
                let value: Value = serde_json::from_str(word)
                    .map_err(|_| format!("'{word}' is no argument of an intrinsic function"))?;
                if value.is_string() || value.is_array() || value.is_object() {
                    return Err(format!("'{word}' is no argument: strings stand in single quotes"));
                }
                Ok(Argument::Literal(value))
            }
        }
    }

    /// Where a path ends: at a comma or a parenthesis outside of brackets and quotes.
    fn end_of_path(&self) -> usize {
        let (mut depth, mut quote) = (0_usize, None);
        for (at, char) in self.rest.char_indices() {
            match (quote, char) {
                (Some(open), _) if char == open => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(char),
                (None, '[' | '(') => depth += 1,
                (None, ']') => depth = depth.saturating_sub(1),
                (None, ')') if depth > 0 => depth -= 1,
                (None, ',' | ')') if depth == 0 => return at,
                _ => {}
            }
        }
        self.rest.len()
    }

    fn text(&mut self) -> Result<Argument, String> {
        let (mut value, mut raw) = (String::new(), String::new());
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                '\'' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Argument::Text { value, raw });
                }
                '\\' => {
                    let (_, escaped) = chars.next().ok_or("a string ends in a backslash")?;
                    raw.extend(['\\', escaped]);
                    // The States Language knows \' \{ \} and \\; others keep their backslash.
                    if !matches!(escaped, '\'' | '{' | '}' | '\\') {
                        value.push('\\');
                    }
                    value.push(escaped);
                }
                char => {
                    value.push(char);
                    raw.push(char);
                }
            }
        }
        Err("a string in single quotes is not closed".to_owned())
    }
}

#[cfg(test)]
mod tests;
