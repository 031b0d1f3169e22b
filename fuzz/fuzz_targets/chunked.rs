//! Chunked bodies: no panic, and the same data and verdict for any two pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowcat::wire::http1::body::{BodyDecoder, BodyError};
use shadowcat::wire::http1::framing::BodyLength;

fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), BodyError> {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, Some(1 << 20));
    let mut data = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let decoded = decoder.decode(&mut piece)?;
        data.extend_from_slice(&piece[..decoded.data]);
    }
    Ok((data, decoder.is_done()))
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    assert_eq!(decode(&[bytes]), decode(&[first, second]));
});
