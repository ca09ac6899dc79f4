//! The schema: tables and procedures, as a text that may be run again and again.

use althing_core::limits;

/// The layout of tables and procedures. Another number is another layout.
pub(crate) const FORMAT: i64 = 1;

/// What stands between two statements.
const BREAK: &str = "\n//\n";

const PARTS: [&str; 3] =
    [include_str!("sql/tables.sql"), include_str!("sql/inside.sql"), include_str!("sql/operations.sql")];

/// Returns the SQL that makes Althing's tables and procedures in the database that is in use, for whoever does not let
/// hosts do it (`schema=given`). Two may run it at once, and running it again changes nothing; over another version's it
/// fails. It is for the program `mysql` or `mariadb`, which knows what a delimiter is.
pub fn schema() -> String {
    format!("delimiter //\n{}{BREAK}delimiter ;\n", statements().join(BREAK))
}

/// Returns the statements of the schema, in their order. The last one says that all others were run.
pub(crate) fn statements() -> Vec<String> {
    let text = PARTS
        .map(str::trim_end)
        .join(BREAK)
        .replace("{FORMAT}", &FORMAT.to_string())
        .replace("{HISTORY_CHANGES}", &limits::HISTORY_CHANGES_MAX.to_string())
        .replace("{HISTORY_BYTES}", &limits::HISTORY_BYTES_MAX.to_string());
    text.split(BREAK).map(str::to_owned).collect()
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

    #[test]
    fn says_last_that_it_is_whole() {
        let statements = statements();
        assert!(statements.iter().all(|statement| !statement.contains("//")));
        assert_eq!(statements.last().unwrap(), "update althing_format set finished = 1");
    }
}
