//! Which host to ask, and how to show what it answers.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use althing::{Error, Kind, Result, Secret, location};
use althing_client::{Address, Client};
use clap::Args;
use serde::Serialize;

use crate::print;
use crate::table::Table;

/// Where `--help` lists the options of every verb.
const HEADING: &str = "Options of every verb";

/// Options of every verb.
#[derive(Args)]
pub(crate) struct Host {
    /// The host to ask: unix:PATH or http://127.0.0.1:PORT
    #[arg(long, global = true, help_heading = HEADING, value_name = "ADDRESS", env = "ALTHING_SERVER", default_value_t)]
    server: Address,

    /// The file with the bearer token, for a host asked over http
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE", env = "ALTHING_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// The backend to ask about, by its name on the host [default: its only one, or the one called default]
    #[arg(long, global = true, help_heading = HEADING, value_name = "BACKEND", env = "ALTHING_ON")]
    on: Option<String>,

    /// Print JSON: one value, or one per line where they keep coming; what went wrong too
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
}

impl Host {
    /// Makes the client of this host.
    pub(crate) fn client(&self) -> Result<Client> {
        let server = self.server.clone();
        let client = match &self.token_file {
            None => Client::new(server),
            Some(file) => Client::with_token(server, Secret::new(read(file)?.trim())),
        };
        Ok(match &self.on {
            None => client,
            Some(backend) => client.on(backend.as_str()),
        })
    }

    /// Shows one value: as JSON, or as the lines that `people` makes of it.
    pub(crate) fn show<T: Serialize>(&self, value: &T, people: impl FnOnce(&T) -> Vec<String>) -> Result<()> {
        if self.json {
            return print::json(value);
        }
        people(value).iter().try_for_each(|line| print::line(line))
    }

    /// Shows a list: as JSON, or as a table, or as `none` where it is empty.
    pub(crate) fn show_list<T: Serialize>(
        &self,
        list: &[T],
        none: &str,
        mut table: Table,
        row: impl Fn(&mut Table, &T),
    ) -> Result<()> {
        if self.json {
            return print::json(&list);
        }
        if list.is_empty() {
            return print::line(none);
        }
        list.iter().for_each(|item| row(&mut table, item));
        table.lines().iter().try_for_each(|line| print::line(line))
    }

    /// Says that something was done: in words to people, as an empty object in JSON.
    pub(crate) fn done(&self, words: &str) -> Result<()> {
        if self.json { print::line("{}") } else { print::line(words) }
    }
}

/// Reads a file of text.
pub(crate) fn read(file: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| unread(file, error))
}

/// Reads a file, or standard input where the file is `-`; not more than `most` bytes and one.
pub(crate) fn read_bytes(file: &std::path::Path, most: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = most as u64 + 1;
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().lock().take(most).read_to_end(&mut bytes),
        false => std::fs::File::open(file).and_then(|open| open.take(most).read_to_end(&mut bytes)),
    };
    read.map_err(|error| unread(file, error))?;
    Ok(bytes)
}

fn unread(file: &std::path::Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        std::io::ErrorKind::PermissionDenied => Kind::Denied,
        _ => Kind::Invalid,
    };
    Error::new(kind, "read file", "it cannot be read").with("file", file.display()).because(error)
}

/// Reads a time for clap.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    location::parse_duration(text).ok_or_else(|| "write a number with ms, s, m or h, such as 500ms".into())
}
