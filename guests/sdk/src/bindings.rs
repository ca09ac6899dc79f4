//! What the `.wit` files become. The worlds are taken apart, so that a guest imports and exports only what its kind does.
#![allow(missing_docs, reason = "generated; the documentation is in the .wit files")]

/// What policies of all kinds have.
pub mod shared {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package althing:guest;
            world shared {
                import althing:policy/types@0.1.0;
                import althing:policy/log@0.1.0;
                import althing:policy/config@0.1.0;
                import althing:policy/clock@0.1.0;
                import althing:policy/random@0.1.0;
                export althing:policy/settings@0.1.0;
            }",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_settings",
        default_bindings_module: "althing_guest::bindings::shared",
    });
}

/// What an election rule has beside it.
pub mod election {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package althing:guest; world election { export althing:policy/election@0.1.0; }",
        with: { "althing:policy/types@0.1.0": crate::bindings::shared::althing::policy::types },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_election",
        default_bindings_module: "althing_guest::bindings::election",
    });
}

/// What a behaviour has beside it.
pub mod behaviour {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package althing:guest;
            world behaviour {
                import althing:policy/store@0.1.0;
                export althing:policy/behaviour@0.1.0;
            }",
        with: { "althing:policy/types@0.1.0": crate::bindings::shared::althing::policy::types },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_behaviour",
        default_bindings_module: "althing_guest::bindings::behaviour",
    });
}
