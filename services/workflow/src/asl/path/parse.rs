//! Reads the text of a path.

use super::{Path, Root, Step, filter};

/// Characters of a path at most.
const TEXT_MAX: usize = 2_048;

/// Reads text from the left.
pub(super) struct Reader<'t> {
    pub(super) rest: &'t str,
}

pub(super) fn path(text: &str) -> Result<Path, String> {
    if text.len() > TEXT_MAX {
        return Err(format!("a path has at most {TEXT_MAX} characters"));
    }
    let mut reader = Reader { rest: text };
    let (root, steps) = reader.path()?;
    if reader.rest.is_empty() {
        Ok(Path { text: text.to_owned(), root, steps })
    } else {
        Err(format!("what is '{}' in the path {text}?", reader.rest))
    }
}

impl<'t> Reader<'t> {
    pub(super) fn take(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    pub(super) fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    pub(super) fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'t str {
        let end = self.rest.find(|char| !keep(char)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// A root and the steps behind it.
    fn path(&mut self) -> Result<(Root, Vec<Step>), String> {
        if !self.take("$") {
            return Err("a path starts with $".to_owned());
        }
        let root = if self.take("$") {
            Root::Context
        } else {
            let name = self.take_while(|char| char.is_alphanumeric() || char == '_');
            if name.is_empty() { Root::Input } else { Root::Variable(name.to_owned()) }
        };
        Ok((root, self.steps()?))
    }

    pub(super) fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Descend);
                if !self.rest.starts_with('[') {
                    steps.push(self.dotted()?);
                }
            } else if self.take(".") {
                if !self.rest.starts_with('[') {
                    steps.push(self.dotted()?);
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    fn dotted(&mut self) -> Result<Step, String> {
        if self.take("*") {
            return Ok(Step::Wildcard);
        }
        let name = self.take_while(is_of_name);
        if name.is_empty() { Err("a name is missing after a dot".to_owned()) } else { Ok(Step::Name(name.to_owned())) }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        self.skip_blanks();
        let step = if self.take("*") {
            Step::Wildcard
        } else if self.take("?") {
            self.skip_blanks();
            if !self.take("(") {
                return Err("a filter is [?(...)]".to_owned());
            }
            let test = filter::test(self)?;
            self.skip_blanks();
            if !self.take(")") {
                return Err("a filter lacks its closing parenthesis".to_owned());
            }
            Step::Filter(test)
        } else if self.rest.starts_with(['\'', '"']) {
            self.names()?
        } else {
            self.indexes()?
        };
        self.skip_blanks();
        if self.take("]") { Ok(step) } else { Err("a bracket is not closed".to_owned()) }
    }

    fn names(&mut self) -> Result<Step, String> {
        let mut names = vec![self.quoted()?];
        self.skip_blanks();
        while self.take(",") {
            self.skip_blanks();
            names.push(self.quoted()?);
            self.skip_blanks();
        }
        Ok(if names.len() == 1 { Step::Name(names.remove(0)) } else { Step::Names(names) })
    }

    /// A string in single or double quotes; a backslash takes the next character as it is.
    pub(super) fn quoted(&mut self) -> Result<String, String> {
        let Some(quote) = self.rest.chars().next().filter(|char| *char == '\'' || *char == '"') else {
            return Err("a string in quotes is missing".to_owned());
        };
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                '\\' => text.push(chars.next().ok_or("a string ends in a backslash")?.1),
                char if char == quote => {
                    self.rest = &self.rest[at + quote.len_utf8()..];
                    return Ok(text);
                }
                char => text.push(char),
            }
        }
        Err("a string in quotes is not closed".to_owned())
    }

    fn indexes(&mut self) -> Result<Step, String> {
        let first = self.integer()?;
        self.skip_blanks();
        if self.take(":") {
            self.skip_blanks();
            let to = self.integer()?;
            return Ok(Step::Slice(first, to));
        }
        let mut indexes = vec![first.ok_or("an index is missing in brackets")?];
        while self.take(",") {
            self.skip_blanks();
            indexes.push(self.integer()?.ok_or("an index is missing after a comma")?);
            self.skip_blanks();
        }
        Ok(if indexes.len() == 1 { Step::Index(indexes[0]) } else { Step::Indexes(indexes) })
    }

    fn integer(&mut self) -> Result<Option<i64>, String> {
        let text = self.take_while(|char| char.is_ascii_digit() || char == '-');
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| format!("{text} is not an index"))
    }
}

fn is_of_name(char: char) -> bool {
    !char.is_whitespace()
        && !matches!(char, '.' | '[' | ']' | '*' | ',' | '(' | ')' | '=' | '<' | '>' | '!' | '&' | '|' | '\'' | '"')
}
