//! What must be documented, so that a newcomer finds the way.

use std::collections::BTreeSet;

use crate::Finding;
use crate::tree::{Package, Tree, packages};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const ARCHITECTURE_LINES_MAX: usize = 250;
const COMMANDS: &[&str] = &["cargo xtask demo", "cargo xtask test"];

/// What a policy's folder holds; a name that ends with `/` is a folder with something in it.
const POLICY_PARTS: &[&str] = &["policy.toml", "README.md", "cases/"];

/// Finds every interface, world, type and function of a `.wit` without a `///` line above it.
fn undocumented(path: &str, wit: &str) -> Vec<Finding> {
    let lines: Vec<_> = wit.lines().map(str::trim).collect();
    let bare = (0..lines.len()).filter(|&at| is_declaration(lines[at]) && !is_documented(&lines[..at]));
    let finding = |at: usize| {
        let what = format!("`{}` has no documentation", lines[at].trim_end_matches(['{', ' ']));
        Finding::at(
            path,
            at + 1,
            what,
            "Say above it with `///` what it means to somebody who writes a policy",
        )
    };
    bare.map(finding).collect()
}

fn is_declaration(line: &str) -> bool {
    let words = ["interface", "world", "record", "variant", "enum", "flags", "resource", "type"];
    let first = line.split([' ', ':']).next().unwrap_or_default();
    let is_function = line.split_once(':').is_some_and(|(name, rest)| {
        let rest = rest.trim_start();
        !name.contains("//") && (rest.starts_with("func(") || rest.starts_with("async func("))
    });
    words.contains(&first) && line.contains(' ') || is_function
}

/// Tells whether the lines end with a documentation comment, gates such as `@since` apart.
fn is_documented(above: &[&str]) -> bool {
    above.iter().rev().find(|line| !line.starts_with('@')).is_some_and(|line| line.starts_with("///"))
}

fn gaps_in_architecture(text: Option<&str>, packages: &[Package]) -> Vec<Finding> {
    let Some(text) = text else {
        return vec![Finding::new(ARCHITECTURE, "is missing", "Write it: a map of the house for a newcomer")];
    };
    let lines = text.lines().count();
    let long = (lines > ARCHITECTURE_LINES_MAX).then(|| {
        let what = format!("{lines} lines, {ARCHITECTURE_LINES_MAX} are allowed");
        Finding::at(ARCHITECTURE, lines, what, "Move the detail to the doc of the module it is about")
    });
    let unnamed = packages.iter().filter(|package| !names_folder(text, &package.path)).map(|package| {
        Finding::new(ARCHITECTURE, format!("does not name {}", package.path), "Say what the package is for")
    });
    long.into_iter().chain(unnamed).collect()
}

/// Tells whether `folder` stands in `text` as such, and not only as the beginning of a folder in it.
fn names_folder(text: &str, folder: &str) -> bool {
    let part_of_path = |letter: char| letter.is_alphanumeric() || "/-_.".contains(letter);
    text.split(|letter| !part_of_path(letter)).any(|word| word.trim_end_matches(['/', '.']) == folder)
}

fn gaps_in_readme(text: Option<&str>) -> Vec<Finding> {
    let text = text.unwrap_or_default();
    let missing = COMMANDS.iter().filter(|command| !text.contains(**command));
    missing
        .map(|command| Finding::new("README.md", format!("does not show `{command}`"), "Show it"))
        .collect()
}

fn gaps_in_policies(paths: &[String]) -> Vec<Finding> {
    let inside: Vec<_> =
        paths.iter().filter_map(|path| path.strip_prefix("policies/")?.split_once('/')).collect();
    let names: BTreeSet<_> = inside.iter().map(|(name, _)| *name).collect();
    let has = |name: &str, part: &str| {
        let is_folder = part.ends_with('/');
        inside.iter().any(|(other, file)| {
            *other == name && if is_folder { file.starts_with(part) } else { *file == part }
        })
    };
    let pairs = names.iter().flat_map(|name| POLICY_PARTS.iter().map(move |part| (*name, *part)));
    let missing = pairs.filter(|(name, part)| !has(name, part));
    missing
        .map(|(name, part)| Finding::new(format!("policies/{name}"), format!("has no {part}"), "Add it"))
        .collect()
}

#[test]
fn everything_in_wit_is_documented() {
    let tree = Tree::read();
    // Under `deps/` stand copies of interfaces that others wrote.
    let ours = tree.paths.iter().filter(|path| path.ends_with(".wit") && !path.contains("/deps/"));
    crate::expect_none(ours.flat_map(|path| undocumented(path, &tree.text_of(path).unwrap_or_default())));
}

#[test]
fn the_architecture_names_every_package_and_is_short() {
    let text = Tree::read().text_of(ARCHITECTURE);
    crate::expect_none(gaps_in_architecture(text.as_deref(), &packages("Cargo.toml")));
}

#[test]
fn the_readme_shows_both_commands() {
    crate::expect_none(gaps_in_readme(Tree::read().text_of("README.md").as_deref()));
}

#[test]
fn every_policy_has_its_manifest_its_readme_and_its_cases() {
    crate::expect_none(gaps_in_policies(&Tree::read().paths));
}

mod examples {
    use super::*;

    #[test]
    fn finds_a_declaration_without_documentation() {
        let wit = "/// Doc.\ninterface a {\n  record b {\n    c: string,\n  }\n  /// Doc.\n  @since(version = 1.0.0)\n  \
                   d: func(e: string);\n  // Not doc.\n  f: func() -> string;\n}\nworld g {\n  export h: func();\n}";
        crate::expect_at(undocumented("a.wit", wit), &["a.wit:3", "a.wit:10", "a.wit:12", "a.wit:13"]);
    }

    #[test]
    fn finds_an_architecture_that_is_missing_long_or_has_forgotten_a_package() {
        let packages = ["host", "host/core"].map(|path| Package {
            name: String::new(),
            path: path.to_owned(),
            needs: Vec::new(),
        });
        crate::expect_at(gaps_in_architecture(None, &packages), &[ARCHITECTURE]);
        crate::expect_at(gaps_in_architecture(Some("`host/`, `host/core`."), &packages), &[]);
        crate::expect_at(gaps_in_architecture(Some("`host/core`"), &packages), &[ARCHITECTURE]);
        let long = format!("host host/core{}", "\n".repeat(251));
        crate::expect_at(gaps_in_architecture(Some(&long), &packages), &["ARCHITECTURE.md:251"]);
    }

    #[test]
    fn finds_a_readme_without_a_command() {
        crate::expect_at(gaps_in_readme(Some("cargo xtask demo, cargo xtask test")), &[]);
        crate::expect_at(gaps_in_readme(Some("cargo xtask demo")), &["README.md"]);
        assert_eq!(gaps_in_readme(None).len(), 2);
    }

    #[test]
    fn finds_a_policy_without_cases() {
        let paths = [
            "policies/a/policy.toml",
            "policies/a/README.md",
            "policies/a/cases/1.toml",
            "policies/b/README.md",
        ];
        let paths = paths.map(str::to_owned);
        crate::expect_at(gaps_in_policies(&paths), &["policies/b", "policies/b"]);
    }
}
