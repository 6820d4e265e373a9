//! Messages with a prefix of five bytes, flags and length, as gRPC, gRPC-Web and Connect all send them.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tonic::Code;

use super::forward::GRPC_ENCODING;
use crate::errors::Refusal;

/// Flags and length in front of a message.
pub(super) const PREFIX: usize = 5;
/// Bytes of one message at most, as everywhere in the mesh.
pub(super) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// One message with its prefix.
pub(super) fn envelope(flags: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(flags);
    frame.put_u32(u32::try_from(message.len()).expect("messages are bounded far below 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

/// A chunk of gRPC-Web text: base64 with its padding.
pub(super) fn base64(bytes: &[u8]) -> Bytes {
    BASE64_STANDARD.encode(bytes).into()
}

/// What a message larger than 4 MiB is told.
pub(super) fn too_large() -> Refusal {
    let refusal = Refusal::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", "a message may have 4 MiB at most");
    refusal.http(StatusCode::PAYLOAD_TOO_LARGE)
}

/// Splits a stream of bytes into messages.
#[derive(Debug, Default)]
pub(super) struct Frames(BytesMut);

impl Frames {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// The next whole message with its flags.
    pub(super) fn next(&mut self) -> Result<Option<(u8, Bytes)>, Refusal> {
        let Some(prefix) = self.0.first_chunk::<PREFIX>() else { return Ok(None) };
        let (flags, length) = (prefix[0], length(prefix));
        if length > MAX_MESSAGE {
            return Err(too_large());
        }
        if self.0.len() < PREFIX + length {
            return Ok(None);
        }
        self.0.advance(PREFIX);
        Ok(Some((flags, self.0.split_to(length).freeze())))
    }

    /// Whether nothing of a message has come that is not whole.
    pub(super) fn is_between(&self) -> bool {
        self.0.is_empty()
    }
}

/// Bytes that come in pieces, mostly in one.
#[derive(Default)]
pub(super) struct Gathered {
    first: Bytes,
    rest: BytesMut,
}

impl Gathered {
    pub(super) fn push(&mut self, data: Bytes) {
        if self.first.is_empty() {
            self.first = data;
        } else {
            self.rest.extend_from_slice(&data);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    pub(super) fn take(&mut self) -> Bytes {
        if self.rest.is_empty() {
            return std::mem::take(&mut self.first);
        }
        let mut all = BytesMut::with_capacity(self.len());
        all.extend_from_slice(&std::mem::take(&mut self.first));
        all.extend_from_slice(&std::mem::take(&mut self.rest));
        all.freeze()
    }
}

/// Looks at the prefixes of messages that pass, without holding them.
#[derive(Debug, Default)]
pub(super) struct Watch {
    prefix: [u8; PREFIX],
    have: usize,
    /// Bytes of the message that have not passed yet.
    left: usize,
}

impl Watch {
    /// Counts the messages that began.
    ///
    /// # Errors
    /// When a message is announced that is too large, or has flags that a client does not send.
    pub(super) fn pass(&mut self, mut data: &[u8]) -> Result<usize, Refusal> {
        let mut begun = 0;
        while !data.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(data.len());
                self.left -= passed;
                data = &data[passed..];
                continue;
            }
            self.prefix[self.have] = data[0];
            self.have += 1;
            data = &data[1..];
            if self.have == PREFIX {
                self.left = length(&self.prefix);
                self.have = 0;
                begun += 1;
                if self.left > MAX_MESSAGE {
                    return Err(too_large());
                }
                if self.prefix[0] & !super::protocol::COMPRESSED != 0 {
                    return Err(malformed("a message has flags that a request does not have"));
                }
            }
        }
        Ok(begun)
    }

    pub(super) fn is_between(&self) -> bool {
        self.left == 0 && self.have == 0
    }
}

/// Whether the messages of gRPC frames are compressed in the way that everyone knows. Many services take none at all, so they
/// are unpacked here; what a client packs in another way is between it and the service.
pub(super) fn are_zipped(headers: &HeaderMap) -> bool {
    headers.get(GRPC_ENCODING).is_some_and(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"gzip"))
}

/// What a request is told whose messages cannot be told apart.
pub(super) fn malformed(why: &str) -> Refusal {
    Refusal::invalid("INVALID_BODY", "", why)
}

fn length(prefix: &[u8; PREFIX]) -> usize {
    u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize
}

/// Base64 as gRPC-Web text sends it: in chunks, each of which may be padded.
#[derive(Debug, Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    /// The bytes of all whole groups of four so far.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<Bytes, Refusal> {
        self.0.extend(data.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let whole = self.0.len() / 4 * 4;
        let mut out = Vec::with_capacity(whole / 4 * 3);
        let mut start = 0;
        let groups = &self.0[..whole];
        while start < whole {
            // A padded group ends a chunk; what follows is decoded anew.
            let end =
                groups[start..].iter().position(|byte| *byte == b'=').map_or(whole, |at| (start + at) / 4 * 4 + 4);
            BASE64_STANDARD
                .decode_vec(&groups[start..end], &mut out)
                .map_err(|_| malformed("the body is not base64"))?;
            start = end;
        }
        self.0.drain(..whole);
        Ok(out.into())
    }

    pub(super) fn is_between(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the readers of frames make of bytes that come in pieces of `size`: messages, base64, and what is refused.
pub(crate) fn split(data: &[u8], size: usize) -> (Vec<(u8, Bytes)>, Vec<u8>, [bool; 3]) {
    let (mut frames, mut watch, mut text) = (Frames::default(), Watch::default(), Text::default());
    let (mut messages, mut plain, mut good) = (Vec::new(), Vec::new(), [true; 3]);
    for piece in data.chunks(size) {
        frames.push(piece);
        while good[0] {
            match frames.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => good[0] = false,
            }
        }
        good[1] = good[1] && watch.pass(piece).is_ok();
        match text.push(piece) {
            Ok(bytes) if good[2] => plain.extend_from_slice(&bytes),
            _ => good[2] = false,
        }
    }
    if !good[2] {
        // How much came out before it was refused depends on the pieces.
        plain.clear();
    }
    (messages, plain, good)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..5), cut in 1..7_usize) {
            let all: Vec<u8> = messages.iter().flat_map(|message| envelope(0, message)).collect();
            let (mut frames, mut watch, mut out, mut begun) = (Frames::default(), Watch::default(), vec![], 0);
            let mut text = Text::default();
            for chunk in all.chunks(cut) {
                let data = text.push(&base64(chunk)).unwrap();
                prop_assert_eq!(data.as_ref(), chunk);
                begun += watch.pass(&data).unwrap();
                frames.push(&data);
                while let Some((_, message)) = frames.next().unwrap() {
                    out.push(message.to_vec());
                }
            }
            prop_assert!(frames.is_between() && watch.is_between() && text.is_between());
            prop_assert_eq!(begun, messages.len());
            prop_assert_eq!(out, messages);
        }

        #[test]
        fn nothing_that_is_sent_panics_or_grows(data in proptest::collection::vec(any::<u8>(), 0..60)) {
            let (mut frames, mut watch, mut text) = (Frames::default(), Watch::default(), Text::default());
            let _ = (watch.pass(&data), text.push(&data));
            frames.push(&data);
            while let Ok(Some(_)) = frames.next() {}
        }
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_prefix() {
        let prefix = [0, 0, 64, 0, 1];
        assert!(Watch::default().pass(&prefix).is_err());
        let mut frames = Frames::default();
        frames.push(&prefix);
        assert!(frames.next().is_err());
        assert!(Watch::default().pass(&[0, 0, 64, 0, 0]).is_ok());
        assert!(Watch::default().pass(&[2, 0, 0, 0, 0]).is_err());
    }
}
