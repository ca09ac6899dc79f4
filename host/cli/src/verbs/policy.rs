//! `althing policy`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use althing::clock::OsChance;
use althing::info::{JobInfo, PolicyInfo};
use althing::{Bundle, Digest, Error, Kind, Result, SigningKey, limits};
use althing_client::{Client, told};
use clap::Subcommand;
use serde_json::json;

use super::{behaviour, group};
use crate::ask::{Host, read};
use crate::print;
use crate::table::{Table, moment, plain, word};

/// The file of a signature in a bundle's folder.
const SIGNATURE_FILE: &str = "signature.toml";

/// Make keys; sign, push, activate, list, show and roll back policies
#[derive(Subcommand)]
pub(crate) enum Policy {
    /// Make a key that signs bundles: FILE, and FILE.pub for `althing serve --trust`
    Keygen {
        /// Where the secret key goes
        #[arg(long, value_name = "FILE", default_value = "althing.key")]
        out: PathBuf,
    },
    /// Sign a bundle, in its folder or in the file it is packed in
    Sign {
        /// The bundle
        bundle: PathBuf,
        /// The secret key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Upload a bundle; the host checks it, compiles it and runs its cases
    Push {
        /// The bundle: its folder, or the file it is packed in
        bundle: PathBuf,
        /// Sign it with this secret key on the way
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Let a policy decide in a group; or, where it is of kind behaviour, answer calls
    Activate {
        /// The policy's name
        name: String,
        /// The group
        #[arg(long, conflicts_with = "behaviour")]
        group: Option<String>,
        /// The name under which it answers calls; that of the policy if left out
        #[arg(long, value_name = "NAME")]
        behaviour: Option<String>,
        /// Which of the bundles pushed under this name; the newest if left out
        #[arg(long)]
        digest: Option<Digest>,
    },
    /// List the policies that were pushed
    List,
    /// Show a policy and its versions
    Show {
        /// Its name
        name: String,
    },
    /// Let the former policy of a group decide again
    Rollback {
        /// The group
        #[arg(long)]
        group: String,
    },
}

impl Policy {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        match self {
            Policy::Keygen { out } => keygen(host, &out),
            Policy::Sign { bundle, key } => sign(host, &bundle, &key),
            Policy::Push { bundle, key } => push(host, &bundle, key.as_deref()).await,
            Policy::Activate { name, group: Some(group), digest, .. } => {
                host.show(&host.client()?.activate(&group, &name, digest).await?, group::lines)
            }
            Policy::Activate { name, behaviour, digest, .. } => {
                let client = host.client()?;
                if behaviour.is_none() {
                    refuse_without_place(&client.policy(&name).await?)?;
                }
                let behaviour = behaviour.as_ref().unwrap_or(&name);
                let info = client.activate_behaviour(behaviour, &name, digest).await?;
                host.show(&info, behaviour::lines)
            }
            Policy::List => {
                let policies = host.client()?.policies().await?;
                let table = Table::new(["POLICY", "VERSION", "DIGEST", "SIGNED BY", "GROUPS", "BEHAVIOURS"]);
                host.show_list(&policies, "no policies", table, row)
            }
            Policy::Show { name } => host.show(&host.client()?.policy(&name).await?, versions),
            Policy::Rollback { group } => host.show(&host.client()?.rollback(&group).await?, group::lines),
        }
    }
}

/// Refuses to guess where a policy shall decide that answers no calls.
fn refuse_without_place(policy: &PolicyInfo) -> Result<()> {
    match policy.versions.first() {
        Some(newest) if newest.kind != "behaviour" => {
            let message = format!("a policy of kind {} decides in a group", newest.kind);
            Err(Error::new(Kind::Invalid, "activate", message).advise("Name the group with --group"))
        }
        _ => Ok(()),
    }
}

fn keygen(host: &Host, out: &Path) -> Result<()> {
    let key = SigningKey::generate(&OsChance);
    let mut public = out.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    make(out, &key.to_text(), 0o600)?;
    make(&public, &key.public().to_text(), 0o644)?;
    let id = key.public().id();
    host.show(&json!({ "key": out, "public": public, "id": id }), |_| {
        vec![format!("key {id}: secret in {}, public in {}", out.display(), public.display())]
    })
}

/// Writes a file that does not exist yet: no key is ever written over.
fn make(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(mode).open(path);
    opened.and_then(|mut file| writeln!(file, "{text}").and_then(|()| file.sync_all())).map_err(|error| {
        let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
        let kind = if exists { Kind::Exists } else { Kind::Invalid };
        Error::new(kind, "make key", "the file cannot be made").with("file", path.display()).because(error)
    })
}

fn sign(host: &Host, path: &Path, key: &Path) -> Result<()> {
    let mut bundle = Bundle::open(path)?;
    bundle.sign(&signing_key(key)?);
    let signature = bundle.signature_toml().unwrap_or_default();
    let written = if path.is_dir() {
        std::fs::write(path.join(SIGNATURE_FILE), signature)
    } else {
        std::fs::write(path, bundle.pack())
    };
    written.map_err(|error| {
        Error::new(Kind::Invalid, "sign", "the signature cannot be written")
            .with("bundle", path.display())
            .because(error)
    })?;
    let (digest, by) = (bundle.digest(), bundle.signed_by());
    host.show(&json!({ "digest": digest, "signed_by": by }), |_| {
        vec![format!("signed {} by key {}", digest.short(), by.unwrap_or_default())]
    })
}

fn signing_key(file: &Path) -> Result<SigningKey> {
    read(file)?.parse().map_err(|error: Error| error.with("file", file.display()))
}

async fn push(host: &Host, path: &Path, key: Option<&Path>) -> Result<()> {
    let mut bundle = Bundle::open(path)?;
    if let Some(key) = key {
        bundle.sign(&signing_key(key)?);
    }
    let client = host.client()?;
    let job = client.push(bundle.pack().into()).await?;
    follow(host, &client, job, &bundle.manifest.name).await
}

/// Shows each phase of an upload until the last. The host tells of the end of a job, and in between it is
/// asked; phases that pass between two looks are not shown.
async fn follow(host: &Host, client: &Client, mut job: JobInfo, policy: &str) -> Result<()> {
    loop {
        if host.json {
            print::json(&job)?;
        }
        if let Some(error) = &job.error {
            return Err(told("push", error));
        }
        if job.done {
            break;
        }
        job = client.job(&job.id, limits::JOB_WAIT_MAX).await?;
    }
    if host.json {
        return Ok(());
    }
    let digest = job.digest.map(|digest| digest.short()).unwrap_or_default();
    let cases = job.cases.unwrap_or(0);
    print::line(&format!("pushed {policy} ({digest}): {}, {cases} cases passed", word(&job.phase)))
}

fn row(table: &mut Table, policy: &PolicyInfo) {
    let newest = policy.versions.first();
    let of_newest = |show: fn(&althing::info::PolicyVersion) -> String| newest.map(show).unwrap_or_default();
    table.row([
        policy.name.clone(),
        of_newest(|version| version.version.clone()),
        of_newest(|version| version.digest.short()),
        of_newest(|version| version.signed_by.clone().unwrap_or_else(|| "nobody".into())),
        policy.groups.join(" "),
        policy.behaviours.join(" "),
    ]);
}

fn versions(policy: &PolicyInfo) -> Vec<String> {
    let mut table = Table::new(["VERSION", "KIND", "PUSHED", "BY", "SIGNED BY", "CASES", "BYTES", "DIGEST"]);
    for version in &policy.versions {
        table.row([
            version.version.clone(),
            version.kind.clone(),
            moment(version.pushed_ms),
            version.pushed_by.clone(),
            version.signed_by.clone().unwrap_or_else(|| "nobody".into()),
            version.cases.to_string(),
            version.bytes.to_string(),
            version.digest.to_string(),
        ]);
    }
    let mut head = vec![format!("policy  {}", plain(&policy.name))];
    let places = [("in      ", &policy.groups), ("answers ", &policy.behaviours)];
    let bound = places.iter().filter(|(_, names)| !names.is_empty());
    head.extend(bound.map(|(what, names)| format!("{what}{}", plain(&names.join(" ")))));
    if head.len() == 1 {
        head.push("in      no group".into());
    }
    head.push(String::new());
    [head, table.lines()].concat()
}
