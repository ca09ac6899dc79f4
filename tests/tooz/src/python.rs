//! The environment with Tooz and our driver, which `cargo xtask setup` makes.

use std::io::Write;
use std::path::{Path, PathBuf};

use althing_test_servers::required;

/// Names another environment than that of `cargo xtask setup`.
const VARIABLE: &str = "ALTHING_TOOZ_PYTHON";

/// Returns the Python of an environment with Tooz and our driver; `None` where there is none.
pub fn environment() -> Option<PathBuf> {
    if let Some(python) = std::env::var_os(VARIABLE) {
        return Some(python.into());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tooz");
    // Written last, once everything is there.
    let is_complete = folder.join("driver.txt").is_file();
    is_complete.then(|| folder.join("bin/python"))
}

/// Tells whether tests that need the environment can run, and says so where they cannot. Ends the test where everything is
/// required.
pub fn is_ready() -> bool {
    let found = environment().is_some();
    assert!(
        found || !required(),
        "there is no Python with Tooz, and CI=true requires it: run `cargo xtask setup`"
    );
    if !found {
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "skipped: there is no Python with Tooz: run `cargo xtask setup`");
    }
    found
}
