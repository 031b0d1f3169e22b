//! `${NAME}` in values: `${X}`, `${X:-default}`, `${X:?message}`, and `$${` for a plain `${`.
//!
//! It works on parsed text, so that no value, whatever quotes it holds, can break the file around it.

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub message: String,
    /// The reference as written, or how it begins, to find it in the file.
    pub reference: String,
    pub hint: &'static str,
}

/// The text with its references replaced; `None` if it holds none.
///
/// A variable that is set to nothing counts as set for `${X}`, and as unset for the other two, as in a shell.
///
/// # Errors
/// A variable that is not set, or a reference of another form.
pub fn expand<'v>(text: &str, variable: impl Fn(&str) -> Option<&'v str>) -> Result<Option<String>, Refused> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &reference[2..];
            continue;
        }
        out.push_str(before);
        rest = replace(reference, &mut out, &variable)?;
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// Replace the reference that `text` begins with; what comes after it.
fn replace<'t, 'v>(
    text: &'t str,
    out: &mut String,
    variable: &impl Fn(&str) -> Option<&'v str>,
) -> Result<&'t str, Refused> {
    let inside = &text[2..];
    let length = inside.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    let (name, tail) = inside.split_at(length);
    let end = tail.find('}');
    let reference = end.map_or(&text[..2 + length], |end| &text[..2 + length + end + 1]);
    let refused = |message: String, hint| Refused { message, reference: reference.to_owned(), hint };
    const FORMS: &str = "${X}, ${X:-default}, ${X:?message}, or $${ for a plain ${";
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(refused("`${` without the name of a variable".into(), FORMS));
    }
    let Some(end) = end else {
        return Err(refused(format!("`${{{name}` without its `}}`"), FORMS));
    };
    let (operation, after) = (&tail[..end], &tail[end + 1..]);
    if operation.contains("${") {
        return Err(refused(format!("`${{{name}...`: a reference inside of a reference"), FORMS));
    }
    let value = variable(name);
    if operation.is_empty() {
        let unset = || refused(format!("the environment variable `{name}` is not set"), "not set");
        out.push_str(value.ok_or_else(unset)?);
        return Ok(after);
    }
    let value = value.filter(|value| !value.is_empty());
    if let Some(default) = operation.strip_prefix(":-") {
        out.push_str(value.unwrap_or(default));
    } else if let Some(message) = operation.strip_prefix(":?") {
        let message = if message.is_empty() { "not set" } else { message };
        out.push_str(value.ok_or_else(|| refused(format!("{name}: {message}"), "not set"))?);
    } else {
        return Err(refused(format!("`${{{name}{operation}}}` is no form of a reference"), FORMS));
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Option<String>, Refused> {
        expand(text, |name| match name {
            "A" => Some("a"),
            "NIL" => Some(""),
            "ODD" => Some("\"]${A}"),
            _ => None,
        })
    }

    #[test]
    fn references_are_replaced_once() {
        for (text, expected) in [
            ("${A}", "a"),
            ("x${A}y${A}", "xaya"),
            ("${NO:-d}${NIL:-e}", "de"),
            ("${NO:-}", ""),
            ("${NIL}", ""),
            ("${A:?missing}", "a"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("${ODD}", "\"]${A}"),
            ("${NO:-a:?b:-c}", "a:?b:-c"),
            ("${A} costs $5", "a costs $5"),
        ] {
            assert_eq!(with(text), Ok(Some(expected.into())), "{text}");
        }
        assert_eq!(with("$A is plain"), Ok(None));
    }

    #[test]
    fn what_is_unset_or_unknown_is_refused() {
        for (text, message) in [
            ("${NO}", "the environment variable `NO` is not set"),
            ("${NO:?say where}", "NO: say where"),
            ("${NIL:?}", "NIL: not set"),
            ("${}", "`${` without the name of a variable"),
            ("${1}", "`${` without the name of a variable"),
            ("${A", "`${A` without its `}`"),
            ("${A-b}", "`${A-b}` is no form of a reference"),
            ("${NO:-${A}}", "`${NO...`: a reference inside of a reference"),
        ] {
            assert_eq!(with(text).unwrap_err().message, message, "{text}");
        }
    }
}
