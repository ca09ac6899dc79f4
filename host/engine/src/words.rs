//! What a guest says, or is made of, as far as people are told of it: short, and without what steers a terminal.

use althing_core::limits;

/// Returns the beginning of `text`, at most `bytes_max` of it, with control characters written out.
pub(crate) fn plain(text: &str, bytes_max: usize) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        let before = plain.len();
        if c.is_control() {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
        if plain.len() > bytes_max {
            plain.truncate(before);
            break;
        }
    }
    plain
}

/// Returns the causes of an error of wasmtime: names in it come from the component.
pub(crate) fn of_error(error: &wasmtime::Error) -> String {
    plain(&format!("{error:#}"), limits::GUEST_ERROR_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out_and_nothing_is_cut_in_two() {
        assert_eq!(plain("a\u{1b}[2J\nü", 100), "a\\u{1b}[2J\\nü");
        assert_eq!(plain("aü", 2), "a");
        assert_eq!(plain("\u{1b}\u{1b}", 8), "\\u{1b}");
    }
}
