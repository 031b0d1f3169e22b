use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

fn cleaned(text: &str) -> String {
    Rules::default().text(text).into_owned()
}

fn with_path(path: &str, text: &str) -> String {
    let rules = Rules { paths: vec![JsonPath::parse(path).unwrap()], ..Rules::default() };
    rules.text(text).into_owned()
}

#[test]
fn what_is_no_secret_stays_to_the_byte() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":7},"name":"echo"}}"#,
        r#"{"maxTokens": 100, "nextPageToken":"abc", "tokens":3, "key":"value", "code":"x"}"#,
        r#"{"properties":{"password":{"type":"string","description":"a secret: the token to use"}},"required":["password"]}"#,
        r#"{"token":null,"secret":true,"password":"","apiKey":{}}"#,
        "a line of a log: token: string, max_tokens=5",
        "see https://example.com/?q=tokens&page=2",
        "mail me at a@b.c: http://host/x@y",
        "[not json, password",
    ] {
        assert!(matches!(Rules::default().text(text), Cow::Borrowed(_)), "{text}: {}", cleaned(text));
    }
}

#[test]
fn names_tell_secrets_in_json() {
    for (text, expected) in [
        (r#"{"password": "x", "a":1}"#, r#"{"password": "[redacted]", "a":1}"#),
        (r#"{"API_KEY":"x"}"#, r#"{"API_KEY":"[redacted]"}"#),
        (r#"{"clientSecret":12.5e3,"n":1}"#, r#"{"clientSecret":"[redacted]","n":1}"#),
        (r#"{"a":[{"token":["x",1,["y"]]}]}"#, r#"{"a":[{"token":["[redacted]","[redacted]",["[redacted]"]]}]}"#),
        (r#"{"pass\u0077ord":"x"}"#, r#"{"pass\u0077ord":"[redacted]"}"#),
        // What a parser would not take, and what is cut.
        (r#"{"password":"x","#, r#"{"password":"[redacted]","#),
        (r#"{"a":1,"password":"x and"#, r#"{"a":1,"password":"[redacted]""#),
        (r#"{"password":"x"} trailing token=abc"#, r#"{"password":"[redacted]"} trailing token=[redacted]"#),
    ] {
        assert_eq!(cleaned(text), expected, "{text}");
    }
}

#[test]
fn json_in_texts_of_json_is_looked_into() {
    let inner = r#"{"PATH":"/bin","AWS_SECRET_ACCESS_KEY":"hunter2","list":["{\"token\":\"hunter2\"}"]}"#;
    let outer = serde_json::json!({"content": [{"type": "text", "text": inner}]}).to_string();
    let found = cleaned(&outer);
    assert!(!found.contains("hunter2") && found.contains("/bin"), "{found}");
    let value: serde_json::Value = serde_json::from_str(&found).unwrap();
    let text: serde_json::Value = serde_json::from_str(value["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text["AWS_SECRET_ACCESS_KEY"], INSTEAD);
    assert_eq!(text["list"][0], r#"{"token":"[redacted]"}"#);
}

#[test]
fn looks_tell_secrets_in_texts() {
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
    for (text, expected) in [
        (format!("asks with Bearer {jwt}, so"), "asks with Bearer [redacted], so".to_owned()),
        (format!("it is {jwt}!"), "it is [redacted]!".to_owned()),
        ("sk-abcdefghijklmnop1234 and AKIAABCDEFGHIJKLMNOP".into(), "[redacted] and [redacted]".into()),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END".into(), "-----BEGIN RSA PRIVATE KEY-----[redacted]".into()),
        ("to postgres://me:hunter2@db/x".into(), "to postgres://me:[redacted]@db/x".into()),
        ("Authorization: Basic aGk6aGk=\nHost: x".into(), "Authorization: [redacted]\nHost: x".into()),
        ("GITHUB_TOKEN=abc DEBUG=1".into(), "GITHUB_TOKEN=[redacted] DEBUG=1".into()),
        ("password: hunter2hunter2".into(), "password: [redacted]".into()),
        ("password='a b' x".into(), "password='[redacted]' x".into()),
        ("/cb?state=1&code=abc#f".into(), "/cb?state=1&code=[redacted]#f".into()),
        ("/m?sessionId=sha256:0123456789abcdef".into(), "/m?sessionId=sha256:0123456789abcdef".into()),
        ("grant_type=x&client_secret=a%20b".into(), "grant_type=x&client_secret=[redacted]".into()),
        (r#"say \"password\":\"hunter2\" twice"#.into(), r#"say \"password\":\"[redacted]\" twice"#.into()),
    ] {
        assert_eq!(cleaned(&text), expected, "{text}");
        let json = serde_json::json!({"text": text}).to_string();
        assert_eq!(cleaned(&json), serde_json::json!({"text": expected}).to_string(), "in JSON: {text}");
        // Whatever was replaced is not found again.
        assert_eq!(cleaned(&cleaned(&text)), expected);
    }
}

#[test]
fn paths_name_values_whatever_they_are() {
    let text = r#"{"params":{"arguments":{"pin":1234,"who":{"name":"x","ssn":"y"}},"list":[1,{"a b":2},3]}}"#;
    for (path, expected) in [
        ("$.params.arguments.pin", text.replace("1234", "\"[redacted]\"")),
        ("$..ssn", text.replace("\"y\"", "\"[redacted]\"")),
        ("$.params.*.who", text.replace(r#"{"name":"x","ssn":"y"}"#, "\"[redacted]\"")),
        ("$.params.list[*]", text.replace(r#"[1,{"a b":2},3]"#, r#"["[redacted]","[redacted]","[redacted]"]"#)),
        ("$.params.list[2]", text.replace(",3]", ",\"[redacted]\"]")),
        ("$..['a b']", text.replace("2}", "\"[redacted]\"}")),
        ("$..list[1][\"a b\"]", text.replace("2}", "\"[redacted]\"}")),
        ("$.params.nothing", text.to_owned()),
        ("$.pin", text.to_owned()),
    ] {
        assert_eq!(with_path(path, text), expected, "{path}");
    }
    for bad in ["", "pin", "$", "$pin", "$.", "$.a..", "$.a[", "$.a[x]", "$.a['x]", "$.a[-1]", "$.a[?(@.b)]", "$.a b"] {
        assert!(JsonPath::parse(bad).is_err(), "{bad}");
    }
    assert!(JsonPath::parse(&format!("${}", ".a".repeat(32))).is_err());
}

#[test]
fn configured_patterns_and_names_count_everywhere() {
    let rules = Rules {
        patterns: vec![pattern(r"\b\d{3}-\d{2}-\d{4}\b").unwrap()],
        names: Names::new(&["Personal-Number".into()]),
        headers: vec!["x-tenant".into()],
        ..Rules::default()
    };
    assert_eq!(rules.text("is 123-45-6789."), "is [redacted].");
    assert_eq!(
        rules.text(r#"{"a":"1\u00323-45-6789","personalNumber":5}"#),
        r#"{"a":"[redacted]","personalNumber":"[redacted]"}"#
    );
    assert_eq!((rules.field("X-Tenant", "acme"), rules.field("Accept", "*/*")), (INSTEAD.into(), "*/*".into()));
    for name in ["Authorization", "cookie", "Set-Cookie", "X-API-Key", "X-Auth-Token", "Mcp-Session-Id"] {
        assert_eq!(rules.field(name, "hunter2"), INSTEAD, "{name}");
    }
    for bad in ["(", "a*", &"a".repeat(2000), r"(?:\w{200}){200}"] {
        assert!(pattern(bad).is_err(), "{bad}");
    }
    let arguments = ["--token", "x", "--verbose", "API_KEY=y", "serve", "--api-key=z"].map(str::to_owned);
    assert_eq!(
        rules.arguments(&arguments),
        ["--token", INSTEAD, "--verbose", "API_KEY=[redacted]", "serve", "--api-key=[redacted]"]
    );
}

#[test]
fn bytes_that_are_no_text_are_kept_only_without_secrets() {
    let rules = Rules::default();
    assert_eq!(rules.bytes(b"\xff\x00").as_deref(), Some(&b"\xff\x00"[..]));
    assert_eq!(rules.bytes(b"\xff password=hunter2"), None);
}

#[test]
fn what_is_nested_too_deeply_is_replaced_whole() {
    let deep = format!("{}\"token\"{}", "[".repeat(1000), "]".repeat(1000));
    assert_eq!(cleaned(&deep), format!("{}\"[redacted]\"{}", "[".repeat(200), "]".repeat(200)));
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let key = prop_oneof![Just("token"), Just("a"), Just("pass_word"), Just("é\n"), Just("apiKey")];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        prop_oneof![Just("hunter2"), Just("x\\\"y"), Just("Bearer hunter2hunter2"), Just("{\"token\":\"hunter2\"}")]
            .prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|members| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

/// As the rules say it, on a tree.
fn expected(value: &serde_json::Value, is_secret: bool) -> serde_json::Value {
    use serde_json::Value;
    let names = Names::default();
    match value {
        Value::Object(members) => {
            members.iter().map(|(key, value)| (key.clone(), expected(value, names.is_secret(key)))).collect()
        }
        Value::Array(items) => items.iter().map(|item| expected(item, is_secret)).collect(),
        Value::String(_) | Value::Number(_) if is_secret => INSTEAD.into(),
        Value::String(text) if text.starts_with("Bearer") => "Bearer [redacted]".into(),
        Value::String(text) if text.starts_with('{') => "{\"token\":\"[redacted]\"}".into(),
        other => other.clone(),
    }
}

proptest! {
    /// The same as on a tree, and JSON again; cut anywhere, no panic and no secret under a name.
    #[test]
    fn json_is_cleaned_as_a_tree_would_be(value in value(), pretty in any::<bool>(), cut in 0usize..400) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        if value.is_object() || value.is_array() {
            let found: serde_json::Value = serde_json::from_str(&cleaned(&text)).unwrap();
            prop_assert_eq!(found, expected(&value, false));
        }
        let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        cleaned(&text[..cut]);
    }

    #[test]
    fn nothing_panics(text in "[{}\\[\\]\":,\\\\a-z0-9é=?&.]{0,60}", path in "\\$[.a-z*\\[\\]0-9']{0,12}") {
        cleaned(&text);
        if let Ok(path) = JsonPath::parse(&path) {
            let _ = Rules { paths: vec![path], ..Rules::default() }.text(&text);
        }
    }
}
