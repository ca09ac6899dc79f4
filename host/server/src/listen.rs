//! The doors: a Unix socket, and a TCP port on a loopback address.

use std::fs::{File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use althing_core::{Error, Kind, Result, Secret};
use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::token;

/// A Unix socket that is ours. Its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct UnixDoor {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file, by which we know it again.
    file: (u64, u64),
    /// Kept locked while this host lives, so that of two that start at once only one replaces a dead socket.
    _lock: File,
}

impl UnixDoor {
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let failed = |error| wrong(path, "the socket cannot be made").because(error);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let lock = lock(path)?;
        clear(path).await?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        Ok(UnixDoor { listener, path: path.to_owned(), file, _lock: lock })
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        // Another file may stand there meanwhile; that one is not ours to remove.
        if identity(&self.path).is_ok_and(|file| file == self.file)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(socket = %self.path.display(), %error, "the socket could not be removed");
        }
    }
}

fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |error| wrong(path, "the lock file beside the socket cannot be made").because(error);
    let file = File::options().create(true).truncate(false).write(true).open(name).map_err(failed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| answered(path))?;
    Ok(file)
}

/// Removes the socket of a host that is gone. Fails where one answers, or where the file is no socket.
async fn clear(path: &Path) -> Result<()> {
    let failed = |error| wrong(path, "what is at the socket's place cannot be removed").because(error);
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(
            wrong(path, "there is a file that is no socket").advise("Remove it, or name another socket")
        );
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(answered(path)),
        Err(error) => Err(failed(error)),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

fn wrong(path: &Path, message: &str) -> Error {
    Error::new(Kind::Invalid, "listen", message).with("socket", path.display())
}

fn answered(path: &Path) -> Error {
    Error::new(Kind::Exists, "listen", "another host answers here already")
        .with("socket", path.display())
        .advise("Stop it, or name another socket with --socket")
}

/// A TCP port, and the token that opens it.
#[derive(Debug)]
pub(crate) struct TcpDoor {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
    pub(crate) token: Secret,
}

impl TcpDoor {
    pub(crate) async fn open(address: SocketAddr, token_file: &Path) -> Result<Self> {
        if !address.ip().is_loopback() {
            let message = format!("{address} is not a loopback address; a host does not speak TLS yet");
            let advice = "Listen on 127.0.0.1, and put what speaks TLS in front";
            return Err(Error::new(Kind::Unsupported, "listen", message).advise(advice));
        }
        let failed = |error: io::Error| {
            let kind = if error.kind() == io::ErrorKind::AddrInUse { Kind::Exists } else { Kind::Invalid };
            Error::new(kind, "listen", "the port cannot be opened").with("address", address).because(error)
        };
        let token = token::read_or_make(token_file)?;
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(TcpDoor { listener, address, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaces_the_socket_of_a_dead_host_and_not_that_of_a_living_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/a.sock");
        let first = UnixDoor::open(&path).await.unwrap();
        assert_eq!(UnixDoor::open(&path).await.unwrap_err().kind(), Kind::Exists);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(first);
        assert!(!path.exists());
        // What a killed process leaves: a file that nobody listens behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        UnixDoor::open(&path).await.unwrap();
    }

    #[tokio::test]
    async fn leaves_alone_what_is_not_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(UnixDoor::open(&path).await.unwrap_err().to_string().contains("no socket"));
        std::fs::remove_file(&path).unwrap();

        let stranger = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(UnixDoor::open(&path).await.unwrap_err().kind(), Kind::Exists);
        drop(stranger);

        let door = UnixDoor::open(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(door);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn opens_loopback_ports_only() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        let error = TcpDoor::open("0.0.0.0:0".parse().unwrap(), &token).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(!token.exists());
    }
}
