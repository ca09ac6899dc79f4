//! What a file lies on, and what that is worth to a driver that keeps its records in it.

/// What a file system is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// It keeps what was synced.
    Durable,
    /// It keeps promises within the machine, and nothing over its restart.
    Memory,
    /// Others may write to it from elsewhere, or it does not say what it is.
    Foreign(&'static str),
}

impl Ground {
    /// Tells what the number is worth by which Linux calls a file system, in `f_type` of `statfs`. Some platforms tell it with
    /// a sign: only its lower 32 bits count.
    pub fn of(f_type: u64) -> Ground {
        match f_type & 0xFFFF_FFFF {
            // ext2, ext3, ext4; xfs; btrfs; f2fs; overlayfs; zfs; bcachefs; jfs; nilfs2; reiserfs
            0xEF53 | 0x5846_5342 | 0x9123_683E | 0xF2F5_2010 | 0x794C_7630 | 0x2FC1_2FC1 | 0xCA45_1A4E
            | 0x3153_464A | 0x3434 | 0x5265_4973 => Ground::Durable,
            // tmpfs, ramfs
            0x0102_1994 | 0x8584_58F6 => Ground::Memory,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_where_locks_and_syncs_mean_what_they_say() {
        assert_eq!(Ground::of(0xEF53), Ground::Durable);
        assert_eq!(Ground::of(0x0102_1994), Ground::Memory);
        let foreign = [(0x6969, "NFS"), (0xFF53_4D42, "SMB"), (0x6573_5546, "FUSE"), (0x0102_1997, "9p")];
        for (f_type, name) in foreign {
            assert_eq!(Ground::of(f_type), Ground::Foreign(name));
            assert_eq!(Ground::of(f_type | 0xFFFF_FFFF_0000_0000), Ground::Foreign(name));
        }
        assert_eq!(Ground::of(0x9FA0), Ground::Foreign("unknown to this driver"));
    }
}
