//! A directory, taken into use: whose it is, on what it lies, and the names of what is in it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use althing_core::{Error, Ground, Kind, Result, SessionId};

use crate::disk::{self, failed};
use crate::settings::Settings;

/// The file that says whose the directory is, and what it says.
const FORMAT_FILE: &str = "althing";
const FORMAT: &str = "althing file, layout 1\n";
/// What a fresh file system may hold already.
const HARMLESS: [&str; 1] = ["lost+found"];
const SESSIONS: &str = "sessions";
const LOG: &str = "log.";
const DRAFT: &str = "draft.";

/// The folder of a namespace, in a directory of ours, during one boot of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) boot: u128,
    /// What was synced is there after a restart of the machine.
    pub(crate) durable: bool,
}

impl Place {
    /// Takes the directory into use, and makes it where it is missing; its parent must be there. Fails with `Unsupported` where
    /// locks and syncs do not hold what we promise, and with `Format` on a directory that is not ours.
    pub(crate) fn take(settings: &Settings) -> Result<Place> {
        let directory = &settings.directory;
        refuse_other_clock()?;
        let durable = check_ground(directory)?;
        disk::make_folder(directory)
            .map_err(|error| failed("connect", "make the directory", directory, error))?;
        claim(directory)?;
        let place = Place {
            folder: directory.join(settings.folder_name()),
            boot: disk::boot_id().map_err(|error| no_proc("the id of this boot", error))?,
            durable,
        };
        place.furnish(directory).map_err(|error| failed("connect", "make", &place.folder, error))?;
        Ok(place)
    }

    fn furnish(&self, directory: &Path) -> io::Result<()> {
        disk::make_folder(&self.folder)?;
        disk::make_folder(&self.sessions())?;
        disk::sync_folder(&self.folder)?;
        disk::sync_folder(directory)
    }

    /// Returns where the files of the sessions are.
    pub(crate) fn sessions(&self) -> PathBuf {
        self.folder.join(SESSIONS)
    }

    /// Returns the file that is locked while the session's process lives.
    pub(crate) fn session(&self, id: SessionId) -> PathBuf {
        self.sessions().join(id.to_string())
    }

    /// Returns the log of a generation.
    pub(crate) fn log(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("{LOG}{generation:020}"))
    }

    /// Returns where the log of a generation is written until it is whole.
    pub(crate) fn draft(&self, generation: u64, name: u128) -> PathBuf {
        self.folder.join(format!("{DRAFT}{generation:020}.{name:032x}"))
    }

    /// Returns the drafts of a generation that somebody writes.
    pub(crate) fn drafts(&self, generation: u64) -> io::Result<Vec<PathBuf>> {
        let begins = format!("{DRAFT}{generation:020}.");
        let mut found = Vec::new();
        for name in names(&self.folder)?.into_iter().filter(|name| name.starts_with(&begins)) {
            let path = self.folder.join(name);
            if let Some(file) = disk::open(&path)?
                && !disk::lock_shared(&file)?
            {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// Returns the generations whose logs are here, in order.
    pub(crate) fn generations(&self) -> io::Result<Vec<u64>> {
        let names = names(&self.folder)?;
        let mut found: Vec<u64> =
            names.iter().filter_map(|name| name.strip_prefix(LOG)?.parse().ok()).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Removes what killed processes left behind: the logs before `generation`, drafts that nobody writes any more, and
    /// files of sessions that neither live in the log nor in a process.
    pub(crate) fn sweep(&self, generation: u64, is_alive: impl Fn(SessionId) -> bool) -> io::Result<()> {
        // In order: where a later log is gone, the earlier ones are. Who makes a log leans on that.
        for old in self.generations()?.into_iter().filter(|found| *found < generation) {
            disk::remove(&self.log(old))?;
        }
        for name in names(&self.folder)?.iter().filter(|name| name.starts_with(DRAFT)) {
            remove_unlocked(&self.folder.join(name))?;
        }
        for name in names(&self.sessions())? {
            if name.parse().is_ok_and(|id| !is_alive(id)) {
                remove_unlocked(&self.sessions().join(name))?;
            }
        }
        Ok(())
    }
}

fn remove_unlocked(path: &Path) -> io::Result<()> {
    match disk::open(path)? {
        Some(file) if disk::lock(&file)? => disk::remove(path),
        _ => Ok(()),
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let name =
        |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
    disk::found(fs::read_dir(folder))?.into_iter().flatten().map(name).collect()
}

fn no_proc(what: &str, error: io::Error) -> Error {
    Error::new(Kind::Unsupported, "connect", format!("cannot learn {what}"))
        .because(error)
        .advise("This driver needs Linux with /proc")
}

fn refuse_other_clock() -> Result<()> {
    if !disk::has_clock_of_its_own().map_err(|error| no_proc("which clock this is", error))? {
        return Ok(());
    }
    let message = "this process is in a time namespace: its boot clock is not that of the others";
    Err(Error::new(Kind::Unsupported, "connect", message).advise("Start it without --time or --boottime"))
}

/// Tells whether what is synced at `directory` lasts.
fn check_ground(directory: &Path) -> Result<bool> {
    let is_there = fs::exists(directory).unwrap_or_default();
    let ground_at = if is_there { directory } else { directory.parent().unwrap_or(directory) };
    match disk::ground(ground_at).map_err(|error| failed("connect", "look at", ground_at, error))? {
        Ground::Durable => Ok(true),
        Ground::Volatile => Ok(false),
        Ground::Foreign(name) => {
            let message = format!("the directory lies on a file system that is {name}");
            Err(Error::new(Kind::Unsupported, "connect", message).with("path", directory.display()).advise(
                "Locks, syncs and clocks hold within one machine only: choose a directory on its own disk \
                 (ext4, xfs, btrfs, zfs …), or another backend",
            ))
        }
    }
}

/// Makes sure that the directory is ours, and makes it ours where it is empty.
fn claim(directory: &Path) -> Result<()> {
    let path = directory.join(FORMAT_FILE);
    let stranger = stranger(directory).map_err(|error| failed("connect", "list", directory, error))?;
    // Read after the listing: another process may just have made the directory ours.
    let format = read_format(&path).map_err(|error| failed("connect", "read", &path, error))?;
    if format == FORMAT {
        return Ok(());
    }
    if !format.is_empty() {
        let message = match format.strip_prefix("althing file, layout ") {
            Some(layout) => {
                format!("the directory has layout {}; this version knows layout 1", layout.trim())
            }
            None => "the directory is not ours: its file \"althing\" says something else".to_owned(),
        };
        return Err(not_ours(directory, message));
    }
    if let Some(name) = stranger {
        return Err(not_ours(directory, format!("the directory is not ours: it holds {name:?}")));
    }
    write_format(&path, directory).map_err(|error| failed("connect", "write", &path, error))
}

fn not_ours(directory: &Path, message: String) -> Error {
    Error::new(Kind::Format, "connect", message)
        .with("path", directory.display())
        .advise("Name a directory that is empty or does not exist; nothing was changed in this one")
}

fn stranger(directory: &Path) -> io::Result<Option<String>> {
    let known = |name: &String| name == FORMAT_FILE || HARMLESS.contains(&name.as_str());
    Ok(names(directory)?.into_iter().find(|name| !known(name)))
}

/// Reads what the format file says; nothing where there is none, or whoever makes it has not come so far.
fn read_format(path: &Path) -> io::Result<String> {
    let Some(file) = disk::found(File::open(path))? else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    file.take(2 * FORMAT.len() as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes the format file. Whoever does the same at the same time writes the same.
fn write_format(path: &Path, directory: &Path) -> io::Result<()> {
    let file = match disk::create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk::open(path)?,
        made => Some(made?),
    };
    let Some(file) = file else { return Err(io::ErrorKind::NotFound.into()) };
    file.write_all_at(FORMAT.as_bytes(), 0)?;
    file.sync_all()?;
    disk::sync_folder(directory)
}
