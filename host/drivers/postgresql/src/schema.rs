//! The schema: tables and functions, as a text that may be run again and again.

use althing_core::limits;

/// The layout of tables and functions. Another number is another layout.
pub(crate) const FORMAT: i32 = 1;

/// One lock for all hosts that would create the schema at once; the number means nothing.
const CREATING: i64 = 0x616c_7468_696e_6721;

/// How many bytes of a key watches are told when it changed, and how long all of that may be, in hexadecimal. A message of
/// the server has room for 8000.
const HEAD_BYTES: usize = 16;
const HEADS_BYTES_MAX: usize = 2048;

const PARTS: [&str; 3] =
    [include_str!("sql/tables.sql"), include_str!("sql/inside.sql"), include_str!("sql/operations.sql")];

/// Returns the SQL that creates the schema `althing`, for whoever does not let hosts do it (`schema=given`). It is one
/// transaction under a lock, so two may run it at once, and running it again changes nothing; over another version's it
/// fails.
pub fn schema() -> String {
    let parts = PARTS
        .join("\n")
        .replace("{FORMAT}", &FORMAT.to_string())
        .replace("{HISTORY_CHANGES}", &limits::HISTORY_CHANGES_MAX.to_string())
        .replace("{HISTORY_BYTES}", &limits::HISTORY_BYTES_MAX.to_string())
        .replace("{HEAD_BYTES}", &HEAD_BYTES.to_string())
        .replace("{HEADS_BYTES}", &HEADS_BYTES_MAX.to_string());
    format!("begin;\nselect pg_advisory_xact_lock({CREATING});\n\n{parts}\ncommit;\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_no_gap_in_its_text() {
        let text = schema();
        assert!(!text.contains('{') && !text.contains('}'), "{text}");
        assert!(text.contains("> 16384 + 1024"), "{text}");
    }
}
