//! A plain load balancer: each connection goes to the next proxy that takes it, whole, both ways.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use super::client::RawClient;

pub struct RoundRobin {
    pub address: SocketAddr,
    /// How many connections each has got.
    counts: Arc<Vec<AtomicUsize>>,
}

impl RoundRobin {
    pub fn before(targets: Vec<SocketAddr>) -> RoundRobin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let counts: Arc<Vec<AtomicUsize>> = Arc::new(targets.iter().map(|_| AtomicUsize::new(0)).collect());
        let counted = counts.clone();
        thread::spawn(move || {
            let next = Mutex::new(0);
            for client in listener.incoming().map_while(Result::ok) {
                let taken = targets.iter().find_map(|_| {
                    let mut next = next.lock().expect("next");
                    let at = *next % targets.len();
                    *next += 1;
                    TcpStream::connect(targets[at]).ok().map(|proxy| (at, proxy))
                });
                let Some((at, proxy)) = taken else { continue };
                counted[at].fetch_add(1, Relaxed);
                join(client, proxy);
            }
        });
        RoundRobin { address, counts }
    }

    pub fn connect(&self) -> RawClient {
        RawClient::connect(self.address)
    }

    pub fn counts(&self) -> Vec<usize> {
        self.counts.iter().map(|count| count.load(Relaxed)).collect()
    }
}

fn join(client: TcpStream, proxy: TcpStream) {
    for stream in [&client, &proxy] {
        stream.set_nodelay(true).expect("TCP_NODELAY");
    }
    let pair =
        |one: &TcpStream, other: &TcpStream| (one.try_clone().expect("clone"), other.try_clone().expect("clone"));
    for (from, to) in [pair(&client, &proxy), pair(&proxy, &client)] {
        thread::spawn(move || carry(from, to));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
