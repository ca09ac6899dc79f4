//! A private directory: where temporary files are, or on a file system of its own that can be full, frozen or cut off.

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
        Folder::new_in(&std::env::temp_dir())
    }

    /// Makes an empty one in another directory.
    pub fn new_in(parent: &Path) -> Folder {
        let folder = TempDir::new_in(parent).expect("a temporary directory can be made");
        let folder = Folder { folder, mounted: false };
        std::fs::create_dir(folder.mount_point()).expect("a directory can be made");
        folder
    }

    /// Makes one on a tmpfs of `size`, such as `1m`. `None` where this user may not mount and nothing [requires](crate::required)
    /// it.
    pub fn on_tmpfs(size: &str) -> Option<Folder> {
        let mut folder = Folder::new();
        let options = format!("size={size},mode=700");
        folder.mount(&["-t", "tmpfs", "-o", &options, "tmpfs"]);
        folder.unless_skipped("mount a tmpfs")
    }

    /// Makes one on an ext4 of 64 MiB in a file. `None` where this user may not, and nothing requires it.
    pub fn on_ext4() -> Option<Folder> {
        let mut folder = Folder::new();
        let image = folder.image();
        let file = std::fs::File::create(&image).expect("a file can be made");
        file.set_len(64 << 20).expect("a file can have holes");
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        if made {
            folder.mount(&["-o", "loop", &image.display().to_string()]);
        }
        folder.unless_skipped("mount an ext4")
    }

    /// Makes one on an overlay whose upper directory lies on this one, which has to outlive it. `None` where this user may not,
    /// and nothing requires it.
    pub fn under_overlay(&self, options: &str) -> Option<Folder> {
        let layers = tempfile::tempdir_in(self.mount_point()).expect("a directory can be made").keep();
        let layer = |name: &str| {
            let layer = layers.join(name);
            std::fs::create_dir(&layer).expect("a directory can be made");
            format!("{name}dir={}", layer.display())
        };
        let layers = ["lower", "upper", "work"].map(layer).join(",");
        let mut folder = Folder::new();
        folder.mount(&["-t", "overlay", "-o", &format!("{layers}{options}"), "overlay"]);
        folder.unless_skipped("mount an overlay")
    }

    /// Makes one of what the disk below an ext4 holds now, as after a loss of power: what was not synced is not there.
    pub fn after_power_loss(&self) -> Folder {
        let mut folder = Folder::new();
        let image = folder.image();
        std::fs::copy(self.image(), &image).expect("the image can be copied");
        folder.mount(&["-o", "loop", &image.display().to_string()]);
        assert!(folder.mounted, "what the disk holds is a file system");
        folder
    }

    /// Lets nobody write to it any more, with an error.
    pub fn make_read_only(&self) {
        let done = succeeds(Command::new("mount").args(["-o", "remount,ro"]).arg(self.mount_point()));
        assert!(done, "it can be mounted anew");
    }

    /// Lets whoever writes to an ext4 wait, until [`Folder::thaw`].
    pub fn freeze(&self) {
        assert!(succeeds(Command::new("fsfreeze").arg("-f").arg(self.mount_point())), "it can be frozen");
    }

    /// Lets those go on who wait.
    pub fn thaw(&self) {
        assert!(succeeds(Command::new("fsfreeze").arg("-u").arg(self.mount_point())), "it can be thawed");
    }

    /// Returns the directory that the URLs name. It is made by who first connects.
    pub fn path(&self) -> PathBuf {
        self.mount_point().join("shared")
    }

    /// Returns the URL of a namespace in it.
    pub fn url(&self, namespace: &str) -> String {
        format!("file://{}?namespace={namespace}", self.path().display())
    }

    /// Returns the directory above, on the same file system.
    pub fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&mut self, arguments: &[&str]) {
        self.mounted = succeeds(Command::new("mount").args(arguments).arg(self.mount_point()));
    }

    fn unless_skipped(self, what: &str) -> Option<Folder> {
        crate::ready_to(what, self.mounted).then_some(self)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily, and thawed: a test that failed may have left it anyhow.
            let _ = Command::new("fsfreeze").arg("-u").arg(self.mount_point()).output();
            let _ = Command::new("umount").arg("--lazy").arg(self.mount_point()).output();
        }
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
