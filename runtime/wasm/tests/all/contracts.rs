//! One plugin of every released contract, as text, so that what was built against it keeps loading. When a version of the
//! contract is released, its plugins are added here; none is ever changed or removed before 1.0 breaks with it.

use gristmill_core::{
    Stopwatch,
    plugin::{Transformed, World},
};

use crate::bench::{Bench, message};

const RELEASED: [(&str, &str, &str); 1] = [(
    "0.1.0",
    include_str!("../contracts/0.1.0-transformer.wat"),
    include_str!("../contracts/0.1.0-router.wat"),
)];

#[tokio::test]
async fn plugins_of_every_released_contract_load_and_run() {
    let bench = Bench::new();
    for (version, transformer, router) in RELEASED {
        let loaded = bench.load(wat::parse_str(transformer).unwrap()).await.unwrap();
        assert_eq!((loaded.world(), &*loaded.description().version), (World::Transformer, version));
        let plugin = loaded.bind(bench.settings()).await.unwrap();
        let Transformed::Change(change) =
            plugin.transform(&message("body"), &Stopwatch::unread()).await.unwrap()
        else {
            panic!("{version}: not a change")
        };
        assert_eq!(change.body.as_deref(), Some(&b"body"[..]), "{version}");
        let loaded = bench.load(wat::parse_str(router).unwrap()).await.unwrap();
        assert_eq!((loaded.world(), &*loaded.description().version), (World::Router, version));
        let plugin = loaded.bind(bench.settings()).await.unwrap();
        assert_eq!(plugin.route(&message("body"), &Stopwatch::unread()).await.unwrap(), ["m-1"], "{version}");
    }
}

#[tokio::test]
async fn a_contract_that_is_not_known_is_named() {
    let bench = Bench::new();
    let (_, transformer, _) = RELEASED[0];
    let later = transformer.replace("gristmill:plugin/types@0.1.0", "gristmill:plugin/types@0.7.0");
    let error = bench.load_error(wat::parse_str(later).unwrap()).await;
    assert_eq!(error.code, "plugin_wrong_contract");
    assert!(error.text.contains("0.7.0; this runtime knows 0.1"), "{error}");
}
