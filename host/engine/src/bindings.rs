//! What the `.wit` files become. Named only by `kinds/` and `host/`.

/// The world `election-policy`, and what all worlds share.
pub(crate) mod election {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "election-policy",
        exports: { default: async },
        // A view is handed over as it is in the host's memory, without a copy of each text.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// The world `behaviour-policy`.
pub(crate) mod behaviour {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "behaviour-policy",
        imports: { "althing:policy/store": async },
        exports: { default: async },
        with: {
            "althing:policy/log": super::election::althing::policy::log,
            "althing:policy/config": super::election::althing::policy::config,
            "althing:policy/clock": super::election::althing::policy::clock,
            "althing:policy/random": super::election::althing::policy::random,
        },
    });
}

/// What every world exports, whatever its kind.
pub(crate) mod settings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "package althing:host; world configured { export althing:policy/settings@0.1.0; }",
        exports: { default: async },
    });
}
