//! The peek into JSON: no panic, the same verdict for any two pieces, and never more lenient than serde_json.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowcat::wire::json::Peek;

fn peek(pieces: &[&[u8]]) -> Result<(Option<Vec<u8>>, Option<Vec<u8>>), ()> {
    let mut peek = Peek::new();
    for piece in pieces {
        peek.feed(piece).map_err(|_| ())?;
    }
    peek.finish().map_err(|_| ())?;
    Ok((peek.method().map(<[u8]>::to_vec), peek.id().map(<[u8]>::to_vec)))
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = peek(&[bytes]);
    assert_eq!(whole, peek(&[first, second]));
    if whole.is_ok() {
        let tree = serde_json::from_slice::<&serde_json::value::RawValue>(bytes);
        assert!(tree.is_ok(), "accepted what is not JSON");
    }
});
