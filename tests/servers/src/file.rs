//! A private directory, on the disk or on a small tmpfs of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A directory for the file backend. Dropping it removes it, and unmounts what was mounted on it.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    mounted: bool,
}

impl Folder {
    /// Makes an empty one where temporary files are.
    #[allow(clippy::new_without_default, reason = "it makes a directory, as the others start a server")]
    pub fn new() -> Folder {
        Folder { folder: TempDir::new().expect("a temporary directory can be made"), mounted: false }
    }

    /// Makes one on a tmpfs of `size`, such as `1m`. `None` where this user may not mount and nothing [requires](crate::required)
    /// it.
    pub fn on_tmpfs(size: &str) -> Option<Folder> {
        let mut folder = Folder::new();
        let options = format!("size={size},mode=700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.mount_point())
            .output();
        folder.mounted = mount.is_ok_and(|output| output.status.success());
        assert!(folder.mounted || !crate::required(), "cannot mount a tmpfs, and CI=true requires it");
        folder.mounted.then_some(folder)
    }

    /// Lets nobody write to a tmpfs any more.
    pub fn make_read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(self.mount_point()).status();
        assert!(status.is_ok_and(|status| status.success()), "a tmpfs can be mounted anew");
    }

    /// Returns the directory that the URLs name. It is made by who first connects, except on a tmpfs.
    pub fn path(&self) -> PathBuf {
        if self.mounted { self.mount_point().to_owned() } else { self.mount_point().join("shared") }
    }

    /// Returns the URL of a namespace in it.
    pub fn url(&self, namespace: &str) -> String {
        format!("file://{}?namespace={namespace}", self.path().display())
    }

    fn mount_point(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a test that failed may have left files open.
            let _ = Command::new("umount").arg("--lazy").arg(self.mount_point()).status();
        }
    }
}
