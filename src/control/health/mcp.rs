//! Whether an MCP server answers as one, in the era that it speaks, and without leaving anything behind.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::probe::{self, Answer, Failure, Question, session_field};
use crate::identity::Credential;
use crate::net::{self, within};
use crate::wire::http1::head::HeadLimits;
use crate::wire::mcp::{Era, header};
use crate::worker::Upstream;

const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
const DISCOVER: &str = "server/discover";
const JSON: (&str, &str) = ("Content-Type", "application/json");
const ACCEPT: (&str, &str) = ("Accept", "application/json, text/event-stream");

/// Statuses of a server that does not know the era, or the method.
const OTHER_ERA: [u16; 5] = [400, 404, 405, 406, 415];

/// What a check needs to know.
#[derive(Clone)]
pub struct Whom {
    pub upstream: Upstream,
    pub path: String,
    pub credential: Option<Arc<Credential>>,
    pub limits: HeadLimits,
    pub timeout: Duration,
    /// It was said that the server lets no client end its sessions.
    pub told_of_leaks: Rc<Cell<bool>>,
}

impl Whom {
    pub async fn ask(&self, method: &'static str, fields: &[(&str, &str)], body: &[u8]) -> Result<Answer, Failure> {
        let credential = self.credential.as_deref().map(|own| (own.field.as_ref(), own.value.expose()));
        let question = Question { method, path: &self.path, fields, body };
        probe::ask(&self.upstream, &self.limits, credential, &question).await
    }
}

/// Ask in the era that worked last, else in the modern one; then in the other, if it is that.
pub async fn check(whom: &Whom, era: &Cell<Option<Era>>) -> Result<(), Failure> {
    let first = era.get().unwrap_or(Era::Modern);
    let second = if first == Era::Modern { Era::Legacy } else { Era::Modern };
    let why_not_first = match in_era(whom, first).await? {
        Spoken::Yes => {
            era.set(Some(first));
            return Ok(());
        }
        Spoken::No(why) => why,
    };
    match in_era(whom, second).await? {
        Spoken::Yes => {
            era.set(Some(second));
            Ok(())
        }
        // What is wrong is told by the era in which it worked before, else by the one that was tried last.
        Spoken::No(_) if era.get().is_some() => Err(why_not_first),
        Spoken::No(why) => Err(why),
    }
}

/// Whether a server speaks an era.
enum Spoken {
    Yes,
    No(Failure),
}

async fn in_era(whom: &Whom, era: Era) -> Result<Spoken, Failure> {
    match era {
        Era::Modern => modern(whom).await,
        Era::Legacy => legacy(whom).await,
    }
}

async fn modern(whom: &Whom) -> Result<Spoken, Failure> {
    let fields = [JSON, ACCEPT, (header::PROTOCOL_VERSION, MODERN), (header::METHOD, DISCOVER)];
    let meta = serde_json::json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": client(),
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = serde_json::json!({ "_meta": meta });
    let answer = whom.ask("POST", &fields, &request(DISCOVER, &params)).await?;
    // A server that takes anything for the begin of a session must not keep this one.
    let _end = answer.session.clone().map(|id| Session { id, version: LEGACY.into(), whom: whom.clone() });
    Ok(judge(answer).await?.map_or_else(Spoken::No, |_| Spoken::Yes))
}

async fn legacy(whom: &Whom) -> Result<Spoken, Failure> {
    let params = serde_json::json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client() });
    let answer = whom.ask("POST", &[JSON, ACCEPT], &request("initialize", &params)).await?;
    let mut session = answer.session.clone().map(|id| Session { id, version: LEGACY.into(), whom: whom.clone() });
    let result = judge(answer).await?;
    if let (Some(session), Ok(result)) = (&mut session, &result)
        && let Some(version) = result["protocolVersion"].as_str().filter(|text| is_plain(text))
    {
        session.version = version.into();
    }
    Ok(result.map_or_else(Spoken::No, |_| Spoken::Yes))
}

/// The result in an answer; within `Ok`, why it is rather a matter of the era.
async fn judge(answer: Answer) -> Result<Result<Value, Failure>, Failure> {
    let status = answer.status;
    if OTHER_ERA.contains(&status) {
        return Ok(Err(Failure::Status(status)));
    }
    if !(200..300).contains(&status) {
        return Err(Failure::Status(status));
    }
    let mut message = answer.message().await?;
    if let Some(error) = message.get("error") {
        let code = error["code"].as_i64().unwrap_or(0);
        return Ok(Err(Failure::Answer(format!("JSON-RPC error {code}"))));
    }
    Ok(Ok(message["result"].take()))
}

fn request(method: &str, params: &Value) -> Vec<u8> {
    serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string().into_bytes()
}

fn client() -> Value {
    serde_json::json!({ "name": "shadowcat-health-check", "version": env!("CARGO_PKG_VERSION") })
}

/// What may stand in a field.
fn is_plain(text: &str) -> bool {
    text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A session that a check began. When this is dropped, in whatever way the check ends, the upstream is told the end.
struct Session {
    id: Vec<u8>,
    version: String,
    whom: Whom,
}

impl Drop for Session {
    fn drop(&mut self) {
        let (id, version, whom) = (std::mem::take(&mut self.id), std::mem::take(&mut self.version), self.whom.clone());
        net::spawn(async move {
            let Some(session) = session_field(&id) else { return };
            let fields = [session, (header::PROTOCOL_VERSION, version.as_str())];
            let told = within(whom.timeout, whom.ask("DELETE", &fields, b"")).await;
            let upstream = &whom.upstream.key;
            match told {
                Ok(Ok(answer)) if answer.status < 300 || answer.status == 404 => {}
                // It may refuse (Transports, 2025-11-25): then only its own timeout ends what a check began.
                Ok(Ok(answer)) if matches!(answer.status, 405 | 501) && !whom.told_of_leaks.replace(true) => {
                    tracing::warn!(
                        %upstream,
                        status = answer.status,
                        "an upstream does not let sessions be ended: each check leaves one there until it times out"
                    );
                }
                _ => tracing::debug!(%upstream, "the session of a check may still be there"),
            }
        });
    }
}
