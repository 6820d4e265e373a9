//! What the authors of a contract wrote beside its parts. A descriptor set without source info has none.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use prost_reflect::FileDescriptor;
use serde_json::{Map, Value};

/// How a comment begins a line that is an example and no text.
const EXAMPLE: &str = "Example:";
/// How it begins a line with what the type does not say: JSON Schema, as an object.
const SCHEMA: &str = "Schema:";

type Places = HashMap<Vec<i32>, Comment>;

/// The comments of files, read once each.
#[derive(Default)]
pub(super) struct Comments(RefCell<HashMap<String, Rc<Places>>>);

/// What stands above a part, or behind it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Comment {
    pub(super) text: String,
    /// From lines `Example: VALUE`; JSON, or a text as it is.
    pub(super) examples: Vec<Value>,
    /// From lines `Schema: {"minimum": 0}`; what is no object is text.
    pub(super) schema: Map<String, Value>,
}

impl Comments {
    /// The comment of the part of a file that has this path in its descriptor.
    pub(super) fn of(&self, file: &FileDescriptor, path: &[i32]) -> Comment {
        let mut files = self.0.borrow_mut();
        let places = files.entry(file.name().to_owned()).or_insert_with(|| Rc::new(read(file)));
        places.get(path).cloned().unwrap_or_default()
    }
}

impl Comment {
    fn parse(raw: &str) -> Self {
        let (mut lines, mut examples, mut schema) = (Vec::new(), Vec::new(), Map::new());
        for line in raw.lines() {
            let line = line.strip_prefix(' ').unwrap_or(line).trim_end();
            let rules = line.strip_prefix(SCHEMA).and_then(|rules| serde_json::from_str::<Map<_, _>>(rules).ok());
            if let Some(rules) = rules {
                schema.extend(rules);
                continue;
            }
            match line.strip_prefix(EXAMPLE).map(str::trim) {
                Some(example) => {
                    examples.push(serde_json::from_str(example).unwrap_or_else(|_| Value::from(example)));
                }
                None => lines.push(line),
            }
        }
        Self { text: lines.join("\n").trim().to_owned(), examples, schema }
    }

    /// The first sentence, without its full stop.
    pub(super) fn summary(&self) -> String {
        let first = self.text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let end = first.find(". ").unwrap_or(first.len());
        first[..end].trim_end_matches('.').to_owned()
    }
}

fn read(file: &FileDescriptor) -> Places {
    let proto = file.file_descriptor_proto();
    let places = proto.source_code_info.iter().flat_map(|info| &info.location);
    let comment = |place: &prost_types::source_code_info::Location| {
        let raw = place.leading_comments.as_ref().or(place.trailing_comments.as_ref())?;
        Some((place.path.clone(), Comment::parse(raw)))
    };
    places.filter_map(comment).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_comment_is_text_and_examples() {
        let comment = Comment::parse(
            " Adds a thing. It is kept.\n Example: {\"a\": 1}\n Example: plain text\n Schema: {\"minimum\": 0}\n Schema: no\n\n More.\n",
        );
        assert_eq!(comment.text, "Adds a thing. It is kept.\nSchema: no\n\nMore.");
        assert_eq!(Value::Object(comment.schema.clone()), json!({ "minimum": 0 }));
        assert_eq!(comment.examples, [json!({ "a": 1 }), json!("plain text")]);
        assert_eq!(comment.summary(), "Adds a thing");
        assert_eq!(Comment::parse("").summary(), "");
    }
}
