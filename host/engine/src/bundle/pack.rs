//! Folders, and the one file a bundle is packed into: a tar archive that is the same for the same content.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use althing_core::{Error, Kind, Result, limits};
use bytes::Bytes;

use super::manifest::{FILE_NAME_BYTES_MAX, MANIFEST_FILE, Manifest};
use super::{README_FILE, is_case, text};
use crate::signature::SIGNATURE_FILE;

type Files = BTreeMap<String, Bytes>;

/// Reads the files of a bundle from its folder, or from the file it was packed into.
pub(super) fn read(path: &Path) -> Result<Files> {
    let about = fs::metadata(path).map_err(unreadable)?;
    if !about.is_dir() {
        check_size(about.len())?;
        return unpack(&fs::read(path).map_err(unreadable)?);
    }
    let mut files = Files::new();
    take(&mut files, path, MANIFEST_FILE)?;
    if let Some(bytes) = files.get(MANIFEST_FILE) {
        let component = Manifest::parse(text(MANIFEST_FILE, bytes)?)?.component;
        take(&mut files, path, &component)?;
    }
    take(&mut files, path, README_FILE)?;
    take(&mut files, path, SIGNATURE_FILE)?;
    for name in case_names(path)? {
        take(&mut files, path, &name)?;
    }
    check_size(files.values().map(|bytes| bytes.len() as u64).sum())?;
    Ok(files)
}

fn case_names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder.join("cases")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let names = entries.map(|entry| Ok(format!("cases/{}", entry?.file_name().to_string_lossy())));
    let names: io::Result<Vec<String>> =
        names.filter(|name| name.as_ref().map_or(true, |name| is_case(name))).collect();
    let names = names.map_err(unreadable)?;
    names.iter().try_for_each(|name| check_name(name))?;
    check_count(names.len())?;
    Ok(names)
}

fn take(files: &mut Files, folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(name);
    match fs::metadata(&path) {
        Ok(about) => check_size(about.len())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(error).with("file", name)),
    }
    let bytes = fs::read(&path).map_err(|error| unreadable(error).with("file", name))?;
    files.insert(name.into(), bytes.into());
    Ok(())
}

/// Packs files: in the order of their names, without times and owners.
pub(super) fn pack(files: &Files) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        // Names were checked to fit the header, and writing to memory does not fail.
        let _ = archive.append_data(&mut header, name, bytes.as_ref());
    }
    archive.into_inner().unwrap_or_default()
}

/// Reads a packed bundle. Refuses links, folders, odd names and anything twice.
pub(super) fn unpack(bytes: &[u8]) -> Result<Files> {
    check_size(bytes.len() as u64)?;
    let mut files = Files::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(no_archive)? {
        let mut entry = entry.map_err(no_archive)?;
        let name = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|_| wrong("a file's name is not UTF-8"))?;
        check_name(&name)?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(wrong(format!("{name:?} is not a plain file")));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(no_archive)?;
        if files.insert(name.clone(), content.into()).is_some() {
            return Err(wrong(format!("{name:?} is in the bundle twice")));
        }
        check_count(files.len())?;
    }
    if files.is_empty() {
        return Err(
            wrong("there is no file in it").advise("Pack a bundle's folder with `althing policy push`")
        );
    }
    Ok(files)
}

fn check_name(name: &str) -> Result<()> {
    let file = name.strip_prefix("cases/").unwrap_or(name);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if file.is_empty()
        || file.len() > FILE_NAME_BYTES_MAX
        || file.starts_with('.')
        || !file.chars().all(allowed)
    {
        return Err(wrong(format!("a bundle cannot hold a file named {name:?}"))
            .advise("Names have up to 64 letters, digits, `-`, `_` and `.`"));
    }
    Ok(())
}

fn check_size(bytes: u64) -> Result<()> {
    let max = limits::BUNDLE_BYTES_MAX;
    if bytes > max as u64 {
        return Err(Error::new(
            Kind::TooLarge,
            "open bundle",
            format!("it has {bytes} bytes; at most {max}"),
        ));
    }
    Ok(())
}

fn check_count(files: usize) -> Result<()> {
    let max = limits::BUNDLE_FILES_MAX;
    if files > max {
        return Err(Error::new(Kind::TooLarge, "open bundle", format!("it has more than {max} files")));
    }
    Ok(())
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "open bundle", message)
}

fn no_archive(error: io::Error) -> Error {
    wrong("it is not a packed bundle").because(error)
}

fn unreadable(error: io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Invalid };
    Error::new(kind, "open bundle", "it cannot be read").because(error)
}
