//! Who hears of changed resources: legacy sessions that subscribed, and modern listen streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::reply::{string, text};
use super::session::Session;
use crate::base::SessionId;
use crate::origin::EventLog;

/// URIs that one listen stream may name.
pub const LISTEN_URIS_MAX: usize = 64;

/// One open `subscriptions/listen` request. It lasts as long as its response.
#[derive(Debug)]
pub struct Listen {
    /// JSON text of the request's id, which is the subscription's id as well.
    pub id: Box<str>,
    pub uris: Vec<Box<str>>,
    pub log: Arc<EventLog>,
}

#[derive(Default)]
pub struct Hub {
    /// A session is entered at its first subscription and stays until it is gone.
    sessions: Mutex<HashMap<SessionId, Weak<Session>>>,
    listens: Mutex<Vec<Weak<Listen>>>,
}

impl Hub {
    pub fn enter(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.entry(session.id).or_insert_with(|| Arc::downgrade(session));
    }

    pub fn listen(&self, listen: &Arc<Listen>) {
        let mut listens = self.listens.lock().unwrap_or_else(PoisonError::into_inner);
        listens.push(Arc::downgrade(listen));
    }

    /// Tells every subscriber that the resource changed. Forgets the subscribers that are gone.
    pub fn updated(&self, uri: &str) {
        let mut event = Vec::new();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if !sessions.is_empty() {
            updated_event(&mut event, uri, None);
            sessions.retain(|_, session| match session.upgrade() {
                Some(session) => {
                    session.notify_subscribed(uri, &event);
                    true
                }
                None => false,
            });
        }
        drop(sessions);
        let mut listens = self.listens.lock().unwrap_or_else(PoisonError::into_inner);
        listens.retain(|listen| match listen.upgrade() {
            Some(listen) => {
                if listen.uris.iter().any(|known| **known == *uri) {
                    event.clear();
                    updated_event(&mut event, uri, Some(&listen.id));
                    listen.log.push(&event);
                }
                true
            }
            None => false,
        });
    }
}

/// The first message of a listen stream: what of the request is honoured (subscriptions page).
pub fn acknowledge(listen: &Listen) {
    let mut event = Vec::new();
    text(&mut event, r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"#);
    subscription_meta(&mut event, &listen.id);
    text(&mut event, r#","notifications":{"#);
    for (index, uri) in listen.uris.iter().enumerate() {
        text(&mut event, if index == 0 { r#""resourceSubscriptions":["# } else { "," });
        string(&mut event, uri);
    }
    text(&mut event, if listen.uris.is_empty() { "}}}" } else { "]}}}" });
    listen.log.push(&event);
}

fn updated_event(out: &mut Vec<u8>, uri: &str, subscription: Option<&str>) {
    text(out, r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"#);
    if let Some(id) = subscription {
        subscription_meta(out, id);
        out.push(b',');
    }
    text(out, r#""uri":"#);
    string(out, uri);
    text(out, "}}");
}

fn subscription_meta(out: &mut Vec<u8>, id: &str) {
    text(out, r#""_meta":{"io.modelcontextprotocol/subscriptionId":"#);
    text(out, id);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::session::create;
    use crate::origin::Sessions;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn heard(log: &Arc<EventLog>) -> String {
        let mut out = Vec::new();
        let mut reader = log.attach(None);
        let _pending = pin!(reader.next(&mut out)).as_mut().poll(&mut Context::from_waker(Waker::noop()));
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn only_subscribers_of_the_resource_hear_of_it() {
        let (hub, sessions) = (Hub::default(), Sessions::default());
        let session = create(&sessions, None);
        hub.enter(&session);
        assert!(session.subscribe("demo://a"));
        let listen = |uris: &[&str]| {
            let uris = uris.iter().map(|uri| Box::from(*uri)).collect();
            Arc::new(Listen { id: "\"sub\"".into(), uris, log: EventLog::plain() })
        };
        let (both, other) = (listen(&["demo://a", "demo://b"]), listen(&["demo://b"]));
        hub.listen(&both);
        hub.listen(&other);
        hub.updated("demo://a");
        assert!(heard(&session.streams.standalone()).contains(r#""params":{"uri":"demo://a"}"#));
        assert!(heard(&both.log).contains(r#"subscriptionId":"sub"},"uri":"demo://a""#));
        assert_eq!(heard(&other.log), "");
    }

    #[test]
    fn subscribers_that_are_gone_are_forgotten() {
        let hub = Hub::default();
        hub.enter(&create(&Sessions::default(), None));
        hub.listen(&Arc::new(Listen { id: "1".into(), uris: Vec::new(), log: EventLog::plain() }));
        hub.updated("demo://a");
        assert!(hub.sessions.lock().expect("no panic").is_empty());
        assert!(hub.listens.lock().expect("no panic").is_empty());
    }
}
