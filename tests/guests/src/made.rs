//! Components that no compiler writes: a core module in its text form, made into a component by a changed `wit/`.

use std::path::{Path, PathBuf};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What differs from an election rule that elects the oldest. Everything is in the text form of WebAssembly.
pub struct Made {
    /// Imports of the core module, such as `(import "althing:policy/clock@0.1.0" "now" (func $now (result f64)))`.
    pub imports: &'static str,
    /// Pages of memory at the beginning; each has 64 KiB.
    pub pages: u32,
    /// Gives `$size` bytes to whoever hands something over.
    pub realloc: &'static str,
    /// Checks the settings: returns where its answer lies. Memory is zero at first, and zeros are a good answer.
    pub check: &'static str,
    /// Decides about what lies at `$view`: returns where its verdict lies.
    pub elect: &'static str,
    /// Other parts of the core module.
    pub more: &'static str,
    /// The version of `althing:policy` it is built for.
    pub version: &'static str,
    /// What is changed in `wit/` before it is built: each first text becomes the second, wherever it stands.
    pub wit: &'static [(&'static str, &'static str)],
    /// Further packages of interfaces.
    pub packages: &'static [&'static str],
}

/// An election rule that elects the oldest.
pub const GOOD: Made = Made {
    imports: "",
    pages: 4,
    realloc: BUMP,
    check: "i32.const 0",
    elect: OLDEST,
    more: "",
    version: "0.1.0",
    wit: &[],
    packages: &[],
};

/// Gives memory from 64 KiB upwards, and takes nothing back.
const BUMP: &str = "(global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get $size)))";

/// Its verdict lies at 2048, and its reason at 3000: `ok`, then `elect` with a list of one text. The list is the first member itself, which
/// begins with its id.
const OLDEST: &str = "(i32.store (i32.const 2060) (i32.load offset=16 (local.get $view)))
    (i32.store (i32.const 2064) (i32.const 1))
    i32.const 2048";

impl Made {
    /// Returns the bytes of the component.
    pub fn component(&self) -> Vec<u8> {
        let mut module = wat::parse_str(self.text()).unwrap();
        let folder = self.interfaces();
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(folder.path()).unwrap();
        let world = resolve.select_world(&[package], Some("election-policy")).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
    }

    fn text(&self) -> String {
        let Made { imports, pages, realloc, check, elect, more, version, .. } = self;
        format!(
            r#"(module
                {imports}
                (memory (export "memory") {pages})
                (global $next (mut i32) (i32.const 65536))
                (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32) {realloc})
                (func (export "althing:policy/settings@{version}#schema") (result i32) i32.const 0)
                (func (export "althing:policy/settings@{version}#check") (result i32) {check})
                (func (export "althing:policy/election@{version}#elect") (param $view i32) (result i32) {elect})
                (data (i32.const 2068) "\b8\0b\00\00\0a\00\00\00")
                (data (i32.const 3000) "the oldest")
                {more})"#
        )
    }

    /// Writes `wit/` into a folder, with its changes.
    fn interfaces(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(root().join("wit")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "wit") {
                let mut text =
                    std::fs::read_to_string(&path).unwrap().replace("@0.1.0", &format!("@{}", self.version));
                for (from, to) in self.wit {
                    text = text.replace(from, to);
                }
                std::fs::write(folder.path().join(path.file_name().unwrap()), text).unwrap();
            }
        }
        std::fs::create_dir(folder.path().join("deps")).unwrap();
        for (place, package) in self.packages.iter().enumerate() {
            std::fs::write(folder.path().join(format!("deps/{place}.wit")), package).unwrap();
        }
        folder
    }
}

/// Adds the sections of a component without imports, in its text form, to the end of another.
pub fn with_sections(mut component: Vec<u8>, sections: &str) -> Vec<u8> {
    const HEAD_BYTES: usize = 8;
    component.extend_from_slice(&wat::parse_str(format!("(component {sections})")).unwrap()[HEAD_BYTES..]);
    component
}

/// Returns a core module with one small function that keeps a compiler busy for a time which grows with a high power of
/// `branches`: a thousand locals, of which each branch may hand on any.
pub fn knotted(branches: usize) -> String {
    const LOCALS: usize = 1000;
    let locals = "i32 ".repeat(LOCALS);
    let knot = |at: usize| {
        let [to, left, right, if_so] = [at, at * 7, at * 13 + 5, at * 3].map(|place| place % LOCALS);
        format!(
            "(local.set {to} (i32.add (local.get {left}) (i32.load (local.get {right}))))
             (if (local.get {if_so}) (then (br 1)))"
        )
    };
    let knots: String = (0..branches).map(knot).collect();
    format!("(core module (memory 1) (func (local {locals}) (loop $again {knots} (br $again))))")
}

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
