//! Faults on memcached. It may lose everything when it ends, so it is not killed here; `host/drivers/memcached` does that.

use std::path::PathBuf;

use althing_chaos::{Backend, holds};

althing_test_servers::suite! {
    "memcached":
    links_that_fail_break_no_promise,
}

fn chaos() -> PathBuf {
    env!("CARGO_BIN_EXE_althing-chaos").into()
}

async fn links_that_fail_break_no_promise() {
    holds(chaos(), Backend::Memcached, "links", 6).await;
}
