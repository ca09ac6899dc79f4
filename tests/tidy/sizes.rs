//! How long things may be.

use syn::visit::{self, Visit};

use crate::Finding;
use crate::tree::{Source, Tree};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const FUNCTION_LINES_MEDIAN_MAX: usize = 8;

/// A function with a body: from its signature to its closing brace.
struct Function {
    name: String,
    line: usize,
    lines: usize,
}

fn long_files(source: &Source) -> Option<Finding> {
    let lines = source.text.lines().count();
    (lines > FILE_LINES_MAX).then(|| {
        let what = format!("{lines} lines, {FILE_LINES_MAX} are allowed");
        Finding::at(&source.path, lines, what, "Split it by what its parts are for")
    })
}

fn long_functions(source: &Source) -> Vec<Finding> {
    let long = functions(source).into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
    let finding = |function: Function| {
        let what =
            format!("`{}` has {} lines, {FUNCTION_LINES_MAX} are allowed", function.name, function.lines);
        Finding::at(
            &source.path,
            function.line,
            what,
            "Keep the control flow and move the leaves into functions",
        )
    };
    long.map(finding).collect()
}

fn long_median<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Option<Finding> {
    let mut lines: Vec<_> = sources.into_iter().flat_map(functions).map(|function| function.lines).collect();
    lines.sort_unstable();
    let median = *lines.get(lines.len() / 2)?;
    (median > FUNCTION_LINES_MEDIAN_MAX).then(|| {
        let what = format!("the median function has {median} lines, {FUNCTION_LINES_MEDIAN_MAX} are allowed");
        Finding::new("the repository", what, "Shorten what was added last")
    })
}

fn functions(source: &Source) -> Vec<Function> {
    let file = syn::parse_file(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.path));
    let mut ruler = Ruler(Vec::new());
    ruler.visit_file(&file);
    ruler.0
}

struct Ruler(Vec<Function>);

impl Ruler {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let line = signature.fn_token.span.start().line;
        let lines = body.brace_token.span.close().end().line + 1 - line;
        self.0.push(Function { name: signature.ident.to_string(), line, lines });
    }
}

impl<'ast> Visit<'ast> for Ruler {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[test]
fn no_file_is_too_long() {
    crate::expect_none(Tree::read().sources.iter().filter_map(long_files));
}

#[test]
fn no_function_is_too_long() {
    crate::expect_none(Tree::read().sources.iter().flat_map(long_functions));
}

#[test]
fn functions_are_short_as_a_rule() {
    crate::expect_none(long_median(&Tree::read().sources));
}

mod examples {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!("\nfn f() {{\n{}}}\n", "g();\n".repeat(lines - 2))
    }

    #[test]
    fn finds_a_file_one_line_too_long() {
        let file = |lines: usize| Source::new("a.rs", &"\n".repeat(lines));
        crate::expect_at(long_files(&file(600)), &[]);
        crate::expect_at(long_files(&file(601)), &["a.rs:601"]);
    }

    #[test]
    fn finds_a_function_one_line_too_long_wherever_it_stands() {
        crate::expect_at(long_functions(&Source::new("a.rs", &function_of(70))), &[]);
        crate::expect_at(long_functions(&Source::new("a.rs", &function_of(71))), &["a.rs:2"]);
        let long = function_of(71);
        let method =
            Source::new("a.rs", &format!("impl A {{ {long} }} trait B {{ {long} }} mod c {{ {long} }}"));
        assert_eq!(long_functions(&method).len(), 3);
    }

    #[test]
    fn finds_a_median_that_has_grown() {
        let file = |lines: usize| Source::new("a.rs", &function_of(lines));
        crate::expect_at(long_median(&[file(3), file(8), file(60)]), &[]);
        crate::expect_at(long_median(&[file(3), file(9), file(60)]), &["the repository"]);
    }
}
