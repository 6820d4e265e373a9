//! What is asked and how it is answered: the Arguments of an approval, its form, and who may decide.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use tenon_chassis::Fault;

use crate::runs::model::RunId;

/// Fields of a form, and receivers of one question.
const FIELDS_MAX: usize = 50;
const NOTIFIED_MAX: usize = 20;
/// Characters of a title, a description, a comment and a text in a form.
const TITLE_MAX: usize = 200;
const DESCRIPTION_MAX: usize = 10_000;
pub const COMMENT_MAX: usize = 2_000;
const TEXT_MAX: usize = 10_000;
/// The longest wait: ten years.
const EXPIRES_MAX_S: u64 = 315_360_000;

/// Which question: the run, and what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    pub run: RunId,
    pub token: u64,
}

impl Name {
    /// The one in `approvals/run_...-7`; what cannot be one is not found, whatever it is.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (run, token) = name.strip_prefix("approvals/")?.split_once('-')?;
        let digits = (1..=18).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_digit());
        Some(Self { run: run.parse().ok()?, token: token.parse().ok().filter(|_| digits)? })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "approvals/{}-{}", self.run, self.token)
    }
}

/// A question that waits for its answer.
#[derive(Debug, Clone)]
pub struct Approval {
    pub name: Name,
    pub asked: Asked,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl Approval {
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether this user may decide: everyone who has the permission, unless it names who.
    #[must_use]
    pub fn may_be_decided_by(&self, user: &str, roles: &[String]) -> bool {
        let approvers = &self.asked.approvers;
        let is_named =
            |named: &String| named == user || named.strip_prefix("users/") == Some(user) || roles.contains(named);
        approvers.is_empty() || approvers.iter().any(is_named)
    }
}

/// The Arguments of an approval.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Asked {
    pub title: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub form: Map<String, Value>,
    #[serde(default, deserialize_with = "texts")]
    pub approvers: Vec<String>,
    pub expires_in_seconds: Option<u64>,
    #[serde(default)]
    pub notify: Notify,
}

/// Who is told that something waits.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    #[serde(default, deserialize_with = "texts")]
    pub email: Vec<String>,
}

/// A text, or a list of texts.
fn texts<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Many {
        One(String),
        List(Vec<String>),
    }
    Ok(match Many::deserialize(from)? {
        Many::One(text) => vec![text],
        Many::List(texts) => texts,
    })
}

/// What a field of a form takes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    #[serde(default, rename = "type")]
    pub kind: Kind,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub required: bool,
    /// The texts to choose from.
    #[serde(default, rename = "enum")]
    pub choices: Vec<String>,
}

/// The types of JSON that a field can have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    String,
    Number,
    Integer,
    Boolean,
}

impl Asked {
    /// Reads Arguments.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn parse(arguments: &Value) -> Result<Self, String> {
        let asked: Self = serde_json::from_value(arguments.clone()).map_err(|why| why.to_string())?;
        let bounded = |name: &str, text: &str, most: usize| {
            let fits = text.chars().count() <= most;
            if fits { Ok(()) } else { Err(format!("{name} has more than {most} characters")) }
        };
        bounded("title", &asked.title, TITLE_MAX)?;
        bounded("description", &asked.description, DESCRIPTION_MAX)?;
        if asked.title.is_empty() || asked.title.chars().any(char::is_control) {
            return Err("title must be one line".to_owned());
        }
        if asked.form.len() > FIELDS_MAX || asked.notify.email.len() > NOTIFIED_MAX {
            return Err(format!("at most {FIELDS_MAX} fields and {NOTIFIED_MAX} addresses"));
        }
        if asked.expires_in_seconds.is_some_and(|seconds| seconds == 0 || seconds > EXPIRES_MAX_S) {
            return Err("expiresInSeconds must be 1 up to ten years".to_owned());
        }
        asked.fields()?;
        Ok(asked)
    }

    /// The fields of the form, by name.
    ///
    /// # Errors
    /// Names the one that is none.
    pub fn fields(&self) -> Result<Vec<(&str, Field)>, String> {
        let field = |(name, field): (_, &Value)| {
            let read = serde_json::from_value(field.clone()).map_err(|why| format!("form.{name}: {why}"))?;
            Ok((name, read))
        };
        self.form.iter().map(|(name, value)| field((name.as_str(), value))).collect()
    }

    /// When it is too late.
    #[must_use]
    pub fn expires_at(&self, created_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let seconds = i64::try_from(self.expires_in_seconds?).ok()?;
        Some(created_at + TimeDelta::seconds(seconds))
    }

    /// Checks a form that was filled in.
    ///
    /// # Errors
    /// INVALID_FIELD naming the first field that is not as it must be.
    pub fn filled(&self, form: &Map<String, Value>) -> Result<(), Fault> {
        let fields = self.fields().unwrap_or_default();
        if let Some(unknown) = form.keys().find(|key| !fields.iter().any(|(name, _)| name == key)) {
            return Err(Fault::invalid(format!("form.{unknown}"), "is not a field of this form"));
        }
        for (name, field) in fields {
            let wrong = |why: &str| Fault::invalid(format!("form.{name}"), why);
            let Some(value) = form.get(name).filter(|value| !value.is_null() && **value != "") else {
                if field.required {
                    return Err(wrong("must be filled in"));
                }
                continue;
            };
            field.takes(value).map_err(|why| wrong(&why))?;
        }
        Ok(())
    }
}

impl Field {
    fn takes(&self, value: &Value) -> Result<(), String> {
        let is_text = value.as_str().is_some_and(|text| text.chars().count() <= TEXT_MAX && !text.contains('\0'));
        let (fits, wanted) = match self.kind {
            Kind::String => (is_text, "must be a text of at most 10,000 characters"),
            Kind::Number => (value.is_number(), "must be a number"),
            Kind::Integer => (value.is_i64() || value.is_u64(), "must be a whole number"),
            Kind::Boolean => (value.is_boolean(), "must be true or false"),
        };
        if !fits {
            return Err(wanted.to_owned());
        }
        let chosen =
            value.as_str().is_none_or(|text| self.choices.is_empty() || self.choices.iter().any(|one| one == text));
        if chosen { Ok(()) } else { Err(format!("must be one of {}", self.choices.join(", "))) }
    }

    /// What a text in a browser's form means; one that means nothing stays a text, and is refused as such.
    #[must_use]
    pub fn read(&self, text: &str) -> Value {
        let text = text.trim_end_matches('\r');
        match self.kind {
            Kind::String => Value::String(text.to_owned()),
            Kind::Boolean => Value::Bool(matches!(text, "true" | "on")),
            Kind::Integer => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
            Kind::Number => {
                let number = text.parse::<f64>().ok().and_then(Number::from_f64);
                number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
            }
        }
    }
}

/// A decision.
#[derive(Debug, Clone)]
pub struct Decided {
    pub decision: &'static str,
    pub by: String,
    pub comment: String,
    pub form: Map<String, Value>,
    pub at: DateTime<Utc>,
}

/// Checks a decision.
///
/// # Errors
/// INVALID_FIELD for anything but `approved` and `denied`.
pub fn decision(text: &str) -> Result<&'static str, Fault> {
    match text {
        "approved" => Ok("approved"),
        "denied" => Ok("denied"),
        _ => Err(Fault::invalid("decision", "must be approved or denied")),
    }
}

/// Checks a comment.
///
/// # Errors
/// INVALID_FIELD when it is too long.
pub fn comment(text: &str) -> Result<&str, Fault> {
    let fits = text.chars().count() <= COMMENT_MAX && !text.contains('\0');
    if fits { Ok(text) } else { Err(Fault::invalid("comment", "must have at most 2,000 characters and no NUL")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tenon_chassis::Clock;

    use super::*;

    fn asked(form: &Value) -> Asked {
        Asked::parse(&json!({"title": "Pay?", "form": form, "approvers": ["users/usr_1", "finance"]})).unwrap()
    }

    #[test]
    fn arguments_are_read_or_refused_with_the_reason() {
        assert!(Asked::parse(&json!({"title": "x", "notify": {"email": "a@b.test"}})).unwrap().notify.email.len() == 1);
        for (arguments, why) in [
            (json!({}), "title"),
            (json!({"title": ""}), "one line"),
            (json!({"title": "x", "aprovers": []}), "aprovers"),
            (json!({"title": "x", "expiresInSeconds": 0}), "expiresInSeconds"),
            (json!({"title": "x", "form": {"a": {"type": "date"}}}), "form.a"),
            (json!({"title": "x".repeat(201)}), "200"),
        ] {
            let refused = Asked::parse(&arguments).unwrap_err();
            assert!(refused.contains(why), "{arguments}: {refused}");
        }
    }

    #[test]
    fn a_form_is_filled_in_as_it_says() {
        let asked = asked(&json!({
            "amount": {"type": "number", "required": true}, "why": {"enum": ["a", "b"]}, "n": {"type": "integer"},
        }));
        let filled =
            |form: Value| asked.filled(form.as_object().unwrap()).map_err(|fault| fault.violations[0].0.clone());
        assert_eq!(filled(json!({"amount": 1.5, "why": "a", "n": 2})), Ok(()));
        assert_eq!(filled(json!({"amount": 1})), Ok(()));
        for (form, field) in [
            (json!({}), "form.amount"),
            (json!({"amount": "1"}), "form.amount"),
            (json!({"amount": 1, "why": "c"}), "form.why"),
            (json!({"amount": 1, "n": 1.5}), "form.n"),
            (json!({"amount": 1, "more": 1}), "form.more"),
        ] {
            assert_eq!(filled(form), Err(field.to_owned()));
        }
        let number = Field { kind: Kind::Number, ..Field::default() };
        assert_eq!((number.read("1.5"), number.read("x")), (json!(1.5), json!("x")));
    }

    #[test]
    fn names_read_back_and_approvers_are_users_or_roles() {
        let clock = Clock::default();
        let name = Name { run: RunId::new(&clock), token: 7 };
        assert_eq!(Name::parse(&name.to_string()), Some(name));
        for bad in ["", "approvals/x-1", "approvals/run_1", &format!("{name}x"), &format!("approvals/{}--1", name.run)]
        {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
        let approval = Approval { name, asked: asked(&json!({})), created_at: clock.now(), expires_at: None };
        assert!(
            approval.may_be_decided_by("usr_1", &[]) && approval.may_be_decided_by("usr_2", &["finance".to_owned()])
        );
        assert!(!approval.may_be_decided_by("usr_2", &["admin".to_owned()]));
    }
}
