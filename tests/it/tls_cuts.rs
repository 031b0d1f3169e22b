//! Clients over TLS that leave, stall or dribble at every point of a connection: nobody panics, nothing stays behind.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::SockRef;

use crate::on_both_drivers;
use crate::support::proxy::Builder;
use crate::support::*;
use crate::tls::Files;

on_both_drivers!(
    clients_may_leave_at_every_byte_they_write,
    clients_may_leave_at_every_byte_they_read,
    noise_after_the_handshake_ends_one_connection,
    a_byte_at_a_time_is_as_good_as_all,
    a_reader_that_stops_and_goes_on_gets_all,
);

const BODY: usize = 20_000;
const ANSWER: usize = 200_000;

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Reset,
    End,
    /// Says that it will write no more, then waits for what comes.
    HalfClose,
}

/// A socket that ends when so many bytes were written or read.
struct Cut {
    socket: TcpStream,
    writes: usize,
    reads: usize,
    /// Longest piece of a single write or read.
    piece: usize,
    leave: Leave,
}

impl Cut {
    fn end(&mut self) -> io::Error {
        match self.leave {
            Leave::Reset => SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).expect("linger"),
            Leave::End => {}
            Leave::HalfClose => {
                let _ = self.socket.shutdown(Shutdown::Write);
                let _ = io::copy(&mut self.socket, &mut io::sink());
            }
        }
        ErrorKind::ConnectionAborted.into()
    }
}

impl Read for Cut {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.reads == 0 {
            return Err(self.end());
        }
        let room = into.len().min(self.piece).min(self.reads);
        let came = self.socket.read(&mut into[..room])?;
        self.reads -= came;
        Ok(came)
    }
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.writes == 0 {
            return Err(self.end());
        }
        let wrote = self.socket.write(&bytes[..bytes.len().min(self.piece).min(self.writes)])?;
        self.writes -= wrote;
        Ok(wrote)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Client = StreamOwned<ClientConnection, Cut>;

fn open(proxy: &Proxy, config: &Arc<ClientConfig>, writes: usize, reads: usize, leave: Leave) -> Client {
    let socket = TcpStream::connect(proxy.address).expect("connected");
    socket.set_nodelay(true).expect("nodelay");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(config.clone(), name).expect("a client");
    StreamOwned::new(connection, Cut { socket, writes, reads, piece: usize::MAX, leave })
}

/// A request with a body, and its answer; an error if it was cut.
fn talk(client: &mut Client) -> io::Result<()> {
    client.write_all(&post("/", "Content-Type: text/plain\r\n", &[b'b'; BODY]))?;
    let mut answer = Vec::new();
    let mut piece = [0; 16_384];
    while answer.len() < ANSWER {
        match client.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            came => answer.extend_from_slice(&piece[..came]),
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    Ok(())
}

fn upstream(answer: usize) -> FakeUpstream {
    FakeUpstream::new(move |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", &"x".repeat(answer));
        }
    })
}

/// All clients leave, twice; after the second time there is no more of anything than after the first.
fn survives(builder: Builder, mut all_leave: impl FnMut(&Proxy)) {
    let proxy = builder.start();
    let gone = |proxy: &Proxy| proxy.wait_for_metric("shadowcat_connections_active", "", 1.0);
    proxy.ask(&get("/", ""));
    gone(&proxy);
    let descriptors = proxy.descriptors();
    all_leave(&proxy);
    gone(&proxy);
    let memory = proxy.memory();
    all_leave(&proxy);
    gone(&proxy);
    let grown = proxy.memory().saturating_sub(memory);
    assert!(grown < 8 << 20, "{grown} bytes");
    wait_until("the descriptors to be given back", || proxy.descriptors() <= descriptors + 2);
    assert_eq!(proxy.metrics().sum("shadowcat_connection_panics_total", ""), 0.0);
    assert_eq!(proxy.metrics().sum("shadowcat_worker_restarts_total", ""), 0.0);
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
}

fn clients_may_leave_at_every_byte_they_write(driver: Driver) {
    let (files, upstream) = (Files::new(), upstream(ANSWER));
    let config = files.client();
    // Within the first 2 KB are all messages of the handshake.
    let places: Vec<usize> = (0..2_400).step_by(83).chain((2_400..BODY).step_by(2_999)).collect();
    survives(files.before(driver, &upstream), |proxy| {
        for leave in [Leave::Reset, Leave::End, Leave::HalfClose] {
            for &place in &places {
                assert!(talk(&mut open(proxy, &config, place, usize::MAX, leave)).is_err(), "{leave:?} {place}");
            }
        }
    });
}

fn clients_may_leave_at_every_byte_they_read(driver: Driver) {
    let (files, upstream) = (Files::new(), upstream(ANSWER));
    let config = files.client();
    let places: Vec<usize> = (0..3_000).step_by(151).chain((3_000..ANSWER).step_by(20_011)).collect();
    survives(files.before(driver, &upstream), |proxy| {
        for leave in [Leave::Reset, Leave::End] {
            for &place in &places {
                assert!(talk(&mut open(proxy, &config, usize::MAX, place, leave)).is_err(), "{leave:?} {place}");
            }
        }
    });
}

fn noise_after_the_handshake_ends_one_connection(driver: Driver) {
    let (files, upstream) = (Files::new(), upstream(ANSWER));
    let config = files.client();
    let noises: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        // Application data that nobody's key encrypted, too long a record, an alert in the clear, half a header, a type
        // that does not exist.
        b"\x17\x03\x03\x00\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        b"\x17\x03\x03\xff\xff",
        b"\x15\x03\x03\x00\x02\x02\x00",
        b"\x17\x03",
        b"\x63\x03\x03\x00\x01a",
    ];
    survives(files.before(driver, &upstream), |proxy| {
        for noise in noises {
            let mut client = open(proxy, &config, usize::MAX, usize::MAX, Leave::End);
            talk(&mut client).expect("an answer");
            client.sock.socket.write_all(noise).expect("sent");
            let _ = client.sock.socket.shutdown(Shutdown::Write);
            io::copy(&mut client.sock.socket, &mut io::sink()).ok();
        }
    });
}

fn a_byte_at_a_time_is_as_good_as_all(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let mut client = open(&proxy, &files.client(), usize::MAX, usize::MAX, Leave::End);
    client.sock.piece = 1;
    for _ in 0..3 {
        client.write_all(&post("/", "", b"body")).expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

fn a_reader_that_stops_and_goes_on_gets_all(driver: Driver) {
    // More than the buffers of both sockets hold.
    const LONG: usize = 8 << 20;
    let (files, upstream) = (Files::new(), upstream(LONG));
    let proxy = files.before(driver, &upstream).start();
    let mut client = open(&proxy, &files.client(), usize::MAX, usize::MAX, Leave::End);
    client.sock.piece = 1_000;
    client.write_all(&get("/", "")).expect("sent");
    // The answer has begun, and others are served while this one takes nothing.
    let mut first = [0; 100];
    client.read_exact(&mut first).expect("a beginning");
    for _ in 0..5 {
        assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    }
    let head = first.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    let mut rest = vec![0; LONG - (first.len() - head)];
    client.read_exact(&mut rest).expect("the rest");
    assert!(rest.iter().all(|&byte| byte == b'x'));
}
