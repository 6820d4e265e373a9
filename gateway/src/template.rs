//! The path template of google.api.http: `/v1/{name=shelves/*}/books/**:archive` parsed into segments, variables and verb.

use std::{borrow::Cow, fmt, ops::Range};

/// A parsed path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub segments: Vec<Segment>,
    pub variables: Vec<Variable>,
    /// What follows the last colon, without it.
    pub verb: Option<Box<str>>,
}

/// What one or more path segments must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Exactly this, after percent-decoding.
    Literal(Box<str>),
    /// `*`: one segment that is not empty.
    Any,
    /// `**`: any number of segments, none included.
    Rest,
}

/// A request field that a part of the path is copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The field path, `tenant.name`.
    pub field: String,
    /// The template segments that it covers.
    pub covers: Range<usize>,
    /// Whether it may hold more than one path segment; then `%2F` is left as it is.
    pub multi: bool,
}

/// Why a text is not a path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub why: &'static str,
    /// The byte at which parsing stopped.
    pub at: usize,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.why, self.at)
    }
}

impl std::error::Error for Error {}

impl Template {
    /// Parses the syntax that `google/api/http.proto` defines; `**` may also be followed by more segments, as Envoy allows.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parser = Parser { text, at: 0, segments: Vec::new(), variables: Vec::new() };
        parser.expect(b'/', "a template starts with '/'")?;
        parser.segments(false)?;
        let verb = if parser.take(b':') { Some(parser.literal("a verb is not empty")?) } else { None };
        if parser.at < text.len() {
            return parser.fail("'/', ':' or the end expected");
        }
        let Parser { segments, variables, .. } = parser;
        if segments.iter().filter(|segment| **segment == Segment::Rest).count() > 1 {
            return Err(Error { why: "'**' may stand only once", at: text.len() });
        }
        Ok(Self { segments, variables, verb })
    }

    /// The part of `path` that the template segments `covers` stand for, in a path that is known to match.
    ///
    /// `path` is without its leading slash and without the verb.
    #[must_use]
    pub fn part<'p>(&self, path: &'p str, covers: &Range<usize>) -> &'p str {
        let rest = self.segments.iter().position(|segment| *segment == Segment::Rest);
        let total = if path.is_empty() { 0 } else { path.bytes().filter(|byte| *byte == b'/').count() + 1 };
        // Behind `**` the path is counted from its end.
        let part = |boundary: usize| match rest {
            Some(rest) if boundary > rest => total.saturating_sub(self.segments.len() - boundary),
            _ => boundary,
        };
        let (first, last) = (part(covers.start), part(covers.end));
        if first >= last {
            return "";
        }
        let start = path.split('/').take(first).map(|skipped| skipped.len() + 1).sum::<usize>();
        let length = path[start..].split('/').take(last - first).map(|kept| kept.len() + 1).sum::<usize>();
        &path[start..start + length - 1]
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    segments: Vec<Segment>,
    variables: Vec<Variable>,
}

impl Parser<'_> {
    fn segments(&mut self, inside: bool) -> Result<(), Error> {
        loop {
            match self.peek() {
                Some(b'{') if inside => return self.fail("variables do not nest"),
                Some(b'{') => self.variable()?,
                Some(b'*') => {
                    self.at += 1;
                    let segment = if self.take(b'*') { Segment::Rest } else { Segment::Any };
                    self.segments.push(segment);
                }
                _ => {
                    let literal = self.literal("a segment is not empty")?;
                    self.segments.push(Segment::Literal(literal));
                }
            }
            if !self.take(b'/') {
                return Ok(());
            }
        }
    }

    fn variable(&mut self) -> Result<(), Error> {
        self.at += 1;
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.') {
            self.at += 1;
        }
        let field = &self.text[start..self.at];
        let identifier = |part: &str| part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !field.split('.').all(identifier) {
            return self.fail("a field path expected");
        }
        let first = self.segments.len();
        if self.take(b'=') {
            self.segments(true)?;
        } else {
            self.segments.push(Segment::Any);
        }
        self.expect(b'}', "'}' expected")?;
        let covers = first..self.segments.len();
        let multi = self.segments[covers.clone()] != [Segment::Any];
        self.variables.push(Variable { field: field.to_owned(), covers, multi });
        Ok(())
    }

    fn literal(&mut self, empty: &'static str) -> Result<Box<str>, Error> {
        let start = self.at;
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"/:{}*=?#".contains(&byte);
        while self.peek().is_some_and(plain) {
            self.at += 1;
        }
        if start == self.at {
            return self.fail(empty);
        }
        match decode(&self.text[start..self.at], false) {
            Some(decoded) => Ok(decoded.into()),
            None => self.fail("not percent-encoded UTF-8"),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, why: &'static str) -> Result<(), Error> {
        if self.take(byte) { Ok(()) } else { self.fail(why) }
    }

    fn fail<T>(&self, why: &'static str) -> Result<T, Error> {
        Err(Error { why, at: self.at })
    }
}

/// Percent-decodes a part of a path; `None` when it is not percent-encoded UTF-8. With `keep_slash`, `%2F` stays.
#[must_use]
pub fn decode(text: &str, keep_slash: bool) -> Option<Cow<'_, str>> {
    if !text.as_bytes().contains(&b'%') {
        return Some(Cow::Borrowed(text));
    }
    String::from_utf8(unescape(text, keep_slash)?).ok().map(Cow::Owned)
}

/// Percent-decodes to bytes that need be no text.
#[must_use]
pub fn decode_bytes(text: &str) -> Option<Vec<u8>> {
    unescape(text, false)
}

fn unescape(text: &str, keep_slash: bool) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        if bytes[at] != b'%' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| (*byte as char).to_digit(16));
        let byte = u8::try_from(digit(1)? * 16 + digit(2)?).ok()?;
        if keep_slash && byte == b'/' {
            out.extend_from_slice(&bytes[at..at + 3]);
        } else {
            out.push(byte);
        }
        at += 3;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> String {
        let template = Template::parse(text).unwrap();
        let segments = template.segments.iter().map(|segment| match segment {
            Segment::Literal(literal) => literal.to_string(),
            Segment::Any => "*".into(),
            Segment::Rest => "**".into(),
        });
        let mut shape = segments.collect::<Vec<_>>().join("/");
        for Variable { field, covers, multi } in &template.variables {
            shape += &format!(" {field}={}..{}{}", covers.start, covers.end, if *multi { "+" } else { "" });
        }
        shape + &template.verb.map(|verb| format!(" :{verb}")).unwrap_or_default()
    }

    #[test]
    fn templates_are_parsed() {
        for (text, expected) in [
            ("/v1/runs", "v1/runs"),
            ("/v1/tenants:onboard", "v1/tenants :onboard"),
            ("/v1/{id}", "v1/* id=1..2"),
            ("/v1/{name=runs/*}", "v1/runs/* name=1..3+"),
            ("/v1/{name=runs/*}:cancel", "v1/runs/* name=1..3+ :cancel"),
            ("/v1/{parent=runs/*}/history", "v1/runs/*/history parent=1..3+"),
            ("/v1/{a.b=x/*}/{c.d}", "v1/x/*/* a.b=1..3+ c.d=3..4"),
            ("/v1/{path=**}", "v1/** path=1..2+"),
            ("/v1/{path=**}/meta:get", "v1/**/meta path=1..2+ :get"),
            ("/*/**", "*/**"),
            ("/.well-known/jwks.json", ".well-known/jwks.json"),
            ("/a%20b/~x", "a b/~x"),
        ] {
            assert_eq!(shape(text), expected, "{text}");
        }
    }

    #[test]
    fn bad_templates_are_refused_with_the_place() {
        for (text, expected) in [
            ("", "a template starts with '/' at byte 0"),
            ("v1", "a template starts with '/' at byte 0"),
            ("/", "a segment is not empty at byte 1"),
            ("/v1//x", "a segment is not empty at byte 4"),
            ("/v1/", "a segment is not empty at byte 4"),
            ("/v1/x:", "a verb is not empty at byte 6"),
            ("/v1/x:a:b", "'/', ':' or the end expected at byte 7"),
            ("/v1/x:a/b", "'/', ':' or the end expected at byte 7"),
            ("/v1/{}", "a field path expected at byte 5"),
            ("/v1/{1a}", "a field path expected at byte 7"),
            ("/v1/{a..b}", "a field path expected at byte 9"),
            ("/v1/{a", "'}' expected at byte 6"),
            ("/v1/{a={b}}", "variables do not nest at byte 7"),
            ("/v1/{a=}", "a segment is not empty at byte 7"),
            ("/v1/a*", "'/', ':' or the end expected at byte 5"),
            ("/v1/***", "'/', ':' or the end expected at byte 6"),
            ("/v1/**/x/**", "'**' may stand only once at byte 11"),
            ("/v1/a?b", "'/', ':' or the end expected at byte 5"),
            ("/v1/%zz", "not percent-encoded UTF-8 at byte 7"),
        ] {
            assert_eq!(Template::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_single_segment_is_decoded_fully_and_several_all_but_the_slash() {
        for (text, keep_slash, expected) in [
            ("plain", false, Some("plain")),
            ("a%2Fb%20c", false, Some("a/b c")),
            ("a%2Fb%20c", true, Some("a%2Fb c")),
            ("a%2fb", true, Some("a%2fb")),
            ("%C3%A9", false, Some("é")),
            ("%252F", false, Some("%2F")),
            ("%C3", false, None),
            ("%4", false, None),
            ("%", false, None),
            ("%+1", false, None),
        ] {
            assert_eq!(decode(text, keep_slash).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_part_follows_its_template_segments() {
        for (template, path, expected) in [
            ("/v1/{name=runs/*}", "v1/runs/run_1", "runs/run_1"),
            ("/v1/{a}/x/{b}", "v1/left/x/right", "left,right"),
            ("/v1/{p=**}/meta/{q}", "v1/a/b/c/meta/d", "a/b/c,d"),
            ("/v1/{p=**}/meta", "v1/meta", ""),
            ("/v1/{p=**}", "v1", ""),
            ("/v1/{p=x/**/y}/z", "v1/x/1/2/y/z", "x/1/2/y"),
            ("/v1/{p=x/**/y}/z", "v1/x/y/z", "x/y"),
            ("/{p=**}", "", ""),
        ] {
            let parsed = Template::parse(template).unwrap();
            let parts: Vec<_> = parsed.variables.iter().map(|variable| parsed.part(path, &variable.covers)).collect();
            assert_eq!(parts.join(","), expected, "{template} {path}");
        }
    }
}
