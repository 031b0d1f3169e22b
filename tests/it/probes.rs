//! Health, readiness, metrics, and the end of a server.

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    answers_probes_and_metrics,
    finishes_what_runs_when_told_to_stop,
    ends_streams_at_an_event_when_told_to_stop,
    ends_at_once_when_told_twice,
    cuts_what_outlives_the_shutdown_time,
);

fn answers_probes_and_metrics(driver: &str) {
    let server = session_server("a");
    let proxy = Proxy::before(driver, &[&server]).start();
    let mut client = proxy.connect();
    assert_eq!(client.exchange(&get("/health", "")).json()["status"], "ok");
    assert_eq!(client.exchange(&get("/ready", "")).json()["status"], "ready");
    client.send(b"HEAD /health HTTP/1.1\r\nHost: any.example\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200 OK\r\n"));
    let id = begin_session(&mut client);
    call(&mut client, &id);
    call(&mut client, "nonsense");
    let page = client.exchange(&get("/metrics", ""));
    assert_eq!(page.field("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    let metrics = Metrics(page.text());
    let upstream = format!("upstream=\"{}\"", server.address);
    assert_eq!(metrics.sum("shadowcat_sessions_active", "transport=\"http\""), 1.0);
    assert_eq!(metrics.sum("shadowcat_sessions_total", "transport=\"http\""), 1.0);
    assert!(metrics.0.contains("shadowcat_session_duration_seconds{quantile=\"0.99\"}"));
    assert_eq!(metrics.sum("shadowcat_proxy_requests_total", &upstream), 2.0);
    let quantile = format!("{upstream},quantile=\"0.99\"");
    assert!(metrics.sum("shadowcat_proxy_request_duration_seconds", &quantile) > 0.0);
    assert_eq!(metrics.sum("shadowcat_proxy_request_duration_seconds_count", &upstream), 2.0);
    assert_eq!(metrics.sum("shadowcat_refusals_total", "reason=\"session_unknown\""), 1.0);
    assert_eq!(client.exchange(&post_to("/health", "", "")).status, 405);
}

fn finishes_what_runs_when_told_to_stop(driver: &str) {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let upstream = Upstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            conversation.tell("asked");
            if request.path() == "/slow" {
                gone.lock().unwrap().recv().unwrap();
            }
            conversation.answer(200, "", "finished");
        }
    });
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let (mut idle, mut busy) = (proxy.connect(), proxy.connect());
    assert_eq!(idle.exchange(&get("/", "")).status, 200);
    upstream.event();
    busy.send(&get("/slow", ""));
    upstream.event();
    proxy.signal("TERM");
    // Idle connections close, new ones are refused, what runs goes on.
    assert_eq!(idle.rest(), (vec![], Ending::Orderly));
    wait_for("the port to close", || std::net::TcpStream::connect(proxy.address).is_err().then_some(()));
    assert!(proxy.child.try_wait().unwrap().is_none());
    go.send(()).unwrap();
    let answer = busy.answer();
    assert_eq!((answer.text().as_str(), answer.field("connection").as_deref()), ("finished", Some("close")));
    assert_eq!(busy.rest(), (vec![], Ending::Orderly));
    assert_eq!(proxy.wait().code(), Some(0));
}

fn ends_streams_at_an_event_when_told_to_stop(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.chunked("data: one\n\n");
        conversation.wait_for_close();
    });
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let mut streams: Vec<Client> = (0..5).map(|_| proxy.connect()).collect();
    for stream in &mut streams {
        stream.send(&get("/mcp", "Accept: text/event-stream\r\n"));
        stream.head();
        assert_eq!(stream.chunk().unwrap(), b"data: one\n\n");
    }
    proxy.signal("TERM");
    for stream in &mut streams {
        assert_eq!(stream.chunk(), None);
        assert_eq!(stream.rest(), (vec![], Ending::Orderly));
    }
    assert_eq!(proxy.wait().code(), Some(0));
}

fn ends_at_once_when_told_twice(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        conversation.request();
        conversation.tell("asked");
        conversation.wait_for_close();
    });
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&get("/", ""));
    upstream.event();
    proxy.signal("TERM");
    wait_for("the drain to begin", || proxy.log().contains("draining").then_some(()));
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(1));
}

fn cuts_what_outlives_the_shutdown_time(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        conversation.request();
        conversation.tell("asked");
        conversation.wait_for_close();
    });
    let mut proxy = Proxy::before(driver, &[&upstream]).set("timeouts.shutdown", "200ms").start();
    let mut client = proxy.connect();
    client.send(&get("/", ""));
    upstream.event();
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(1));
}
