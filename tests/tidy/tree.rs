//! What is checked: the files of the repository and its packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::tokens::{Token, tokens};

/// The files that git tracks or would track, with their paths from the root.
pub(crate) struct Tree {
    pub(crate) paths: Vec<String>,
    /// The Rust files among them.
    pub(crate) sources: Vec<Source>,
}

/// A Rust file.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

impl Source {
    /// Takes the text of a file apart. Everything in a folder `tests` or `benches` counts as a test.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let is_test =
            Path::new(path).iter().any(|part| part == "tests" || part == "tests.rs" || part == "benches");
        let tokens = tokens(text, is_test).unwrap_or_else(|error| panic!("{path}: not Rust: {error}"));
        Source { path: path.to_owned(), text: text.to_owned(), tokens }
    }

    /// Returns the files that a `#[cfg(test)] mod name;` of this file may stand for.
    fn test_modules(&self) -> impl Iterator<Item = String> {
        let path = Path::new(&self.path);
        let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "main" | "mod") | None => path.parent().unwrap_or(path).to_path_buf(),
            Some(_) => path.with_extension(""),
        };
        let names = self
            .tokens
            .windows(3)
            .filter(|window| window[0].is_test && window[0].text == "mod" && window[2].text == ";");
        names.flat_map(move |window| {
            let module = folder.join(&window[1].text);
            [module.with_extension("rs"), module.join("mod.rs")].map(|file| file.display().to_string())
        })
    }
}

impl Tree {
    /// Reads this repository.
    pub(crate) fn read() -> Self {
        let list = output(Command::new("git").args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ]));
        let mut paths: Vec<_> = list.split_terminator('\0').map(str::to_owned).collect();
        paths.retain(|path| root().join(path).is_file());
        paths.sort();
        let rust = paths.iter().filter(|path| path.ends_with(".rs"));
        let mut sources: Vec<_> = rust.map(|path| Source::new(path, &read(path))).collect();
        mark_test_modules(&mut sources);
        Tree { paths, sources }
    }

    /// Returns what stands in the file at `path`, if there is one.
    pub(crate) fn text_of(&self, path: &str) -> Option<String> {
        self.paths.iter().any(|other| other == path).then(|| read(path))
    }
}

fn mark_test_modules(sources: &mut [Source]) {
    let modules: BTreeSet<_> = sources.iter().flat_map(Source::test_modules).collect();
    for source in sources.iter_mut().filter(|source| modules.contains(&source.path)) {
        source.tokens.iter_mut().for_each(|token| token.is_test = true);
    }
}

/// A package and whom it names.
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its folder, from the root; empty for the root.
    pub(crate) path: String,
    pub(crate) needs: Vec<Need>,
}

/// A dependency as a manifest states it.
pub(crate) struct Need {
    pub(crate) name: String,
    /// Whether only tests use it.
    pub(crate) is_dev: bool,
    /// The folder it is taken from, if it is not from a registry.
    pub(crate) folder: Option<String>,
}

/// Returns the packages of the workspace whose manifest is `manifest`.
pub(crate) fn packages(manifest: &str) -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--manifest-path", manifest];
    let metadata = output(Command::new(cargo).args(arguments).env("RUSTUP_AUTO_INSTALL", "0"));
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("packages").iter().map(package).collect()
}

fn package(package: &Value) -> Package {
    let manifest = Path::new(text(&package["manifest_path"]));
    let need = |need: &Value| Need {
        name: text(&need["name"]).to_owned(),
        is_dev: need["kind"] == "dev",
        folder: need["path"].as_str().map(|folder| from_root(Path::new(folder))),
    };
    Package {
        name: text(&package["name"]).to_owned(),
        path: from_root(manifest.parent().expect("a manifest is in a folder")),
        needs: package["dependencies"].as_array().expect("dependencies").iter().map(need).collect(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata has a text here")
}

fn from_root(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/tidy is two folders deep")
        .to_path_buf()
}

fn read(path: &str) -> String {
    let bytes = fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    String::from_utf8(bytes).unwrap_or_else(|_| panic!("{path}: not UTF-8"))
}

fn output(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the output is text")
}

#[test]
fn a_file_named_under_cfg_test_counts_as_a_test() {
    let mut sources = [
        Source::new("a/src/lib.rs", "#[cfg(test)] mod fake; mod real;"),
        Source::new("a/src/fake.rs", "fn f() {}"),
        Source::new("a/src/real.rs", "fn f() {}"),
    ];
    mark_test_modules(&mut sources);
    assert!(sources[1].tokens.iter().all(|token| token.is_test));
    assert!(sources[2].tokens.iter().all(|token| !token.is_test));
}
