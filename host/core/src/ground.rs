//! What a file lies on, and what that is worth to a driver that keeps its records in it.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags, fstatfs, statfs, statx};

/// What a file system is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// It keeps what was synced.
    Durable,
    /// It keeps promises within the machine. Over a restart it keeps nothing, or nobody here can see that it does.
    Volatile,
    /// Others may write to it from elsewhere, or it does not say what it is.
    Foreign(&'static str),
}

/// What Linux calls overlayfs.
const OVERLAY: u64 = 0x794C_7630;
/// The options of an overlay on which a sync does nothing: what older and newer kernels show.
const UNSYNCED: [&str; 2] = ["volatile", "fsync=volatile"];

impl Ground {
    /// Tells on what an open file or folder lies.
    ///
    /// An overlay keeps what the disk below its upper directory keeps, where that can be seen from here. Of the root of a
    /// container it cannot: it was mounted outside, and goes with the container. What cannot be seen is not promised; a
    /// volume is a file system of its own.
    pub fn of(file: impl AsFd) -> io::Result<Ground> {
        // Some platforms tell it with a sign: only its lower 32 bits count.
        match fstatfs(&file)?.f_type as u64 & 0xFFFF_FFFF {
            OVERLAY if is_upper_durable(file).unwrap_or_default() => Ok(Ground::Durable),
            f_type => Ok(Ground::named(f_type)),
        }
    }

    /// Tells what the number is worth by which Linux calls a file system, in `f_type` of `statfs`.
    fn named(f_type: u64) -> Ground {
        match f_type {
            // ext2, ext3, ext4; xfs; btrfs; f2fs; zfs; bcachefs; jfs; nilfs2; reiserfs
            0xEF53 | 0x5846_5342 | 0x9123_683E | 0xF2F5_2010 | 0x2FC1_2FC1 | 0xCA45_1A4E | 0x3153_464A
            | 0x3434 | 0x5265_4973 => Ground::Durable,
            // tmpfs, ramfs
            0x0102_1994 | 0x8584_58F6 | OVERLAY => Ground::Volatile,
            0x6969 => Ground::Foreign("NFS"),
            0x517B | 0xFF53_4D42 | 0xFE53_4D42 => Ground::Foreign("SMB"),
            0x6573_5546 => Ground::Foreign("FUSE"),
            0x0102_1997 => Ground::Foreign("9p"),
            0x00C3_6400 => Ground::Foreign("Ceph"),
            0x0BD0_0BD0 => Ground::Foreign("Lustre"),
            0x0116_1970 => Ground::Foreign("GFS2"),
            0x7461_636F => Ground::Foreign("OCFS2"),
            0x4750_4653 => Ground::Foreign("GPFS"),
            0x1983_0326 => Ground::Foreign("BeeGFS"),
            0x2003_0528 => Ground::Foreign("OrangeFS"),
            0x5346_414F | 0x6B41_4653 => Ground::Foreign("AFS"),
            0x7375_7245 => Ground::Foreign("Coda"),
            0x786F_4256 => Ground::Foreign("a VirtualBox share"),
            0x4D44 | 0x2011_BAB0 => Ground::Foreign("FAT"),
            _ => Ground::Foreign("unknown to this driver"),
        }
    }
}

/// Tells whether the upper directory of the overlay that holds `file` keeps what was synced. `None` where it cannot be seen.
fn is_upper_durable(file: impl AsFd) -> Option<bool> {
    let status = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    if status.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return None;
    }
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let mounts = String::from_utf8_lossy(&mounts);
    let upper = upper_directory(&mounts, status.stx_mnt_id)?;
    Some(Ground::named(statfs(upper).ok()?.f_type as u64 & 0xFFFF_FFFF) == Ground::Durable)
}

/// Finds the upper directory of the overlay whose mount has the number `id`, if it was synced to and mounted from where we are.
fn upper_directory(mounts: &str, id: u64) -> Option<&str> {
    let has_id = |line: &&str| line.split(' ').next().is_some_and(|first| first.parse() == Ok(id));
    let (mount, file_system) = mounts.lines().find(has_id)?.split_once(" - ")?;
    // A root was mounted before it was one: its paths are those of a tree that is not ours, whatever has these names here.
    if mount.split(' ').nth(4)? == "/" {
        return None;
    }
    let options = file_system.split(' ').nth(2)?;
    if options.split(',').any(|option| UNSYNCED.contains(&option)) {
        return None;
    }
    // With a space or the like in it, it is written with escapes, and not found: then it is not promised.
    let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
    upper.starts_with('/').then_some(upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_where_locks_and_syncs_mean_what_they_say() {
        assert_eq!(Ground::named(0xEF53), Ground::Durable);
        assert_eq!(Ground::named(0x0102_1994), Ground::Volatile);
        let foreign = [(0x6969, "NFS"), (0xFF53_4D42, "SMB"), (0x6573_5546, "FUSE"), (0x0102_1997, "9p")];
        for (f_type, name) in foreign {
            assert_eq!(Ground::named(f_type), Ground::Foreign(name));
        }
        let proc = fs::File::open("/proc").unwrap();
        assert_eq!(Ground::of(proc).unwrap(), Ground::Foreign("unknown to this driver"));
    }

    #[track_caller]
    fn check_upper(mount_point: &str, options: &str, expected: Option<&str>) {
        let mounts = format!(
            "24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
             45 42 0:40 / {mount_point} rw,relatime shared:7 master:1 - overlay overlay rw,{options}\n\
             450 42 0:41 / /other rw - overlay overlay rw,lowerdir=/l,upperdir=/other,workdir=/w\n"
        );
        assert_eq!(upper_directory(&mounts, 45), expected);
    }

    #[test]
    fn an_overlay_is_judged_by_its_upper_directory_where_that_can_be_seen() {
        let layers = "lowerdir=/l:/m,upperdir=/data/up,workdir=/data/work";
        check_upper("/srv", &format!("{layers},uuid=on"), Some("/data/up"));
        check_upper("/", layers, None);
        check_upper("/srv", &format!("{layers},volatile"), None);
        check_upper("/srv", &format!("{layers},uuid=on,fsync=volatile"), None);
        check_upper("/srv", "lowerdir=l,upperdir=up,workdir=work", None);
        check_upper("/srv", "lowerdir=/l:/m", None);
        assert_eq!(upper_directory("", 45), None);
    }
}
