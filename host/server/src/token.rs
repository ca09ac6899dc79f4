//! The bearer token of the TCP port.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use althing_core::{Chance, Error, Kind, OsChance, Result, Secret};

/// The most bytes of a token.
const TOKEN_BYTES_MAX: u64 = 1024;

/// Reads the token, or makes one where the file is missing. Fails with `Denied` where others may read the file.
pub(crate) fn read_or_make(file: &Path) -> Result<Secret> {
    let failed = |error: io::Error| {
        Error::new(Kind::Invalid, "token", "the token file cannot be used")
            .with("file", file.display())
            .because(error)
    };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut made) => {
            let token = format!("{:032x}{:032x}", OsChance.bits(), OsChance.bits());
            writeln!(made, "{token}").and_then(|()| made.sync_all()).map_err(failed)?;
            Ok(Secret::new(token))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(file).map_err(failed)?,
        Err(error) => Err(failed(error)),
    }
}

fn read(file: &Path) -> io::Result<Result<Secret>> {
    let refused = |kind, message: &str| Error::new(kind, "token", message).with("file", file.display());
    let opened = File::open(file)?;
    if opened.metadata()?.mode() & 0o077 != 0 {
        return Ok(Err(
            refused(Kind::Denied, "others may read the token file").advise("chmod 600 it, or remove it")
        ));
    }
    let mut text = String::new();
    opened.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let error = refused(Kind::Invalid, "the token file holds no token");
        return Ok(Err(error.advise("Remove it; a new one is made at the next start")));
    }
    Ok(Ok(Secret::new(token)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let made = read_or_make(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read_or_make(&file).unwrap().matches(made.expose()));
        assert_eq!(made.expose().len(), 64);
    }

    #[test]
    fn refuses_a_token_that_others_may_read_or_that_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "abc\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read_or_make(&file).unwrap_err().kind(), Kind::Denied);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_or_make(&file).unwrap().matches("abc"));
        std::fs::write(&file, "a b\n").unwrap();
        assert_eq!(read_or_make(&file).unwrap_err().kind(), Kind::Invalid);
    }
}
