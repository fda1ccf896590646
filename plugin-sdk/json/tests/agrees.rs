//! JSONPath in plugins and JSONPath in a flow's expressions are two implementations of RFC 9535: they must agree on what a
//! path selects. What is no path is refused here by the letter of the RFC; the library is more lenient about types.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use jsonpath_rust::JsonPath;

const DOCUMENTS: &[&str] = &[
    r#"{"store":{"books":[{"title":"A","price":8.95,"isbn":"1-2"},{"title":"B","price":12.99},{"title":"C","price":8.99,"tags":["x","y"]}],"open":true,"owner":null}}"#,
    r#"[0,1,2,3,4,5,6,7,8,9]"#,
    r#"[{"a":1,"b":[1,2]},{"a":"1","b":{"c":true}},{"a":null},{"b":[]},{"a":1.0,"c":"line\rbreak"},{"a":"é😀"}]"#,
    r#"{"a":{"b":{"c":[[1,[2]],[3,{"d":"e"}]]}},"x-y":1,"it's":2,"":3,"\n":4}"#,
    r#""scalar""#,
    r#"[]"#,
];

const PATHS: &[&str] = &[
    "$",
    "$.store",
    "$.store.books[0].title",
    "$['store']['books'][-1]",
    "$[\"store\"]",
    "$.store.books[*].price",
    "$.store.*",
    "$..title",
    "$..*",
    "$..[0]",
    "$..books[?@.price<9]",
    "$..books[?(@.price < 9 || @.price > 10)].title",
    "$.store.books[?@.isbn]",
    "$.store.books[?!@.isbn].title",
    "$.store.books[?@.price>=8.95&&@.price<=8.99].title",
    "$.store.books[?@.title=='A' || @['title']==\"B\"]",
    "$.store.books[?length(@.title)==1].title",
    "$.store.books[?count(@.*)>2].title",
    "$.store.books[?match(@.title,'[AB]')].title",
    "$.store.books[?search(@.isbn,'-')].title",
    "$.store.books[?value(@.tags[0])=='x'].title",
    "$.store.books[?@.price==$.store.books[0].price].title",
    "$[?@==null]",
    "$[?@.a==1]",
    "$[?@.a=='1']",
    "$[?@.a==null]",
    "$[?@.a!=1]",
    "$[?@.a<2]",
    "$[?@.a]",
    "$[?@.b[0]==1]",
    "$[?@.b==@.b]",
    "$[?@.zzz==@.yyy]",
    "$[?@.a==1.0]",
    "$[?@.a>='1']",
    "$[2:5]",
    "$[5:2]",
    "$[::2]",
    "$[::-1]",
    "$[-3:]",
    "$[:-7]",
    "$[7:2:-2]",
    "$[1:100]",
    "$[-100:2]",
    "$[0,2,-1]",
    "$[0,'a']",
    "$[1:3,0]",
    "$[*,0]",
    "$[?@>3&&@<6]",
    "$[?(@>3)]",
    "$[? !(@>3) ]",
    "$[?@ > 8 , 0]",
    "$.a.b.c[1][1].d",
    "$.a..[0]",
    "$['x-y']",
    r"$['it\'s']",
    "$['']",
    r#"$["\n"]"#,
    r#"$["\u0078-y"]"#,
    "$ .a",
    "$.a .b",
    "$ ['a']",
    "$[ 'a' ]",
    "$[ 0 , 1 ]",
    "$[ 1 : 3 : 1 ]",
    "$[?search(@.c,'e.b')]",
    "$[?match(@.a,'..')]",
    "$[?length(@.a)==2]",
    "$[?@.b.c==true]",
];

const NOT_PATHS: &[&str] = &[
    "",
    "a",
    " $",
    "$ ",
    "$.",
    "$..",
    "$[",
    "$[]",
    "$[a]",
    "$.1",
    "$.a-b",
    "$[01]",
    "$[-0]",
    "$[1.0]",
    "$['a]",
    "$['\\x']",
    "$[?]",
    "$[?@.a=]",
    "$[?@.a==]",
    "$[?1]",
    "$[?'a']",
    "$[?true]",
    "$[?@.a=='b'",
    "$[?(@.a]",
    "$[?@.a===1]",
    "$[?@.a && ]",
    "$[0 1]",
    "$[,0]",
    "$[0,]",
    "$. a",
    "$.. a",
    "$[?@[*]==1]",
    "$[?@..a==1]",
    "$[?length(@.a)]",
    "$[?count(1)==1]",
    "$[?match(@.a)]",
    "$[?match(@.a,'a')==true]",
    "$[?unknown(@.a)==1]",
    "$[9007199254740992]",
    "$['\\ud800']",
    "$$",
    "$a",
    "$[?@.a==\u{1}]",
    "$[\"a'\\'\"]",
];

#[test]
fn both_select_the_same() {
    for document in DOCUMENTS {
        let theirs: serde_json::Value = serde_json::from_str(document).unwrap();
        let ours = gristmill_json::parse(document.as_bytes()).unwrap();
        for text in PATHS {
            let path = gristmill_json::Path::parse(text).unwrap_or_else(|error| panic!("{error}"));
            let ours: Vec<serde_json::Value> = path
                .all(&ours)
                .into_iter()
                .map(|value| serde_json::from_slice(&value.to_vec()).unwrap())
                .collect();
            let theirs: Vec<serde_json::Value> = theirs
                .query(text)
                .unwrap_or_else(|error| panic!("{text}: {error}"))
                .into_iter()
                .cloned()
                .collect();
            assert_eq!(ours, theirs, "{text} on {document}");
        }
    }
}

#[test]
fn what_is_no_path_is_refused() {
    for text in NOT_PATHS {
        let refused = gristmill_json::Path::parse(text);
        assert!(refused.is_err(), "{text:?} was taken for a path");
    }
}

#[test]
fn integers_are_compared_exactly() {
    let root =
        gristmill_json::parse(br#"[9007199254740992,9007199254740993,12345678901234567890123]"#).unwrap();
    let select = |text: &str| gristmill_json::Path::parse(text).unwrap().all(&root).len();
    assert_eq!(select("$[?@==9007199254740993]"), 1);
    assert_eq!(select("$[?@>9007199254740992]"), 2);
    assert_eq!(select("$[?@==12345678901234567890123]"), 1);
    assert_eq!(select("$[?@==12345678901234567890124]"), 0);
}
