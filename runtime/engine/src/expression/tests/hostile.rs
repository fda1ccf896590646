//! Texts and bodies made to hurt: each ends in an error, within the budget, on the stack of an ordinary thread.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn limited(text: &str, body: &str) {
    let failure = on_body(text, body).unwrap_err();
    assert_eq!(failure.class(), ErrorClass::Limit, "{text}: {failure}");
}

fn numbers(count: usize) -> String {
    let numbers: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    format!("[{}]", numbers.join(","))
}

/// JSON that nests as deep as it may, several times in a list.
fn deep(copies: usize) -> String {
    let one = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    format!("[{}]", vec![one; copies].join(","))
}

#[test]
fn comprehensions_end_within_the_budget() {
    assert_eq!(
        on_body("body.all(x, body.all(y, body.all(z, x + y + z >= 0)))", numbers(60)).unwrap(),
        json!(true)
    );
    let body = numbers(300);
    limited("body.all(x, body.all(y, body.all(z, x + y + z >= 0)))", &body);
    limited("body.map(x, body.map(y, body.map(z, z)))", &body);
    limited("body.filter(x, body.exists(y, body.exists(z, z < 0)))", &body);
    limited(
        "body.all(x, true || body.all(y, body.all(z, true))) && body.map(x, body.map(y, body.map(z, z))) == []",
        &body,
    );
    // Errors on the way cost too, and the limit is not one that `||` forgives.
    limited("body.all(x, body.all(y, body.all(z, z.nothing || true))) || true", &body);
    limited("body.all(x, body.all(y, body.all(z, x == y || y == z || z.nothing)))", &body);
}

#[test]
fn what_is_made_stays_within_the_budget() {
    let text = json!({ "s": "x".repeat(1024 * 1024), "l": vec![0; 1000] }).to_string();
    limited("body.l.map(x, body.s + body.s)", &text);
    limited("body.l.map(x, body.l.map(y, body.l + body.l))", &text);
    limited("body.s.split('x')", &text);
    limited("body.s.replace('x', body.s)", &text);
    limited("body.l.map(x, body.s).join(',')", &text);
    limited("body.l.map(x, json.encode(body))", &text);
    limited("body.l.map(x, json.decode('\"' + body.s + '\"'))", &text);
    limited("body.l.map(x, body.s.upperAscii())", &text);
    limited("body.l.map(x, base64.encode(body.s))", &text);
    // Values are shared, so a list of many bodies is small until it is written out.
    let copies = format!("[{}]", vec!["body"; 1000].join(","));
    limited(&copies, &text);
    let (message, flow) = (message(text.clone()), flow());
    let scope = Scope::new(&message, &flow);
    let class = |failure: Failure| failure.class();
    let expression = Expression::compile(&copies).unwrap();
    assert_eq!(expression.evaluate_body(&scope).map_err(class), Err(ErrorClass::Limit));
    assert_eq!(expression.evaluate_string(&scope).map_err(class), Err(ErrorClass::Limit));
    let template = Template::compile(&"${body.s}".repeat(100)).unwrap();
    assert_eq!(template.render(&scope).map_err(class), Err(ErrorClass::Limit));
}

#[test]
fn what_is_read_is_paid_for() {
    let text = json!({ "s": "x".repeat(1024 * 1024), "l": vec![0; 1000] }).to_string();
    limited("body.l.all(x, body == body)", &text);
    limited("body.l.all(x, !(body.s in [body.s + 'x']) && body.s == body.s)", &text);
    limited("body.l.all(x, !body.s.contains('y'))", &text);
    limited("body.l.all(x, !body.s.matches('(x+x+)+y'))", &text);
    limited("body.l.all(x, body.s.size() > 1)", &text);
    limited("body.l.all(x, body.s >= body.s)", &text);
}

#[test]
fn jsonpath_ends_within_the_budget() {
    let body = deep(200);
    limited("jsonpath(body, '$..*..*..*')", &body);
    limited("jsonpath(body, '$..[?@..[?@..*]]')", &body);
    limited("jsonpath(body, '$..[?count(@..*) > count($..*)]')", &body);
    let keys = format!("{{\"{}\": [{}1]}}", "k".repeat(1024 * 1024), "1,".repeat(100_000));
    assert!(on_body("jsonpath(body, '$.*.*').size()", keys).is_ok());
}

#[test]
fn hostile_bodies_are_failures() {
    for (body, class) in [
        ("[".repeat(1_000_000), ErrorClass::Limit),
        ("{\"a\":".repeat(1_000_000), ErrorClass::Limit),
        (format!("[{}1]", "1,".repeat(MAX_BODY_VALUES)), ErrorClass::Limit),
        ("\"\\ud800\"".to_owned(), ErrorClass::BodyFormat),
        ("1e999".to_owned(), ErrorClass::BodyFormat),
    ] {
        assert_eq!(on_body("body == 1", body).map_err(|failure| failure.class()), Err(class));
    }
    assert!(on_body("body == body && json.encode(body) != ''", deep(10)).is_ok());
}

#[test]
fn texts_that_nest_or_chain_too_deep_are_refused() {
    for text in [
        format!("{}1{}", "(".repeat(4_000), ")".repeat(4_000)),
        "(".repeat(8_000),
        "[".repeat(8_000),
        "{'a':".repeat(1_600),
        "a?b:".repeat(2_000),
        "1+".repeat(4_000) + "1",
        "a<".repeat(4_000) + "a",
        "a in ".repeat(1_500) + "a",
        format!("body{}", ".a()".repeat(2_000)),
        format!("body{}", "[0]".repeat(2_000)),
        format!("body{}", ".a".repeat(4_000)),
        format!("body{}", ".map(x, x)".repeat(800)),
        format!("{}1", "size(".repeat(1_600)),
        "x".repeat(9_000),
        "? ( ] } ".repeat(1_000),
        "\"".repeat(8_001),
        "\u{0}".repeat(8_000),
    ] {
        let error = Expression::compile(&text).unwrap_err();
        assert!(error.to_string().len() < 500, "{error}");
        assert!(Template::compile(&format!("${{{text}}}")).is_err());
    }
    refused(&format!("{}1{}", "(".repeat(100), ")".repeat(100)), "nests deeper than 64");
    refused(&("1+".repeat(100) + "1"), "nests deeper than 64");
    refused("[1].map(a, [1].map(b, [1].map(c, [1].map(d, d))))", "nest deeper than 3");
    // What folds into one node may be long.
    assert!(Expression::compile(&("!".repeat(8_000) + "true")).is_ok());
    assert!(Expression::compile(&("body.a == 1 || ".repeat(500) + "true")).is_ok());
}

/// Texts that look like the language, so that more than the lexer is reached.
fn tokens() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "body",
        "headers",
        "message",
        "flow",
        ".",
        ".",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "${",
        "$${",
        "$",
        "'",
        "\"",
        "'''",
        "r'",
        "\\",
        "//",
        "\n",
        " ",
        "1",
        "-",
        "+",
        "*",
        "/",
        "%",
        "!",
        "<",
        ">=",
        "==",
        "!=",
        "&&",
        "||",
        "?",
        ":",
        ",",
        " in ",
        "has(",
        ".map(",
        ".all(x,",
        "x",
        "ü",
        "🦀",
        "null",
        "true",
        "0x1",
        "1u",
        "1.5e3",
        "b''",
        "size(",
        ".matches('a')",
        "jsonpath(body,'$.a')",
        "jsonpath(body,'$",
        "timestamp(",
        "as",
        "package",
        "`",
        "@",
        "#",
        "_",
    ]);
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in prop_oneof![tokens(), any::<String>()]) {
        let (message, flow) = (message(ORDER), flow());
        let scope = Scope::new(&message, &flow);
        match Expression::compile(&text) {
            Ok(expression) => { let _ = expression.evaluate_json(&scope); }
            Err(error) => {
                prop_assert_ne!(&error.text, "the expression cannot be parsed");
                prop_assert!(error.range.is_none_or(|range| text.get(range).is_some()));
            }
        }
        match Template::compile(&text) {
            Ok(template) => { let _ = template.render(&scope); }
            Err(errors) => {
                for error in errors {
                    prop_assert!(error.range.is_none_or(|range| text.get(range).is_some()));
                }
            }
        }
    }

    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = on_body("body == message.text || jsonpath(body, '$..*') == [body]", body);
    }

    #[test]
    fn no_path_and_no_pattern_panics(text in prop_oneof![tokens(), "[$@.*\\[\\]?()'a-c0-9,:=<>&| -]{0,30}"]) {
        if let Ok(path) = super::super::jsonpath::JsonPath::compile(&format!("${text}")) {
            let body = Value::from_json(ORDER.as_bytes()).unwrap();
            let _ = path.find(&body, &super::super::budget::Budget::new(0));
        }
        if let Ok(pattern) = super::super::pattern::Pattern::compile(&text) {
            let _ = pattern.is_match(ORDER, &super::super::budget::Budget::new(0));
        }
    }
}
