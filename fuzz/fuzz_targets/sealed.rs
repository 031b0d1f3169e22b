//! Sealed session ids: what was sealed opens, whatever the change to it opens nothing, no text panics.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use shadowcat::base::Secret;
use shadowcat::wire::sealed::{Contents, Seal, TEXT_MAX, name_of};

fn seal() -> &'static Seal {
    static SEAL: OnceLock<Seal> = OnceLock::new();
    let secret = |text: &str| Secret::new(text);
    SEAL.get_or_init(|| {
        let (now, before) = (secret("0123456789abcdefghijklmnopqrstuv"), secret("vutsrqponmlkjihgfedcba9876543210"));
        Seal::new(&now, Some(&before))
    })
}

fuzz_target!(|input: (&[u8], [&str; 3], Option<[u8; 32]>, [u8; 12], u16, u8)| {
    let (text, [upstream, upstream_session, protocol], binding, nonce, at, change) = input;
    assert_eq!(seal().open(text), None);
    assert!(text.len() <= TEXT_MAX || name_of(text).is_none());
    let contents = Contents {
        upstream: upstream.to_owned(),
        upstream_session: upstream_session.to_owned(),
        protocol: protocol.to_owned(),
        parameter: (change & 1 == 1).then(|| upstream.to_owned()),
        binding,
        created: u64::from(at),
    };
    let Some(sealed) = seal().seal(&contents, nonce) else { return };
    assert_eq!(seal().open(sealed.as_bytes()), Some(contents));
    let mut changed = sealed.into_bytes();
    let at = usize::from(at) % changed.len();
    changed[at] ^= change;
    assert!(change == 0 || seal().open(&changed).is_none());
    assert_eq!(seal().open(&changed[..at]), None);
});
