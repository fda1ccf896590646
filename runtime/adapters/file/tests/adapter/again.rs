//! A name that comes again, for another file, with a sink that knows messages by their ids alone.

use std::{fs, sync::Arc};

use gristmill_core::{
    SystemClock,
    adapter::{Adapter, Checker, SinkUse},
    config::Mistakes,
    limits::FlowLimits,
    observe::Unobserved,
    sink::{Outgoing, SinkContext},
    source::EndpointContext,
    testkit::contract::config_node,
};
use gristmill_file::FileAdapter;
use serde_json::json;

#[tokio::test]
async fn the_same_name_on_three_days_makes_three_files() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    let (adapter, limits, mut mistakes) = (FileAdapter::new(), FlowLimits::default(), Mistakes::new());
    let mut checker = Checker::new(&mut mistakes, folder.path(), &limits);
    let source = json!({"directory": "in", "settle_ms": 0, "poll_ms": 50, "read": {"lines": {}}});
    let source = adapter.check_source(&config_node(&source), &mut checker).unwrap();
    let sink = json!({"directory": "out"});
    let sink = adapter.check_sink(&config_node(&sink), SinkUse::Send, &mut checker).unwrap();
    let context = EndpointContext {
        flow: "again".into(),
        limits,
        state_dir: folder.path().join("state"),
        clock: Arc::new(SystemClock),
        observer: Arc::new(Unobserved),
    };
    let mut source = source.prepare(context).await.unwrap().start().await.unwrap();
    let sink = sink.spec.open(SinkContext { flow: "again".into(), body_bytes: 1 << 20 }).await.unwrap();
    for day in ["monday", "tuesday", "monday"] {
        fs::write(folder.path().join("staged"), day).unwrap();
        fs::rename(folder.path().join("staged"), folder.path().join("in/orders.jsonl")).unwrap();
        let delivery = source.next().await.unwrap().unwrap();
        // An attempt whose confirmation was lost is the same message.
        for _ in 0..2 {
            sink.send(Outgoing::new(&delivery.message, &[])).await.unwrap();
        }
        delivery.acknowledgement.delivered();
    }
    let files = fs::read_dir(folder.path().join("out")).unwrap().map(|file| file.unwrap());
    let mut bodies = Vec::new();
    for file in files {
        let name = file.file_name().into_string().unwrap();
        assert!(name.starts_with("in_orders.jsonl_") && name.ends_with(".json"), "{name}");
        bodies.push(fs::read_to_string(file.path()).unwrap());
    }
    bodies.sort();
    assert_eq!(bodies, ["monday", "monday", "tuesday"]);
}
