//! Lines for the people who run the policy. Needs `log = true` below `[grants]`.

pub use crate::bindings::shared::althing::policy::log::Level;

/// Adds a line at `level` to the log of this call.
pub fn write(level: Level, message: &str) {
    crate::bindings::shared::althing::policy::log::write(level, message);
}

/// Adds a line about what is going on.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Adds a line about something that should be looked at.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}
