//! Credentials for upstreams: fixed ones, and tokens by the client-credentials grant (RFC 6749 section 4.4), renewed
//! before they expire. One thread for all grants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use serde_json::{Map, Value};

use super::fetch::{Client, ClientId, NamedBy};
use super::keys::{jittered, spawn};
use crate::config::plan::{CredentialPlan, GrantPlan};
use crate::identity::{Board, Credential};

/// Lifetime of a token whose answer names none (`expires_in` is only recommended).
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
/// Longest that is believed; keeps sums of times from overflow.
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A token that an upstream refused is replaced at most this often.
const RENEWAL_REST: Duration = Duration::from_secs(30);

/// Credentials that never change. `plans` by upstream.
pub fn publish_fixed(plans: &[Option<CredentialPlan>], board: &Board) {
    for (upstream, plan) in plans.iter().enumerate() {
        if let Some(CredentialPlan::Field { name, value }) = plan {
            let credential = Credential { field: name.as_str().into(), value: value.clone() };
            board.set_credential(upstream, Some(credential));
        }
    }
}

/// Publish the fixed credentials and start the thread, if there is any grant.
///
/// # Errors
/// There is no thread to be had.
pub fn start(
    plans: &[Option<CredentialPlan>],
    client: &Client,
    board: &Arc<Board>,
    renewals: Receiver<usize>,
) -> Result<(), String> {
    publish_fixed(plans, board);
    let grant = |(upstream, plan): (usize, &Option<CredentialPlan>)| match plan {
        Some(CredentialPlan::Grant(plan)) => Some(Grant::new(upstream, plan.clone())),
        _ => None,
    };
    let mut grants: Vec<Grant> = plans.iter().enumerate().filter_map(grant).collect();
    if grants.is_empty() {
        return Ok(());
    }
    let (client, board) = (client.clone(), board.clone());
    spawn("grants", move || run(&mut grants, &client, &board, &renewals))
}

fn run(grants: &mut [Grant], client: &Client, board: &Board, renewals: &Receiver<usize>) {
    loop {
        let now = Instant::now();
        for grant in grants.iter_mut().filter(|grant| grant.next <= now) {
            grant.renew(client, board);
        }
        let next = grants.iter().map(|grant| grant.next).min().unwrap_or(now);
        match renewals.recv_deadline(next) {
            Ok(upstream) => {
                let named = grants.iter_mut().filter(|grant| grant.upstream == upstream);
                named.for_each(Grant::hurry);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

struct Grant {
    upstream: usize,
    plan: GrantPlan,
    next: Instant,
    expires: Option<Instant>,
    fetched: Option<Instant>,
    failures: u32,
}

impl Grant {
    fn new(upstream: usize, plan: GrantPlan) -> Grant {
        Grant { upstream, plan, next: Instant::now(), expires: None, fetched: None, failures: 0 }
    }

    /// The token was refused.
    fn hurry(&mut self) {
        if self.fetched.is_some_and(|fetched| fetched.elapsed() >= RENEWAL_REST) {
            self.next = Instant::now();
        }
    }

    fn renew(&mut self, client: &Client, board: &Board) {
        match self.fetch(client) {
            Ok((credential, lifetime)) => {
                board.set_credential(self.upstream, Some(credential));
                let now = Instant::now();
                self.expires = Some(now + lifetime);
                self.fetched = Some(now);
                self.failures = 0;
                // A fifth of its life for failures, and never at once for tokens that hardly live.
                self.next = now + jittered(lifetime.mul_f64(0.8)).clamp(RETRY_MIN, LIFETIME_MAX);
            }
            Err(why) => {
                tracing::warn!(upstream = self.upstream, why, "no token for an upstream");
                let wait = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
                self.failures += 1;
                self.next = Instant::now() + jittered(wait);
                if let Some(expires) = self.expires {
                    if expires <= Instant::now() {
                        board.set_credential(self.upstream, None);
                        self.expires = None;
                    } else {
                        self.next = self.next.min(expires);
                    }
                }
            }
        }
    }

    fn fetch(&self, client: &Client) -> Result<(Credential, Duration), String> {
        let scopes = self.plan.scopes.join(" ");
        let mut form = vec![("grant_type", "client_credentials")];
        if !scopes.is_empty() {
            form.push(("scope", &scopes));
        }
        if let Some(resource) = &self.plan.resource {
            form.push(("resource", resource));
        }
        let us = ClientId { id: self.plan.client_id.clone(), secret: Some(self.plan.client_secret.clone()) };
        let text = client.post(&self.plan.token_url, NamedBy::Configuration, Some(&us), &form);
        read(&text.map_err(|error| error.to_string())?).map_err(|why| format!("{}: {why}", self.plan.token_url))
    }
}

/// The answer of RFC 6749 section 5.1.
fn read(text: &[u8]) -> Result<(Credential, Duration), &'static str> {
    let answer: Map<String, Value> = serde_json::from_slice(text).map_err(|_| "its answer is no JSON object")?;
    let token = answer.get("access_token").and_then(Value::as_str).unwrap_or_default();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("its answer has no access_token");
    }
    if !answer.get("token_type").and_then(Value::as_str).is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err("its answer has no bearer token");
    }
    let lifetime = match answer.get("expires_in") {
        None | Some(Value::Null) => LIFETIME_DEFAULT,
        // Some servers write it as text.
        Some(Value::String(text)) => Duration::from_secs(text.parse().map_err(|_| "its expires_in is no number")?),
        Some(number) => Duration::from_secs(number.as_u64().ok_or("its expires_in is no number")?),
    };
    Ok((Credential::bearer(token), lifetime.min(LIFETIME_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_token_endpoints_are_read() {
        let read = |text: &str| read(text.as_bytes()).map(|(c, life)| (c.value.expose().to_owned(), life.as_secs()));
        let bearer = |token: &str, life| Ok((format!("Bearer {token}"), life));
        assert_eq!(read(r#"{"access_token":"t","token_type":"Bearer","expires_in":60}"#), bearer("t", 60));
        assert_eq!(read(r#"{"access_token":"t","token_type":"bearer"}"#), bearer("t", 300));
        assert_eq!(read(r#"{"access_token":"t","token_type":"bearer","expires_in":"7"}"#), bearer("t", 7));
        for bad in [
            "[]",
            "{}",
            r#"{"access_token":"t"}"#,
            r#"{"access_token":"t","token_type":"DPoP"}"#,
            r#"{"access_token":"a\r\nX: b","token_type":"Bearer"}"#,
            r#"{"access_token":"t","token_type":"Bearer","expires_in":-1}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
