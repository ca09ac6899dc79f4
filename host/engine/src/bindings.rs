//! What the `.wit` files become. Named only by `kinds/` and `host/`.

/// The world `election-policy`.
pub(crate) mod election {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "election-policy",
        exports: { default: async },
        // A view is handed over as it is in the host's memory, without a copy of each text.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
