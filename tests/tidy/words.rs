//! Words that are not used, and calls that guests must not make either.

use std::path::Path;

use crate::Finding;
use crate::tokens::{Token, find};
use crate::tree::{Source, Tree};

/// They say that something is done, not what.
const EMPTY_WORDS: &[&str] =
    &["manager", "managers", "helper", "helpers", "util", "utils", "handler", "handlers"];
const EMPTY_ADVICE: &str = "Name it by what it is or does, with the words of the design";

const NOWHERE: &[(&str, &str)] = &[
    ("todo !", "Finish it, or leave it out"),
    ("unimplemented !", "Finish it, or leave it out"),
    ("dbg !", "Remove it"),
    ("# [ ignore", "Make it pass, or delete it"),
    ("# [ should_panic", "Return an error and compare it"),
];

/// Clippy says this too, but it does not read what is built for guests only.
const TESTS_ONLY: &[(&str, &str)] = &[
    (". unwrap (", "Return an error, or say with `let … else` what holds instead"),
    (". expect (", "Return an error, or say with `let … else` what holds instead"),
    ("panic !", "Return an error"),
];

/// What these are for is to break: they are the guests of `tests/guests`.
const MISBEHAVING: &str = "guests/fixtures/";

fn empty_file_names(path: &str) -> Option<Finding> {
    let word = Path::new(path)
        .iter()
        .filter_map(|part| part.to_str())
        .flat_map(words)
        .find(|word| is_empty_word(word))?;
    Some(Finding::new(path, format!("a file or folder is named `{word}`"), EMPTY_ADVICE))
}

fn empty_type_names(source: &Source) -> Vec<Finding> {
    let is_type = |pair: &&[Token]| matches!(&*pair[0].text, "struct" | "enum" | "trait" | "type" | "union");
    let names = source.tokens.windows(2).filter(is_type).map(|pair| &pair[1]);
    let empty = names.filter(|name| words(&name.text).iter().any(|word| is_empty_word(word))).map(|name| {
        Finding::at(&source.path, name.line, format!("a type is named `{}`", name.text), EMPTY_ADVICE)
    });
    empty.collect()
}

fn is_empty_word(word: &str) -> bool {
    EMPTY_WORDS.contains(&word)
}

/// Splits `snake_case`, `kebab-case` and `CamelCase` into words of small letters.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if !letter.is_alphanumeric() || letter.is_uppercase() {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words.iter_mut().last().into_iter().for_each(|word| word.extend(letter.to_lowercase()));
        }
    }
    words
}

fn forbidden(source: &Source) -> Vec<Finding> {
    let is_fixture = source.path.starts_with(MISBEHAVING);
    let everywhere = NOWHERE.iter().map(|row| (row, false));
    let outside_tests = TESTS_ONLY.iter().filter(|_| !is_fixture).map(|row| (row, true));
    let said = |((says, advice), tests_may): (&'static (&str, &str), bool)| {
        let found = find(&source.tokens, says).into_iter().filter(move |token| !(tests_may && token.is_test));
        found.map(|token| {
            Finding::at(&source.path, token.line, format!("says `{}`", says.replace(' ', "")), *advice)
        })
    };
    everywhere.chain(outside_tests).flat_map(said).collect()
}

fn exceptions_without_reason(source: &Source) -> Vec<Finding> {
    let attributes = ["# [ allow", "# ! [ allow", "# [ expect", "# ! [ expect"];
    let all = attributes.iter().flat_map(|attribute| find(&source.tokens, attribute));
    let lacking = all.filter(|begin| !has_reason(&source.tokens, begin)).map(|begin| {
        Finding::at(&source.path, begin.line, "a lint is silenced without a reason", "Add `reason = \"…\"`")
    });
    lacking.collect()
}

/// Tells whether the attribute that begins at `begin` names a reason before its bracket closes.
fn has_reason(row: &[Token], begin: &Token) -> bool {
    let rest = row.iter().skip_while(|token| !std::ptr::eq(*token, begin));
    rest.take_while(|token| token.text != "]").any(|token| token.text == "reason")
}

#[test]
fn no_file_has_an_empty_name() {
    crate::expect_none(Tree::read().paths.iter().filter_map(|path| empty_file_names(path)));
}

#[test]
fn no_type_has_an_empty_name() {
    crate::expect_none(Tree::read().sources.iter().flat_map(empty_type_names));
}

#[test]
fn nothing_is_left_undone_or_panics() {
    crate::expect_none(Tree::read().sources.iter().flat_map(forbidden));
}

#[test]
fn every_silenced_lint_has_its_reason() {
    crate::expect_none(Tree::read().sources.iter().flat_map(exceptions_without_reason));
}

mod examples {
    use super::*;

    #[test]
    fn finds_an_empty_word_in_any_spelling() {
        for path in ["host/utils/a.rs", "host/lock_manager.rs", "host/x-helper/src/lib.rs"] {
            crate::expect_at(empty_file_names(path), &[path]);
        }
        crate::expect_at(empty_file_names("host/core/src/handle.rs"), &[]);
        let text = "struct Lock;\nstruct LockManager;\nenum EventHandlerKind {}\ntype Handle = u8;";
        crate::expect_at(empty_type_names(&Source::new("a.rs", text)), &["a.rs:2", "a.rs:3"]);
    }

    #[test]
    fn finds_all_that_is_said_nowhere_even_in_tests() {
        let said: Vec<_> = NOWHERE.iter().map(|(says, _)| says.trim_matches(['#', '[', '!', ' '])).collect();
        assert_eq!(said, ["todo", "unimplemented", "dbg", "ignore", "should_panic"]);
        for (says, _) in NOWHERE {
            let said = match says.starts_with('#') {
                true => format!("{says}]\nfn t() {{}}"),
                false => format!("fn t() {{ {says}() }}"),
            };
            for marked in ["", "#[test]"] {
                let source = Source::new("a.rs", &format!("{marked}\n{said}"));
                crate::expect_at(forbidden(&source), &["a.rs:2"]);
            }
        }
    }

    #[test]
    fn finds_a_panic_outside_tests_only() {
        let text = "fn f() {\n x.unwrap();\n y.expect(\"z\");\n panic!();\n y.unwrap_or(1); }\n#[test]\nfn t() { x.unwrap(); }";
        crate::expect_at(forbidden(&Source::new("a.rs", text)), &["a.rs:2", "a.rs:3", "a.rs:4"]);
        crate::expect_at(forbidden(&Source::new("host/core/tests/a.rs", text)), &[]);
        crate::expect_at(forbidden(&Source::new("guests/fixtures/traps/src/lib.rs", text)), &[]);
    }

    #[test]
    fn finds_a_lint_silenced_without_a_reason() {
        let text = "#![allow(x)]\n#[expect(y, reason = \"z\")]\nfn f() {}\n#[allow(y)]\nfn g() {}";
        crate::expect_at(exceptions_without_reason(&Source::new("a.rs", text)), &["a.rs:4", "a.rs:1"]);
    }
}
