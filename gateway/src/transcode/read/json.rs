//! JSON as it is read: tokens, one after the other, each checked against RFC 8259.

use std::borrow::Cow;

/// Where a text stops being JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotJson;

/// What the next value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Object,
    Array,
    String,
    Number,
    True,
    False,
    Null,
}

/// A place in a JSON text.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'j> {
    text: &'j str,
    pub(super) at: usize,
}

impl<'j> Cursor<'j> {
    pub(super) fn new(text: &'j str) -> Self {
        Self { text, at: 0 }
    }

    /// A cursor at another place of the same text.
    pub(super) fn at(&self, at: usize) -> Self {
        Self { text: self.text, at }
    }

    fn bytes(&self) -> &'j [u8] {
        self.text.as_bytes()
    }

    /// The next byte that is no white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    pub(super) fn token(&mut self) -> Result<Token, NotJson> {
        match self.peek() {
            Some(b'{') => Ok(Token::Object),
            Some(b'[') => Ok(Token::Array),
            Some(b'"') => Ok(Token::String),
            Some(b'-' | b'0'..=b'9') => Ok(Token::Number),
            Some(b't') => Ok(Token::True),
            Some(b'f') => Ok(Token::False),
            Some(b'n') => Ok(Token::Null),
            _ => Err(NotJson),
        }
    }

    /// Takes a byte if it comes next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.take(byte) { Ok(()) } else { Err(NotJson) }
    }

    /// `true`, `false` or `null`, whose first letter was seen.
    pub(super) fn word(&mut self) -> Result<(), NotJson> {
        for word in ["true", "false", "null"] {
            if self.bytes()[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        // The place of the fault is the first letter that differs.
        while self.bytes().get(self.at).is_some_and(u8::is_ascii_lowercase) {
            self.at += 1;
        }
        Err(NotJson)
    }

    /// A number as it is written.
    pub(super) fn number(&mut self) -> Result<&'j str, NotJson> {
        let start = self.at;
        let bytes = self.bytes();
        let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
        let digits = |at: &mut usize| {
            let from = *at;
            while bytes.get(*at).is_some_and(u8::is_ascii_digit) {
                *at += 1;
            }
            *at - from
        };
        let leading = bytes.get(at);
        let whole = digits(&mut at);
        let mut good = whole > 0 && (whole == 1 || leading != Some(&b'0'));
        if good && bytes.get(at) == Some(&b'.') {
            at += 1;
            good = digits(&mut at) > 0;
        }
        if good && matches!(bytes.get(at), Some(b'e' | b'E')) {
            at += 1;
            at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
            good = digits(&mut at) > 0;
        }
        self.at = at;
        if good { Ok(&self.text[start..at]) } else { Err(NotJson) }
    }

    /// A string, unescaped.
    pub(super) fn string(&mut self) -> Result<Cow<'j, str>, NotJson> {
        self.expect(b'"')?;
        let (start, bytes) = (self.at, self.bytes());
        loop {
            self.pass_plain();
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
                }
                Some(b'\\') => return self.escaped(start).map(Cow::Owned),
                Some(0..0x20) | None => return Err(NotJson),
                Some(_) => self.at += 1,
            }
        }
    }

    /// Passes over letters that mean themselves, eight at a time.
    fn pass_plain(&mut self) {
        while let Some(eight) = self.bytes().get(self.at..).and_then(|rest| rest.first_chunk()) {
            let special = special(u64::from_le_bytes(*eight));
            if special != 0 {
                self.at += (special.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
    }

    /// The rest of a string, from its first backslash on.
    fn escaped(&mut self, start: usize) -> Result<String, NotJson> {
        let (mut out, bytes) = (String::with_capacity(self.at - start + 16), self.bytes());
        let mut plain = start;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    out.push_str(&self.text[plain..self.at]);
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    out.push_str(&self.text[plain..self.at]);
                    self.at += 1;
                    out.push(self.escape()?);
                    plain = self.at;
                }
                Some(0..0x20) | None => return Err(NotJson),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, NotJson> {
        let letter = *self.bytes().get(self.at).ok_or(NotJson)?;
        self.at += 1;
        Ok(match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.unit()?;
                if !(0xd800..0xdc00).contains(&high) {
                    // A low surrogate by itself is no character either.
                    return char::from_u32(high).ok_or(NotJson);
                }
                let pair = self.bytes().get(self.at..self.at + 2) == Some(b"\\u");
                self.at += if pair { 2 } else { return Err(NotJson) };
                let low = self.unit()?;
                if !(0xdc00..0xe000).contains(&low) {
                    return Err(NotJson);
                }
                char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)).ok_or(NotJson)?
            }
            _ => {
                self.at -= 1;
                return Err(NotJson);
            }
        })
    }

    fn unit(&mut self) -> Result<u32, NotJson> {
        let digits = self.bytes().get(self.at..self.at + 4).ok_or(NotJson)?;
        let unit = digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?));
        self.at += 4;
        unit.ok_or(NotJson)
    }
}

/// The high bit of the first byte that is a quote, a backslash or below a space, and perhaps of bytes behind it
/// (S. E. Anderson, "Bit Twiddling Hacks", "Determine if a word has a byte less than n").
fn special(eight: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word;
    let is = |letter: u8| below(eight ^ (ONES * u64::from(letter)), 1);
    (below(eight, 0x20) | is(b'"') | is(b'\\')) & (ONES * 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_do_not_mean_themselves_are_found_at_every_place() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                for filler in [b'a', b' ', 0x7f, 0xff] {
                    let mut eight = [filler; 8];
                    eight[place] = byte;
                    let found = special(u64::from_le_bytes(eight));
                    let expected = byte < 0x20 || byte == b'"' || byte == b'\\';
                    assert_eq!(found != 0, expected, "{eight:?}");
                    assert!(!expected || found.trailing_zeros() as usize / 8 == place, "{eight:?}");
                }
            }
        }
    }
}
