//! The file on its disk: found or made, and taken for this process.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use althing_core::{Error, Ground, Kind, Result};

/// Opens the file at `path`, or has it made, and locks it until it is closed. A new file gets its name when `make` has
/// filled it, so that a crash leaves a whole one or none; only an empty file is ever replaced. A missing folder is made if
/// the one above it is there. Returns as well whether what is synced to it lasts, and its name does.
///
/// Fails with `Busy` where another process has the file, `NotFound` where there is no folder to make it in, `Unsupported`
/// on a file system of other machines, `Invalid` where something else has the name, and `Denied` or `Unavailable` as the system says.
pub(crate) fn take(path: &Path, make: impl FnOnce(File) -> Result<()>) -> Result<(File, bool)> {
    let folder = folder(path)?;
    let keeps_name = check_ground(&folder, path)?;
    let file = match open(path)? {
        Some(file) => lock(file, path)?,
        None => make_in(&folder, path, make)?,
    };
    // A link, or a mount on it, may have led elsewhere than to its folder.
    let keeps_bytes = check_ground(&file, path)?;
    Ok((file, keeps_name && keeps_bytes))
}

/// Opens the folder of `path`.
fn folder(path: &Path) -> Result<File> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let opened = match File::open(parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = DirBuilder::new().mode(0o700).create(parent);
            let above = parent.parent().unwrap_or(Path::new("/"));
            made.and_then(|()| File::open(above)?.sync_all()).and_then(|()| File::open(parent))
        }
        opened => opened,
    };
    opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::new(Kind::NotFound, "connect", "no folder for the file")
            .with("file", path.display())
            .advise(format!("Make {}: only a last missing folder is made here", parent.display())),
        _ => failed("the folder of the file cannot be opened", path, error),
    })
}

/// Tells whether what is synced to `on`, which is the folder of `path` or what was opened there, lasts.
fn check_ground(on: &File, path: &Path) -> Result<bool> {
    match Ground::of(on).map_err(|error| failed("no word about the disk", path, error))? {
        Ground::Durable => Ok(true),
        Ground::Volatile => Ok(false),
        Ground::Foreign(name) => {
            let message = format!("the file lies on a file system that is {name}");
            Err(Error::new(Kind::Unsupported, "connect", message).with("file", path.display()).advise(
                "Put it on a disk of this machine (ext4, xfs, btrfs, zfs …); hosts on several machines need a server, \
                 such as etcd://",
            ))
        }
    }
}

/// Opens the file, if there is one with something in it.
fn open(path: &Path) -> Result<Option<File>> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("the file cannot be opened", path, error)),
    };
    let status = file.metadata().map_err(|error| failed("no word about the file", path, error))?;
    if !status.is_file() {
        let error = Error::new(Kind::Invalid, "connect", "not a plain file").with("file", path.display());
        return Err(error.advise("Name a file that is there or can be made"));
    }
    Ok((status.len() > 0).then_some(file))
}

fn lock(file: File, path: &Path) -> Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            Kind::Busy,
            "connect",
            "another process, or another part of this one, has the file",
        )
        .with("file", path.display())
        .advise(
            "One process owns it: reach the others' groups through the socket of its daemon, or use a file: \
                     backend, which several processes share",
        )),
        Err(TryLockError::Error(error)) => Err(failed("the file cannot be locked", path, error)),
    }
}

/// Makes the file, alone in its folder.
fn make_in(folder: &File, path: &Path, make: impl FnOnce(File) -> Result<()>) -> Result<File> {
    let wrong = |error| failed("the file cannot be made", path, error);
    folder.lock().map_err(wrong)?;
    let made = match open(path)? {
        // Somebody else was first.
        Some(file) => lock(file, path),
        None => make_new(path, make),
    };
    folder.sync_all().and_then(|()| folder.unlock()).map_err(wrong)?;
    made
}

fn make_new(path: &Path, make: impl FnOnce(File) -> Result<()>) -> Result<File> {
    let wrong = |error| failed("the file cannot be made", path, error);
    let unfinished = unfinished(path);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(wrong(error)),
        _ => {}
    }
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&unfinished);
    let file = lock(file.map_err(wrong)?, path)?;
    let made =
        make(file.try_clone().map_err(wrong)?).and_then(|()| fs::rename(&unfinished, path).map_err(wrong));
    if let Err(error) = made {
        // It holds nothing that anybody was promised.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    Ok(file)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let (kind, advice) = match error.kind() {
        ErrorKind::PermissionDenied => (Kind::Denied, "Give this user the right to read and write it"),
        ErrorKind::IsADirectory | ErrorKind::NotADirectory => (Kind::Invalid, "Name a file, not a folder"),
        _ => (Kind::Unavailable, "Look after the disk"),
    };
    Error::new(kind, "connect", what).with("file", path.display()).because(error).advise(advice)
}
