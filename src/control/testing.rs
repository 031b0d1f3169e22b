//! An authorization server for tests: as much HTTP as our own client speaks, on loopback.

use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
    pub body: String,
}

type Script = dyn Fn(&Asked) -> (u16, String) + Send + Sync;

/// Answers by a script, which can be replaced; remembers what was asked.
#[derive(Clone)]
pub struct FakeIdp {
    pub url: String,
    script: Arc<Mutex<Arc<Script>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeIdp {
    pub fn start(script: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> FakeIdp {
        FakeIdp::on(None, script)
    }

    /// With TLS as `localhost`.
    pub fn start_tls(
        config: Arc<ServerConfig>,
        script: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static,
    ) -> FakeIdp {
        FakeIdp::on(Some(config), script)
    }

    fn on(tls: Option<Arc<ServerConfig>>, script: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> FakeIdp {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let idp = FakeIdp { url, script: Arc::new(Mutex::new(Arc::new(script))), asked: Arc::default() };
        let served = idp.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (idp, tls) = (served.clone(), tls.clone());
                thread::spawn(move || match tls {
                    None => idp.serve(stream),
                    Some(config) => {
                        let connection = ServerConnection::new(config).expect("a connection");
                        idp.serve(StreamOwned::new(connection, stream) as StreamOwned<ServerConnection, TcpStream>);
                    }
                });
            }
        });
        idp
    }

    pub fn play(&self, script: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) {
        *self.script.lock().expect("a script") = Arc::new(script);
    }

    pub fn asked(&self, path: &str) -> Vec<Asked> {
        self.asked.lock().expect("requests").iter().filter(|asked| asked.path == path).cloned().collect()
    }

    fn serve(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        let Some(asked) = read(&mut stream) else { return };
        self.asked.lock().expect("requests").push(asked.clone());
        let script = self.script.lock().expect("a script").clone();
        let (status, body) = script(&asked);
        // A redirection leads to where keys would be.
        let location = if status == 302 { "Location: /jwks\r\n" } else { "" };
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{location}\r\n{body}",
            body.len()
        );
        let _ = stream.get_mut().write_all(answer.as_bytes());
        let _ = stream.get_mut().flush();
    }
}

fn read(stream: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { path, authorization, body: String::from_utf8(body).ok()? })
}

/// Look until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

/// What the future resolves to.
pub fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(PATIENCE),
        }
        assert!(Instant::now() < deadline, "it never resolves");
    }
}
