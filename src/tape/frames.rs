//! What a frame says about the message in it: what it asks for, what it answers, whether it failed.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::wire::tape::{Rpc, Side};

/// Requests whose answers are awaited, a tape; the oldest are forgotten first.
const AWAITED_MAX: usize = 1024;
/// A longer id is none that anybody awaits.
const ID_BYTES_MAX: usize = 256;

/// What matters of a message.
#[derive(Debug, Default, Deserialize)]
pub struct Glance<'a> {
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uri: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "taskId")]
    task_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default, rename = "isError")]
    is_error: Option<bool>,
}

impl<'a> Glance<'a> {
    /// `None`: no message, or several in one.
    pub fn of(content: &'a [u8]) -> Option<Glance<'a>> {
        let text = std::str::from_utf8(content).ok()?;
        let glance: Glance<'_> = serde_json::from_str(text.trim_start()).ok()?;
        (glance.method.is_some() || glance.is_answer()).then_some(glance)
    }

    pub fn rpc(&self) -> Option<Rpc<'a>> {
        let method = self.method.clone()?;
        let params: Option<Params<'_>> = self.params.and_then(|params| serde_json::from_str(params.get()).ok());
        let name = params.and_then(|params| match &*method {
            "tools/call" | "prompts/get" => params.name,
            method if method.starts_with("resources/") => params.uri,
            method if method.starts_with("tasks/") => params.task_id,
            _ => None,
        });
        Some(Rpc { method, name, id: self.id })
    }

    pub fn is_answer(&self) -> bool {
        self.method.is_none() && (self.result.is_some() || self.error.is_some())
    }

    pub fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some()
    }

    /// A JSON-RPC error, or a tool that failed.
    pub fn is_error(&self) -> bool {
        self.method.is_none()
            && (self.error.is_some()
                || self.result.is_some_and(|result| {
                    // Most results do not even name it.
                    let named = memchr::memmem::find(result.get().as_bytes(), b"isError").is_some();
                    named && serde_json::from_str::<Outcome>(result.get()).is_ok_and(|it| it.is_error == Some(true))
                }))
    }
}

/// A frame that is on a tape, as long as its number means that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub generation: u32,
    pub seq: u64,
}

/// Which requests of a tape were answered by nobody yet.
#[derive(Debug, Default)]
pub struct Awaited {
    by_id: HashMap<(Side, String), Mark>,
    order: VecDeque<(Side, String)>,
}

impl Awaited {
    /// This frame asks, from this side.
    pub fn ask(&mut self, from: Side, id: &str, frame: Mark) {
        if id.len() > ID_BYTES_MAX {
            return;
        }
        while self.order.len() >= AWAITED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        let key = (from, id.to_owned());
        if self.by_id.insert(key.clone(), frame).is_none() {
            self.order.push_back(key);
        }
    }

    /// The frame that an answer from this side is for.
    pub fn answer(&mut self, from: Side, id: &str) -> Option<Mark> {
        let asked = if from == Side::Client { Side::Server } else { Side::Client };
        let key = (asked, id.to_owned());
        let frame = self.by_id.remove(&key)?;
        self.order.retain(|other| *other != key);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glance_tells_what_matters() {
        let of = |text: &'static str| Glance::of(text.as_bytes()).unwrap();
        let call = of(r#"{"id":"a","method":"tools/call","params":{"name":"e\u0063ho","uri":"x"}}"#);
        let rpc = call.rpc().unwrap();
        assert_eq!((&*rpc.method, rpc.name.as_deref(), rpc.id.unwrap().get()), ("tools/call", Some("echo"), "\"a\""));
        assert!(call.is_request() && !call.is_answer() && !call.is_error());
        assert_eq!(of(r#"{"method":"resources/read","params":{"uri":"x:y"}}"#).rpc().unwrap().name.unwrap(), "x:y");
        assert!(of(r#"{"id":1,"method":"ping","params":[1]}"#).rpc().unwrap().name.is_none());
        for (text, error) in [
            (r#"{"id":1,"result":{"isError":true}}"#, true),
            (r#"{"id":1,"result":{"isError":false}}"#, false),
            (r#"{"id":1,"result":{"content":[{"isError":true}]}}"#, false),
            (r#"{"id":1,"error":{"code":1}}"#, true),
        ] {
            assert_eq!((of(text).is_answer(), of(text).is_error()), (true, error), "{text}");
        }
        for text in ["", "[]", "{}", "x", "{\"a\":1}", "[{\"method\":\"x\"}]"] {
            assert!(Glance::of(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn answers_find_their_requests_and_the_oldest_are_forgotten() {
        let mut awaited = Awaited::default();
        let mark = |seq| Mark { generation: 1, seq };
        awaited.ask(Side::Client, "1", mark(10));
        awaited.ask(Side::Server, "1", mark(11));
        assert_eq!(awaited.answer(Side::Client, "1"), Some(mark(11)));
        assert_eq!((awaited.answer(Side::Server, "1"), awaited.answer(Side::Server, "1")), (Some(mark(10)), None));
        for n in 0..2000 {
            awaited.ask(Side::Client, &n.to_string(), mark(n));
        }
        assert_eq!((awaited.by_id.len(), awaited.order.len()), (AWAITED_MAX, AWAITED_MAX));
        assert_eq!((awaited.answer(Side::Server, "1999"), awaited.answer(Side::Server, "3")), (Some(mark(1999)), None));
    }
}
