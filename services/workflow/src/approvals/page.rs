//! The pages behind a link: what is asked with its form, and what became of it. Plain HTML that runs nothing.

use std::fmt::Write;

use super::model::{Approval, Field, Kind};

/// In front of the names of the form's own fields, so that none is taken for ours.
pub(super) const PREFIX: &str = "form.";
pub(super) const MEDIA_TYPE: &str = "text/html; charset=utf-8";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:3rem auto;padding:0 1rem;color:#1c1c1c}\
    label{display:block;margin:1rem 0 .25rem}input:not([type=checkbox]),select,textarea{width:100%;padding:.5rem;\
    box-sizing:border-box;font:inherit}button{font:inherit;padding:.6rem 1.2rem;margin:1.5rem .5rem 0 0;cursor:pointer}\
    .approve{background:#14713d;color:#fff;border:0}.description{white-space:pre-wrap}";

/// The question. Its buttons post to the page's own address.
pub(super) fn question(approval: &Approval) -> String {
    let mut body = format!("<h1>{}</h1>", escaped(&approval.asked.title));
    let _ = write!(body, "<p class=\"description\">{}</p><form method=\"post\">", escaped(&approval.asked.description));
    for (name, field) in approval.asked.fields().unwrap_or_default() {
        input(&mut body, name, &field);
    }
    body.push_str(
        "<label for=\"comment\">Comment</label><textarea id=\"comment\" name=\"comment\" rows=\"3\" maxlength=\"2000\">\
         </textarea><button class=\"approve\" name=\"decision\" value=\"approved\">Approve</button>\
         <button name=\"decision\" value=\"denied\" formnovalidate>Deny</button></form>",
    );
    page(&approval.asked.title, &body)
}

/// What became of it.
pub(super) fn decided(title: &str, decision: &str) -> String {
    page(title, &format!("<h1>{}</h1><p>Recorded: <strong>{}</strong>.</p>", escaped(title), escaped(decision)))
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta name=\"referrer\" content=\"no-referrer\"><meta name=\"robots\" \
         content=\"noindex\"><meta http-equiv=\"content-security-policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'; form-action 'self'\"><title>{}</title><style>{STYLE}</style></head><body>{body}</body></html>",
        escaped(title)
    )
}

fn input(body: &mut String, name: &str, field: &Field) {
    let (id, label) = (escaped(name), escaped(if field.title.is_empty() { name } else { &field.title }));
    let required = if field.required { " required" } else { "" };
    let _ = write!(body, "<label for=\"{PREFIX}{id}\">{label}</label>");
    let attributes = format!("id=\"{PREFIX}{id}\" name=\"{PREFIX}{id}\"{required}");
    let _ = match field.kind {
        Kind::String if !field.choices.is_empty() => {
            let option = |choice: &String| format!("<option>{}</option>", escaped(choice));
            let options: String = field.choices.iter().map(option).collect();
            write!(body, "<select {attributes}><option value=\"\"></option>{options}</select>")
        }
        Kind::String => write!(body, "<input {attributes} maxlength=\"10000\">"),
        Kind::Number => write!(body, "<input {attributes} type=\"number\" step=\"any\">"),
        Kind::Integer => write!(body, "<input {attributes} type=\"number\" step=\"1\">"),
        // A box that must be checked is no question.
        Kind::Boolean => {
            write!(body, "<input id=\"{PREFIX}{id}\" name=\"{PREFIX}{id}\" type=\"checkbox\" value=\"true\">")
        }
    };
}

/// Text that is nothing but text in HTML, inside of attributes too.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tenon_chassis::Clock;

    use super::*;
    use crate::{
        approvals::model::{Asked, Name},
        runs::model::RunId,
    };

    #[test]
    fn what_is_asked_is_text_and_nothing_else() {
        let clock = Clock::default();
        let evil = "<script>alert('\"')</script>";
        let form = json!({evil: {"title": evil, "enum": [evil]}, "n": {"type": "integer", "required": true}});
        let asked = Asked::parse(&json!({"title": evil, "description": evil, "form": form})).unwrap();
        let name = Name { run: RunId::new(&clock), token: 1 };
        let page = question(&Approval { name, asked, created_at: clock.now(), expires_at: None });
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
        assert!(page.contains("type=\"number\" step=\"1\"") && page.contains("name=\"form.n\" required"), "{page}");
        assert!(!decided(evil, "approved").contains("<script"));
    }
}
