//! A pause and its name.

use chrono::{DateTime, Utc};

use crate::workflows;

/// Something that is held back.
#[derive(Debug)]
pub struct Pause {
    /// Empty is everything.
    pub workflow_id: String,
    pub reason: String,
    pub paused_by: String,
    pub created_at: DateTime<Utc>,
}

/// The workflow of `pauses/hello`; '' of `pauses/-`. What cannot be one is not found.
#[must_use]
pub fn id_of(name: &str) -> Option<&str> {
    match name.strip_prefix("pauses/")? {
        "-" => Some(""),
        id => workflows::model::new_id(id).ok(),
    }
}

/// The name of the pause of a workflow, or with '' of everything.
#[must_use]
pub fn name_of(workflow_id: &str) -> String {
    format!("pauses/{}", if workflow_id.is_empty() { "-" } else { workflow_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for id in ["", "hello"] {
            assert_eq!(id_of(&name_of(id)), Some(id));
        }
        assert_eq!((id_of("pauses/"), id_of("pauses/A"), id_of("hello")), (None, None, None));
    }
}
