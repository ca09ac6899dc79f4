//! Writes the completions and the manual pages of `althing` below a folder: `completions/` and `man/`. They are made of
//! the command itself, so no verb and no option can be missing. `cargo xtask docs` runs this.
#![cfg_attr(
    test,
    allow(
        dead_code,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test fails by panicking, and does not call main"
    )
)]

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use althing_client::default_socket;
use clap::{Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

/// What stands for the folder of the socket, which is another one for each user.
const SOCKET: &str = "$XDG_RUNTIME_DIR/althing.sock";

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1);
    let missing = || Error::new(ErrorKind::InvalidInput, "name the folder to write below");
    write(Path::new(&folder.ok_or_else(missing)?))
}

fn write(folder: &Path) -> Result<()> {
    let (completions, pages) = (folder.join("completions"), folder.join("man"));
    std::fs::create_dir_all(&completions)?;
    std::fs::create_dir_all(&pages)?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut command(), "althing", &completions)?;
    }
    let mut command = command().disable_help_subcommand(true);
    command.build();
    write_page(&command, &pages)
}

/// Writes the page of a verb, and those of the verbs below it.
fn write_page(command: &Command, folder: &Path) -> Result<()> {
    let source = concat!("althing ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).source(source).manual("Althing").generate_to(folder)?;
    command.get_subcommands().try_for_each(|verb| write_page(verb, folder))
}

/// The command as it is on every machine.
fn command() -> Command {
    let mine = default_socket().display().to_string();
    let anybodys = |arg: clap::Arg| {
        let help = arg.get_help().map(|help| help.to_string().replace(&mine, SOCKET));
        arg.help(help.unwrap_or_default())
    };
    althing_cli::command()
        .mut_arg("server", |arg| arg.default_value(format!("unix:{SOCKET}")))
        .mut_subcommand("serve", |serve| serve.mut_arg("socket", anybodys))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process;

    use super::*;

    struct Written(tempfile::TempDir);

    impl Written {
        fn new() -> Self {
            let written = Written(tempfile::tempdir().unwrap());
            write(written.0.path()).unwrap();
            written
        }

        fn completion(&self, file: &str) -> PathBuf {
            self.0.path().join("completions").join(file)
        }

        fn pages(&self) -> Vec<PathBuf> {
            let pages = std::fs::read_dir(self.0.path().join("man")).unwrap();
            pages.map(|page| page.unwrap().path()).collect()
        }
    }

    /// Returns what `program` writes. `None` where there is no such program on this machine.
    fn run(program: &str, arguments: &[&str]) -> Option<(String, String)> {
        let output = match process::Command::new(program).args(arguments).output() {
            Ok(output) => output,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => panic!("{program}: {error}"),
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (said, complained) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {complained}");
        Some((said, complained))
    }

    /// Lets a real bash complete a line whose last word is the one that is being typed.
    #[track_caller]
    fn check_bash(words: &[&str], expected: &[&str], unexpected: &[&str]) {
        let written = Written::new();
        let script = r#"
            source "$1"; shift
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
            function=$(complete -p althing | sed -E 's/.*-F ([^ ]+).*/\1/')
            last=${COMP_WORDS[COMP_CWORD]}; before=${COMP_WORDS[COMP_CWORD - 1]}
            "$function" althing "$last" "$before"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let file = written.completion("althing.bash");
        let arguments = [&["--norc", "-c", script, "bash", file.to_str().unwrap()], words].concat();
        let (said, complained) = run("bash", &arguments).expect("bash is in PATH");
        assert_eq!(complained, "");
        let offered: Vec<_> = said.lines().collect();
        for word in expected {
            assert!(offered.contains(word), "{word} is not in {offered:?}");
        }
        for word in unexpected {
            assert!(!offered.contains(word), "{word} is in {offered:?}");
        }
    }

    #[test]
    fn a_real_bash_completes_verbs_and_options() {
        check_bash(&["althing", ""], &["serve", "group", "policy", "watch", "--help"], &["create"]);
        check_bash(&["althing", "gr"], &["group"], &["serve"]);
        check_bash(&["althing", "group", ""], &["create", "delete", "list", "show"], &["serve"]);
        check_bash(&["althing", "policy", "activate", "--"], &["--group", "--digest", "--json"], &["--out"]);
    }

    #[test]
    fn every_shell_has_a_file_and_those_on_this_machine_read_it() {
        let written = Written::new();
        for file in ["althing.bash", "_althing", "althing.fish", "althing.elv", "_althing.ps1"] {
            let text = std::fs::read_to_string(written.completion(file)).unwrap();
            assert!(text.contains("stand-down") && text.contains("activate"), "{file}");
        }
        run("zsh", &["-n", written.completion("_althing").to_str().unwrap()]);
        run("fish", &["-n", written.completion("althing.fish").to_str().unwrap()]);
    }

    /// Returns the names of all pages there must be: `althing-group-create` for `althing group create`.
    fn names(command: &Command, before: &str) -> Vec<String> {
        let name = format!("{before}{}", command.get_name());
        let below = command.get_subcommands().filter(|verb| verb.get_name() != "help");
        let mut all: Vec<_> = below.flat_map(|verb| names(verb, &format!("{name}-"))).collect();
        all.push(name);
        all
    }

    #[test]
    fn every_verb_has_a_page_that_tells_what_it_does() {
        let written = Written::new();
        let mut found: Vec<_> = written
            .pages()
            .iter()
            .map(|page| page.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let mut expected = names(&althing_cli::command(), "");
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        assert!(found.iter().any(|name| name == "althing-policy-activate"));
        for page in written.pages() {
            let text = std::fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{}", page.display());
            assert!(!text.contains("althing.sock") || text.contains("XDG_RUNTIME_DIR"), "{}", page.display());
        }
    }

    #[test]
    fn pages_are_typeset_without_a_warning() {
        for page in Written::new().pages() {
            let name = page.file_stem().unwrap().to_str().unwrap().to_owned();
            let page = page.to_str().unwrap();
            if let Some((said, complained)) = run("groff", &["-man", "-Tutf8", "-ww", "-Kutf8", page]) {
                assert_eq!(complained, "", "{page}");
                assert!(
                    said.starts_with(&format!("{name}(1)")) && said.contains("Althing"),
                    "{page}: {said}"
                );
            }
            if let Some((said, _)) = run("mandoc", &["-T", "lint", "-W", "error", page]) {
                assert_eq!(said, "", "{page}");
            }
        }
    }
}
