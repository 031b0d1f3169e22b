//! A browser as far as logins know it.

use super::client::Response;
use super::http::get;
use super::proxy::Proxy;

/// The cookies that the proxy sets.
pub const LOGIN: &str = "__Host-shadowcat-login";
pub const SESSION: &str = "__Host-shadowcat-session";
/// What a browser says of a navigation that its user began.
pub const NAVIGATION: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nSec-Fetch-Site: none\r\n\
                          Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";

/// A browser: keeps cookies, follows nothing by itself.
#[derive(Clone, Default)]
pub struct Jar(pub Vec<(String, String)>);

impl Jar {
    pub fn field(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { String::new() } else { format!("Cookie: {}\r\n", pairs.join("; ")) }
    }

    pub fn keep(&mut self, answer: &Response) {
        for cookie in answer.head.all("set-cookie") {
            let (pair, attributes) = cookie.split_once("; ").expect("attributes");
            let (name, value) = pair.split_once('=').expect("a pair");
            let (fixed, age) = attributes.rsplit_once("; Max-Age=").expect("a life");
            assert_eq!(fixed, "Path=/; Secure; HttpOnly; SameSite=Lax");
            assert!(name.starts_with("__Host-shadowcat-"));
            self.0.retain(|(own, _)| own != name);
            if age != "0" {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub fn ask(&mut self, proxy: &Proxy, target: &str, fields: &str) -> Response {
        let answer = proxy.ask(&get(target, &(self.field() + fields)));
        self.keep(&answer);
        answer
    }
}
