//! `[logging]` and `[telemetry]` as run.

use super::filter;
use super::items;
use super::plan::{AccessLog, Collector, LogFormat, LogOutput, LogPlan, TelemetryPlan};
use super::planning::Planner;
use super::sections;

/// The port of OTLP over gRPC.
const OTLP_PORT: u16 = 4317;
/// The port of OTLP over HTTP, which is another protocol.
const OTLP_HTTP_PORT: u16 = 4318;

pub fn plan(planner: &mut Planner<'_>) -> LogPlan {
    let filter = filter::choose(planner);
    let output = output(planner, "logging.output").unwrap_or(LogOutput::Stderr);
    let access_output = self::output(planner, "logging.access_output");
    let audit = self::output(planner, "logging.audit");
    let audit_required = planner.layers.required("logging.audit_required");
    if audit_required && audit.is_none() {
        planner.blame("logging.audit_required", "logging.audit_required without logging.audit: nothing is recorded");
    }
    LogPlan {
        filter,
        format: if planner.text("logging.format") == "json" { LogFormat::Json } else { LogFormat::Human },
        access: match planner.text("logging.access").as_str() {
            "off" => AccessLog::Off,
            "all" => AccessLog::All,
            _ => AccessLog::Errors,
        },
        access_output: access_output.unwrap_or_else(|| output.clone()),
        output,
        audit,
        audit_required,
    }
}

fn output(planner: &mut Planner<'_>, path: &str) -> Option<LogOutput> {
    match planner.layers.optional::<String>(path)?.as_str() {
        "stdout" => Some(LogOutput::Stdout),
        "stderr" => Some(LogOutput::Stderr),
        file if file.contains('/') => Some(LogOutput::File(file.into())),
        other => {
            planner.blame(path, format!("{path}: expected stdout, stderr, or the path of a file, such as ./{other}"));
            None
        }
    }
}

pub fn telemetry(planner: &mut Planner<'_>) -> Option<TelemetryPlan> {
    const ENDPOINT: &str = "telemetry.otlp_endpoint";
    if !sections::is_on(planner.layers, "telemetry") {
        return None;
    }
    let collector = match collector(&planner.text(ENDPOINT)) {
        Ok(collector) => collector,
        Err(why) => {
            planner.blame(ENDPOINT, format!("{ENDPOINT}: {why}"));
            return None;
        }
    };
    if collector.port == OTLP_HTTP_PORT {
        let message =
            format!("{ENDPOINT}: {OTLP_HTTP_PORT} is the port of OTLP over HTTP; gRPC is spoken, at {OTLP_PORT}");
        planner.warnings.push(message);
    }
    Some(TelemetryPlan {
        service_name: planner.text("telemetry.service_name"),
        collector,
        sampling_ratio: planner.layers.required("telemetry.sampling_ratio"),
        resource_attributes: planner.layers.optional("telemetry.resource_attributes").unwrap_or_default(),
    })
}

/// # Errors
/// What an endpoint of OTLP over gRPC does not have. The text is not repeated: it may hold a password.
fn collector(text: &str) -> Result<Collector, String> {
    let url = items::url(text)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the endpoint holds no user and no password".into());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err("OTLP over gRPC has no path: write host and port alone".into());
    }
    let host = url.host_str().ok_or("this URL has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port().unwrap_or(OTLP_PORT);
    Ok(Collector { tls: url.scheme() == "https", host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let found = collector("http://otel-collector:4317").unwrap();
        assert_eq!((found.tls, found.host.as_str(), found.port), (false, "otel-collector", 4317));
        assert_eq!(collector("https://[::1]").unwrap(), Collector { tls: true, host: "::1".into(), port: 4317 });
        for bad in ["http://h:4318/v1/traces", "http://u:p@h", "http://h/?x", "h:4317", "grpc://h"] {
            assert!(collector(bad).is_err(), "{bad}");
        }
    }
}
