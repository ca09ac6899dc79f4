//! What we ask of the kernel beyond reading and writing files, and what its refusals mean.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use althing_core::{Error, Ground, Kind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, fallocate, flock};
use rustix::io::Errno;
use tokio::sync::Notify;

/// The rights of the files and folders that we make: ours alone.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// How many bytes of events are read at once.
const EVENT_BYTES: usize = 4096;

/// Makes the error that `what` could not be done with `path`. Nothing was written, unless the caller says so.
pub(crate) fn failed(operation: &'static str, what: &str, path: &Path, error: io::Error) -> Error {
    let (kind, advice) = match error.kind() {
        io::ErrorKind::PermissionDenied => (Kind::Denied, "The user of this process must own the directory"),
        io::ErrorKind::ReadOnlyFilesystem => (Kind::Denied, "Mount it so that it can be written"),
        io::ErrorKind::NotFound => (Kind::Unavailable, "Somebody removed it, or its parent is missing"),
        io::ErrorKind::NotADirectory => (Kind::Invalid, "Name a directory"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Kind::Unavailable, "The disk is full: free some space")
        }
        // Whatever else a disk says (EIO, too many open files) may be over when it is asked again.
        _ => (Kind::Unavailable, "Look at the kernel's log"),
    };
    Error::new(kind, operation, format!("cannot {what}"))
        .with("path", path.display())
        .because(error)
        .advise(advice)
}

/// Makes a folder for us alone. One that exists stays as it is.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Makes a new file for us alone, to be read and written. Fails with `AlreadyExists` where there is one.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Makes a new file and locks it. `None` where whoever sweeps took it in between for one that was left behind: he may stand
/// still there, so another name has to be taken.
pub(crate) fn create_locked(path: &Path) -> io::Result<Option<File>> {
    let file = create(path)?;
    Ok((lock(&file)? && lies_at(&file, path)?).then_some(file))
}

/// Opens a file to be read and written, `None` where there is none.
pub(crate) fn open(path: &Path) -> io::Result<Option<File>> {
    found(OpenOptions::new().read(true).write(true).open(path))
}

/// Opens a file whose every write goes to its end, whoever else writes: the kernel does both in one step.
pub(crate) fn open_to_append(path: &Path) -> io::Result<Option<File>> {
    found(OpenOptions::new().append(true).open(path))
}

/// Makes `None` of the error that there is no such thing.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file; one that is gone already is no failure.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    found(fs::remove_file(path)).map(drop)
}

/// Makes the names in a folder last: returns when they are on the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Tells whether `file` is what lies at `path` now.
pub(crate) fn lies_at(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, there) = (file.metadata()?, found(fs::metadata(path))?);
    Ok(there.is_some_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

/// Locks a file for this open file alone. False where it is locked. The kernel frees the lock when the last copy of the
/// descriptor is closed, also by kill -9, and not before.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    locked(flock(file, FlockOperation::NonBlockingLockExclusive))
}

/// Locks a file together with whoever else only looks. False where somebody has it for himself.
pub(crate) fn lock_shared(file: &File) -> io::Result<bool> {
    locked(flock(file, FlockOperation::NonBlockingLockShared))
}

fn locked(result: rustix::io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Keeps room for `bytes` after `from`, without making the file longer. A file system that cannot promise any is taken
/// as it is: its writes fail where it is full.
pub(crate) fn reserve(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, from, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        result => result.map_err(io::Error::from),
    }
}

/// Stands still for a moment, on a thread that may block: what another process does to a file, no `Clock` can wait for.
pub(crate) fn pause(time: Duration) {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    // A signal may end it early.
    let _ = poll(&mut [], Some(&time));
}

/// Tells on what `path` lies.
pub(crate) fn ground(path: &Path) -> io::Result<Ground> {
    // To look at it takes no right to read it.
    Ground::of(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Returns the id that the kernel chose when it started.
pub(crate) fn boot_id() -> io::Result<u128> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Tells whether this process lives in a time namespace whose boot clock is not the machine's.
pub(crate) fn has_clock_of_its_own() -> io::Result<bool> {
    // A kernel without time namespaces has no such file.
    let text = found(fs::read_to_string("/proc/self/timens_offsets"))?.unwrap_or_default();
    let offset = text.lines().find_map(|line| line.strip_prefix("boottime"));
    Ok(offset.is_some_and(|offset| offset.split_whitespace().any(|part| part != "0")))
}

/// What was heard of a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Something happened.
    any: bool,
    /// A file was closed by somebody who could write it: perhaps he died.
    pub(crate) closed: bool,
    /// What is listened to is gone.
    pub(crate) gone: bool,
}

/// Hears what happens to the files of some folders. What it hears carries no data: whoever is woken reads for himself.
///
/// It waits on a thread of its own: to let tokio wait for a descriptor that is no socket takes `unsafe`.
#[derive(Debug)]
pub(crate) struct Ear {
    heard: Arc<(Mutex<Heard>, Notify)>,
    stop: OwnedFd,
}

impl Ear {
    /// Begins to listen for written and new files in `log`, and for closed ones in `sessions`.
    pub(crate) fn open(log: &Path, sessions: &Path) -> io::Result<Ear> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let end = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        inotify::add_watch(&events, log, end | WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::DELETE)?;
        inotify::add_watch(&events, sessions, end | WatchFlags::CLOSE_WRITE)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let (heard, stopped) = (Arc::new((Mutex::default(), Notify::new())), stop.try_clone()?);
        let ear = Ear { heard: heard.clone(), stop };
        let thread = std::thread::Builder::new().name("althing-file-ear".into());
        thread.spawn(move || listen(&events, &stopped, &heard))?;
        Ok(ear)
    }

    /// Waits until something happened. Cancel-safe.
    pub(crate) async fn next(&self) -> Heard {
        let (heard, news) = &*self.heard;
        loop {
            let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
            if heard.any {
                return heard;
            }
            // Told before we ask is told all the same.
            news.notified().await;
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        // A counter that stands at nought takes a one.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

/// Gathers events until the ear is dropped, or there is nothing left to hear.
fn listen(events: &OwnedFd, stop: &OwnedFd, heard: &(Mutex<Heard>, Notify)) {
    loop {
        let mut waits = [PollFd::new(events, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut waits, None) {
            Err(Errno::INTR) => continue,
            Ok(_) if waits[1].revents().is_empty() => {}
            _ => return,
        }
        let new = all_events(events).unwrap_or(Heard { any: true, closed: true, gone: true });
        {
            let mut heard = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
            heard.any |= new.any;
            heard.closed |= new.closed;
            heard.gone |= new.gone;
        }
        heard.1.notify_one();
        if new.gone {
            return;
        }
    }
}

/// Reads all events that are there.
fn all_events(events: &OwnedFd) -> io::Result<Heard> {
    let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
    let mut events = inotify::Reader::new(events, &mut buffer);
    let mut heard = Heard::default();
    loop {
        let flags = match events.next() {
            Ok(event) => event.events(),
            Err(Errno::WOULDBLOCK) => return Ok(heard),
            Err(error) => return Err(error.into()),
        };
        // Lost events may have been any of them.
        let lost = flags.contains(ReadFlags::QUEUE_OVERFLOW);
        heard.any = true;
        heard.closed |= lost || flags.contains(ReadFlags::CLOSE_WRITE);
        heard.gone |= flags.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::MOVE_SELF);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_disk_is_foreign_ground() {
        assert_eq!(ground(Path::new("/proc")).unwrap(), Ground::Foreign("unknown to this driver"));
    }

    #[test]
    fn this_machine_has_an_id_of_its_boot_and_one_clock() {
        assert_ne!(boot_id().unwrap(), 0);
        assert!(!has_clock_of_its_own().unwrap());
    }
}
