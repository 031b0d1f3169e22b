//! L5: a tape as the MCP server that it was recorded of.
//!
//! ```text
//! script     what the tape holds: for each request of a client, what the server said and when
//!   canon    what makes two requests the same
//! stage      one client at a time: what it says is looked up, and played       (sans-io, time is an argument)
//!   splice   ids and tokens of now in messages of then
//! stdio      over stdin and stdout
//! http       over Streamable HTTP, or HTTP with SSE as of 2024-11-05           (conversation: the streams of one client)
//! ```
//!
//! A script is an index: texts stay in the file, and are read when they are played.

mod canon;
mod conversation;
mod http;
mod script;
mod splice;
mod stage;
mod stdio;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use http::spawn;
pub use script::Script;
pub use stdio::serve as serve_stdio;

/// How fast a tape is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Everything as soon as it may come.
    Fast,
    /// So many times as fast as it was.
    Times(f64),
}

impl Speed {
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Speed, String> {
        let times = match text {
            "fast" => return Ok(Speed::Fast),
            "realtime" => Some(1.0),
            text => text.strip_suffix('x').and_then(|number| number.parse::<f64>().ok()),
        };
        match times {
            Some(times) if times.is_finite() && times >= 0.001 => Ok(Speed::Times(times)),
            _ => Err("expected realtime, fast, or a factor such as 2x or 0.5x".to_owned()),
        }
    }

    fn wait(self, us: u64) -> Duration {
        match self {
            Speed::Fast => Duration::ZERO,
            Speed::Times(times) => Duration::from_secs_f64((us as f64 / 1e6 / times).min(1e9)),
        }
    }
}
