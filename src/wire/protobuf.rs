//! As much of Protocol Buffers as OTLP takes: fields written into one buffer, and read from an answer.

/// Write a number in groups of seven bits.
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    varint(out, u64::from(field) << 3);
    varint(out, value);
}

pub fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    varint(out, u64::from(field) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub fn fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    varint(out, u64::from(field) << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

pub fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    length_of(out, field, value.len());
    out.extend_from_slice(value);
}

/// The head of a field of so many bytes, which follow.
pub fn length_of(out: &mut Vec<u8>, field: u32, length: usize) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, length as u64);
}

/// A message within the message.
pub fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    varint(out, u64::from(field) << 3 | 2);
    let at = out.len();
    // Most are short, and their length is one byte.
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
        return;
    }
    let mut head = Vec::with_capacity(5);
    varint(&mut head, length as u64);
    out.splice(at..=at, head);
}

/// As [`message`], of at least 128 and less than 16384 bytes, which is not moved once it is written. What is shorter or longer
/// is written all the same.
pub fn long_message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    varint(out, u64::from(field) << 3 | 2);
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    write(out);
    let length = out.len() - at - 2;
    if (0x80..0x4000).contains(&length) {
        out[at..at + 2].copy_from_slice(&[length as u8 | 0x80, (length >> 7) as u8]);
        return;
    }
    let mut head = Vec::with_capacity(10);
    varint(&mut head, length as u64);
    out.splice(at..at + 2, head);
}

/// A field that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size, which nothing here looks into.
    Fixed,
}

/// The fields of a message in their order; ends where the bytes are none.
pub fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let key = take_varint(&mut message)?;
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut message)?),
            1 => take(&mut message, 8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                Value::Bytes(take(&mut message, length)?)
            }
            5 => take(&mut message, 4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

/// The message in this field, the first of them.
pub fn inner(message: &[u8], field: u64) -> Option<&[u8]> {
    fields(message).find_map(|(number, value)| match value {
        Value::Bytes(bytes) if number == field => Some(bytes),
        _ => None,
    })
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take(message, 1)? else { return None };
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let long = [7; 300];
        let mut out = Vec::new();
        number(&mut out, 1, 300);
        message(&mut out, 2, |out| bytes(out, 3, b"abc"));
        message(&mut out, 4, |out| bytes(out, 5, &long));
        fixed64(&mut out, 6, 1);
        fixed32(&mut out, 700, 2);
        for length in [0, 1, 127, 128, 300, 16_383, 16_384, 100_000] {
            let mut out = Vec::new();
            long_message(&mut out, 9, |out| out.resize(out.len() + length, 7));
            assert_eq!(fields(&out).collect::<Vec<_>>(), [(9, Value::Bytes(&vec![7; length]))]);
        }
        // As the documentation of the format has it: 150 in field 1 is 08 96 01.
        let mut example = Vec::new();
        number(&mut example, 1, 150);
        assert_eq!(example, [0x08, 0x96, 0x01]);
        let found: Vec<_> = fields(&out).collect();
        assert_eq!(found[0], (1, Value::Number(300)));
        assert_eq!(found[1], (2, Value::Bytes(&[0x1a, 3, b'a', b'b', b'c'])));
        assert_eq!(inner(inner(&out, 4).unwrap(), 5), Some(&long[..]));
        assert_eq!(found[3..], [(6, Value::Fixed), (700, Value::Fixed)]);
    }

    #[test]
    fn nonsense_ends() {
        for nonsense in
            [&[0x0a, 5, 1][..], &[0x80], &[0xff; 20], &[0x0b, 1], &[0x0d, 1, 2], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]]
        {
            assert_eq!(fields(nonsense).count(), 0, "{nonsense:?}");
        }
    }
}
