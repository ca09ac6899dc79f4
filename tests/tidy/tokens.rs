//! Rust as a flat row of tokens, so that a rule looks neither into strings nor into comments.

use proc_macro2::{Delimiter, Group, LexError, TokenStream, TokenTree};

/// A word, a sign, a bracket or a literal.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
    /// Whether it stands in an item that is built for tests only.
    pub(crate) is_test: bool,
}

/// Takes `text` apart.
pub(crate) fn tokens(text: &str, is_test: bool) -> Result<Vec<Token>, LexError> {
    let mut row = Vec::new();
    flatten(text.parse()?, is_test, &mut row);
    Ok(row)
}

/// Returns where `pattern` (tokens, with spaces between them) stands in `row`.
///
/// A pattern that ends with `::` names a crate, so it is not found in the middle of a path.
pub(crate) fn find<'a>(row: &'a [Token], pattern: &str) -> Vec<&'a Token> {
    let pattern: Vec<_> = pattern.split_whitespace().collect();
    let is_crate = pattern.last() == Some(&"::");
    let begins = |at: usize| !is_crate || at == 0 || row[at - 1].text != "::";
    let matches =
        |window: &[Token]| window.iter().map(|token| token.text.as_str()).eq(pattern.iter().copied());
    let places = row.windows(pattern.len()).enumerate();
    places.filter(|(at, window)| begins(*at) && matches(window)).map(|(_, window)| &window[0]).collect()
}

fn flatten(stream: TokenStream, is_test: bool, row: &mut Vec<Token>) {
    // A test attribute holds until the end of the item it stands before: its block, or a semicolon.
    let mut in_test_item = false;
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        if is_sign(&tree, '#')
            && let Some(TokenTree::Group(attribute)) = trees.peek()
        {
            in_test_item |= marks_a_test(attribute);
        }
        let ends_item = match &tree {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            tree => is_sign(tree, ';'),
        };
        push(tree, is_test || in_test_item, row);
        in_test_item &= !ends_item;
    }
}

fn push(tree: TokenTree, is_test: bool, row: &mut Vec<Token>) {
    let line = tree.span().start().line;
    if let TokenTree::Group(group) = tree {
        let (open, close) = brackets(group.delimiter());
        row.push(Token { text: open.to_owned(), line, is_test });
        flatten(group.stream(), is_test, row);
        let line = group.span_close().end().line;
        row.push(Token { text: close.to_owned(), line, is_test });
        return;
    }
    let text = tree.to_string();
    match row.last_mut() {
        Some(last) if text == ":" && last.text == ":" => last.text.push(':'),
        _ => row.push(Token { text, line, is_test }),
    }
}

fn is_sign(tree: &TokenTree, sign: char) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == sign)
}

fn brackets(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

/// Tells whether an attribute makes a test of what follows: `cfg(test)`, `test`, `tokio::test(…)`.
fn marks_a_test(attribute: &Group) -> bool {
    let mut row = Vec::new();
    flatten(attribute.stream(), false, &mut row);
    let has = |word: &str| row.iter().any(|token| token.text == word);
    if row.first().is_some_and(|token| token.text == "cfg") {
        return has("test") && !has("not");
    }
    row.iter()
        .take_while(|token| token.text != "(" && token.text != "=")
        .last()
        .is_some_and(|token| token.text == "test")
}

#[test]
fn looks_neither_into_strings_nor_into_comments() {
    let row = tokens("// panic!()\nfn f() { g(\"panic!()\"); }", false).unwrap();
    assert!(find(&row, "panic !").is_empty());
    let row = tokens("fn f() {\n panic!() }", false).unwrap();
    assert_eq!(find(&row, "panic !")[0].line, 2);
}

#[test]
fn a_test_attribute_holds_for_its_item_only() {
    let text = "#[cfg(test)] mod t { fn a() {} } fn b() {} #[tokio::test(flavor = \"x\")] async fn c() {} fn d() {} \
                #[cfg(not(test))] fn e() {} #[cfg(test)] use x; fn g() {}";
    let row = tokens(text, false).unwrap();
    let tests: Vec<_> = row.windows(2).filter(|pair| pair[0].text == "fn" && pair[1].is_test).collect();
    let names: Vec<_> = tests.iter().map(|pair| pair[1].text.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn a_crate_is_found_at_the_head_of_a_path_only() {
    let row = tokens("use redis::Client; use crate::redis::Pool;", false).unwrap();
    assert_eq!(find(&row, "redis ::").len(), 1);
}
