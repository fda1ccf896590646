use lapin::types::DecimalValue;
use proptest::prelude::*;

use super::*;

fn all() -> HeaderPatterns {
    HeaderPatterns::parse(&["*".to_owned()], |_| Ok(())).unwrap()
}

/// What a value is after the way there and back: integers of 64 bits, doubles, long strings.
fn normal(value: &AMQPValue) -> AMQPValue {
    match value {
        AMQPValue::ShortString(text) => AMQPValue::LongString(text.as_str().into()),
        AMQPValue::FieldTable(table) => AMQPValue::FieldTable(normal_table(table)),
        AMQPValue::FieldArray(items) => {
            AMQPValue::FieldArray(FieldArray::from(items.as_slice().iter().map(normal).collect::<Vec<_>>()))
        }
        other => match (integer(other), double(other)) {
            (Some(integer), _) => AMQPValue::LongLongInt(integer),
            (None, Some(double)) => AMQPValue::Double(double),
            (None, None) => other.clone(),
        },
    }
}

fn normal_table(table: &FieldTable) -> FieldTable {
    FieldTable::from(table.inner().iter().map(|(k, v)| (k.clone(), normal(v))).collect::<BTreeMap<_, _>>())
}

fn normal_properties(properties: &BasicProperties) -> BasicProperties {
    let headers = properties.headers().as_ref().filter(|table| !table.inner().is_empty()).map(normal_table);
    let plain = BasicProperties::default();
    let mut same = plain;
    macro_rules! copy {
        ($($get:ident $with:ident),*) => { $(if let Some(value) = properties.$get().clone() { same = same.$with(value); })* };
    }
    copy!(
        content_type with_content_type, content_encoding with_content_encoding, delivery_mode with_delivery_mode,
        priority with_priority, correlation_id with_correlation_id, reply_to with_reply_to, expiration with_expiration,
        message_id with_message_id, timestamp with_timestamp, kind with_type, app_id with_app_id,
        cluster_id with_cluster_id
    );
    match headers {
        Some(headers) => same.with_headers(headers),
        None => same,
    }
}

fn short() -> impl Strategy<Value = ShortString> {
    // Up to 63 characters are at most 252 bytes.
    prop_oneof![
        "[a-zA-Z-]{0,20}",
        "\\PC{0,63}",
        any::<String>().prop_map(|text| text.chars().take(40).collect())
    ]
    .prop_map(|text: String| ShortString::try_new(text).unwrap())
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        prop_oneof![-1e9_f32..1e9, Just(f32::INFINITY)].prop_map(AMQPValue::Float),
        prop_oneof![-1e300_f64..1e300, Just(f64::NEG_INFINITY)].prop_map(AMQPValue::Double),
        (0_u8..9, any::<u32>())
            .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        short().prop_map(AMQPValue::ShortString),
        any::<String>().prop_map(|text| AMQPValue::LongString(text.into())),
        any::<Vec<u8>>().prop_map(|bytes| AMQPValue::LongString(LongString::from(bytes))),
        any::<Vec<u8>>().prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| AMQPValue::FieldArray(items.into())),
            prop::collection::btree_map(
                prop_oneof![short(), Just("$bytes".into()), Just("$table".into())],
                inner,
                0..4
            )
            .prop_map(|table| AMQPValue::FieldTable(table.into())),
        ]
    })
}

fn properties() -> impl Strategy<Value = BasicProperties> {
    let texts = prop::collection::vec(prop::option::of(short()), 8);
    let numbers = (
        prop::option::of(1_u8..=2),
        prop::option::of(any::<u8>()),
        prop::option::of(any::<u64>()),
        prop::option::of(any::<u32>()),
    );
    let table = prop::option::of(prop::collection::btree_map(short(), value(), 0..6));
    (texts, numbers, table).prop_map(|(texts, (mode, priority, timestamp, expiration), table)| {
        let mut properties = BasicProperties::default();
        let with = [
            BasicProperties::with_content_type,
            BasicProperties::with_content_encoding,
            BasicProperties::with_correlation_id,
            BasicProperties::with_reply_to,
            BasicProperties::with_message_id,
            BasicProperties::with_type,
            BasicProperties::with_app_id,
            BasicProperties::with_cluster_id,
        ];
        for (with, text) in with.into_iter().zip(texts) {
            if let Some(text) = text {
                properties = with(properties, text);
            }
        }
        if let Some(mode) = mode {
            properties = properties.with_delivery_mode(mode);
        }
        if let Some(priority) = priority {
            properties = properties.with_priority(priority);
        }
        if let Some(timestamp) = timestamp {
            properties = properties.with_timestamp(timestamp);
        }
        if let Some(expiration) = expiration {
            properties = properties.with_expiration(expiration.to_string().into());
        }
        if let Some(table) = table {
            properties = properties.with_headers(FieldTable::from(table));
        }
        properties
    })
}

proptest! {
    #[test]
    fn what_comes_from_amqp_goes_back_as_it_was(properties in properties()) {
        let headers = headers_of(&properties);
        let back = properties_of(&headers, &all()).unwrap();
        prop_assert_eq!(&back, &normal_properties(&properties), "{:?}", headers);
    }

    #[test]
    fn headers_of_a_message_come_back_as_they_were(
        names in prop::collection::hash_set("[a-z][a-z0-9_.-]{0,30}", 0..8), text in "[ -~]{0,40}",
    ) {
        let mut headers = Headers::new();
        for name in names.iter().filter(|name| !name.starts_with(PREFIX)) {
            headers.append(name, &format!("{name} {text}")).unwrap();
        }
        let back = headers_of(&properties_of(&headers, &all()).unwrap());
        let sorted = |headers: &Headers| {
            headers.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>()
        };
        prop_assert_eq!(sorted(&back), sorted(&headers));
    }

    #[test]
    fn the_size_is_never_less_than_it_is(properties in properties()) {
        let written = lapin::protocol::basic::gen_properties(&properties)(Vec::new().into()).unwrap().into_inner().0;
        prop_assert!(written.len() <= size_of(&properties));
    }
}

#[test]
fn deaths_are_json() {
    let mut death = FieldTable::default();
    death.insert("reason".into(), AMQPValue::LongString("expired".into()));
    death.insert("count".into(), AMQPValue::LongLongInt(2));
    death.insert("time".into(), AMQPValue::Timestamp(7));
    let mut table = FieldTable::default();
    table.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
    let headers = headers_of(&BasicProperties::default().with_headers(table));
    let expected = r#"[{"count":2,"reason":"expired","time":{"$timestamp":7}}]"#;
    assert_eq!(headers.get("x-death"), Some(expected));
}

#[test]
fn names_that_collide_or_are_taken_stay_apart() {
    let mut table = FieldTable::default();
    for name in ["Kind", "kind", "content-type", "amqp-type", "two words", "ü", ""] {
        table.insert(name.into(), AMQPValue::LongString(name.into()));
    }
    let properties = BasicProperties::default().with_headers(table);
    let headers = headers_of(&properties);
    for (name, value) in [
        ("kind", "Kind"),
        ("kind-2", "kind"),
        ("amqp-header-content-type", "content-type"),
        ("amqp-header-amqp-type", "amqp-type"),
        ("two%20words", "two words"),
        ("%c3%bc", "ü"),
        ("amqp-header-", ""),
    ] {
        assert_eq!(headers.get(name), Some(value), "{name}: {headers:?}");
    }
    assert_eq!(properties_of(&headers, &all()).unwrap(), properties);
}

#[test]
fn a_text_that_a_step_changed_goes_as_a_text() {
    let mut headers = Headers::new();
    headers.append("count", "many").unwrap();
    headers.append(TYPES, r#"{"count":{"type":"integer"}}"#).unwrap();
    let properties = properties_of(&headers, &all()).unwrap();
    assert_eq!(properties.headers().as_ref().unwrap().inner()["count"], AMQPValue::LongString("many".into()));
}

#[test]
fn only_what_is_listed_goes_along() {
    let forwarded = HeaderPatterns::parse(&["order-*".to_owned(), "kind".to_owned()], |_| Ok(())).unwrap();
    let mut headers = Headers::new();
    for name in ["order-id", "kind", "kinds", "amqp-type", "content-type"] {
        headers.append(name, "x").unwrap();
    }
    let properties = properties_of(&headers, &forwarded).unwrap();
    let names: Vec<&str> =
        properties.headers().as_ref().unwrap().inner().keys().map(ShortString::as_str).collect();
    assert_eq!(names, ["kind", "order-id"]);
    assert!(properties.content_type().is_none() && properties.kind().is_none());
}
