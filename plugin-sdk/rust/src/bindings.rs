//! The WIT contract as Rust, generated from `../wit`: the only place that knows of it. The types are generated once and
//! shared by both worlds; the capabilities live in a world of their own, which a linker drops where nothing calls it.
#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::indexing_slicing,
    reason = "generated code, which speaks the canonical ABI"
)]

pub use transformer::gristmill::plugin::types;

pub mod transformer {
    wit_bindgen::generate!({
        world: "transformer",
        path: "../wit",
        runtime_path: "gristmill_plugin::__private::rt",
        export_macro_name: "export_world",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        generate_all,
    });
}

pub mod router {
    wit_bindgen::generate!({
        world: "router",
        path: "../wit",
        runtime_path: "gristmill_plugin::__private::rt",
        export_macro_name: "export_world",
        pub_export_macro: true,
        with: { "gristmill:plugin/types@0.1.0": super::types },
    });
}

#[cfg(target_family = "wasm")]
pub mod capabilities {
    wit_bindgen::generate!({
        inline: "
            package gristmill:guest;
            world capabilities {
                import gristmill:plugin/log@0.1.0;
                import gristmill:plugin/clock@0.1.0;
                import gristmill:plugin/random@0.1.0;
                import gristmill:plugin/metrics@0.1.0;
                import gristmill:plugin/state@0.1.0;
            }
        ",
        path: "../wit",
        runtime_path: "gristmill_plugin::__private::rt",
        generate_all,
    });
}
