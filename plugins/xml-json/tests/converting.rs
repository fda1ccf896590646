//! Both directions, and what is refused.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use gristmill_plugin::{Message, Outcome, Transformer, testing};
use xml_json::XmlJson;

fn run(config: &str, body: &[u8]) -> Result<String, String> {
    let plugin: XmlJson = testing::configure(config).unwrap_or_else(|error| panic!("{error}"));
    match plugin.transform(Message::with_body(body)) {
        Ok(Outcome::Change(change)) => {
            let expected =
                if config.contains("xml_to_json") { "application/json" } else { "application/xml" };
            assert_eq!(change.set_headers, [("content-type".to_owned(), expected.to_owned())]);
            Ok(String::from_utf8(change.body.unwrap()).unwrap())
        }
        Ok(other) => panic!("{other:?}"),
        Err(failure) => Err(failure.reason().to_owned()),
    }
}

fn settings(direction: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!("{{\"direction\":\"{direction}\"{comma}{more}}}")
}

#[track_caller]
fn to_json(more: &str, xml: &str, expected: &str) {
    assert_eq!(run(&settings("xml_to_json", more), xml.as_bytes()).as_deref(), Ok(expected));
}

#[track_caller]
fn to_xml(more: &str, json: &str, expected: &str) {
    let more = format!("\"declaration\":false{}{more}", if more.is_empty() { "" } else { "," });
    assert_eq!(run(&settings("json_to_xml", &more), json.as_bytes()).as_deref(), Ok(expected));
}

#[track_caller]
fn xml_refused(xml: impl AsRef<[u8]>, expected: &str) {
    let refused = run(&settings("xml_to_json", ""), xml.as_ref()).unwrap_err();
    assert_eq!(refused, format!("the XML is refused: {expected}"));
}

#[track_caller]
fn json_refused(more: &str, json: &str, expected: &str) {
    let refused = run(&settings("json_to_xml", more), json.as_bytes()).unwrap_err();
    assert_eq!(refused, format!("the body cannot be written as XML: {expected}"));
}

#[track_caller]
fn config_refused(config: &str, expected: &str) {
    assert_eq!(testing::configure::<XmlJson>(config).unwrap_err(), expected);
}

#[test]
fn elements_attributes_and_text() {
    to_json("", "<a/>", r#"{"a":""}"#);
    to_json("", "<a> x </a>", r#"{"a":"x"}"#);
    to_json("", r#"<a b="1" c='&lt;"'>x</a>"#, r##"{"a":{"@b":"1","@c":"<\"","#text":"x"}}"##);
    to_json("", "<a>\n  <b>1</b>\n  <c/>\n  <b>2</b>\n</a>", r#"{"a":{"b":["1","2"],"c":""}}"#);
    to_json("", "<a>one<b/>two<!-- three --><?four?></a>", r##"{"a":{"b":"","#text":"onetwo"}}"##);
    to_json(r#""attribute_prefix":"$","text_key":"=""#, r#"<a b="1">x</a>"#, r#"{"a":{"$b":"1","=":"x"}}"#);
    to_json(r#""trim_text":false"#, "<a> x </a>", r#"{"a":" x "}"#);
}

#[test]
fn cdata_and_references_are_text() {
    to_json("", "<a>1 <![CDATA[< 2 & ]]>&amp;&#x41;&#66;&lt;</a>", r#"{"a":"1 < 2 & &AB<"}"#);
    to_json("", "<a b='&#10;x\ty'/>", r#"{"a":{"@b":"\nx y"}}"#);
    to_json("", "<a>x\r\ny</a>", r#"{"a":"x\ny"}"#);
}

#[test]
fn arrays_where_they_are_asked_for() {
    let more = r#""always_array":["/orders/order","//line"]"#;
    to_json(
        more,
        "<orders><order><line/><order/></order></orders>",
        r#"{"orders":{"order":[{"line":[""],"order":""}]}}"#,
    );
    to_json(r#""always_array":["/a"]"#, "<a>1</a>", r#"{"a":["1"]}"#);
}

#[test]
fn namespaces_are_kept_or_stripped() {
    let xml = r#"<s:a xmlns:s="urn:s" xmlns="urn:d" s:x="1"><s:b/><b/></s:a>"#;
    to_json("", xml, r#"{"s:a":{"@xmlns:s":"urn:s","@xmlns":"urn:d","@s:x":"1","s:b":"","b":""}}"#);
    to_json(r#""namespaces":"strip""#, xml, r#"{"a":{"@x":"1","b":["",""]}}"#);
    let refused =
        run(&settings("xml_to_json", r#""namespaces":"strip""#), br#"<a s:x="1" t:x="2"/>"#).unwrap_err();
    assert!(refused.contains("two attributes are `@x` once their prefixes are gone"), "{refused}");
}

#[test]
fn types_are_inferred_when_asked_for() {
    let xml = "<a n='1'><b>12345678901234567890.10</b><c>007</c><d>true</d><e>x1</e><f>-1e3</f><g/></a>";
    to_json(
        "",
        xml,
        r#"{"a":{"@n":"1","b":"12345678901234567890.10","c":"007","d":"true","e":"x1","f":"-1e3","g":""}}"#,
    );
    to_json(
        r#""infer_types":true"#,
        xml,
        r#"{"a":{"@n":1,"b":12345678901234567890.10,"c":"007","d":true,"e":"x1","f":-1e3,"g":""}}"#,
    );
}

#[test]
fn declarations_and_byte_order_marks() {
    to_json("", "\u{feff}<?xml version='1.0' encoding='utf-8' standalone='yes'?>\n<a/>\n", r#"{"a":""}"#);
    xml_refused(
        "<?xml version='1.0' encoding='ISO-8859-1'?><a/>",
        "the encoding ISO-8859-1 is not taken, only UTF-8 at line 1, column 1",
    );
    xml_refused("<?xml version='1.1'?><a/>", "XML version 1.1; only 1.0 is taken at line 1, column 1");
    xml_refused(
        " <?xml version='1.0'?><a/>",
        "an XML declaration may only stand at the very beginning at line 1, column 2",
    );
}

#[test]
fn entities_are_not_expanded() {
    let bomb = "<!DOCTYPE a [<!ENTITY x \"y\">]>\n<a>&x;</a>";
    xml_refused(bomb, "a document type declaration (DOCTYPE) is refused at line 1, column 1");
    xml_refused(
        "<a>\n&x;</a>",
        "the entity `&x;` is not predefined, and others are not expanded at line 2, column 1",
    );
    assert!(run(&settings("xml_to_json", ""), b"<a b='&x;'/>").is_err());
}

#[test]
fn malformed_documents_are_refused_with_their_place() {
    xml_refused("", "there is no root element at line 1, column 1");
    xml_refused("{\"a\":1}", "text outside of the root element: {\"a\":1} at line 1, column 1");
    xml_refused(
        "<a>\n<b></a>",
        "ill-formed document: expected `</b>`, but `</a>` was found at line 2, column 4",
    );
    xml_refused("<a><b>", "the document ends inside of `b` at line 1, column 7");
    xml_refused("<a/><b/>", "a second root element at line 1, column 5");
    xml_refused("<a/>x", "text outside of the root element: x at line 1, column 5");
    xml_refused(
        "<a>&#0;</a>",
        "invalid character reference: 0x0 character is not permitted in XML at line 1, column 4",
    );
    xml_refused("<a>\u{1}</a>", "the character U+0001 is not allowed in XML at line 1, column 4");
    xml_refused("<1/>", "`1` is not a name at line 1, column 1");
    xml_refused("<a b='<'/>", "attribute `b` holds a `<`, which must be escaped at line 1, column 1");
    xml_refused(b"<a>\xff</a>", "invalid UTF-8, the only encoding that is taken at line 1, column 4");
    for malformed in [
        "<a",
        "<a b",
        "<a b=1/>",
        "<a b='1' b='2'/>",
        "<a>&amp</a>",
        "<a>&</a>",
        "</a>",
        "<!-- ",
        "<![CDATA[x]]>",
        "<a><![CDATA[</a>",
        "<?x",
    ] {
        assert!(run(&settings("xml_to_json", ""), malformed.as_bytes()).is_err(), "{malformed}");
    }
}

#[test]
fn depth_and_number_are_bounded() {
    let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    assert!(run(&settings("xml_to_json", ""), nested(50).as_bytes()).is_ok());
    xml_refused(nested(100_000), "elements nest deeper than max_depth, 50 at line 1, column 151");
    let refused = run(&settings("xml_to_json", r#""max_items":3"#), b"<a b='1'><c/><c/></a>").unwrap_err();
    assert!(
        refused.ends_with("more elements and attributes than max_items, 3 at line 1, column 14"),
        "{refused}"
    );
    let attributes: String = (0..300).map(|i| format!(" a{i}=''")).collect();
    xml_refused(format!("<a{attributes}/>"), "an element has more than 256 attributes at line 1, column 1");
    // What comes out at the largest depth is still JSON that the other plugins take.
    let deepest =
        run(&settings("xml_to_json", r#""max_depth":60,"always_array":["//*"]"#), nested(60).as_bytes())
            .unwrap();
    assert!(gristmill_json::parse(deepest.as_bytes()).is_ok());
}

#[test]
fn json_becomes_xml() {
    to_xml(
        "",
        r##"{"a":{"@b":1,"#text":"x<&>\"","c":[1,2.50,true,null,""],"d":{}}}"##,
        r#"<a b="1">x&lt;&amp;&gt;"<c>1</c><c>2.50</c><c>true</c><c/><c/><d/></a>"#,
    );
    to_xml("", r#"{"a":{"@b":"\"<\n\t","@c":null}}"#, r#"<a b="&quot;&lt;&#10;&#9;"/>"#);
    to_xml("", r#"{"a":[{"b":"x\r"}]}"#, "<a><b>x&#13;</b></a>");
    to_xml(
        r#""root":"r""#,
        r#"[1,{"a":[[2,[3]],[]]}]"#,
        "<r><item>1</item><item><a><item>2</item><item><item>3</item></item></a><a/></item></r>",
    );
    to_xml(r#""root":"r","item":"i""#, "[null]", "<r><i/></r>");
    to_xml(r#""root":"r""#, r#"{"a":1,"b":2}"#, "<r><a>1</a><b>2</b></r>");
    to_xml(r#""root":"r""#, "12345678901234567890", "<r>12345678901234567890</r>");
    assert_eq!(
        run(r#"{"direction":"json_to_xml"}"#, b"{\"a\":1}").unwrap(),
        r#"<?xml version="1.0" encoding="UTF-8"?><a>1</a>"#
    );
}

#[test]
fn what_xml_cannot_say_is_refused_with_its_place() {
    json_refused(
        "",
        "[1]",
        "`$`: the body is an array, which names no root element; give `root` in the configuration",
    );
    json_refused(
        "",
        r#"{"a":1,"b":2}"#,
        "`$`: XML has one root element, and the body has 2 members; give `root` in the configuration",
    );
    json_refused(
        "",
        r#"{"a":[1,2]}"#,
        "`$`: XML has one root element, and `a` is an array of 2; give `root` in the configuration",
    );
    json_refused("", r#"{"a":[{"b c":1}]}"#, "`$.a[0]['b c']`: `b c` cannot be the name of an element");
    json_refused("", r#"{"a":{"b":{"@c":[1]}}}"#, "`$.a.b['@c']`: an attribute cannot hold an array");
    json_refused("", r#"{"a":{"@":1}}"#, "`$.a['@']`: `` cannot be the name of an attribute");
    json_refused("", r##"{"a":{"#text":{}}}"##, "`$.a['#text']`: text cannot be an object");
    json_refused("", r#"{"a":"\u0001"}"#, "`$.a`: the character U+0001 is not allowed in XML");
    assert_eq!(
        run(r#"{"direction":"json_to_xml"}"#, b"{").unwrap_err(),
        "the body is not JSON: the JSON ends too early at line 1, column 2"
    );
}

#[test]
fn there_and_back_is_the_same() {
    let json = r##"{"orders":{"@xmlns:x":"urn:x","order":[{"@id":"1","x:line":"a & b","#text":"note"},{"@id":"2","x:line":["c","d"]}]}}"##;
    let xml = run(&settings("json_to_xml", ""), json.as_bytes()).unwrap();
    to_json("", &xml, json);
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    config_refused(
        r#"{"direction":"json_to_xml","root":"1a"}"#,
        "root: `1a` cannot be the name of an element",
    );
    config_refused(
        r#"{"direction":"xml_to_json","always_array":["a"]}"#,
        "always_array[0]: `a` must begin with `/` or `//`",
    );
    config_refused(r#"{"direction":"xml_to_json","max_depth":61}"#, "max_depth must be between 1 and 60");
    config_refused(
        r#"{"direction":"xml_to_json","attribute_prefix":""}"#,
        "attribute_prefix: `` must begin with a character that no element's name begins with, such as @ or #",
    );
    config_refused(
        r##"{"direction":"xml_to_json","attribute_prefix":"#"}"##,
        "text_key: `#text` begins with attribute_prefix, so it would be an attribute",
    );
    assert!(
        testing::configure::<XmlJson>(r#"{"direction":"xml_to_json","root":"a"}"#)
            .unwrap_err()
            .contains("unknown field `root`")
    );
    assert!(testing::configure::<XmlJson>("{}").unwrap_err().contains("missing field `direction`"));
}
