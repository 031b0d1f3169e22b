//! Pingora in front of one upstream, with what its examples have and nothing more.
//!
//! usage: peer-pingora PORT UPSTREAM_PORT THREADS [CERTIFICATE KEY]

use std::error::Error;
use std::net::SocketAddr;

use async_trait::async_trait;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Server, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;

struct Forward {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, upstream, threads, tls @ ..] = words.as_slice() else { return Err("PORT UPSTREAM_PORT THREADS".into()) };
    let conf = ServerConf {
        threads: threads.parse()?,
        work_stealing: false,
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let forward = Forward { upstream: SocketAddr::from(([127, 0, 0, 1], upstream.parse()?)) };
    let mut service = http_proxy_service(&server.configuration, forward);
    let address = format!("127.0.0.1:{port}");
    match tls {
        [certificate, key] => service.add_tls(&address, certificate, key)?,
        _ => service.add_tcp(&address),
    }
    server.add_service(service);
    server.run_forever();
}
