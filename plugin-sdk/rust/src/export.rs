//! The two macros that turn a type into a plugin. Natively they only check the type, so that a plugin's tests link
//! without the names that the component model asks for.

/// Exports a [`Transformer`](crate::Transformer) as this crate's plugin. The plugin's name, version and summary are the
/// package's name, version and description in its `Cargo.toml`.
#[macro_export]
macro_rules! export_transformer {
    ($plugin:ty) => {
        $crate::__export!($plugin, Transformer, transformer, {
            fn transform(
                message: $crate::Message,
            ) -> ::core::result::Result<$crate::Outcome, $crate::Failure> {
                PLUGIN.with(|plugin| match plugin.get() {
                    Some(plugin) => $crate::Transformer::transform(plugin, message),
                    None => Err($crate::Failure::reject("the plugin was called before it was configured")),
                })
            }
        });
    };
}

/// Exports a [`Router`](crate::Router) as this crate's plugin. See [`export_transformer!`].
#[macro_export]
macro_rules! export_router {
    ($plugin:ty) => {
        $crate::__export!($plugin, Router, router, {
            fn route(
                message: $crate::Message,
            ) -> ::core::result::Result<::std::vec::Vec<::std::string::String>, $crate::Failure> {
                PLUGIN.with(|plugin| match plugin.get() {
                    Some(plugin) => $crate::Router::route(plugin, message),
                    None => Err($crate::Failure::reject("the plugin was called before it was configured")),
                })
            }
        });
    };
}

/// What both macros share; not for use by hand.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($plugin:ty, $trait:ident, $world:ident, { $($handle:tt)* }) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the exports of the component model's canonical ABI")]
        const _: () = {
            ::std::thread_local! {
                // One instance of the module is one instance of the plugin, and a guest has one thread.
                static PLUGIN: ::core::cell::OnceCell<$plugin> = const { ::core::cell::OnceCell::new() };
            }

            struct Exported;

            impl $crate::__private::$world::Guest for Exported {
                fn describe() -> $crate::Description {
                    let package = $crate::__private::Package {
                        name: ::core::env!("CARGO_PKG_NAME"),
                        version: ::core::env!("CARGO_PKG_VERSION"),
                        summary: ::core::env!("CARGO_PKG_DESCRIPTION"),
                    };
                    $crate::__private::describe::<<$plugin as $crate::$trait>::Config>(
                        package,
                        <$plugin as $crate::$trait>::wants(),
                    )
                }

                fn configure(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    let configured = <$plugin as $crate::$trait>::configure($crate::__private::parse(&config)?)?;
                    PLUGIN
                        .with(|plugin| plugin.set(configured))
                        .map_err(|_| "configure was called twice on one instance".to_owned())
                }

                $($handle)*
            }

            $crate::__private::$world::export_world!(Exported with_types_in $crate::__private::$world);
        };

        #[cfg(not(target_family = "wasm"))]
        const _: () = {
            const fn fits<T: $crate::$trait>() {}
            fits::<$plugin>();
        };
    };
}
