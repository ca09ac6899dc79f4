//! The `althing` binary.

fn main() -> std::process::ExitCode {
    althing_cli::run()
}
