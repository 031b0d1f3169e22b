//! What is loaded: a URL, where that is, and how to speak TLS with it.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use shadowcat::config::plan::UpstreamTls;
use shadowcat::net::tls::Connector;
use url::Url;

use crate::client::Dial;
use crate::message::Address;

#[derive(Clone)]
pub struct Target {
    pub name: String,
    pub url: String,
    pub is_direct: bool,
    pub dial: Dial,
    pub address: Address,
}

impl Target {
    /// Of `[NAME=]URL`.
    ///
    /// # Errors
    /// No URL of http or https, a name that leads nowhere, an authority that cannot be read.
    pub fn new(text: &str, is_direct: bool, ca: Option<&Path>, timeout: Duration) -> Result<Target, String> {
        let (name, text) = match text.split_once('=') {
            Some((name, url)) if !name.contains(['/', ':', '?']) => (Some(name), url),
            _ => (None, text),
        };
        let url = Url::parse(text)
            .map_err(|error| format!("`{text}`: expected a URL such as http://127.0.0.1:8080/mcp: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.fragment().is_some() {
            return Err(format!("`{text}`: expected http:// or https://, and no fragment"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("user and password do not belong into a URL: use `token` or `headers` in the scenario".into());
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(format!("`{text}`: no host"));
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = (bare, port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?.next();
        let address = found.ok_or_else(|| format!("{host} has no address"))?;
        let tls = if url.scheme() == "https" { Some(connectors(bare, ca)?) } else { None };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let usual = if is_direct { "direct".to_owned() } else { authority.clone() };
        Ok(Target {
            name: name.map_or(usual, str::to_owned),
            url: url.to_string(),
            is_direct,
            dial: Dial { address, tls, timeout },
            address: Address { path, host: authority },
        })
    }

    /// Whether anybody listens there.
    ///
    /// # Errors
    /// What to do if nobody does.
    pub fn reach(&self) -> Result<(), String> {
        let address: SocketAddr = self.dial.address;
        TcpStream::connect_timeout(&address, self.dial.timeout.min(Duration::from_secs(5))).map(drop).map_err(|error| {
            format!("{} ({address}) cannot be reached: {error}; is it running, and is that its port?", self.url)
        })
    }
}

/// One that resumes sessions, one that never does.
fn connectors(name: &str, ca: Option<&Path>) -> Result<(Connector, Connector), String> {
    let tls = UpstreamTls { server_name: name.to_owned(), ca_path: ca.map(Path::to_owned), identity: None };
    let resuming = Connector::new(&tls)?;
    let full = resuming.without_resumption();
    Ok((resuming, full))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, String> {
        Target::new(text, false, None, Duration::from_secs(1))
    }

    #[test]
    fn names_paths_and_hosts_come_from_what_is_written() {
        let found = target("proxy=http://127.0.0.1:8080/mcp?a=b").expect("a target");
        assert_eq!((found.name.as_str(), found.address.path.as_str()), ("proxy", "/mcp?a=b"));
        let plain = target("http://[::1]/x=y").expect("a target");
        assert_eq!((plain.name.as_str(), plain.address.host.as_str()), ("[::1]", "[::1]"));
        assert_eq!(plain.dial.address.port(), 80);
    }

    #[test]
    fn what_is_no_target_is_refused_without_its_password() {
        for bad in ["127.0.0.1:80", "ftp://x/", "http://", "http://127.0.0.1/#x"] {
            assert!(target(bad).is_err(), "{bad}");
        }
        let refused = target("http://me:hunter2@127.0.0.1/").err().expect("refused");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}
