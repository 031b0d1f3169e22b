//! Paths into JSON: of RFC 9535 the names, indices, wildcards and descendants.

use std::fmt;

/// More would not fit into the mask of places.
const STEPS_MAX: usize = 31;

/// `$.params.arguments.pin`, `$..ssn`, `$.users[*].mail`, `$['a b'][0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// At any depth.
    is_descendant: bool,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Any,
    Name(String),
    Index(usize),
}

/// Where one may stand: bit i, so many steps were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places(u32);

/// What a value is called in what holds it.
#[derive(Clone, Copy, Debug)]
pub enum Member<'a> {
    Name(&'a str),
    Index(usize),
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonPath {
    pub const START: Places = Places(1);

    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        let mut rest = text.strip_prefix('$').ok_or("a JSON path begins with $, such as $.params.arguments.pin")?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            let is_descendant = rest.starts_with("..");
            let (test, behind) =
                if let Some(inside) = rest.strip_prefix("..").or(Some(rest)).and_then(|rest| rest.strip_prefix('[')) {
                    bracket(inside)
                        .ok_or_else(|| format!("expected 'name', a number or * and ] in the brackets at {at}"))?
                } else if let Some(name) = rest.strip_prefix("..").or_else(|| rest.strip_prefix('.')) {
                    let end = name.find(['.', '[']).unwrap_or(name.len());
                    let (name, behind) = name.split_at(end);
                    match name {
                        "" => return Err(format!("a name is missing behind the dot at {at}")),
                        "*" => (Test::Any, behind),
                        _ if name.contains([']', '\'', '"', '?', '(', ' ']) => {
                            return Err(format!("the name at {at} must be in brackets: ['{name}']"));
                        }
                        name => (Test::Name(name.to_owned()), behind),
                    }
                } else {
                    return Err(format!("expected . or [ at {at}"));
                };
            steps.push(Step { is_descendant, test });
            rest = behind;
        }
        match steps.len() {
            0 => Err("the path names the whole message".into()),
            1..=STEPS_MAX => Ok(JsonPath { text: text.to_owned(), steps }),
            _ => Err(format!("at most {STEPS_MAX} steps")),
        }
    }

    /// One step into a value that stands at `places`.
    pub fn step(&self, places: Places, member: Member<'_>) -> Places {
        let mut next = 0;
        for (at, step) in self.steps.iter().enumerate() {
            if places.0 & 1 << at == 0 {
                continue;
            }
            let fits = match (&step.test, member) {
                (Test::Any, _) => true,
                (Test::Name(name), Member::Name(is)) => name == is,
                (Test::Index(index), Member::Index(is)) => *index == is,
                _ => false,
            };
            next |= u32::from(fits) << (at + 1) | u32::from(step.is_descendant) << at;
        }
        Places(next)
    }

    /// Whether the path ends here.
    pub fn ends(&self, places: Places) -> bool {
        places.0 & 1 << self.steps.len() != 0
    }
}

/// Behind `[`: the test, and what follows `]`.
fn bracket(inside: &str) -> Option<(Test, &str)> {
    if let Some(rest) = inside.strip_prefix("*]") {
        return Some((Test::Any, rest));
    }
    if let Some(quote) = inside.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let (name, rest) = inside[1..].split_once(quote)?;
        return Some((Test::Name(name.to_owned()), rest.strip_prefix(']')?));
    }
    let (digits, rest) = inside.split_once(']')?;
    Some((Test::Index(digits.parse().ok()?), rest))
}
