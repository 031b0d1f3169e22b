//! Values of options: what kinds there are and how each is written.

use std::net::SocketAddr;
use std::time::Duration as Time;

/// What may be written for an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Secret,
    Path,
    Url,
    Address,
    Bool,
    /// A whole number from, to.
    Count(u64, u64),
    /// From 0 to 1.
    Ratio,
    Duration,
    Size,
    List,
    Choice(&'static [&'static str]),
    /// A table of texts.
    Attributes,
}

/// What stands in a file, or as text anywhere else.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    Text(String),
    Number(String),
    Bool(bool),
    List(Vec<String>),
    Attributes(Vec<(String, String)>),
}

impl Raw {
    /// What it is called in an error.
    pub fn type_name(&self) -> &'static str {
        match self {
            Raw::Text(_) => "text",
            Raw::Number(_) => "a number",
            Raw::Bool(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Attributes(_) => "a table",
        }
    }

    /// As text; lists by commas.
    pub fn text(&self) -> String {
        match self {
            Raw::Text(text) | Raw::Number(text) => text.clone(),
            Raw::Bool(value) => value.to_string(),
            Raw::List(items) => items.join(","),
            Raw::Attributes(pairs) => {
                pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
            }
        }
    }

    pub fn list(&self) -> Vec<String> {
        match self {
            Raw::List(items) => items.clone(),
            other => split_list(&other.text()),
        }
    }
}

pub fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

impl Kind {
    pub fn describe(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Secret => "secret".into(),
            Kind::Path => "path".into(),
            Kind::Url => "URL".into(),
            Kind::Address => "address:port".into(),
            Kind::Bool => "true, false".into(),
            Kind::Count(..) => "number".into(),
            Kind::Ratio => "0 to 1".into(),
            Kind::Duration => "time".into(),
            Kind::Size => "size".into(),
            Kind::List => "list".into(),
            Kind::Attributes => "table".into(),
            Kind::Choice(choices) => choices.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", "),
        }
    }

    /// Whether `raw` can be of this kind, and says something sensible.
    ///
    /// # Errors
    /// What was expected.
    pub fn check(self, raw: &Raw) -> Result<(), String> {
        let fits = match (self, raw) {
            (Kind::List, Raw::List(_)) | (Kind::Attributes, Raw::Attributes(_)) | (Kind::Bool, Raw::Bool(_)) => {
                return Ok(());
            }
            (_, Raw::Text(_)) => true,
            (Kind::Count(..) | Kind::Ratio | Kind::Duration | Kind::Size, Raw::Number(_)) => true,
            // A version such as 1.3 is easily written without quotes.
            (Kind::Choice(choices), Raw::Number(number)) => choices.contains(&number.as_str()),
            _ => false,
        };
        if !fits {
            return Err(format!("expected {}, found {}", self.describe(), raw.type_name()));
        }
        let text = raw.text();
        match self {
            Kind::Text | Kind::Secret | Kind::List | Kind::Attributes => Ok(()),
            Kind::Path if text.is_empty() => Err("expected a path, found nothing".into()),
            Kind::Path => Ok(()),
            Kind::Url => url::Url::parse(&text).map(|_| ()).map_err(|error| format!("expected a URL: {error}")),
            Kind::Address => address(&text).map(|_| ()),
            Kind::Bool => boolean(&text).map(|_| ()),
            Kind::Count(min, max) => count(&text, min, max).map(|_| ()),
            Kind::Ratio => ratio(&text).map(|_| ()),
            Kind::Duration => duration(&text).map(|_| ()),
            Kind::Size => size(&text).map(|_| ()),
            Kind::Choice(choices) if choices.contains(&text.as_str()) => Ok(()),
            Kind::Choice(_) => Err(format!("expected one of {}", self.describe())),
        }
    }
}

pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

pub fn count(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let number: u64 = text.replace('_', "").parse().map_err(|_| "expected a whole number".to_owned())?;
    match number {
        _ if number < min => Err(format!("expected at least {min}")),
        _ if number > max => Err(format!("expected at most {max}")),
        _ => Ok(number),
    }
}

pub fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

/// Seconds without a unit; else as in `30s`, `5m`, `250ms`, `1h 30m`.
pub fn duration(text: &str) -> Result<Time, String> {
    let expected = || "expected a time such as 30, \"30s\", \"5m\" or \"250ms\"".to_owned();
    if let Ok(seconds) = text.replace('_', "").parse::<f64>() {
        return Time::try_from_secs_f64(seconds).map_err(|_| expected());
    }
    humantime::parse_duration(text).map_err(|_| expected())
}

/// Bytes without a unit; else as in `64KiB`, `1MB`.
pub fn size(text: &str) -> Result<u64, String> {
    text.replace('_', "")
        .parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| "expected a size such as 65536, \"64KiB\" or \"1MiB\"".to_owned())
}

pub fn address(text: &str) -> Result<SocketAddr, String> {
    let with_name = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let with_port = text.strip_prefix(':').map(|port| format!("0.0.0.0:{port}"));
    with_name
        .or(with_port)
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| "expected an address with its port such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_with_and_without_units() {
        assert_eq!(duration("30"), Ok(Time::from_secs(30)));
        assert_eq!(duration("0.25"), Ok(Time::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Time::from_secs(300)));
        assert!(duration("-1").is_err() && duration("soon").is_err());
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("64KiB"), Ok(65536));
        assert!(size("much").is_err());
    }

    #[test]
    fn kinds_refuse_what_they_are_not() {
        assert!(Kind::Count(1, 9).check(&Raw::Number("0".into())).is_err());
        assert!(Kind::Count(1, 9).check(&Raw::Text("9".into())).is_ok());
        assert!(Kind::Bool.check(&Raw::Number("1".into())).is_err());
        assert!(Kind::Address.check(&Raw::Text("8080".into())).is_err());
        assert!(Kind::Address.check(&Raw::Text("[::1]:80".into())).is_ok());
        assert!(Kind::Choice(&["1.2", "1.3"]).check(&Raw::Number("1.3".into())).is_ok());
        assert!(Kind::List.check(&Raw::Number("3".into())).is_err());
    }
}
