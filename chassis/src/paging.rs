//! Keyset pages: a size that is bounded, and a token that says where the last page ended (AIP-158).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use crate::Fault;

/// Rows when page_size is 0.
pub const DEFAULT_SIZE: i64 = 50;
/// Rows at most; AIP-158 asks to cut larger sizes down, not to refuse them.
pub const MAX_SIZE: i64 = 1_000;

/// A page that was asked for: how many rows, after which key.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<K> {
    pub size: i64,
    pub after: Option<K>,
}

impl<K: Serialize + DeserializeOwned> Page<K> {
    /// # Errors
    /// When the size is negative or the token is not one of ours.
    pub fn parse(page_size: i32, page_token: &str) -> Result<Self, Fault> {
        let size = match i64::from(page_size) {
            size if size < 0 => return Err(Fault::invalid("page_size", "must not be negative")),
            0 => DEFAULT_SIZE,
            size => size.min(MAX_SIZE),
        };
        if page_token.is_empty() {
            return Ok(Self { size, after: None });
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(page_token).ok();
        // No key of ours has a NUL in it, and Postgres would take none.
        let bytes = bytes.filter(|bytes| !bytes.windows(6).any(|part| part == br"\u0000"));
        let after = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(after) = after else {
            return Err(Fault::invalid("page_token", "is not a next_page_token of this list"));
        };
        Ok(Self { size, after: Some(after) })
    }

    /// How many rows to ask the database for: one more than the page, which tells whether there is another.
    #[must_use]
    pub fn fetch(&self) -> i64 {
        self.size + 1
    }

    /// Cuts the extra row off, and makes the next page's token from the last row that stays.
    #[must_use]
    pub fn cut<R>(&self, mut rows: Vec<R>, key: impl Fn(&R) -> K) -> (Vec<R>, String) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if rows.len() <= size {
            return (rows, String::new());
        }
        rows.truncate(size);
        let token = rows.last().map(|row| serde_json::to_vec(&key(row)).expect("a key of plain values is JSON"));
        (rows, token.map(|json| BASE64_URL_SAFE_NO_PAD.encode(json)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all: Vec<i64> = (1..=5).collect();
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let page = Page::<i64>::parse(2, &token).unwrap();
            let rows = all.iter().copied().filter(|row| page.after.is_none_or(|after| *row > after));
            let (rows, next) = page.cut(rows.take(usize::try_from(page.fetch()).unwrap()).collect(), |row| *row);
            seen.extend(rows);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, all);
        assert!(Page::<i64>::parse(-1, "").is_err());
        assert!(Page::<i64>::parse(0, "x").is_err());
        assert_eq!(Page::<i64>::parse(9_999, "").unwrap().size, MAX_SIZE);
    }
}
