//! The protobuf wire format: tags, varints, lengths.

/// How a value stands on the wire.
pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const LENGTH: u8 = 2;
pub(super) const GROUP: u8 = 3;
pub(super) const GROUP_END: u8 = 4;
pub(super) const FIXED32: u8 = 5;

/// Messages nest at most this deep, as every protobuf library has it.
pub(super) const DEPTH: usize = 100;

/// Reads a message. `None` is a message that is malformed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire<'d> {
    data: &'d [u8],
    pub(super) at: usize,
}

impl<'d> Wire<'d> {
    pub(super) fn new(data: &'d [u8]) -> Self {
        Self { data, at: 0 }
    }

    pub(super) fn from(data: &'d [u8], at: usize) -> Self {
        Self { data, at }
    }

    pub(super) fn is_end(&self) -> bool {
        self.at >= self.data.len()
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let first = *self.data.get(self.at)?;
        self.at += 1;
        if first < 0x80 {
            return Some(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..70).step_by(7) {
            let byte = *self.data.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// The number and the form of the next value.
    pub(super) fn tag(&mut self) -> Option<(u32, u8)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        Some((number, (tag & 7) as u8))
    }

    pub(super) fn bytes(&mut self) -> Option<&'d [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let bytes = self.data.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }

    pub(super) fn fixed32(&mut self) -> Option<[u8; 4]> {
        let bytes = self.data.get(self.at..)?.first_chunk()?;
        self.at += 4;
        Some(*bytes)
    }

    pub(super) fn fixed64(&mut self) -> Option<[u8; 8]> {
        let bytes = self.data.get(self.at..)?.first_chunk()?;
        self.at += 8;
        Some(*bytes)
    }

    /// Passes over a value.
    pub(super) fn skip(&mut self, number: u32, form: u8) -> Option<()> {
        self.skip_within(number, form, 0)
    }

    fn skip_within(&mut self, number: u32, form: u8, depth: usize) -> Option<()> {
        match form {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            LENGTH => self.bytes().map(drop),
            FIXED32 => self.fixed32().map(drop),
            GROUP if depth < DEPTH => loop {
                match self.tag()? {
                    (end, GROUP_END) => return (end == number).then_some(()),
                    (inner, form) => self.skip_within(inner, form, depth + 1)?,
                }
            },
            _ => None,
        }
    }

    /// What is inside a group whose tag was read.
    pub(super) fn group(&mut self, number: u32) -> Option<&'d [u8]> {
        let start = self.at;
        loop {
            let before = self.at;
            match self.tag()? {
                (end, GROUP_END) => return (end == number).then(|| &self.data[start..before]),
                (inner, form) => self.skip_within(inner, form, 1)?,
            }
        }
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_tag(out: &mut Vec<u8>, number: u32, form: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(form));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Begins what has its length in front; [`end`] writes the length when it is known.
pub(super) fn begin(out: &mut Vec<u8>) -> usize {
    // Nearly all are shorter than 128 bytes.
    out.push(0);
    out.len()
}

/// Ends what [`begin`] began at `start`.
pub(super) fn end(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_varint(&mut prefix, length as u64);
    out.splice(start - 1..start, prefix);
}

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Bytes of a tag.
pub(super) fn tag_length(number: u32) -> usize {
    match number {
        0..16 => 1,
        16..2_048 => 2,
        2_048..262_144 => 3,
        262_144..33_554_432 => 4,
        _ => 5,
    }
}
