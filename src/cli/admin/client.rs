//! Asking a server over its socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::control::admin::Body;
use crate::wire::http1::framing;
use crate::wire::http1::head::{HeadLimits, Method, Progress, ResponseHead};

const HEAD: HeadLimits = HeadLimits { head_bytes: 16 * 1024, fields: 64, target_bytes: 0 };
/// A restore may take as long as it takes to check and shift its sessions.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest answer in JSON, bytes.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// What a request carries.
pub enum Carried<'a> {
    Nothing,
    Json(Value),
    File(&'a mut std::fs::File, u64),
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("{0}")]
    Absent(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server said no.
    #[error("{0}")]
    Refused(String),
}

/// Ask for JSON.
///
/// # Errors
/// No server, or what it says.
pub fn ask(socket: &Path, method: &str, target: &str, carried: Carried<'_>) -> Result<Value, AskError> {
    let mut text = Vec::new();
    exchange(socket, method, target, carried, &mut |body| body.take(JSON_BYTES_MAX).read_to_end(&mut text).map(drop))?;
    serde_json::from_slice(&text).map_err(|error| AskError::Io(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Ask for a file.
///
/// # Errors
/// As [`ask`]; or the file cannot be written.
pub fn fetch(socket: &Path, target: &str, into: &mut std::fs::File) -> Result<(), AskError> {
    exchange(socket, "GET", target, Carried::Nothing, &mut |body| io::copy(body, into).map(drop))
}

fn exchange(
    socket: &Path,
    method: &str,
    target: &str,
    carried: Carried<'_>,
    take: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
) -> Result<(), AskError> {
    let mut stream = UnixStream::connect(socket).map_err(AskError::Absent)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A server that refuses may answer before it has read everything: what it says tells more than a broken pipe.
    let sent = send(&mut stream, method, target, carried);
    let mut bytes = Vec::new();
    let mut head = ResponseHead::default();
    while head.parse(&bytes, &HEAD).map_err(invalid)? == Progress::Incomplete {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => return Err(sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()).into()),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(error) => return Err(sent.err().unwrap_or(error).into()),
        }
    }
    let framed = framing::response(&head, &bytes, Method::Get).map_err(invalid)?;
    let rest = bytes.split_off(head.len);
    let mut body = Body::new(&mut stream, framed.body, rest);
    if head.status != 200 {
        let mut text = Vec::new();
        (&mut body).take(JSON_BYTES_MAX).read_to_end(&mut text)?;
        return Err(AskError::Refused(reason(head.status, &text)));
    }
    take(&mut body)?;
    Ok(())
}

fn send(stream: &mut UnixStream, method: &str, target: &str, carried: Carried<'_>) -> io::Result<()> {
    let (text, length) = match &carried {
        Carried::Nothing => (Vec::new(), 0),
        Carried::Json(value) => {
            let text = serde_json::to_vec(value)?;
            let length = text.len() as u64;
            (text, length)
        }
        Carried::File(_, length) => (Vec::new(), *length),
    };
    let kind = if matches!(carried, Carried::File(..)) { "application/octet-stream" } else { "application/json" };
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    match carried {
        Carried::File(file, length) => io::copy(&mut file.take(length), stream).map(drop),
        _ => stream.write_all(&text),
    }
}

fn reason(status: u16, text: &[u8]) -> String {
    let said: Option<Value> = serde_json::from_slice(text).ok();
    let said = said.as_ref().and_then(|value| value.get("error")).and_then(Value::as_str);
    said.map_or_else(|| format!("the server answered {status}"), str::to_owned)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
