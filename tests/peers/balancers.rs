//! nginx and HAProxy before the proxy and behind it: clients see what they see without them, streams included.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{PATIENCE, Server, free_port, node, output, peers, script, wait};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Balancer {
    /// Buffers answers, as is its default, but for those that say `X-Accel-Buffering: no`.
    Nginx,
    Haproxy,
    /// As it is, with PROXY protocol version 2 instead of `X-Forwarded-For`.
    HaproxyV2,
}

/// A balancer before a server, with what its documentation says about HTTP/1.1 upstreams.
struct Running {
    server: Server,
    _directory: tempfile::TempDir,
}

impl Balancer {
    fn before(self, target: &str) -> Running {
        let (directory, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let config = directory.path().join("config");
        let (program, text) = match self {
            Balancer::Nginx => ("nginx", nginx(port, target, directory.path())),
            Balancer::Haproxy => ("haproxy", haproxy(port, target, "")),
            Balancer::HaproxyV2 => ("haproxy", haproxy(port, target, " send-proxy-v2")),
        };
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(program);
        match self {
            Balancer::Nginx => command.arg("-e").arg("stderr").arg("-p").arg(directory.path()).arg("-c").arg(&config),
            _ => command.arg("-db").arg("-f").arg(&config),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; see .ci/run for its package"));
        let server = Server { child, address: format!("127.0.0.1:{port}") };
        wait::wait_until(program, || TcpStream::connect(&server.address).is_ok());
        Running { server, _directory: directory }
    }

    /// The proxy behind it, which believes it.
    fn proxy(self, driver: &str, upstream: &str) -> Server {
        let protocol = format!("proxy.proxy_protocol={}", self == Balancer::HaproxyV2);
        Server::proxy_with(driver, upstream, &["--set", "proxy.trusted_proxies=127.0.0.1/32", "--set", &protocol])
    }
}

fn nginx(port: u16, target: &str, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"daemon off; master_process off; pid {directory}/pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  upstream servers {{ server {target}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://servers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"#
    )
}

/// Without `abortonclose` it keeps a request going whose client has left, so that nobody hears of a cancellation.
fn haproxy(port: u16, target: &str, how: &str) -> String {
    let forwarded = if how.is_empty() { "option forwardfor\n  " } else { "" };
    format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  option abortonclose\n\
         listen one\n  bind 127.0.0.1:{port}\n  {forwarded}server one {target}{how}\n"
    )
}

/// The SDK's client in an era, against the fixture: streams, questions in the middle of calls, cancellation.
fn seen(peers: &Path, address: &str, way: &str) -> String {
    let url = format!("http://{address}/mcp");
    output(node(peers).arg(script("client-v2.mjs")).arg(peers.join("node_modules")).args([&url, way]))
}

/// The first SDK's client against the demo server.
fn seen_of_demo(peers: &Path, address: &str) -> String {
    let url = format!("http://{address}/mcp");
    output(node(peers).arg(script("client.mjs")).arg(peers.join("node_modules")).args([&url, "http", "demo"]))
}

#[test]
fn behind_nginx_and_haproxy_clients_see_the_same() {
    let peers = peers();
    let (fixture, demo) = (Server::fixture(&peers), Server::demo());
    let expected = ["legacy", "auto"].map(|way| (way, seen(&peers, &fixture.address, way)));
    let expected_of_demo = seen_of_demo(&peers, &demo.address);
    for balancer in [Balancer::Nginx, Balancer::Haproxy, Balancer::HaproxyV2] {
        for driver in ["io_uring", "epoll"] {
            let proxy = balancer.proxy(driver, &fixture.address);
            let front = balancer.before(&proxy.address);
            for (way, expected) in &expected {
                assert_eq!(seen(&peers, &front.server.address, way), *expected, "{balancer:?} {driver} {way}");
            }
            if balancer == Balancer::HaproxyV2 {
                continue;
            }
            let proxy = balancer.proxy(driver, &demo.address);
            let front = balancer.before(&proxy.address);
            assert_eq!(seen_of_demo(&peers, &front.server.address), expected_of_demo, "{balancer:?} {driver}");
        }
    }
}

#[test]
fn before_nginx_and_haproxy_clients_see_the_same() {
    let peers = peers();
    let fixture = Server::fixture(&peers);
    let expected = ["legacy", "auto"].map(|way| (way, seen(&peers, &fixture.address, way)));
    for balancer in [Balancer::Nginx, Balancer::Haproxy] {
        let before = balancer.before(&fixture.address);
        for driver in ["io_uring", "epoll"] {
            let proxy = Server::proxy(driver, &before.server.address);
            for (way, expected) in &expected {
                assert_eq!(seen(&peers, &proxy.address, way), *expected, "{balancer:?} {driver} {way}");
            }
        }
    }
}

#[test]
fn nginx_and_haproxy_are_believed_about_the_client() {
    for balancer in [Balancer::Nginx, Balancer::Haproxy, Balancer::HaproxyV2] {
        for driver in ["io_uring", "epoll"] {
            let upstream = TcpListener::bind("127.0.0.1:0").expect("a port");
            let proxy = balancer.proxy(driver, &upstream.local_addr().expect("an address").to_string());
            let front = balancer.before(&proxy.address);
            let mut client = connect_from("127.0.0.2:0", &front.server.address);
            let asked = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", front.server.address);
            client.write_all(asked.as_bytes()).expect("written");
            let (mut stream, _) = upstream.accept().expect("the proxy connects");
            let head = head_of(&mut stream).to_ascii_lowercase();
            let forwarded = head.lines().find(|line| line.starts_with("x-forwarded-for:")).expect("the field");
            let first = forwarded.split([':', ',']).nth(1).map(str::trim);
            assert_eq!(first, Some("127.0.0.2"), "{balancer:?} {driver}: {head}");
            stream.shutdown(Shutdown::Both).expect("closed");
        }
    }
}

fn connect_from(source: &str, address: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
    socket.bind(&parse(source).into()).expect("an address of this machine");
    socket.connect(&parse(address).into()).expect("it accepts");
    socket.into()
}

fn head_of(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}
