//! What a client takes as an answer (RFC 9110 section 12.5.1): JSON, or for a stream one of its three forms.

use http::{HeaderMap, StatusCode, header};

use super::relay::Form;
use crate::errors::Refusal;

/// Refuses a client that does not take JSON.
pub(super) fn json(headers: &HeaderMap) -> Result<(), Refusal> {
    // What nearly all send.
    let mut values = headers.get_all(header::ACCEPT).iter();
    let only = (values.next(), values.next());
    if only.0.is_none_or(|value| only.1.is_none() && (value == "*/*" || value == "application/json")) {
        return Ok(());
    }
    if Ranges::of(headers).quality("application/json") > 0 {
        return Ok(());
    }
    Err(refuse("only application/json is served here"))
}

/// The form of a stream that the client likes best; one JSON message a line when it does not say.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Refusal> {
    let ranges = Ranges::of(headers);
    let offered = [
        (Form::Lines, "application/x-ndjson"),
        (Form::Lines, "application/ndjson"),
        (Form::Lines, "application/jsonl"),
        (Form::Events, "text/event-stream"),
        (Form::Array, "application/json"),
    ];
    let mut best: Option<(Form, u32)> = None;
    for (form, media) in offered {
        // What is named outranks what a wildcard takes as well.
        let quality = ranges.quality(media) * 2 + u32::from(ranges.names(media));
        if ranges.quality(media) > 0 && best.is_none_or(|(_, known)| quality > known) {
            best = Some((form, quality));
        }
    }
    let why = "a stream is served as application/x-ndjson, text/event-stream or application/json";
    best.map(|(form, _)| form).ok_or_else(|| refuse(why))
}

fn refuse(why: &str) -> Refusal {
    Refusal::invalid("NOT_ACCEPTABLE", "accept", why).http(StatusCode::NOT_ACCEPTABLE)
}

/// The media ranges of `Accept` with their weights in thousandths. None is everything.
struct Ranges(Vec<(String, u32)>);

impl Ranges {
    fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(',')).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let essence = parts.next().filter(|essence| !essence.is_empty())?.to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            Some((essence, weight.map_or(1_000, thousandths)))
        });
        let mut ranges: Vec<_> = ranges.collect();
        if ranges.is_empty() && !headers.contains_key(header::ACCEPT) {
            ranges.push(("*/*".to_owned(), 1_000));
        }
        Self(ranges)
    }

    /// The weight of the most specific range that holds a media type.
    fn quality(&self, media: &str) -> u32 {
        let of = |range: &str| self.0.iter().filter(|(known, _)| known == range).map(|(_, weight)| *weight).max();
        let family = media.split('/').next().map(|family| format!("{family}/*"));
        of(media).or_else(|| of(&family?)).or_else(|| of("*/*")).unwrap_or(0)
    }

    fn names(&self, media: &str) -> bool {
        self.0.iter().any(|(known, _)| known == media)
    }
}

fn thousandths(text: &str) -> u32 {
    let weight: f32 = text.parse().unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 1000")]
    let thousandths = (weight.clamp(0.0, 1.0) * 1_000.0).round() as u32;
    thousandths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_likes_best_is_what_it_gets() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, value.parse().unwrap())]);
            (json(&headers).is_ok(), form(&headers).ok())
        };
        for (value, takes_json, expected) in [
            ("*/*", true, Some(Form::Lines)),
            ("application/*", true, Some(Form::Lines)),
            ("application/x-ndjson", false, Some(Form::Lines)),
            ("text/event-stream", false, Some(Form::Events)),
            ("application/json", true, Some(Form::Array)),
            ("application/json, */*", true, Some(Form::Array)),
            ("application/json;q=0.5, text/event-stream", true, Some(Form::Events)),
            ("text/html, application/*;q=0.1", true, Some(Form::Lines)),
            ("application/json;q=0", false, None),
            ("application/json;q=0, */*", false, Some(Form::Lines)),
            ("text/html", false, None),
            ("", false, None),
            ("Application/JSON; charset=utf-8", true, Some(Form::Array)),
        ] {
            assert_eq!(of(value), (takes_json, expected), "{value}");
        }
        assert!(json(&HeaderMap::new()).is_ok());
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Lines);
    }
}
