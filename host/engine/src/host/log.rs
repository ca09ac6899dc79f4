//! `log`: lines for the people who run the policy.

use crate::bindings::election::althing::policy::log::{Host, Level};
use crate::store::Call;

impl Host for Call {
    fn write(&mut self, level: Level, message: String) {
        let level = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        self.journal.add_line(&format!("{level}: {message}"));
    }
}
