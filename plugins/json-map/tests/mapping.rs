//! What each key of the configuration does, and what a mistake says.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use gristmill_plugin::{Change, Failure, Message, Outcome, Transformer, testing};
use json_map::JsonMap;

fn run(config: &str, message: Message) -> Result<Change, Failure> {
    let plugin: JsonMap = testing::configure(config).unwrap_or_else(|error| panic!("{error}"));
    match plugin.transform(message)? {
        Outcome::Change(change) => Ok(change),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(config: &str, body: &str, expected: &str) {
    let message = Message::with_body(body).with_header("x-kind", "order");
    let change = run(config, message).unwrap_or_else(|failure| panic!("{failure:?}"));
    assert_eq!(String::from_utf8(change.body.unwrap()).unwrap(), expected);
}

#[track_caller]
fn check_field(field: &str, body: &str, expected: &str) {
    let expected = if expected.is_empty() { "{}".to_owned() } else { format!("{{\"f\":{expected}}}") };
    check(&format!("{{\"fields\":{{\"f\":{field}}}}}"), body, &expected);
}

#[track_caller]
fn check_rejected(config: &str, body: impl Into<Vec<u8>>, expected: &str) {
    assert_eq!(run(config, Message::with_body(body)), Err(Failure::reject(expected)));
}

#[track_caller]
fn check_refused(config: &str, expected: &str) {
    assert_eq!(testing::configure::<JsonMap>(config).unwrap_err(), expected);
}

#[test]
fn fields_are_picked_in_the_order_of_the_configuration() {
    check(
        r#"{"fields":{"z":{"path":"$.a"},"y":{"path":"$.b.c[1]"}}}"#,
        r#"{"b":{"c":[1,2]},"a":"x"}"#,
        r#"{"z":"x","y":2}"#,
    );
}

#[test]
fn numbers_stay_as_they_are_written() {
    check_field(r#"{"path":"$.a"}"#, r#"{"a":12345678901234567890123}"#, "12345678901234567890123");
    check_field(r#"{"path":"$.a"}"#, r#"{"a":9007199254740993}"#, "9007199254740993");
    check_field(r#"{"path":"$.a"}"#, r#"{"a":1.10}"#, "1.10");
    check_field(r#"{"value":18446744073709551615}"#, "{}", "18446744073709551615");
}

#[test]
fn a_missing_or_null_value_is_left_out_or_defaulted() {
    check_field(r#"{"path":"$.a"}"#, "{}", "");
    check_field(r#"{"path":"$.a"}"#, r#"{"a":null}"#, "");
    check_field(r#"{"path":"$.a","default":7}"#, r#"{"a":null}"#, "7");
    check_field(r#"{"path":"$.a","default":null}"#, "{}", "null");
    check_field(r#"{"path":"$.a","default":7}"#, r#"{"a":false}"#, "false");
    check_rejected(
        r#"{"fields":{"f":{"path":"$.a","required":true}}}"#,
        "{}",
        "field `f`: `$.a` holds no value, which is required",
    );
}

#[test]
fn every_source_works() {
    check_field(r#"{"path":"$.a[*].b"}"#, r#"{"a":[{"b":1},{"b":2}]}"#, "1");
    check_field(r#"{"all":"$.a[*].b"}"#, r#"{"a":[{"b":1},{"b":null}]}"#, "[1,null]");
    check_field(r#"{"all":"$.a[*].b"}"#, "{}", "[]");
    check_field(r#"{"header":"X-Kind"}"#, "{}", "\"order\"");
    check_field(r#"{"header":"x-none"}"#, "{}", "");
    check_field(r#"{"value":{"a":[1,null]}}"#, "{}", r#"{"a":[1,null]}"#);
    check_field(r#"{"fields":{"a":{"path":"$.x"},"b":{"path":"$.y"}}}"#, r#"{"y":1}"#, r#"{"b":1}"#);
    check_field(r#"{"fields":{"a":{"path":"$.x"}}}"#, "{}", "");
    check_field(r#"{"first_of":[{"path":"$.a"},{"path":"$.b"},{"value":0}]}"#, r#"{"a":null,"b":2}"#, "2");
    check_field(r#"{"first_of":[{"path":"$.a"},{"path":"$.b"},{"value":0}]}"#, "{}", "0");
}

#[test]
fn templates_are_filled() {
    check_field(
        r#"{"template":"{$.a} {{x}} {header.X-Kind}#{message.id}"}"#,
        r#"{"a":1.50}"#,
        "\"1.50 {x} order#message\"",
    );
    check_field(r#"{"template":"{$['}']}"}"#, r#"{"}":true}"#, "\"true\"");
    check_field(r#"{"template":"{$.a}-{$.b}"}"#, r#"{"a":1}"#, "");
    check_field(r#"{"template":"{$.a}"}"#, r#"{"a":{"b":[]}}"#, r#""{\"b\":[]}""#);
}

#[test]
fn each_maps_items_with_the_root_in_reach() {
    check_field(
        r#"{"each":{"path":"$.lines[*]","item":{"fields":{"sku":{"path":"$.id"},"cur":{"path":"$root.currency"},"t":{"template":"{$.id}/{$root.n}"}}}}}"#,
        r#"{"currency":"EUR","n":1,"lines":[{"id":"a"},{"id":"b"}]}"#,
        r#"[{"sku":"a","cur":"EUR","t":"a/1"},{"sku":"b","cur":"EUR","t":"b/1"}]"#,
    );
    check_field(r#"{"each":{"path":"$[*]","item":{"path":"$.a"}}}"#, r#"[{"a":1},{"b":2},{"a":3}]"#, "[1,3]");
    check_rejected(
        r#"{"fields":{"lines":{"each":{"path":"$.l[*]","item":{"fields":{"n":{"path":"$.n","to":"integer"}}}}}}}"#,
        r#"{"l":[{"n":1},{"n":"x"}]}"#,
        "field `lines[1].n`: `$.n` holds a string that is not an integer",
    );
}

#[test]
fn a_body_that_is_an_array_is_mapped_item_by_item() {
    check(r#"{"each":"$[*]","fields":{"a":{"path":"$.b"}}}"#, r#"[{"b":1},{"b":2}]"#, r#"[{"a":1},{"a":2}]"#);
    check_rejected(
        r#"{"each":"$[*]","fields":{"a":{"path":"$.b","required":true}}}"#,
        r#"[{"b":1},{}]"#,
        "item 1 of `$[*]`: field `a`: `$.b` holds no value, which is required",
    );
}

#[test]
fn conditions_and_look_ups_choose() {
    let field = r#"{"value":"big","when":{"path":"$.n","equals":10}}"#;
    check_field(field, r#"{"n":10.0}"#, "\"big\"");
    check_field(field, r#"{"n":11}"#, "");
    check_field(r#"{"value":1,"when":{"header":"X-Kind","equals":"order"}}"#, "{}", "1");
    check_field(r#"{"value":1,"when":{"header":"x-other"}}"#, "{}", "");
    check_field(r#"{"path":"$.s","lookup":{"1":"open","true":"yes"}}"#, r#"{"s":1}"#, "\"open\"");
    check_field(r#"{"path":"$.s","lookup":{"1":"open"},"default":"?"}"#, r#"{"s":2}"#, "\"?\"");
}

#[test]
fn values_are_converted() {
    check_field(
        r#"{"path":"$.a","to":"integer"}"#,
        r#"{"a":"12345678901234567890"}"#,
        "12345678901234567890",
    );
    check_field(
        r#"{"path":"$.a","to":"string"}"#,
        r#"{"a":12345678901234567890}"#,
        "\"12345678901234567890\"",
    );
    check_field(r#"{"path":"$.a","to":"boolean"}"#, r#"{"a":"True"}"#, "true");
    check_field(r#"{"path":"$.a","to":"array"}"#, r#"{"a":1}"#, "[1]");
    check_rejected(
        r#"{"fields":{"f":{"path":"$.a","to":"boolean"}}}"#,
        r#"{"a":"secret"}"#,
        "field `f`: `$.a` holds a string that is not a boolean",
    );
}

#[test]
fn the_rest_is_kept_without_what_was_renamed() {
    let config = r#"{"rest":"keep","fields":{"customer":{"path":"$.cust"},"id":{"path":"$.id","to":"string"},"city":{"path":"$.address.town"}},"remove":["$.secret","$..tmp"]}"#;
    check(
        config,
        r#"{"id":1,"cust":"ACME","n":1.0,"address":{"town":"Bern","zip":3000,"tmp":1},"secret":"x","l":[{"tmp":1},{"a":2}]}"#,
        r#"{"id":"1","n":1.0,"address":{"zip":3000},"l":[{},{"a":2}],"customer":"ACME","city":"Bern"}"#,
    );
    check_rejected(config, "[1]", "`rest: keep` needs an object, and the input is an array");
    check(r#"{"rest":"keep","remove":["$.a","$.a.b"]}"#, r#"{"a":{"b":1},"c":2}"#, r#"{"c":2}"#);
}

#[test]
fn headers_are_set_and_removed() {
    let config = r#"{"fields":{"a":{"path":"$.a"}},"headers":{"X-Id":{"path":"$.id"},"x-none":{"path":"$.none"}},"remove_headers":["X-Kind"]}"#;
    let change = run(config, Message::with_body(r#"{"a":1,"id":42}"#)).unwrap();
    assert_eq!(change.remove_headers, ["x-kind"]);
    let expected = [("content-type", "application/json"), ("x-id", "42")];
    assert_eq!(change.set_headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));

    let own =
        run(r#"{"headers":{"Content-Type":{"value":"application/x"}}}"#, Message::with_body("{}")).unwrap();
    assert_eq!(own.set_headers, [("content-type".to_owned(), "application/x".to_owned())]);

    check_rejected(
        r#"{"headers":{"x-a":{"path":"$.a"}}}"#,
        r#"{"a":"x\r\nSet-Cookie: y"}"#,
        "header `x-a`: the value has a control character",
    );
}

#[test]
fn what_is_not_json_is_rejected() {
    let config = r#"{"fields":{"a":{"path":"$.a"}}}"#;
    check_rejected(config, "<order/>", "the body is not JSON: expected a JSON value at line 1, column 1");
    check_rejected(config, "", "the body is not JSON: the body is empty at line 1, column 1");
    check_rejected(
        config,
        b"{\"a\":\"\xff\"}".to_vec(),
        "the body is not JSON: invalid UTF-8 at line 1, column 7",
    );
    check_rejected(
        config,
        "[".repeat(100_000),
        "the body is not JSON: arrays and objects nest deeper than 128 at line 1, column 129",
    );
    check(config, "[1]", "{}");
    check(config, "null", "{}");
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    check_refused("{}", "nothing to map: give `fields`, `headers`, `remove` or `remove_headers`");
    check_refused(
        r#"{"fields":{"f":{"path":"$.a","value":1}}}"#,
        "fields.f: give exactly one of path, all, header, value, template, fields, each or first_of",
    );
    check_refused(
        r#"{"fields":{"f":{"first_of":[{"to":"string"}]}}}"#,
        "fields.f.first_of[0]: give exactly one of path, all, header, value, template, fields, each or first_of",
    );
    check_refused(
        r#"{"fields":{"f":{"path":"$.a["}}}"#,
        "config.fields.f.path: `$.a[` is not JSONPath (RFC 9535): expected a name in quotes, a number, `*`, `:` or `?` at column 5",
    );
    check_refused(
        r#"{"fields":{"f":{"template":"{a}"}}}"#,
        "fields.f.template: `{a}` is neither a JSONPath (`{$.name}`) nor `{header.NAME}` nor `{message.id}`",
    );
    check_refused(
        r#"{"fields":{"f":{"template":"a}"}}}"#,
        "fields.f.template: a `}` without a `{`; write `}}` for a brace",
    );
    check_refused(
        r#"{"fields":{"f":{"template":"{$.a"}}}"#,
        "fields.f.template: `{$.a` is not closed; write `{{` for a brace",
    );
    check_refused(r#"{"fields":{"f":{"value":1,"when":{}}}}"#, "fields.f.when: give either path or header");
    check_refused(r#"{"remove":["$.a"]}"#, "`remove` has a meaning with `rest: keep` only");
    check_refused(
        r#"{"fields":{"f":{"path":"$.a","required":true,"default":1}}}"#,
        "fields.f: a field with a default is never without a value, so it cannot be required",
    );
    let deep = format!("{{\"fields\":{}}}", nested(40));
    assert!(testing::configure::<JsonMap>(&deep).unwrap_err().ends_with("fields nest deeper than 32"));
    assert!(
        testing::configure::<JsonMap>(r#"{"feilds":{}}"#).unwrap_err().contains("unknown field `feilds`")
    );
}

fn nested(depth: usize) -> String {
    if depth == 0 {
        r#"{"f":{"value":1}}"#.to_owned()
    } else {
        format!(r#"{{"f":{{"fields":{}}}}}"#, nested(depth - 1))
    }
}

#[test]
fn the_schema_takes_the_example() {
    let schema = testing::schema::<json_map::config::Config>();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["fields"]["$ref"], "#/$defs/Fields");
}
