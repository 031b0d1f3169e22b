//! The result for a terminal.

use std::fmt::Write;

use super::parts;
use crate::outcome::{BUSY, Outcome, Verdict, added, nanoseconds, percent};
use crate::scenario::{Pace, QUANTILES, Scenario, Users};
use crate::tally::Count;

/// Widest bar, characters.
const BAR: usize = 40;
/// More rows of a histogram than this, and each is twice as wide.
const ROWS_MAX: usize = 24;

pub fn text(scenario: &Scenario, outcomes: &[Outcome], verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    // Writing into a text cannot fail.
    let _ = head(&mut out, scenario);
    for outcome in outcomes {
        let _ = target(&mut out, scenario, outcome);
    }
    let _ = compared(&mut out, scenario, outcomes);
    let _ = judged(&mut out, verdicts);
    out
}

fn head(out: &mut String, scenario: &Scenario) -> std::fmt::Result {
    writeln!(out, "{}: {}", scenario.name, scenario.about)?;
    let (duration, warmup) = (scenario.duration.as_secs_f64(), scenario.warmup.as_secs_f64());
    writeln!(out, "{duration} s, after {warmup} s of warm-up")?;
    for users in &scenario.users {
        writeln!(out, "  {}: {}", users.name, described(users))?;
    }
    Ok(())
}

fn described(users: &Users) -> String {
    let pace = match users.pace {
        Pace::Closed { think } if think.is_zero() => "closed loop".to_owned(),
        Pace::Closed { think } => format!("closed loop, {think:?} to think"),
        Pace::Open { rate, poisson } => {
            format!("open loop, {rate}/s{}", if poisson { ", random arrivals" } else { "" })
        }
        Pace::Ramp { from, to, steps, .. } => format!("ramp from {from}/s to {to}/s in {steps} steps"),
    };
    let mut text = format!("{} connections, {pace}, MCP {}", users.connections, users.version);
    match users.requests_per_connection {
        0 => {}
        1 => text += ", a connection for each request",
        many => text += &format!(", {many} requests a connection"),
    }
    text
}

fn target(out: &mut String, scenario: &Scenario, outcome: &Outcome) -> std::fmt::Result {
    let all = outcome.requests(scenario);
    let tally = &outcome.tally;
    let seconds = outcome.seconds.max(1e-9);
    writeln!(out, "\n== {}  {}", outcome.name, outcome.url)?;
    if outcome.interrupted {
        writeln!(out, "interrupted after {:.1} s", outcome.seconds)?;
    }
    let volume = bytesize::ByteSize((tally.bytes as f64 / seconds) as u64);
    let mut line = format!(
        "{} requests, {:.0}/s, {} errors, {volume}/s in",
        all.good + all.bad,
        all.good as f64 / seconds,
        all.bad
    );
    if tally.events > 0 {
        line += &format!(", {} events, {:.0}/s", tally.events, tally.events as f64 / seconds);
    }
    writeln!(out, "{line}")?;
    if let [_, _, ..] = outcome.rounds[..] {
        let rates = outcome.rounds.iter().map(|round| round.rate);
        let p50s = outcome.rounds.iter().map(|round| round.p50 as f64);
        let (least, most) = range(rates);
        let (fast, slow) = range(p50s);
        let rounds = outcome.rounds.len();
        writeln!(
            out,
            "{rounds} rounds: {least:.0}/s to {most:.0}/s, p50 {} to {}",
            nanoseconds(fast),
            nanoseconds(slow)
        )?;
    }
    for (count, what) in [
        (
            tally.unsent,
            "requests were due and never sent: no connection was free (add connections, or the target is too slow)",
        ),
        (outcome.unfinished, "requests were still unanswered when it was over"),
        (tally.sessions_lost, "sessions were forgotten by the target and begun anew"),
    ] {
        if count > 0 {
            writeln!(out, "{count} {what}")?;
        }
    }
    histogram(out, &all)?;
    operations(out, scenario, outcome)?;
    if !tally.errors.is_empty() {
        writeln!(out, "\nerrors")?;
        for (kind, errors) in &tally.errors {
            let kind = kind.to_string();
            writeln!(out, "  {:>9}  {kind:<34} {}", errors.count, cut(&errors.first, 100))?;
        }
    }
    steps(out, outcome)?;
    generator(out, outcome, &all)
}

fn histogram(out: &mut String, all: &Count) -> std::fmt::Result {
    if all.latency.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nlatency, from when a request was due to the end of its answer")?;
    let quantiles = QUANTILES
        .iter()
        .map(|(quantile, name)| format!("{name} {}", nanoseconds(all.latency.value_at_quantile(*quantile) as f64)));
    writeln!(out, "  {}", quantiles.collect::<Vec<_>>().join("   "))?;
    let service = all.service.value_at_quantile(0.99);
    if all.latency.value_at_quantile(0.99) > service + service / 10 {
        writeln!(
            out,
            "  from when it was sent: p50 {}   p99 {}",
            nanoseconds(all.service.value_at_quantile(0.5) as f64),
            nanoseconds(service as f64)
        )?;
    }
    let fine = parts(&all.latency, 2.0);
    let parts = if fine.len() <= ROWS_MAX { fine } else { parts(&all.latency, 1.0) };
    let most = parts.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (end, count) in &parts {
        let part = *count as f64 / all.latency.len() as f64;
        let share = if *count == 0 { "-".into() } else { format!("{:.2} %", part * 100.0) };
        writeln!(out, "  <{:>8}  {}{share:>9}", nanoseconds(*end), bar(*count as f64 / most as f64))?;
    }
    Ok(())
}

/// In eighths of a character, padded to its full width.
fn bar(part: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part * BAR as f64 * 8.0).ceil() as usize;
    let mut text = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    let used = text.chars().count();
    text.push_str(&" ".repeat(BAR.saturating_sub(used) + 1));
    text
}

fn operations(out: &mut String, scenario: &Scenario, outcome: &Outcome) -> std::fmt::Result {
    let counted =
        scenario.operations.iter().zip(&outcome.tally.operations).filter(|(_, count)| count.good + count.bad > 0);
    let rows: Vec<_> = counted.collect();
    if rows.len() < 2 {
        return Ok(());
    }
    let width = rows.iter().map(|(what, _)| what.name.chars().count()).max().unwrap_or(0).max(9);
    writeln!(
        out,
        "\n{:<width$}  {:>10} {:>10} {:>8}  {:>8} {:>8} {:>8} {:>8}",
        "operation", "good", "a second", "errors", "p50", "p90", "p99", "max"
    )?;
    for (what, count) in rows {
        let at = |quantile| nanoseconds(count.latency.value_at_quantile(quantile) as f64);
        let rate = count.good as f64 / outcome.seconds.max(1e-9);
        writeln!(
            out,
            "{:<width$}  {:>10} {rate:>10.1} {:>8}  {:>8} {:>8} {:>8} {:>8}",
            what.name,
            count.good,
            count.bad,
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        )?;
    }
    Ok(())
}

fn steps(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let Some((rate, why)) = outcome.saturation() else { return Ok(()) };
    writeln!(out, "\n{:>10} {:>10} {:>8} {:>8} {:>8}", "offered", "answered", "p50", "p99", "errors")?;
    for step in &outcome.steps {
        let at = |quantile| nanoseconds(step.latency.value_at_quantile(quantile) as f64);
        writeln!(
            out,
            "{:>8.0}/s {:>8.0}/s {:>8} {:>8} {:>8}  {}",
            step.offered,
            step.achieved,
            at(0.5),
            at(0.99),
            step.bad,
            step.why
        )?;
    }
    match why {
        "" => writeln!(out, "kept up with all of it: {rate:.0}/s"),
        why => writeln!(out, "kept up with {rate:.0}/s; then {why}"),
    }
}

fn generator(out: &mut String, outcome: &Outcome, all: &Count) -> std::fmt::Result {
    let each = outcome.cpu as f64 / (all.good + all.bad).max(1) as f64;
    let threads = if outcome.threads == 1 { "1 thread".into() } else { format!("{} threads", outcome.threads) };
    let mut line = format!(
        "generator: {threads} on {}, {} of CPU a request, {:.0} % busy",
        outcome.driver,
        nanoseconds(each),
        outcome.busy() * 100.0
    );
    if let Some(late) = outcome.tally.late.as_ref().filter(|late| !late.is_empty()) {
        let at = |quantile| nanoseconds(late.value_at_quantile(quantile) as f64);
        line += &format!(", late by {} (p50), {} (p99)", at(0.5), at(0.99));
    }
    writeln!(out, "\n{line}")?;
    if outcome.busy() > BUSY {
        writeln!(
            out,
            "the generator itself was at its limit: these are no figures of the target (more --threads, or a lower rate)"
        )?;
    }
    Ok(())
}

/// All targets side by side, and what each adds to the direct run.
fn compared(out: &mut String, scenario: &Scenario, outcomes: &[Outcome]) -> std::fmt::Result {
    if outcomes.len() < 2 {
        return Ok(());
    }
    let width = outcomes.iter().map(|outcome| outcome.name.chars().count()).max().unwrap_or(0).max(8) + 10;
    write!(out, "\n{:<width$} {:>10}", "compared", "a second")?;
    QUANTILES.iter().try_for_each(|(_, name)| write!(out, " {name:>9}"))?;
    writeln!(out)?;
    let direct = outcomes.iter().find(|outcome| outcome.is_direct).map(|outcome| outcome.requests(scenario));
    for outcome in outcomes {
        let all = outcome.requests(scenario);
        write!(out, "{:<width$} {:>10.0}", outcome.name, all.good as f64 / outcome.seconds.max(1e-9))?;
        for (quantile, _) in QUANTILES {
            write!(out, " {:>9}", nanoseconds(all.latency.value_at_quantile(quantile) as f64))?;
        }
        writeln!(out)?;
    }
    let Some(direct) = direct else { return Ok(()) };
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_direct) {
        let all = outcome.requests(scenario);
        write!(out, "{:<width$} {:>10}", format!("{} adds", outcome.name), "")?;
        for (quantile, _) in QUANTILES {
            let added = added(&all, &direct, quantile);
            let sign = if added >= 0.0 { "+" } else { "" };
            write!(out, " {:>9}", format!("{sign}{}", nanoseconds(added)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn judged(out: &mut String, verdicts: &[Verdict]) -> std::fmt::Result {
    writeln!(out)?;
    for verdict in verdicts {
        let Verdict { target, what, wanted, found, .. } = verdict;
        let said = if verdict.passed { "ok    " } else { "FAILED" };
        writeln!(out, "{said}  {target}: {what} {found}, {wanted}")?;
    }
    let failed = verdicts.iter().filter(|verdict| !verdict.passed).count();
    match failed {
        0 => writeln!(out, "passed"),
        failed => writeln!(out, "{failed} of {} not passed (errors allowed: {})", verdicts.len(), allowed(verdicts)),
    }
}

fn allowed(verdicts: &[Verdict]) -> String {
    verdicts.iter().find(|verdict| verdict.is_errors).map_or_else(|| percent(0.0), |verdict| verdict.wanted.clone())
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, 0.0), |(least, most), value| (least.min(value), most.max(value)))
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most).chain("...".chars()).collect() }
}
