//! Heads read strictly, and requests written down.

use std::fmt;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// The head of a request or an answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub raw: Vec<u8>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.raw))
    }
}

impl Head {
    /// `raw` ends with the empty line. Every line ends with CRLF, names are tokens, no value holds a control.
    pub fn parse(raw: &[u8]) -> Result<Head, String> {
        let text = String::from_utf8_lossy(raw).into_owned();
        let bad = |why: &str| format!("{why} in {text:?}");
        let inner = text.strip_suffix("\r\n\r\n").ok_or_else(|| bad("no end"))?;
        let mut lines = inner.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        if line.contains(['\r', '\n', '\0']) {
            return Err(bad("a control in the first line"));
        }
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a line without colon"))?;
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(bad("a name that is no token"));
            }
            if value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
                return Err(bad("a control in a value"));
            }
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        Ok(Head { line, fields, raw: raw.to_vec() })
    }

    /// The values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that stands there at most once.
    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "more than one {name} in {self:?}");
        all.first().copied()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Length and coding, at most one of them, each in its only unambiguous spelling.
    fn lengths(&self) -> Result<(Option<usize>, bool), String> {
        let (lengths, codings) = (self.all("content-length"), self.all("transfer-encoding"));
        if lengths.len() + codings.len() > 1 {
            return Err(format!("more than one framing field in {self:?}"));
        }
        if codings.iter().any(|coding| *coding != "chunked") {
            return Err(format!("transfer coding in {self:?}"));
        }
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let length = match lengths.first() {
            Some(text) if digits(text) => text.parse().ok(),
            Some(_) => return Err(format!("length in {self:?}")),
            None => None,
        };
        Ok((length, !codings.is_empty()))
    }

    /// Of a request (RFC 9112 section 6.3).
    pub fn request_framing(&self) -> Result<BodyFraming, String> {
        Ok(match self.lengths()? {
            (_, true) => BodyFraming::Chunked,
            (Some(length), _) => BodyFraming::Length(length),
            (None, _) => BodyFraming::None,
        })
    }

    /// Of an answer to `method`.
    pub fn response_framing(&self, method: &str) -> Result<BodyFraming, String> {
        let (length, chunked) = self.lengths()?;
        let status = self.status()?;
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(BodyFraming::None);
        }
        Ok(match (length, chunked) {
            (_, true) => BodyFraming::Chunked,
            (Some(length), _) => BodyFraming::Length(length),
            (None, _) => BodyFraming::UntilClose,
        })
    }

    /// Of an answer, which must be HTTP/1.1.
    pub fn status(&self) -> Result<u16, String> {
        let rest = self.line.strip_prefix("HTTP/1.1 ").ok_or_else(|| format!("status line {:?}", self.line))?;
        let (digits, reason) = rest.split_at(rest.len().min(3));
        if !reason.is_empty() && !reason.starts_with(' ') {
            return Err(format!("status line {:?}", self.line));
        }
        digits.parse().map_err(|_| format!("status line {:?}", self.line))
    }

    /// First word of a request line.
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// Second word of a request line.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// `fields` are whole lines with their CRLF, in all of these.
pub fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").into_bytes()
}

/// A body of no type that anybody looks into.
pub fn post(target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    post_with("POST", target, &format!("Content-Type: application/octet-stream\r\n{fields}"), body)
}

pub fn post_json(target: &str, fields: &str, body: &str) -> Vec<u8> {
    let types = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n";
    post_with("POST", target, &format!("{types}{fields}"), body.as_bytes())
}

pub fn post_with(method: &str, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
