//! What only a Map has.

use serde_json::Value;

use super::{Parser, SECONDS_MAX};
use crate::asl::{
    fields::{Fields, integer},
    model::{Batcher, Field, Kind, Map, Reader, Scope},
    template::{Language, Template},
};

const LABEL_MAX_CHARS: usize = 40;

struct Processor {
    field: &'static str,
    scope: Option<Scope>,
    distributed: bool,
}

impl Parser<'_> {
    pub(super) fn map(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Kind> {
        let items = self.items(language, fields);
        let item_selector = self.item_selector(language, fields);
        let reader = self.reader(language, fields);
        let batcher = self.batcher(language, fields);
        let writer = self.writer(language, fields);
        let max_concurrency = self.count(("MaxConcurrency", "MaxConcurrencyPath"), language, fields);
        let tolerated_count = self.count(("ToleratedFailureCount", "ToleratedFailureCountPath"), language, fields);
        let is_percentage = |value: &Value| value.as_f64().is_some_and(|number| (0.0..=100.0).contains(&number));
        let percentage = ("a number from 0 to 100", &is_percentage as &dyn Fn(&Value) -> bool);
        let names = ("ToleratedFailurePercentage", "ToleratedFailurePercentagePath");
        let tolerated_percentage = self.field(names, language, percentage, fields);
        let label = fields.text("Label", &mut self.faults).map(str::to_owned);
        if label.as_ref().is_some_and(|label| label.chars().count() > LABEL_MAX_CHARS) {
            fields.fault("Label", format!("has at most {LABEL_MAX_CHARS} characters"), &mut self.faults);
        }
        let processor = self.processor(fields)?;
        Some(Kind::Map(Box::new(Map {
            items,
            item_selector,
            reader,
            batcher,
            writer,
            processor: processor.scope?,
            processor_field: processor.field,
            distributed: processor.distributed,
            label,
            max_concurrency,
            tolerated_count,
            tolerated_percentage,
        })))
    }

    fn items(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Field> {
        if language == Language::JsonPath {
            fields.get("ItemsPath")?;
            let query = self.query("ItemsPath", fields)?;
            return Some(Field { name: "ItemsPath", template: Template::Query(query) });
        }
        let valid = |value: &Value| value.is_array() || value.is_object();
        let template = fields.checked_template("Items", language, "an array", valid, &mut self.faults);
        template.map(|template| Field { name: "Items", template })
    }

    fn item_selector(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Field> {
        let selector = fields.template("ItemSelector", language, &mut self.faults);
        let selector = selector.map(|template| Field { name: "ItemSelector", template });
        if language == Language::Jsonata || fields.get("Parameters").is_none() {
            return selector;
        }
        if selector.is_some() {
            fields.fault_here("ItemSelector and Parameters exclude each other", &mut self.faults);
        }
        let template = fields.template("Parameters", language, &mut self.faults)?;
        Some(Field { name: "Parameters", template })
    }

    fn count(
        &mut self,
        names: (&'static str, &'static str),
        language: Language,
        fields: &mut Fields<'_>,
    ) -> Option<Field> {
        let valid = |value: &Value| integer(value).is_some_and(|count| count <= SECONDS_MAX);
        self.field(names, language, (&format!("an integer from 0 to {SECONDS_MAX}"), &valid), fields)
    }

    fn reader(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Reader> {
        let value = fields.get("ItemReader")?;
        let mut reader = Fields::of(value, fields.at("ItemReader"), &mut self.faults)?;
        reader.get("Comment");
        let max_items = self.reader_config(language, &mut reader);
        let resource = reader.required_text("Resource", &mut self.faults);
        let name = if language == Language::Jsonata { "Arguments" } else { "Parameters" };
        let arguments = reader.template(name, language, &mut self.faults);
        if let Some(resource) = resource {
            let written = (name, reader.get(name));
            self.check(&reader.pointer, resource, written);
        }
        reader.finish("an ItemReader", language, &mut self.faults);
        Some(Reader { resource: resource?.to_owned(), arguments, max_items })
    }

    /// How much is read. What says in which form things are stored is the reader's own to know.
    fn reader_config(&mut self, language: Language, reader: &mut Fields<'_>) -> Option<Field> {
        let value = reader.get("ReaderConfig")?;
        let mut config = Fields::of(value, reader.at("ReaderConfig"), &mut self.faults)?;
        let form = ["InputType", "CSVHeaderLocation", "CSVHeaders", "CSVDelimiter", "ManifestType", "Transformation"];
        for name in ["Comment", "ItemsPointer"].into_iter().chain(form) {
            config.get(name);
        }
        let max_items = self.count(("MaxItems", "MaxItemsPath"), language, &mut config);
        config.finish("a reader config", language, &mut self.faults);
        max_items
    }

    fn batcher(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Batcher> {
        let value = fields.get("ItemBatcher")?;
        let mut batcher = Fields::of(value, fields.at("ItemBatcher"), &mut self.faults)?;
        batcher.get("Comment");
        let valid = |value: &Value| integer(value).is_some_and(|count| (1..=SECONDS_MAX).contains(&count));
        let positive: (&str, &dyn Fn(&Value) -> bool) = ("a positive integer", &valid);
        let max_items = self.field(("MaxItemsPerBatch", "MaxItemsPerBatchPath"), language, positive, &mut batcher);
        let names = ("MaxInputBytesPerBatch", "MaxInputBytesPerBatchPath");
        let max_bytes = self.field(names, language, positive, &mut batcher);
        if max_items.is_none() && max_bytes.is_none() {
            batcher.fault_here("needs MaxItemsPerBatch or MaxInputBytesPerBatch", &mut self.faults);
        }
        let input = batcher.template("BatchInput", language, &mut self.faults);
        batcher.finish("an ItemBatcher", language, &mut self.faults);
        Some(Batcher { max_items, max_bytes, input })
    }

    fn writer(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Template> {
        let value = fields.get("ResultWriter")?;
        let mut writer = Fields::of(value, fields.at("ResultWriter"), &mut self.faults)?;
        writer.get("Comment");
        writer.get("WriterConfig");
        writer.text("Resource", &mut self.faults);
        let name = if language == Language::Jsonata { "Arguments" } else { "Parameters" };
        let arguments = writer.template(name, language, &mut self.faults);
        writer.finish("a ResultWriter", language, &mut self.faults);
        arguments
    }

    /// ItemProcessor, or Iterator as it was called before.
    fn processor(&mut self, fields: &mut Fields<'_>) -> Option<Processor> {
        let (new, old) = (fields.get("ItemProcessor"), fields.get("Iterator"));
        let (field, value) = match (new, old) {
            (Some(value), None) => ("ItemProcessor", value),
            (None, Some(value)) => ("Iterator", value),
            (None, None) => {
                fields.fault_here("ItemProcessor is missing", &mut self.faults);
                return None;
            }
            (Some(_), Some(_)) => {
                fields.fault_here("ItemProcessor and Iterator exclude each other", &mut self.faults);
                return None;
            }
        };
        let mut processor = Fields::of(value, fields.at(field), &mut self.faults)?;
        processor.get("Comment");
        let mut distributed = false;
        if let Some(config) = processor.get("ProcessorConfig") {
            let mut config = Fields::of(config, processor.at("ProcessorConfig"), &mut self.faults)?;
            config.get("Comment");
            match config.text("Mode", &mut self.faults) {
                None | Some("INLINE") => {}
                Some("DISTRIBUTED") => distributed = true,
                Some(_) => config.fault("Mode", "must be INLINE or DISTRIBUTED", &mut self.faults),
            }
            if config
                .text("ExecutionType", &mut self.faults)
                .is_some_and(|kind| kind != "STANDARD" && kind != "EXPRESS")
            {
                config.fault("ExecutionType", "must be STANDARD or EXPRESS", &mut self.faults);
            }
            config.finish("a processor config", self.language, &mut self.faults);
        }
        let scope = self.scope(&mut processor);
        processor.finish("an item processor", self.language, &mut self.faults);
        Some(Processor { field, scope, distributed })
    }
}
