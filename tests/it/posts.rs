//! Sends that nobody waits for: all of it arrives, in order, also where the client takes its time, and before an end.

use std::time::Duration;

use rustix::process::Signal;

use crate::on_both_drivers;
use crate::support::*;
use crate::tls::Files;

on_both_drivers!(
    answers_to_a_client_that_reads_late_are_whole_and_in_order,
    answers_over_tls_to_a_client_that_reads_late_are_whole,
    a_client_that_takes_none_of_its_answers_is_left,
    the_last_answer_comes_before_the_end,
    a_piece_comes_before_the_reset_behind_it,
    a_client_that_leaves_with_answers_unread_takes_nobody_with_it,
    a_client_that_finished_asking_gets_its_last_answer,
    a_drain_waits_for_the_last_answer,
    a_last_answer_that_nobody_takes_is_given_up,
    nothing_is_asked_for_a_client_that_was_reset,
);

/// Together many times what the sockets between hold; each is small enough not to be waited for.
const ANSWERS: usize = 1500;
const ANSWER_BYTES: usize = 10 * 1024;

/// Answers each path with itself and padding.
fn numbering() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let body = format!("{:-<ANSWER_BYTES$}", request.head.target());
            conversation.respond(200, "", &body);
        }
    })
}

/// Ask for all answers at once and take none until the proxy is stuck with them; how many it had asked for then.
fn ask_and_wait(client: &mut RawClient, upstream: &FakeUpstream) -> usize {
    let asked = ask_for(client, upstream, ANSWERS);
    assert!(asked < ANSWERS, "the sockets took all of it");
    asked
}

/// The same for so many.
fn ask_for(client: &mut RawClient, upstream: &FakeUpstream, answers: usize) -> usize {
    client.wire.take_little(256 * 1024);
    let before = upstream.requests().len();
    let all: Vec<u8> = (0..answers).flat_map(|number| get(&format!("/{number}"), "")).collect();
    client.send(&all);
    let (mut last, mut still) = (0, 0);
    wait_until("the proxy to have asked for all, or to be stuck", || {
        let asked = upstream.requests().len() - before;
        still = if asked == last { still + 1 } else { 0 };
        last = asked;
        asked > 0 && still > 20
    });
    last
}

/// As many as are asked for before the proxy is stuck, and a few less or more: of one of them the last answer is stuck.
fn about_as_many_as_fit(proxy: &Proxy, upstream: &FakeUpstream) -> std::ops::RangeInclusive<usize> {
    let fit = ask_and_wait(&mut proxy.connect(), upstream);
    fit - 3..=fit + 1
}

fn all_arrive(client: &mut RawClient) {
    arrive(client, ANSWERS);
}

fn arrive(client: &mut RawClient, answers: usize) {
    for number in 0..answers {
        let answer = client.response();
        let text = answer.text();
        assert!(text.starts_with(&format!("/{number}-")), "{number}: {}", &text[..10]);
        assert_eq!((answer.status, text.len()), (200, ANSWER_BYTES));
    }
}

fn answers_to_a_client_that_reads_late_are_whole_and_in_order(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut client = proxy.connect();
    ask_and_wait(&mut client, &upstream);
    // Others are served meanwhile, and so is this one afterwards.
    assert!(proxy.ask(&get("/other", "")).text().starts_with("/other-"));
    all_arrive(&mut client);
    assert!(client.ask(&get("/again", "")).text().starts_with("/again-"));
}

fn answers_over_tls_to_a_client_that_reads_late_are_whole(driver: Driver) {
    let upstream = numbering();
    let files = Files::new();
    let proxy = files.before(driver, &upstream).workers(1).start();
    let mut client = proxy.connect();
    ask_and_wait(&mut client, &upstream);
    all_arrive(&mut client);
    assert!(client.ask(&get("/again", "")).text().starts_with("/again-"));
}

fn a_client_that_takes_none_of_its_answers_is_left(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).set("timeouts.write", "500ms").start();
    let mut client = proxy.connect();
    ask_and_wait(&mut client, &upstream);
    proxy.wait_for_metric("shadowcat_connections_active", "", 1.0);
}

fn the_last_answer_comes_before_the_end(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&[get("/1", ""), get("/2", "Connection: close\r\n")].concat());
    for start in ["/1-", "/2-"] {
        assert!(client.response().text().starts_with(start));
    }
    assert_eq!(client.expect_end(), Ending::Orderly);
}

fn a_piece_comes_before_the_reset_behind_it(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_chunks("");
        conversation.send_chunk(b"a piece");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&get("/", ""));
    client.head();
    assert_eq!(client.chunk().as_deref(), Some(&b"a piece"[..]));
    assert!(!client.is_open(Duration::from_secs(5)));
}

fn a_client_that_leaves_with_answers_unread_takes_nobody_with_it(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let before = proxy.descriptors();
    let mut client = proxy.connect();
    ask_and_wait(&mut client, &upstream);
    drop(client);
    // One to upstream may be kept.
    wait_until("its connections to be closed", || proxy.descriptors() <= before + 1);
    assert!(proxy.ask(&get("/other", "")).text().starts_with("/other-"));
}

fn a_client_that_finished_asking_gets_its_last_answer(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    for answers in about_as_many_as_fit(&proxy, &upstream) {
        let mut client = proxy.connect();
        ask_for(&mut client, &upstream, answers);
        client.finish_sending();
        arrive(&mut client, answers);
        assert_eq!(client.expect_end(), Ending::Orderly);
    }
}

fn a_drain_waits_for_the_last_answer(driver: Driver) {
    let upstream = numbering();
    let mut proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let fit = about_as_many_as_fit(&proxy, &upstream);
    // One for which there is room at any time, and those.
    let some = std::iter::once(fit.start() / 2).chain(fit.clone());
    let mut clients: Vec<_> = some.map(|answers| (answers, proxy.connect())).collect();
    // What it has not asked for when the drain begins it need not answer, and a close over unread requests is a reset.
    clients.retain_mut(|(answers, client)| ask_for(client, &upstream, *answers) == *answers);
    assert!(!clients.is_empty());
    proxy.signal(Signal::TERM);
    wait_until("the drain to begin", || std::net::TcpStream::connect(proxy.address).is_err());
    for (answers, client) in &mut clients {
        arrive(client, *answers);
    }
    assert!(proxy.wait_exit().success());
}

fn a_last_answer_that_nobody_takes_is_given_up(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).set("timeouts.write", "500ms").start();
    let mut clients = Vec::new();
    for answers in about_as_many_as_fit(&proxy, &upstream) {
        let mut client = proxy.connect();
        ask_for(&mut client, &upstream, answers - 1);
        client.send(&get("/last", "Connection: close\r\n"));
        clients.push(client);
    }
    proxy.wait_for_metric("shadowcat_connections_active", "", 1.0);
}

fn nothing_is_asked_for_a_client_that_was_reset(driver: Driver) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = FakeUpstream::new(move |conversation| {
        while conversation.request().is_some() {
            conversation.tell("asked");
            let _ = wait.lock().unwrap().recv();
            conversation.respond(200, "", "done");
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut client = proxy.connect();
    client.send(&post_json("/mcp", "", &mcp::call(1, "deploy")).repeat(50));
    upstream.expect_event("asked");
    client.wire.reset();
    (0..50).for_each(|_| go.send(()).unwrap());
    proxy.settled_metrics();
    // One more may be under way before the first answer is found to be lost.
    assert!(upstream.requests().len() <= 2, "{}", upstream.requests().len());
}
