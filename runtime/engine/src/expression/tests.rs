//! The language as a whole: what expressions give, what mistakes say, and that nothing hostile gets through.

use gristmill_core::{
    ErrorClass, Failure, Message, Timestamp,
    config::{SubstitutedPart, Substitution},
};
use serde_json::json;

use super::*;

mod hostile;
mod page;

fn flow() -> FlowFacts {
    FlowFacts { id: "orders".into(), version: "v-1".into() }
}

fn message(body: impl Into<Vec<u8>>) -> Message {
    let received_at = Timestamp::from_millis(1_769_861_106_789);
    let mut message = Message::new("m-1", received_at, body.into());
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-github-event", "push"),
        ("customer", "acme"),
        ("customer", "other"),
    ] {
        message.headers_mut().append(name, value).unwrap();
    }
    message
}

const ORDER: &str = r#"{
    "id": "A-7", "total": 1500, "price": 9.5, "paid": false, "note": null, "empty": "", "big": 18446744073709551615,
    "customer": {"name": "Ürsula", "tags": ["vip", "eu"]},
    "items": [{"sku": "x-1", "n": 2, "price": 10}, {"sku": "y-2", "n": 1, "price": 0.5}],
    "created": "2026-01-31T11:05:06Z", "weird key": {"a-b": 1}
}"#;

/// The value as JSON, or the failure's class and text.
fn eval(text: &str) -> Result<serde_json::Value, (ErrorClass, String)> {
    let expression = Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let (message, flow) = (message(ORDER), flow());
    let result = expression.evaluate_json(&Scope::new(&message, &flow));
    result.map_err(|failure| (failure.class(), failure.text().to_owned()))
}

#[track_caller]
fn gives(text: &str, value: serde_json::Value) {
    assert_eq!(eval(text), Ok(value), "{text}");
}

#[track_caller]
fn fails(text: &str, part: &str) {
    let (class, problem) = eval(text).expect_err(text);
    assert_eq!(class, ErrorClass::Expression, "{text}: {problem}");
    assert!(problem.contains(part), "{text}: {problem}");
}

#[track_caller]
fn refused(text: &str, part: &str) -> CompileError {
    let error = Expression::compile(text).expect_err(text);
    assert!(error.to_string().contains(part), "{text}: {error}");
    error
}

fn on_body(text: &str, body: impl Into<Vec<u8>>) -> Result<serde_json::Value, Failure> {
    let expression = Expression::compile(text).unwrap();
    let (message, flow) = (message(body), flow());
    expression.evaluate_json(&Scope::new(&message, &flow))
}

#[test]
fn the_four_variables() {
    gives("body.total", json!(1500));
    gives("body.customer.tags[1]", json!("eu"));
    gives(r#"body["weird key"]["a-b"]"#, json!(1));
    gives(r#"headers["x-github-event"]"#, json!("push"));
    gives(r#"headers["X-GitHub-Event"]"#, json!("push"));
    gives(r#"headers["x-github-" + "event"]"#, json!("push"));
    gives("headers.customer", json!("acme"));
    gives("headers.filter(h, h.startsWith('c'))", json!(["content-type", "customer"]));
    gives("message.id", json!("m-1"));
    gives("message.timestamp_ms", json!(1_769_861_106_789_i64));
    gives("message.timestamp", json!("2026-01-31T12:05:06.789Z"));
    gives("message.content_type", json!("application/json"));
    gives("message.size > 100 && message.text.contains('Ürsula')", json!(true));
    gives("flow.id + '@' + flow.version", json!("orders@v-1"));
}

#[test]
fn has_is_false_wherever_the_path_breaks() {
    gives("has(body.total)", json!(true));
    gives("has(body.note)", json!(true));
    gives("has(body.nothing)", json!(false));
    gives("has(body.nothing.at.all)", json!(false));
    gives("has(body.total.at.all)", json!(false));
    gives("has(body.items[7].sku) || has(body['weird key']['a-b'])", json!(true));
    gives("has(headers.customer) && !has(headers.nobody) && has(headers['x-github-event'])", json!(true));
    gives("'customer' in headers && 'Customer' in headers && !('nobody' in headers)", json!(true));
    gives("has(message.content_type) && has(flow.id)", json!(true));
}

#[test]
fn numbers_compare_and_compute_whatever_their_type() {
    gives("body.total > 1000.0", json!(true));
    gives("body.total == 1500.0", json!(true));
    gives("body.total + 1", json!(1501));
    gives("body.total * 1.5", json!(2250.0));
    gives("body.price * 2", json!(19.0));
    gives("body.big > body.total && body.big == 18446744073709551615u", json!(true));
    gives("body.items.map(x, x.n * x.price)", json!([20, 0.5]));
    gives("-body.total % 7", json!(-2));
    gives("7 / 2 == 3 && 7.0 / 2 == 3.5", json!(true));
    gives("body.total in [1, 1500.0]", json!(true));
    fails("body.total / 0", "by zero");
    fails("9223372036854775807 + body.total", "too large");
    fails("body.total + 'x'", "convert it with `string(…)`");
    fails("body.total < '5'", "`<` cannot compare an int with a string");
}

#[test]
fn comprehensions() {
    gives("body.items.all(x, x.n > 0)", json!(true));
    gives("body.items.exists(x, x.sku == 'y-2')", json!(true));
    gives("body.items.exists_one(x, x.n == 1) && body.items.existsOne(x, x.n == 2)", json!(true));
    gives("body.items.filter(x, x.n > 1).map(x, x.sku)", json!(["x-1"]));
    gives("body.items.map(x, x.n > 1, x.sku)", json!(["x-1"]));
    gives("body.customer.exists(k, k == 'name')", json!(true));
    gives("[1, 2].map(x, [10, 20].map(y, x * y))", json!([[10, 20], [20, 40]]));
    gives("[[1], [2, 3]].map(x, x.map(x, x + 1))", json!([[2], [3, 4]]));
    gives("[].all(x, x) && ![].exists(x, x)", json!(true));
    fails("body.total.all(x, x > 1)", "`all` goes over a list or a map, not an int");
    fails("body.items.all(x, x.n)", "`all` wants bools, not an int");
}

#[test]
fn an_operand_that_settles_the_result_outweighs_an_error() {
    gives("body.nothing == 1 || body.paid == false", json!(true));
    gives("body.nothing == 1 && body.paid", json!(false));
    gives("[1, 'a', 3].exists(x, x > 2)", json!(true));
    gives("[1, 'a', 3].all(x, x > 2)", json!(false));
    fails("body.nothing == 1 || body.paid", "no such key `nothing` in `body`");
    fails("[1, 'a', 3].exists(x, x > 5)", "cannot compare");
    fails("true && body.nothing", "no such key");
}

#[test]
fn strings() {
    gives("'a' + \"b\" + r'\\c'", json!("ab\\c"));
    gives("size(body.customer.name)", json!(6));
    gives("body.customer.name.size() == 'Ürsula'.size()", json!(true));
    gives("body.id.contains('-') && body.id.startsWith('A') && body.id.endsWith('7')", json!(true));
    gives("body.id.matches(r'^[A-Z]-\\d+$') && matches(body.id, '7')", json!(true));
    gives("' Ab '.trim().lowerAscii() + 'x'.upperAscii()", json!("abX"));
    gives("'a-b-c'.replace('-', '+')", json!("a+b+c"));
    gives("'a,b,,c'.split(',')", json!(["a", "b", "", "c"]));
    gives("body.customer.tags.join('+') + ['a', 'b'].join()", json!("vip+euab"));
    gives("'Ürsula'.substring(1) + 'Ürsula'.substring(0, 2) + 'abc'.substring(3)", json!("rsulaÜr"));
    gives("'Ürsula'.indexOf('s') == 2 && 'a'.indexOf('b') == -1", json!(true));
    fails("'abc'.substring(2, 1)", "characters that the string does not have");
    fails("'abc'.substring(-1)", "characters that the string does not have");
    fails("[1].join()", "convert with `.map(x, string(x))`");
    fails("body.customer.tags.contains('eu')", "`x in list`");
}

#[test]
fn conversions() {
    gives("string(1) + string(1.5) + string(true) + string(2.0) + string(3u)", json!("11.5true23"));
    gives("int('42') + int(1.9) + int(3u)", json!(46));
    gives("uint(1) == 1u && double('1.5') == 1.5 && bool('true')", json!(true));
    gives("type(body) == map && type(body.total) == int && type(1.0) == double", json!(true));
    gives("[type(null), type('a'), type([]), type(type(1))]", json!(["null_type", "string", "list", "type"]));
    gives("json.decode('{\"a\": [1]}').a[0]", json!(1));
    gives("json.encode(body.customer)", json!(r#"{"name":"Ürsula","tags":["vip","eu"]}"#));
    gives(
        "base64.encode('hello') + base64.decode('aGVsbG8=') + base64.decode('aGVsbG8')",
        json!("aGVsbG8=hellohello"),
    );
    fails("int('4x')", "no whole number");
    fails("int(1e300)", "too large");
    fails("uint(-1)", "negative or too large");
    fails("string(body.items)", "json.encode(…)");
    fails("json.decode('{')", "given no JSON");
    fails("base64.decode('!')", "not Base64");
    fails("base64.decode('/w==')", "not UTF-8");
    fails("double('NaN')", "which JSON cannot hold");
}

#[test]
fn times() {
    gives("timestamp(body.created) < message.timestamp", json!(true));
    gives("message.timestamp - timestamp(body.created)", json!("3600.789s"));
    gives("message.timestamp - timestamp(body.created) > duration('1h')", json!(true));
    gives("timestamp(body.created) + duration('55m') == timestamp('2026-01-31T12:00:06Z')", json!(true));
    gives("timestamp('2026-01-31T12:00:00+01:00')", json!("2026-01-31T11:00:00Z"));
    gives("strftime(message.timestamp, '%Y/%m/%d')", json!("2026/01/31"));
    gives(
        "[message.timestamp.getFullYear(), message.timestamp.getMonth(), message.timestamp.getDate(), \
          message.timestamp.getDayOfWeek(), message.timestamp.getDayOfYear(), message.timestamp.getHours(), \
          message.timestamp.getMilliseconds(), duration('90m').getMinutes()]",
        json!([2026, 0, 31, 6, 30, 12, 789, 90]),
    );
    gives("int(timestamp(100)) == 100 && string(duration('1h30m')) == '5400s'", json!(true));
    fails("timestamp('yesterday')", "RFC 3339");
    fails("timestamp(9223372036854775807)", "out of its range");
    fails("duration('1 day')", "the units h, m, s");
    fails("timestamp('9999-12-30T00:00:00Z') + duration('72h')", "too large");
}

#[test]
fn jsonpath_finds_lists() {
    gives("jsonpath(body, '$.items[*].sku')", json!(["x-1", "y-2"]));
    gives("jsonpath(body, '$..price')", json!([9.5, 10, 0.5]));
    gives("jsonpath(body, '$.items[?@.price > 1].sku')[0]", json!("x-1"));
    gives("jsonpath(body, \"$.items[?@.n == 1 || @.sku == 'x-1']\").size()", json!(2));
    gives("jsonpath(body, '$.items[?!@.gone].n')", json!([2, 1]));
    gives("jsonpath(body, '$.items[-1:].n')", json!([1]));
    gives("jsonpath(body, '$.items[::-1].n')", json!([1, 2]));
    gives("jsonpath(body, '$.items[-2].n')", json!([2]));
    gives("jsonpath(body, '$.items[0,1,0].n')", json!([2, 1, 2]));
    gives("jsonpath(body, '$[\"weird key\"].*')", json!([1]));
    gives("jsonpath(body, '$.customer[?length(@) == 6]')", json!(["Ürsula"]));
    gives("jsonpath(body, '$[?count(@.*) == 2].name')", json!(["Ürsula"]));
    gives("jsonpath(body, '$.items[?@.price < $.price].n')", json!([1]));
    gives("jsonpath(body, '$.nothing') == []", json!(true));
    gives("jsonpath(body.items, '$[*].n').map(n, n + 1)", json!([3, 2]));
    refused("jsonpath(body, '$.[')", "not JSONPath (RFC 9535)");
    refused("jsonpath(body, body.path)", "known before it runs");
    refused("jsonpath(body, \"$[?match(@.a, 'x')]\")", "`match` is not supported here");
    refused(
        &format!("jsonpath(body, '$[?{}1{}]')", "length(".repeat(40), ")".repeat(40)),
        "nests its brackets",
    );
}

#[test]
fn what_does_not_fit_a_message_says_what_and_where() {
    fails("body.totl > 1", "expression `body.totl > 1`: no such key `totl` in `body`");
    fails("body.customer.age", "no such key `age` in `body.customer`");
    fails("body.total.net", "no such key `net` in `body.total`, which is an int");
    fails("body.items[0].color", "no such key `color` in `body.items[0]`");
    fails("body.items[5]", "`body.items` has 2 elements, none at this index");
    fails("body.customer[0]", "`body.customer` is a map: it has no element at an int");
    fails("body.items.map(x, x.nope)", "no such key `nope` in `x`");
    fails("headers.nobody", "no header `nobody`; test with `\"nobody\" in headers`");
    fails("!body.total", "`!` wants bools, not an int");
    fails("{'a': 1, 'a': 2}", "the key `a` twice");
    let long = format!("body.a{} == 1", "b".repeat(500));
    let (_, text) = eval(&long).unwrap_err();
    assert!(text.chars().count() < 300, "{text}");
}

#[test]
fn a_failure_shows_no_content_of_the_body() {
    let secret = "s3cret-".repeat(100);
    for text in [
        "int(body.a)",
        "body.a + 1",
        "body.a < 1",
        "timestamp(body.a)",
        "json.decode(body.a)",
        "body[body.a].x.y",
    ] {
        let failure = on_body(text, json!({ "a": secret }).to_string()).unwrap_err();
        assert!(!failure.text().contains(&secret), "{text}: {failure}");
        assert!(failure.text().len() < 300, "{text}: {failure}");
    }
}

#[test]
fn the_body_is_parsed_when_it_is_asked_for() {
    let binary = vec![0xff, 0xfe];
    assert_eq!(
        on_body("headers.customer == 'acme' && message.size == 2", binary.clone()).unwrap(),
        json!(true)
    );
    let failure = on_body("body.total", binary.clone()).unwrap_err();
    assert_eq!(failure.class(), ErrorClass::BodyFormat);
    assert!(failure.text().contains("the body is not JSON that can be read"), "{failure}");
    assert!(failure.text().contains("line 1 column 1"), "{failure}");
    assert!(failure.text().contains("`application/json`"), "{failure}");
    assert_eq!(on_body("message.text", binary).unwrap_err().class(), ErrorClass::BodyFormat);
    let failure = on_body("has(body.a)", "").unwrap_err();
    assert!(failure.text().contains("the body is empty"), "{failure}");
    assert_eq!(on_body("body", "7").unwrap(), json!(7));
}

#[test]
fn the_result_is_what_the_caller_wants_or_says_what_it_is() {
    let (message, flow) = (message(ORDER), flow());
    let scope = Scope::new(&message, &flow);
    let compiled = |text| Expression::compile(text).unwrap();
    assert!(compiled("body.total > 1").evaluate_bool(&scope).unwrap());
    let failure = compiled("body.total").evaluate_bool(&scope).unwrap_err();
    assert_eq!(failure.text(), "expression `body.total`: is an int, and a bool is wanted");

    let string = |text| compiled(text).evaluate_string(&scope).unwrap();
    assert_eq!(string("body.id"), "A-7");
    assert_eq!(string("body.price"), "9.5");
    assert_eq!(string("body.paid"), "false");
    assert_eq!(string("body.customer.tags"), r#"["vip","eu"]"#);
    assert_eq!(string("type(1)"), "int");
    assert!(compiled("body.note").evaluate_string(&scope).unwrap_err().text().contains("is null"));

    let body = |text| compiled(text).evaluate_body(&scope).unwrap();
    assert_eq!(body("body.id"), "A-7");
    assert_eq!(body("{'n': body.total, 'ü': [body.note]}"), r#"{"n":1500,"ü":[null]}"#);
    assert_eq!(body("body.note"), "null");
    assert!(compiled("[1.0 / 0]").evaluate_body(&scope).unwrap_err().text().contains("JSON cannot hold"));
    // The body as it is, and no copy of it.
    assert_eq!(body("message.text").as_ptr(), scope.message().body().as_ptr());
    assert_eq!(body("(message.text)").len(), scope.message().body().len());
    let binary = self::message([0x80_u8].as_slice());
    let refused = compiled("message.text").evaluate_body(&Scope::new(&binary, &flow)).unwrap_err();
    assert_eq!(
        (refused.class(), refused.text()),
        (ErrorClass::BodyFormat, "the body is not UTF-8 text: byte 1 is not")
    );
}

#[test]
fn a_condition_that_is_never_a_bool_is_refused() {
    for text in ["1", "'a'", "body.items.map(x, x)", "size(body)", "headers.a", "true ? 1 : 2"] {
        let error = Expression::compile_condition(text).expect_err(text);
        assert!(error.text.contains("a condition is a bool"), "{error}");
    }
    for text in ["true", "body.paid", "body.a > 1", "has(body.a)", "body.a ? body.b : true"] {
        Expression::compile_condition(text).expect(text);
    }
}

#[test]
fn mistakes_are_found_at_their_place_with_their_mend() {
    let at = |text: &str, part: &str, place: &str| {
        let error = refused(text, part);
        let found = error.range.clone().map(|range| text[range].to_owned());
        assert_eq!(found.as_deref(), Some(place), "{text}: {error}");
    };
    at("bdy.total > 1", "there is no variable `bdy` (at character 1): did you mean `body`?", "bdy");
    at("'ü' == hedders.x", "did you mean `headers`?", "hedders");
    at("message.idd", "`message` has no field `idd` (at character 9): did you mean `message.id`?", "idd");
    at("flow.name", "write one of `flow.id`, `flow.version`", "name");
    at(
        "body.a.lower()",
        "there is no function `lower` (at character 8): did you mean `lowerAscii`?",
        "lower",
    );
    at("len(body.a)", "did you mean `size`?", "len");
    at("body.a.startswith('x')", "did you mean `startsWith`?", "startswith");
    at("json.parse(body.a)", "there is no function `json.parse`", "parse");
    at("now() > 1", "message.timestamp", "now");
    at("contains(body.a, 'x')", "write value.contains(…)", "contains");
    at("body.a.string()", "write string(value, …)", "string");
    at("body.a.split()", "`split` takes 1 argument, not 0", "split");
    at("headers.x-github-event == 'push'", "headers[\"x-github-event\"]", "github");
    at("body.a.matches('(')", "the pattern is not a regular expression: unclosed group", "'('");
    at("body.a.matches(body.b)", "known before it runs", ".");
    at("1 && true", "`&&` wants bools, and this is an int", "1");
    at("body.a.all(body, true)", "cannot be called `body`", "body");
    at("body.a.all(x.y, true)", "a name for the element", ".");
    at("body.a = 1", "write `==` to compare", "=");
    at("{1: 2}", "put the key in quotes", "1");
    at("b'x'", "expressions have no bytes", "b'x'");
    at("strftime(message.timestamp, '%!')", "the format is wrong", "'%!'");
    refused("body.a and body.b", "write `&&`");
    refused("body.a ==", "ends too soon");
    refused("(body.a", "ends too soon");
    refused("", "is empty");
    refused("body.?a", "unsupported syntax");
    refused("message", "alone is no value");
    refused("Foo{a: 1}", "write a map");
    refused("has(body)", "takes a path to a key");
    refused("body.a.all(x)", "takes a variable and an expression");
    refused("all(body.a, x, true)", "write list.all(x, …)");
}

#[test]
fn a_mistake_in_a_file_has_its_column() {
    let span =
        |start, end| gristmill_core::config::Span { file: "f.yaml".into(), line: 3, column: 11, start, end };
    let error = refused("'ü' == bdy", "bdy");
    let plain = error.to_mistake("expression", &span(100, 111));
    assert_eq!((plain.span.line, plain.span.column, plain.span.start, plain.span.end), (3, 18, 108, 111));
    let quoted = error.to_mistake("expression", &span(100, 113));
    assert_eq!((quoted.span.column, quoted.span.start, quoted.span.end), (19, 109, 112));
    let escaped = error.to_mistake("expression", &span(100, 120));
    assert_eq!(escaped.span, span(100, 120));
    assert_eq!(plain.mend.as_deref(), Some("did you mean `body`?"));
}

#[test]
fn templates() {
    let (message, flow) = (message(ORDER), flow());
    let scope = Scope::new(&message, &flow);
    for (text, rendered) in [
        ("", ""),
        ("plain $ text { } $$", "plain $ text { } $$"),
        ("${message.id}.json", "m-1.json"),
        ("a${body.id}b${body.total}c", "aA-7b1500c"),
        ("$${literal} ${body.id} $$${body.id}", "${literal} A-7 $${body.id}"),
        ("${'}'}${\"}\"}${{'a': {'b': 1}}.a.b}", "}}1"),
        ("${r'\\'}${'\\'}'}${'''}'\"}'''}", "\\'}}'\"}"),
        ("${body.id // } the id\n}", "A-7"),
        ("${body.customer.tags}", r#"["vip","eu"]"#),
        ("ü${body.customer.name}ü", "üÜrsulaü"),
    ] {
        let template = Template::compile(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        assert_eq!(template.render(&scope).unwrap(), rendered, "{text}");
        assert_eq!(template.is_literal(), !text.replace("$${", "").contains("${"), "{text}");
    }
    assert_eq!(Template::compile("a$${b").unwrap().as_literal(), Some("a${b"));

    let refused = |text: &str, part: &str, place: &str| {
        let error = Template::compile(text).unwrap_err().remove(0);
        assert!(error.to_string().contains(part), "{text}: {error}");
        assert_eq!(error.range.clone().map(|range| &text[range]), Some(place), "{text}: {error}");
    };
    refused("ü ${body.id", "this `${` is not closed", "${");
    refused("ü ${'}", "this `${` is not closed", "${");
    refused("ü-${bdy.id}", "(at character 5): did you mean `body`?", "bdy");
    refused("${env:HOME}", "values of their own", ":");
    assert!(Template::compile("${}").unwrap_err()[0].text.contains("is empty"));
    let errors = Template::compile("${bdy.x} ${body.y} é${hedaers.z} ${").unwrap_err();
    let ranges: Vec<_> = errors.iter().filter_map(|error| error.range.clone()).collect();
    assert_eq!(ranges, [34..36, 2..5, 23..30], "{errors:#?}");
    let failure = Template::compile("x-${body.nope}").unwrap().render(&scope).unwrap_err();
    assert_eq!(failure.text(), "expression `body.nope`: no such key `nope` in `body`");
}

#[test]
fn a_scope_and_what_is_compiled_go_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Scope<'_>>();
    check::<Expression>();
    check::<Template>();
}

/// As `written` is read from a flow file, where `KEY` has this value.
fn with_key(written: &str, value: &str) -> Result<Expression, CompileError> {
    let mut parts = Vec::new();
    for (index, text) in written.split("${env:KEY}").enumerate() {
        if index > 0 {
            parts.push(SubstitutedPart::Value { written: "${env:KEY}".into(), value: value.into() });
        }
        parts.push(SubstitutedPart::Written(text.into()));
    }
    Expression::compile_with_values(&Substitution { parts }, Expression::compile)
}

#[test]
fn a_value_from_outside_is_a_text_whatever_is_in_it() {
    for value in ["acme", "\" + body.id + \"", "'", "\\", "ü\n// ", "{}", "\"\"\"", ""] {
        let equals = with_key("${env:KEY} == message.text", value).unwrap();
        let message = Message::new("m", Timestamp::from_millis(0), value.as_bytes().to_vec());
        assert!(equals.evaluate_bool(&Scope::new(&message, &flow())).unwrap(), "{value}");
    }
}

#[test]
fn a_value_from_outside_is_never_shown() {
    let expression = with_key("body.nope == ${env:KEY}", "hunter2").unwrap();
    assert_eq!(expression.to_string(), "body.nope == ${env:KEY}");
    let message = message(ORDER);
    let failure = expression.evaluate_bool(&Scope::new(&message, &flow())).unwrap_err();
    assert!(failure.text().contains("${env:KEY}") && !failure.text().contains("hunter2"), "{failure}");
    for wrong in [
        "bdy == ${env:KEY}",
        "body.id ${env:KEY}",
        "body.id == '${env:KEY}'",
        "body.id.matches(${env:KEY}",
        "body.id // ${env:KEY}",
    ] {
        let error = with_key(wrong, "hunter2").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{wrong}: {error}");
    }
    let pattern = with_key("body.id.matches(${env:KEY})", "hunter2(").unwrap_err();
    assert!(!pattern.to_string().contains("hunter2"), "{pattern}");
    let quoted = with_key("body.id == '${env:KEY}'", "x").unwrap_err();
    assert!(quoted.to_string().contains("leave the quotes out"), "{quoted}");
}
