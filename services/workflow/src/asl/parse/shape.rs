//! What states of both languages do with their data: paths, payload templates, Output and Assign.

use serde_json::Value;

use super::{Fault, NAME_MAX_CHARS, Parser};
use crate::asl::{
    fields::{Fields, escape},
    model::{Compensate, Field, Pick, Shape},
    path::Place,
    template::{Language, Query, Template},
};

impl Parser<'_> {
    /// The data fields of a state of this type.
    pub(super) fn shape(&mut self, kind: &str, language: Language, fields: &mut Fields<'_>) -> Shape {
        let mut shape = Shape::default();
        let calls = matches!(kind, "Task" | "Parallel");
        let results = calls || kind == "Map";
        if kind == "Fail" {
            return shape;
        }
        if language == Language::Jsonata {
            shape.output = fields.template("Output", language, &mut self.faults);
            if calls {
                shape.arguments = fields.template("Arguments", language, &mut self.faults);
            }
        } else {
            shape.input_path = self.pick("InputPath", fields);
            shape.output_path = self.pick("OutputPath", fields);
            if calls || kind == "Pass" {
                shape.arguments = fields.template("Parameters", language, &mut self.faults);
            }
            if results {
                shape.result_selector = fields.template("ResultSelector", language, &mut self.faults);
            }
            if results || kind == "Pass" {
                shape.result_path = self.place(fields);
            }
        }
        if kind != "Succeed" {
            shape.assign = self.assign(language, fields);
        }
        shape
    }

    fn pick(&mut self, field: &'static str, fields: &mut Fields<'_>) -> Pick {
        match fields.get(field) {
            None => Pick::Whole,
            Some(Value::Null) => Pick::Nothing,
            Some(_) => match self.query(field, fields) {
                Some(Query::Path(path)) if path.is_whole_input() => Pick::Whole,
                Some(query) => Pick::At(query),
                None => Pick::Whole,
            },
        }
    }

    pub(super) fn place(&mut self, fields: &mut Fields<'_>) -> Place {
        if fields.get("ResultPath").is_some_and(Value::is_null) {
            return Place::Nowhere;
        }
        let text = fields.text("ResultPath", &mut self.faults);
        match text.map(Place::parse) {
            None => Place::Whole,
            Some(Ok(place)) => place,
            Some(Err(why)) => {
                fields.fault("ResultPath", why, &mut self.faults);
                Place::Whole
            }
        }
    }

    /// A path or an intrinsic function.
    pub(super) fn query(&mut self, field: &'static str, fields: &mut Fields<'_>) -> Option<Query> {
        match Query::parse(fields.text(field, &mut self.faults)?) {
            Ok(query) => Some(query),
            Err(why) => {
                fields.fault(field, why, &mut self.faults);
                None
            }
        }
    }

    /// A field with a value of its own or, in JSONPath, with a path under another name.
    pub(super) fn field(
        &mut self,
        names: (&'static str, &'static str),
        language: Language,
        (needs, valid): (&str, &dyn Fn(&Value) -> bool),
        fields: &mut Fields<'_>,
    ) -> Option<Field> {
        let (name, path_name) = names;
        let plain = fields.checked_template(name, language, needs, valid, &mut self.faults);
        let plain = plain.map(|template| Field { name, template });
        if language == Language::Jsonata || path_name.is_empty() || fields.get(path_name).is_none() {
            return plain;
        }
        if plain.is_some() {
            fields.fault_here(format!("{name} and {path_name} exclude each other"), &mut self.faults);
        }
        let query = self.query(path_name, fields)?;
        Some(Field { name: path_name, template: Template::Query(query) })
    }

    pub(super) fn assign(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Template> {
        let assign = fields.template("Assign", language, &mut self.faults);
        match fields.get("Assign") {
            None => {}
            Some(Value::Object(variables)) => {
                for key in variables.keys() {
                    let name = if language == Language::JsonPath { key.strip_suffix(".$").unwrap_or(key) } else { key };
                    if !is_variable(name) {
                        let pointer = format!("{}/{}", fields.at("Assign"), escape(key));
                        self.faults.push(Fault { pointer, reason: format!("{name} is not a name for a variable") });
                    }
                }
            }
            Some(_) => fields.fault("Assign", "must be an object", &mut self.faults),
        }
        assign
    }

    /// Our extension: what undoes the state.
    pub(super) fn compensate(&mut self, fields: &mut Fields<'_>) -> Option<Compensate> {
        let value = fields.get("Compensate")?;
        let mut undo = Fields::of(value, fields.at("Compensate"), &mut self.faults)?;
        undo.get("Comment");
        let resource = undo.required_text("Resource", &mut self.faults);
        let arguments = undo.template("Arguments", Language::Jsonata, &mut self.faults);
        if let Some(resource) = resource {
            let written = ("Arguments", undo.get("Arguments"));
            self.check(&undo.pointer, resource, written);
        }
        undo.finish("a Compensate", Language::Jsonata, &mut self.faults);
        Some(Compensate { resource: resource?.to_owned(), arguments })
    }

    /// Hands a task to who knows its Resource, with what is written of its arguments and in which field.
    pub(super) fn check(&mut self, pointer: &str, resource: &str, (field, written): (&str, Option<&Value>)) {
        for Fault { pointer: below, reason } in (self.check_task)(resource, written) {
            let pointer = match below.strip_prefix("/Arguments") {
                Some(below) => format!("{pointer}/{field}{below}"),
                None => format!("{pointer}{below}"),
            };
            self.faults.push(Fault { pointer, reason });
        }
    }
}

fn is_variable(name: &str) -> bool {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|char| char.is_alphabetic() || char == '_');
    first && name != "states" && name.len() <= NAME_MAX_CHARS && chars.all(|char| char.is_alphanumeric() || char == '_')
}
