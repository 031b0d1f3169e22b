//! What a JSON-RPC answer says: a result, an error and its code, or a tool's result with `isError`.
//!
//! Looked for as the answer passes, in pieces of any size, and only as far as it takes; nothing is kept and nothing is
//! checked, for metrics and logs alone hang on it. An answer that is long and does not say it early stays
//! [`Said::Unknown`].

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Steps of looking at one message: a byte of its structure is one, a run of text one and one more for each 64 bytes,
/// an escape [`ESCAPE_STEPS`].
const STEPS_MAX: u32 = 16 * 1024;
const ESCAPE_STEPS: u32 = 4;
/// The longest key that matters, bytes.
const KEY_BYTES_MAX: usize = 7;

/// A key as it stands in a message. Within a string its quotes would have backslashes.
static IS_ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""isError""#));

/// What an answer said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Said {
    /// Nobody listened, or it was no answer.
    #[default]
    Nothing,
    Result,
    /// A tool's result that is an error.
    ToolError,
    /// A JSON-RPC error, by its code.
    Error(i32),
    /// It was too long to be looked into, or ended too early.
    Unknown,
}

/// How answers are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Not listened to.
    #[default]
    None,
    Json,
    /// An event stream: of its messages the first that is an answer counts.
    Events,
}

/// Listens to one answer.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    form: Form,
    line: Line,
    after_return: bool,
    message: Message,
}

/// Where in an event stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Start,
    /// So many bytes of `data:` came.
    Field(u8),
    Data,
    /// A field that does not matter.
    Other,
}

impl Listener {
    /// `to_tool`: it is the answer of a tool, whose result may be an error.
    pub fn new(form: Form, to_tool: bool) -> Listener {
        Listener { form, message: Message { to_tool, ..Message::default() }, ..Listener::default() }
    }

    /// It cannot be looked into.
    pub fn deaf() -> Listener {
        Listener {
            form: Form::Json,
            message: Message { said: Some(Said::Unknown), ..Message::default() },
            ..Listener::default()
        }
    }

    /// The next piece of the body; `last`: there is no more.
    pub fn hear(&mut self, piece: &[u8], last: bool) {
        if self.message.is_decided() {
            return;
        }
        match self.form {
            Form::None => {}
            Form::Json => self.message.feed(piece, last),
            Form::Events => self.events(piece),
        }
    }

    pub fn said(&self) -> Said {
        match self.form {
            Form::None => Said::Nothing,
            Form::Json | Form::Events => self.message.said.unwrap_or(Said::Unknown),
        }
    }

    fn events(&mut self, piece: &[u8]) {
        const DATA: &[u8] = b"data:";
        let mut at = 0;
        while at < piece.len() {
            let byte = piece[at];
            let is_end = matches!(byte, b'\r' | b'\n');
            let second_half = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            match self.line {
                _ if second_half => at += 1,
                Line::Start if is_end => {
                    self.message.next();
                    at += 1;
                }
                _ if is_end => {
                    self.line = Line::Start;
                    at += 1;
                }
                Line::Start | Line::Field(_) => {
                    let seen = if let Line::Field(seen) = self.line { usize::from(seen) } else { 0 };
                    self.line = match byte == DATA[seen] {
                        true if seen + 1 == DATA.len() => Line::Data,
                        true => Line::Field(seen as u8 + 1),
                        false => Line::Other,
                    };
                    at += 1;
                }
                Line::Data | Line::Other => {
                    let rest = &piece[at..];
                    let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    if self.line == Line::Data {
                        let whole =
                            [&b"\n\n"[..], b"\r\n\r\n", b"\r\r"].iter().any(|end_of| rest[end..].starts_with(end_of));
                        self.message.feed(&rest[..end], whole);
                        if self.message.is_decided() {
                            return;
                        }
                    }
                    at += end;
                }
            }
        }
    }
}

/// One JSON text, as far as it was seen.
#[derive(Clone, Debug, Default)]
struct Message {
    to_tool: bool,
    said: Option<Said>,
    /// It is no answer; the rest of it is passed over.
    is_other: bool,
    depth: u32,
    steps: u32,
    in_string: bool,
    escaped: bool,
    /// The latest string at a depth that matters, up to its bytes that fit.
    word: [u8; KEY_BYTES_MAX],
    word_len: u8,
    /// What the value at hand is the value of.
    key: Key,
    /// In which member of the message.
    member: Key,
    code: Option<(bool, i64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Result,
    Error,
    Method,
    Code,
    IsError,
}

/// How nearly all answers with a result begin, up to behind the result's brace; how many bytes that is.
fn usual_start(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.strip_prefix(b" ").unwrap_or(bytes).strip_prefix(b"{")?;
    rest = rest.strip_prefix(b"\"jsonrpc\":\"2.0\",").unwrap_or(rest);
    if let Some(id) = rest.strip_prefix(b"\"id\":") {
        let digits = id.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest = id[digits..].strip_prefix(b",").filter(|_| digits > 0)?;
    }
    rest = rest.strip_prefix(b"\"result\":{")?;
    Some(bytes.len() - rest.len())
}

impl Message {
    fn is_decided(&self) -> bool {
        self.said.is_some()
    }

    /// An event ended: the next message.
    fn next(&mut self) {
        *self = Message { to_tool: self.to_tool, ..Message::default() };
    }

    fn feed(&mut self, bytes: &[u8], last: bool) {
        if self.is_other {
            return;
        }
        let mut at = 0;
        if self.steps == 0
            && last
            && let Some(start) = usual_start(bytes)
        {
            // As the steps below would leave it.
            (self.depth, self.member, self.key, self.steps, at) = (2, Key::Result, Key::Other, 1, start);
            self.said = (!self.to_tool).then_some(Said::Result);
        }
        if self.is_plain_result(&bytes[at..], last) {
            self.said = Some(Said::Result);
            return;
        }
        while at < bytes.len() && self.said.is_none() && !self.is_other {
            if self.steps >= STEPS_MAX {
                self.said = Some(Said::Unknown);
                return;
            }
            let begun = at;
            if self.in_string {
                at += self.string(&bytes[at..]);
                self.steps += 1 + (at - begun) as u32 / 64;
            } else {
                self.structure(bytes[at]);
                at += 1;
                self.steps += 1;
                let entered = self.depth == 2 && self.member == Key::Result && bytes[begun] == b'{';
                if entered && self.is_plain_result(&bytes[at..], last) {
                    self.said = Some(Said::Result);
                }
            }
        }
    }

    /// In a tool's result whose end is there, and no `isError` before that which is true: one look at many bytes at a time.
    fn is_plain_result(&self, rest: &[u8], last: bool) -> bool {
        last && self.member == Key::Result
            && self.depth >= 2
            && !self.in_string
            && self.key != Key::IsError
            // The key may have come, and its colon not yet.
            && self.word.get(..usize::from(self.word_len)) != Some(b"isError")
            && IS_ERROR.find_iter(rest).all(|at| !is_true(&rest[at + IS_ERROR.needle().len()..]))
    }

    /// Some of a string; how many bytes.
    fn string(&mut self, bytes: &[u8]) -> usize {
        if std::mem::take(&mut self.escaped) {
            self.keep(&bytes[..1]);
            return 1;
        }
        let end = memchr::memchr2(b'"', b'\\', bytes);
        self.keep(&bytes[..end.unwrap_or(bytes.len())]);
        match end.map(|at| bytes[at]) {
            Some(b'"') => self.in_string = false,
            Some(_) => {
                self.escaped = true;
                self.steps += ESCAPE_STEPS;
            }
            None => {}
        }
        end.map_or(bytes.len(), |at| at + 1)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let from = usize::from(self.word_len);
        match self.word.get_mut(from..from + bytes.len()) {
            Some(space) => {
                space.copy_from_slice(bytes);
                self.word_len += bytes.len() as u8;
            }
            // One more than fits: none of ours.
            None => self.word_len = self.word.len() as u8 + 1,
        }
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'"' => {
                self.in_string = true;
                // Deeper ones are passed over without a copy.
                self.word_len = if self.depth <= 2 { 0 } else { KEY_BYTES_MAX as u8 + 1 };
                self.value();
            }
            b':' if self.depth <= 2 => self.key = self.key_at_hand(),
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(),
            b',' => self.end_of_value(),
            _ if self.depth == 0 => self.is_other = true,
            b't' if self.key == Key::IsError => self.said = Some(Said::ToolError),
            b'-' if self.key == Key::Code && self.code.is_none() => self.code = Some((true, 0)),
            b'0'..=b'9' if self.key == Key::Code => {
                let (negative, value) = self.code.unwrap_or_default();
                self.code = Some((negative, value.saturating_mul(10).saturating_add(i64::from(byte - b'0'))));
            }
            _ => self.value(),
        }
    }

    /// Behind a colon: what stood before it.
    fn key_at_hand(&mut self) -> Key {
        let word = self.word.get(..usize::from(self.word_len)).unwrap_or_default();
        let key = match (self.depth, self.member, word) {
            (1, _, b"result") => Key::Result,
            (1, _, b"error") => Key::Error,
            (1, _, b"method") => Key::Method,
            (2, Key::Error, b"code") => Key::Code,
            (2, Key::Result, b"isError") => Key::IsError,
            _ => Key::Other,
        };
        match key {
            // Of other methods than calls of tools that is all there is to know.
            Key::Result if !self.to_tool => self.said = Some(Said::Result),
            Key::Method => self.is_other = true,
            _ => {}
        }
        key
    }

    /// A value begins that is no container.
    fn value(&mut self) {
        match self.key {
            Key::Result if self.depth == 1 => self.said = Some(Said::Result),
            Key::IsError => self.said = Some(Said::Result),
            _ => {}
        }
    }

    fn open(&mut self, byte: u8) {
        if self.depth == 0 && byte == b'[' {
            // A batch says many things.
            self.said = Some(Said::Unknown);
        }
        if self.depth == 1 {
            self.member = if byte == b'{' { self.key } else { Key::Other };
            if byte == b'[' && self.key == Key::Result {
                self.said = Some(Said::Result);
            }
        }
        self.depth += 1;
        self.key = Key::Other;
    }

    fn close(&mut self) {
        self.end_of_value();
        self.depth = self.depth.saturating_sub(1);
        if self.depth == 1 {
            match std::mem::take(&mut self.member) {
                Key::Result => self.said = Some(Said::Result),
                Key::Error => self.said = Some(Said::Error(0)),
                _ => {}
            }
        }
        self.is_other |= self.depth == 0;
    }

    fn end_of_value(&mut self) {
        if self.key == Key::Code
            && let Some((negative, value)) = self.code
        {
            let code = if negative { -value } else { value };
            self.said = Some(Said::Error(i32::try_from(code).unwrap_or(0)));
        }
        self.key = Key::Other;
    }
}

/// Behind a key: whether a colon follows and what may be `true`.
fn is_true(behind: &[u8]) -> bool {
    let value = behind.trim_ascii_start().strip_prefix(b":").unwrap_or_default();
    value.trim_ascii_start().starts_with(b"t")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn heard(form: Form, to_tool: bool, text: &[u8], cuts: &[usize]) -> Said {
        let mut listener = Listener::new(form, to_tool);
        let mut begun = 0;
        for &cut in cuts.iter().chain([&text.len()]) {
            let end = cut.clamp(begun, text.len());
            listener.hear(&text[begun..end], end == text.len());
            begun = end;
        }
        listener.said()
    }

    fn json(to_tool: bool, text: &str) -> Said {
        let whole = heard(Form::Json, to_tool, text.as_bytes(), &[]);
        for cut in 0..text.len() {
            assert_eq!(heard(Form::Json, to_tool, text.as_bytes(), &[cut]), whole, "{text} cut at {cut}");
        }
        whole
    }

    #[test]
    fn tells_results_errors_and_tools_that_failed_apart() {
        assert_eq!(json(false, r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#), Said::Result);
        assert_eq!(json(false, r#"{"result":"isError"}"#), Said::Result);
        assert_eq!(json(false, r#"{"result":[{"isError":true}]}"#), Said::Result);
        assert_eq!(json(true, r#"{"result":[{"isError":true}]}"#), Said::Result);
        assert_eq!(json(true, r#"{"error":null,"result":{"content":[],"isError": true}}"#), Said::ToolError);
        assert_eq!(json(true, r#"{"result":{"content":[{"isError":true}],"isError":false}}"#), Said::Result);
        let text = r#"{"result":{"content":[{"type":"text","text":"\\\"isError\":true {["}],"x":"isError"}}"#;
        assert_eq!(json(true, text), Said::Result);
        assert_eq!(
            json(true, r#"{"result":{"structuredContent":{"isError":true},"content":[]},"id":1}"#),
            Said::Result
        );
        assert_eq!(
            json(false, r#"{"id":1,"error":{"message":"no","code":-32601,"data":{"code":7}}}"#),
            Said::Error(-32601)
        );
        assert_eq!(json(true, r#"{"id":1,"error":{"message":"no","data":{"code":7}}}"#), Said::Error(0));
        // A request of the server, and what is no message at all.
        assert_eq!(json(true, r#"{"method":"ping","id":7,"params":{"result":{}}}"#), Said::Unknown);
        assert_eq!(json(true, "<html>"), Said::Unknown);
        assert_eq!(json(true, r#"{"jsonrpc":"2.0","id":1,"resu"#), Said::Unknown);
        assert_eq!(json(false, r#"[{"result":{}}]"#), Said::Unknown);
    }

    #[test]
    fn of_a_stream_the_message_that_is_an_answer_counts() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = [
                ": hello",
                "",
                "event: message",
                "id: 1",
                "data: ",
                "",
                r#"data: {"method":"notifications/progress","params":{"result":1,"error":{"code":1}},"jsonrpc":"2.0"}"#,
                "",
                "event: message",
                r#"data: {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"a long one, a long one"}],"#,
                r#"data: "isError":true}}"#,
                "",
                r#"data: {"jsonrpc":"2.0","id":1,"error":{"code":1}}"#,
                "",
                "",
            ]
            .join(end);
            for cut in 0..stream.len() {
                let said = heard(Form::Events, true, stream.as_bytes(), &[cut]);
                assert_eq!(said, Said::ToolError, "{stream:?} cut at {cut}");
            }
        }
        assert_eq!(heard(Form::Events, true, b"data: {\"result\":", &[]), Said::Unknown);
        assert_eq!(heard(Form::None, true, b"{\"result\":1}", &[]), Said::Nothing);
    }

    #[test]
    fn what_takes_too_many_steps_is_unknown_unless_one_look_tells() {
        let answer = |text: &str| format!(r#"{{"result":{{"content":[{{"text":"{text}"}}],"isError":true}}}}"#);
        let heard = |to_tool, text: &str, cuts: &[usize]| heard(Form::Json, to_tool, text.as_bytes(), cuts);
        let (plain, dense) = (answer(&"text".repeat(50_000)), answer(&"\\n[".repeat(10_000)));
        assert_eq!(heard(true, &plain, &[1000, 60_000]), Said::ToolError);
        assert_eq!(heard(true, &dense, &[]), Said::Unknown);
        assert_eq!(heard(true, &dense.replace(r#","isError":true"#, ""), &[]), Said::Result);
        assert_eq!(heard(false, &dense, &[1000]), Said::Result);
    }

    fn value() -> impl Strategy<Value = Value> {
        let word =
            prop_oneof![Just("isError"), Just("result"), Just("error"), Just("code"), Just("a\"}]{[:,\\"), Just("é")];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-33_000i32..100).prop_map(Value::from),
            word.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((word.clone(), inner), 0..4)
                    .prop_map(|members| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        /// The same as a parser of whole texts says, whatever the pieces.
        #[test]
        fn says_what_a_parser_says(
            content in value(), failed in proptest::option::of(any::<bool>()), code in -33_000i32..33_000, kind in 0..3,
            pretty in any::<bool>(), cuts in proptest::collection::vec(0usize..300, 0..6),
        ) {
            let (answer, expected) = match (kind, failed) {
                (0, _) => (json!({"error": {"data": content, "code": code}, "id": 1}), Said::Error(code)),
                (1, _) => (json!({"jsonrpc": "2.0", "params": content}), Said::Unknown),
                (_, Some(failed)) => (
                    json!({"id": 1, "result": {"content": content, "isError": failed}}),
                    if failed { Said::ToolError } else { Said::Result },
                ),
                (_, None) => (json!({"id": 1, "result": {"content": content}}), Said::Result),
            };
            let text = if pretty { serde_json::to_string_pretty(&answer) } else { serde_json::to_string(&answer) }.unwrap();
            let mut cuts = cuts;
            cuts.sort_unstable();
            prop_assert_eq!(heard(Form::Json, true, text.as_bytes(), &cuts), expected, "{}", text);
            let stream: String = text.lines().map(|line| format!("data: {line}\n")).collect();
            prop_assert_eq!(heard(Form::Events, true, format!("{stream}\n").as_bytes(), &cuts), expected, "{}", stream);
        }
    }
}
