//! A wall clock of its own for a server, which a test can step: a library that is preloaded into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The clock of one server.
#[derive(Debug)]
pub(crate) struct WallClock {
    library: PathBuf,
    /// How many seconds it is ahead, as the machine writes a number.
    ahead: PathBuf,
}

impl WallClock {
    /// Makes a clock in `folder` that shows the machine's time.
    pub(crate) fn make(folder: &Path) -> WallClock {
        let clock = WallClock { library: folder.join("wall.so"), ahead: folder.join("wall-clock") };
        fs::write(&clock.ahead, 0i64.to_ne_bytes()).expect("a file can be written");
        let source = folder.join("wall.c");
        fs::write(&source, include_str!("wall.c")).expect("a file can be written");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&clock.library)
            .arg(source)
            .output();
        let made = made.expect("a C compiler is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        clock
    }

    /// Makes `command` start a program that looks at this clock.
    pub(crate) fn give(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("WALL_CLOCK", &self.ahead);
    }

    /// Steps it forward, or backward.
    pub(crate) fn step(&self, seconds: i64) {
        let bytes = fs::read(&self.ahead).expect("the clock is there");
        let ahead = i64::from_ne_bytes(bytes.try_into().expect("eight bytes")) + seconds;
        // In place, and in one write: the server has the file in its memory.
        let file = fs::OpenOptions::new().write(true).open(&self.ahead).expect("the clock can be set");
        std::os::unix::fs::FileExt::write_all_at(&file, &ahead.to_ne_bytes(), 0)
            .expect("the clock can be set");
    }
}
