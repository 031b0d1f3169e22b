//! Headers that mirror parameters of tools (`x-mcp-header` of their schemas): what the server's own lists say of them is kept, and
//! calls are held against it, as whoever serves HTTP must. A server over stdin and stdout never sees the headers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::origin::mirrored::decode;

/// Tools whose headers are kept, and headers of one. What is beyond that is not compared.
const TOOLS_MAX: usize = 1000;
const HEADERS_MAX: usize = 32;
/// Properties inside of properties.
const DEPTH_MAX: usize = 8;

/// By tool.
#[derive(Default)]
pub struct Parameters {
    tools: BTreeMap<String, Vec<Mirror>>,
}

/// One parameter.
struct Mirror {
    /// `Mcp-Param-` and the name in the schema.
    header: String,
    /// Names of properties, the outermost first.
    path: Vec<String>,
}

#[derive(Deserialize)]
struct Listed {
    tools: Vec<Tool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool {
    name: String,
    #[serde(default)]
    input_schema: Value,
}

impl Parameters {
    /// What the result of a `tools/list` says.
    pub fn learn(&mut self, result: &RawValue) {
        let Ok(listed) = serde_json::from_str::<Listed>(result.get()) else { return };
        for tool in listed.tools {
            let mut mirrors = Vec::new();
            find(&tool.input_schema, &mut Vec::new(), &mut mirrors);
            let known = self.tools.contains_key(&tool.name);
            if mirrors.is_empty() {
                self.tools.remove(&tool.name);
            } else if known || self.tools.len() < TOOLS_MAX {
                self.tools.insert(tool.name, mirrors);
            }
        }
    }

    /// Holds a call of `tool` against its headers; `field` finds one, unless there are two of it.
    ///
    /// # Errors
    /// Which header is not what the body says.
    pub fn check<'a>(
        &self,
        tool: &str,
        arguments: Option<&RawValue>,
        field: impl Fn(&str) -> Result<Option<&'a [u8]>, ()>,
    ) -> Result<(), String> {
        let Some(mirrors) = self.tools.get(tool) else { return Ok(()) };
        let arguments: Value =
            arguments.map_or(Value::Null, |raw| serde_json::from_str(raw.get()).unwrap_or(Value::Null));
        for mirror in mirrors {
            let Some(value) = mirror.path.iter().try_fold(&arguments, |at, name| at.get(name)) else { continue };
            let header = &mirror.header;
            let sent = match field(header) {
                Ok(Some(sent)) => sent,
                Ok(None) if value.is_null() => continue,
                Ok(None) => return Err(format!("Header mismatch: {header} is missing")),
                Err(()) => return Err(format!("Header mismatch: {header} occurs twice")),
            };
            if !decode(sent).is_some_and(|sent| says(&sent, value)) {
                return Err(format!("Header mismatch: {header} is not what the body says"));
            }
        }
        Ok(())
    }
}

/// What is below `properties` of objects, and nowhere else.
fn find(schema: &Value, path: &mut Vec<String>, mirrors: &mut Vec<Mirror>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, property) in properties {
        path.push(name.clone());
        if let Some(header) = property.get("x-mcp-header").and_then(Value::as_str)
            && mirrors.len() < HEADERS_MAX
        {
            mirrors.push(Mirror { header: format!("Mcp-Param-{header}"), path: path.clone() });
        }
        if path.len() < DEPTH_MAX {
            find(property, path, mirrors);
        }
        path.pop();
    }
}

/// Numbers may be spelt in several ways.
fn says(sent: &[u8], value: &Value) -> bool {
    match value {
        Value::String(text) => text.as_bytes() == sent,
        Value::Bool(value) => (if *value { &b"true"[..] } else { b"false" }) == sent,
        Value::Number(number) => {
            let sent = std::str::from_utf8(sent).unwrap_or_default();
            number.to_string() == sent || sent.parse::<f64>().is_ok_and(|sent| number.as_f64() == Some(sent))
        }
        // These have no header, so whatever it says is about something else.
        Value::Null | Value::Array(_) | Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_held_against_what_the_lists_said() {
        let mut parameters = Parameters::default();
        let raw = |text: &'static str| serde_json::from_str::<&RawValue>(text).unwrap();
        parameters.learn(raw(r#"{"tools":[{"name":"t","inputSchema":{"type":"object","properties":{
                "region":{"type":"string","x-mcp-header":"Region"},"plain":{"type":"string"},
                "in":{"type":"object","properties":{"count":{"type":"integer","x-mcp-header":"Count"}}},
                "list":{"type":"array","items":{"type":"string","x-mcp-header":"No"}}}}}]}"#));
        let check = |arguments: &'static str, headers: &[(&str, &'static str)]| {
            let field =
                |name: &str| Ok(headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_bytes()));
            parameters.check("t", Some(raw(arguments)), field)
        };
        let (region, count) = (("Mcp-Param-Region", "eu"), ("Mcp-Param-Count", "7"));
        assert_eq!(check(r#"{"region":"eu","in":{"count":7},"list":["x"]}"#, &[region, count]), Ok(()));
        assert_eq!(check(r#"{"region":"eu","in":{"count":7.0}}"#, &[region, count]), Ok(()));
        assert_eq!(check(r#"{"plain":"x","region":null}"#, &[]), Ok(()));
        assert!(check(r#"{"region":"us"}"#, &[region]).unwrap_err().contains("Region is not"));
        assert!(check(r#"{"in":{"count":7}}"#, &[region]).unwrap_err().contains("Count is missing"));
        assert!(check(r#"{"region":"eu"}"#, &[("Mcp-Param-Region", "=?base64?!?=")]).is_err());
        assert_eq!(check(r#"{"region":"eu"}"#, &[("Mcp-Param-Region", "=?base64?ZXU=?=")]), Ok(()));
        assert_eq!(parameters.check("other", None, |_| Ok(None)), Ok(()));
        parameters.learn(raw(r#"{"tools":[{"name":"t","inputSchema":{}}]}"#));
        assert!(parameters.tools.is_empty());
    }
}
