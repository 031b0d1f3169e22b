//! Names to addresses, off the workers: `getaddrinfo` blocks.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// All addresses of a host in the resolver's order; empty if it does not resolve now.
pub fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return vec![SocketAddr::new(ip, port)];
    }
    match (host, port).to_socket_addrs() {
        Ok(found) => {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            addresses
        }
        Err(error) => {
            tracing::warn!(host, %error, "a name does not resolve");
            Vec::new()
        }
    }
}

/// Whether the host is a name, which may resolve to something else later.
pub fn is_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_need_no_resolver_and_names_give_each_address_once() {
        assert_eq!(addresses("::1", 3000), ["[::1]:3000".parse().unwrap()]);
        assert!(!is_name("127.0.0.1") && is_name("localhost"));
        let local = addresses("localhost", 80);
        assert!(!local.is_empty());
        assert!(local.iter().all(|address| local.iter().filter(|other| *other == address).count() == 1));
    }
}
