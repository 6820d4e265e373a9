//! JSON values out of a stream of bytes: one a line, one after the other, or the elements of an array.

use bytes::{Buf, Bytes, BytesMut};

use super::frames::{MAX_MESSAGE, malformed, too_large};
use crate::errors::Refusal;

/// Splits without parsing: brackets and strings are counted, what is inside a value is read later.
#[derive(Debug)]
pub(super) struct Values {
    buffer: BytesMut,
    /// Bytes of the buffer that were looked at.
    at: usize,
    depth: usize,
    string: bool,
    escaped: bool,
    /// Whether a value began.
    inside: bool,
    array: Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Array {
    /// The first byte says.
    Perhaps,
    Not,
    /// An element, or `]` right at the start.
    First,
    Element,
    /// A comma or `]`.
    Behind,
    Ended,
}

impl Values {
    /// With `array`, values may also come as the elements of one JSON array.
    pub(super) fn new(array: bool) -> Self {
        let array = if array { Array::Perhaps } else { Array::Not };
        Self { buffer: BytesMut::new(), at: 0, depth: 0, string: false, escaped: false, inside: false, array }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole value; at the `end` of the stream also one that nothing follows.
    ///
    /// # Errors
    /// When a value is too large, was cut, or stands where none can.
    pub(super) fn next(&mut self, end: bool) -> Result<Option<Bytes>, Refusal> {
        while self.at < self.buffer.len() {
            let byte = self.buffer[self.at];
            if !self.inside {
                if self.between(byte)? {
                    self.buffer.advance(1);
                    continue;
                }
                self.inside = true;
            } else if self.depth == 0 && !self.string && self.ends_scalar(byte) {
                return Ok(Some(self.take()));
            }
            self.at += 1;
            if self.string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
            if self.depth == 0 && !self.string && matches!(byte, b'}' | b']' | b'"') {
                return Ok(Some(self.take()));
            }
            if self.at > MAX_MESSAGE {
                return Err(too_large());
            }
        }
        if end && self.inside {
            if self.depth > 0 || self.string {
                return Err(malformed("the body ended inside a JSON value"));
            }
            return Ok(Some(self.take()));
        }
        if end && !matches!(self.array, Array::Perhaps | Array::Not | Array::Ended) {
            return Err(malformed("the body ended inside a JSON array"));
        }
        Ok(None)
    }

    fn take(&mut self) -> Bytes {
        let value = self.buffer.split_to(self.at).freeze();
        (self.at, self.inside) = (0, false);
        if self.array == Array::Element {
            self.array = Array::Behind;
        }
        value
    }

    fn ends_scalar(&self, byte: u8) -> bool {
        byte.is_ascii_whitespace() || (self.array == Array::Element && matches!(byte, b',' | b']'))
    }

    /// Whether a byte between values is skipped; if not, it begins one.
    fn between(&mut self, byte: u8) -> Result<bool, Refusal> {
        if byte.is_ascii_whitespace() {
            return Ok(true);
        }
        let (next, skipped) = match (self.array, byte) {
            (Array::Perhaps, b'[') => (Array::First, true),
            (Array::Perhaps | Array::Not, _) => (Array::Not, false),
            (Array::First | Array::Behind, b']') => (Array::Ended, true),
            (Array::Behind, b',') => (Array::Element, true),
            (Array::First | Array::Element, _) => (Array::Element, false),
            (Array::Behind | Array::Ended, _) => {
                return Err(malformed("the body is not JSON values or an array of them"));
            }
        };
        self.array = next;
        Ok(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, array: bool) -> Result<Vec<String>, String> {
        let whole = |cut: usize| {
            let (mut values, mut out) = (Values::new(array), Vec::new());
            for chunk in text.as_bytes().chunks(cut) {
                values.push(chunk);
                while let Some(value) = values.next(false)? {
                    out.push(String::from_utf8(value.to_vec()).unwrap());
                }
            }
            while let Some(value) = values.next(true)? {
                out.push(String::from_utf8(value.to_vec()).unwrap());
            }
            Ok(out)
        };
        let found =
            [1, 2, 3, 1000].map(|cut| whole(cut).map_err(|refusal: Refusal| refusal.status.message().to_owned()));
        assert!(found.iter().all(|one| *one == found[0]), "{text}: {found:?}");
        found[0].clone()
    }

    #[test]
    fn values_come_by_line_by_bracket_and_by_comma() {
        for (text, array, expected) in [
            ("", true, &[][..]),
            (" \n", true, &[]),
            ("{\"a\":\"}\"}\n{}\r\n\n{}", false, &["{\"a\":\"}\"}", "{}", "{}"]),
            ("{}{}{\"a\":[{}]}", false, &["{}", "{}", "{\"a\":[{}]}"]),
            ("\"a\\\"b\" \"c\"", false, &["\"a\\\"b\"", "\"c\""]),
            ("1 2\n-3.5e1", false, &["1", "2", "-3.5e1"]),
            ("[{},{\"a\":[1,2]}, {} ]", true, &["{}", "{\"a\":[1,2]}", "{}"]),
            ("[1,2]", true, &["1", "2"]),
            ("[]", true, &[]),
            ("[1,2]", false, &["[1,2]"]),
        ] {
            assert_eq!(split(text, array).unwrap(), expected, "{text}");
        }
        for bad in ["{", "\"a", "[{}", "[{} {}]", "[{}]x", "[1,2"] {
            assert!(split(bad, true).is_err(), "{bad}");
        }
        let mut values = Values::new(true);
        values.push(&vec![b'['; MAX_MESSAGE + 10]);
        assert!(values.next(false).is_err());
    }
}
