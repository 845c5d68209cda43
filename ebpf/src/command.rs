//! Commands in a device's own language (SCSI, ATA inside SCSI, NVMe): which blocks each one changes.
//!
//! Deny by default: what is not known to be harmless, and names no plain range, may have changed anything.
//! Pure arithmetic over the command's bytes, so that both sides can run it and unit tests can judge it.
//! Numbers: SPC-6, SBC-5, SAT-5, ATA ACS-5, NVM Express base 2.0 and NVM command set 1.0.

/// Bytes of a SCSI command that are looked at (`MAX_COMMAND_SIZE` is 16; variable-length ones have 32).
pub const SCSI_BYTES: usize = 32;
/// Bytes of an NVMe command that are looked at, of 64.
pub const NVME_BYTES: usize = 56;

/// What a command changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// No content.
    Nothing,
    /// Logical blocks.
    Blocks {
        /// First.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Anything.
    Anywhere,
}

impl Reach {
    /// The same in sectors of 512 bytes, as (first, count); `None` if it may be anything. A logical block is
    /// `1 << shift` sectors.
    #[inline(always)]
    pub const fn sectors(self, shift: u32) -> Option<(u64, u64)> {
        match self {
            Self::Nothing => Some((0, 0)),
            // no device has so many blocks: the command is not what we take it for
            Self::Blocks { first, .. } if first >> 50 != 0 => None,
            Self::Blocks { first, count } => Some((first << (shift & 7), count << (shift & 7))),
            Self::Anywhere => None,
        }
    }
}

#[inline(always)]
const fn blocks(first: u64, count: u64) -> Reach {
    if count == 0 { Reach::Nothing } else { Reach::Blocks { first, count } }
}

/// WRITE SAME: no count means up to the medium's end.
#[inline(always)]
const fn same(first: u64, count: u64) -> Reach {
    if count == 0 { Reach::Anywhere } else { Reach::Blocks { first, count } }
}

#[inline(always)]
const fn be16(b: &[u8; SCSI_BYTES], at: usize) -> u64 {
    (b[at] as u64) << 8 | b[at + 1] as u64
}

#[inline(always)]
const fn be32(b: &[u8; SCSI_BYTES], at: usize) -> u64 {
    be16(b, at) << 16 | be16(b, at + 2)
}

#[inline(always)]
const fn be64(b: &[u8; SCSI_BYTES], at: usize) -> u64 {
    be32(b, at) << 32 | be32(b, at + 4)
}

/// A SCSI command to a disk.
#[inline(always)]
pub const fn scsi(cdb: &[u8; SCSI_BYTES]) -> Reach {
    match cdb[0] {
        // TEST UNIT READY, REQUEST SENSE, READ 6, INQUIRY, RESERVE/RELEASE, MODE SENSE, START STOP, PREVENT
        0x00 | 0x03 | 0x08 | 0x12 | 0x16 | 0x17 | 0x1a | 0x1b | 0x1e => Reach::Nothing,
        // READ CAPACITY, READ 10, VERIFY, PRE-FETCH, SYNCHRONIZE CACHE, READ DEFECT DATA, READ BUFFER
        0x25 | 0x28 | 0x2f | 0x34 | 0x35 | 0x37 | 0x3c => Reach::Nothing,
        // LOG SENSE, RESERVE/RELEASE 10, MODE SENSE 10, PERSISTENT RESERVE IN and OUT
        0x4d | 0x56 | 0x57 | 0x5a | 0x5e | 0x5f => Reach::Nothing,
        // RECEIVE COPY RESULTS, READ 16, VERIFY, PRE-FETCH, SYNCHRONIZE CACHE, ZBC IN (report zones)
        0x84 | 0x88 | 0x8f | 0x90 | 0x91 | 0x95 => Reach::Nothing,
        // REPORT LUNS, SECURITY PROTOCOL IN, MAINTENANCE IN, READ 12, VERIFY 12, READ DEFECT DATA 12
        0xa0 | 0xa2 | 0xa3 | 0xa8 | 0xaf | 0xb7 => Reach::Nothing,
        0x0a => {
            let count = if cdb[4] == 0 { 256 } else { cdb[4] as u64 };
            blocks(be32(cdb, 0) & 0x1f_ffff, count)
        }
        // WRITE 10, WRITE AND VERIFY 10
        0x2a | 0x2e => blocks(be32(cdb, 2), be16(cdb, 7)),
        0x41 => same(be32(cdb, 2), be16(cdb, 7)),
        // WRITE 12, WRITE AND VERIFY 12
        0xaa | 0xae => blocks(be32(cdb, 2), be32(cdb, 6)),
        // COMPARE AND WRITE
        0x89 => blocks(be64(cdb, 2), cdb[13] as u64),
        // WRITE 16, ORWRITE, WRITE AND VERIFY 16
        0x8a | 0x8b | 0x8e => blocks(be64(cdb, 2), be32(cdb, 10)),
        0x93 => same(be64(cdb, 2), be32(cdb, 10)),
        // WRITE STREAM, WRITE ATOMIC
        0x9a | 0x9c => blocks(be64(cdb, 2), be16(cdb, 12)),
        0x7f => scsi_long(cdb),
        // SERVICE ACTION IN 16: READ CAPACITY, READ LONG, GET LBA STATUS, REPORT REFERRALS, element status
        0x9e if matches!(cdb[1] & 0x1f, 0x10..=0x13 | 0x17) => Reach::Nothing,
        0x85 => ata(cdb[14], cdb[4]),
        0xa1 => ata(cdb[9], cdb[3]),
        _ => Reach::Anywhere,
    }
}

/// A variable-length command, by its service action.
#[inline(always)]
const fn scsi_long(cdb: &[u8; SCSI_BYTES]) -> Reach {
    match be16(cdb, 8) {
        // READ 32, VERIFY 32
        0x09 | 0x0a => Reach::Nothing,
        // WRITE 32, WRITE AND VERIFY 32, ORWRITE 32
        0x0b | 0x0c | 0x0e => blocks(be64(cdb, 12), be32(cdb, 28)),
        0x0d => same(be64(cdb, 12), be32(cdb, 28)),
        _ => Reach::Anywhere,
    }
}

/// An ATA command inside ATA PASS-THROUGH, with its feature. Writes are not read further: tools that poll a
/// disk's health do not send them.
#[inline(always)]
const fn ata(command: u8, feature: u8) -> Reach {
    let harmless = match command {
        // READ LOG EXT, READ LOG DMA EXT, CHECK POWER MODE (old and new), STANDBY and IDLE IMMEDIATE, STANDBY,
        // IDLE, FLUSH CACHE, FLUSH CACHE EXT, IDENTIFY DEVICE, IDENTIFY PACKET DEVICE
        0x2f | 0x47 | 0x98 | 0xe0..=0xe3 | 0xe5 | 0xe7 | 0xea | 0xec | 0xa1 => true,
        // SMART: READ DATA and THRESHOLDS, AUTOSAVE, EXECUTE OFF-LINE, READ LOG, ENABLE, DISABLE, RETURN STATUS;
        // not WRITE LOG, which carries SCT commands (one of them writes)
        0xb0 => matches!(feature, 0xd0..=0xd2 | 0xd4 | 0xd5 | 0xd8..=0xdb),
        _ => false,
    };
    if harmless { Reach::Nothing } else { Reach::Anywhere }
}

/// An NVMe command on an I/O queue.
#[inline(always)]
pub const fn nvme(command: &[u8; NVME_BYTES]) -> Reach {
    match command[0] {
        // FLUSH, READ, COMPARE, VERIFY, RESERVATION REGISTER, REPORT, ACQUIRE, RELEASE, I/O MANAGEMENT RECEIVE,
        // ZONE MANAGEMENT RECEIVE
        0x00 | 0x02 | 0x05 | 0x0c | 0x0d | 0x0e | 0x11 | 0x12 | 0x15 | 0x7a => Reach::Nothing,
        // WRITE, WRITE UNCORRECTABLE, WRITE ZEROES: first block in bytes 40.., count less one in bytes 48..
        0x01 | 0x04 | 0x08 => {
            let c = command;
            let first = u64::from_le_bytes([c[40], c[41], c[42], c[43], c[44], c[45], c[46], c[47]]);
            blocks(first, u16::from_le_bytes([c[48], c[49]]) as u64 + 1)
        }
        // DATASET MANAGEMENT (deallocate), COPY, ZONE APPEND, ZONE MANAGEMENT SEND, vendors' own
        _ => Reach::Anywhere,
    }
}

/// An NVMe command on the admin queue: may it change what a namespace holds?
#[inline(always)]
pub const fn nvme_admin(opcode: u8) -> Reach {
    match opcode {
        // queues, GET LOG PAGE, IDENTIFY, ABORT, SET and GET FEATURES, ASYNC EVENT, SELF-TEST, KEEP ALIVE
        0x00..=0x02 | 0x04..=0x06 | 0x08..=0x0a | 0x0c | 0x14 | 0x18 => Reach::Nothing,
        // DIRECTIVE RECEIVE, DOORBELL BUFFER CONFIG, fabrics, SECURITY RECEIVE, GET LBA STATUS
        0x1a | 0x7c | 0x7f | 0x82 | 0x86 => Reach::Nothing,
        // FORMAT, SANITIZE, NAMESPACE MANAGEMENT and ATTACHMENT, FIRMWARE, SECURITY SEND, vendors' own
        _ => Reach::Anywhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cdb(bytes: &[u8]) -> [u8; SCSI_BYTES] {
        let mut all = [0; SCSI_BYTES];
        all[..bytes.len()].copy_from_slice(bytes);
        all
    }

    #[test]
    fn scsi_writes_name_their_blocks() {
        let cases: [(&[u8], u64, u64); 11] = [
            (&[0x0a, 0xff, 0x02, 0x03, 4, 0], 0x1f_0203, 4),
            (&[0x0a, 0, 0, 9, 0, 0], 9, 256),
            (&[0x2a, 0, 1, 2, 3, 4, 0, 1, 2, 0], 0x0102_0304, 0x102),
            (&[0x2e, 0, 0, 0, 0, 7, 0, 0, 1, 0], 7, 1),
            (&[0x41, 8, 0, 0, 0, 7, 0, 0, 5, 0], 7, 5),
            (&[0xaa, 0, 0, 0, 1, 0, 0, 1, 0, 2, 0, 0], 256, 0x1_0002),
            (&[0x8a, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0], 0x100_0000_0002, 3),
            (&[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0], 2, 256),
            (&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0], 8, 2),
            (&[0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0xff, 0xff, 0, 2, 0, 0], 8, 2),
            (
                &[
                    0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
                    0, 0, 0, 0, 6,
                ],
                5,
                6,
            ),
        ];
        for (bytes, first, count) in cases {
            assert_eq!(scsi(&cdb(bytes)), Reach::Blocks { first, count }, "{bytes:x?}");
        }
    }

    #[test]
    fn what_scsi_may_change_anywhere() {
        // FORMAT, MODE SELECT, WRITE BUFFER, UNMAP, SANITIZE, XCOPY, ZBC OUT, WRITE LONG 16, truncation
        let commands: [&[u8]; 12] = [
            &[0x04],
            &[0x15],
            &[0x3b],
            &[0x42],
            &[0x48],
            &[0x83],
            &[0x94],
            &[0x9f, 0x11],
            &[0x9e, 0x18],
            &[0x41, 0, 0, 0, 0, 7],
            &[0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0x88, 0x01],
            &[0xc1],
        ];
        for bytes in commands {
            assert_eq!(scsi(&cdb(bytes)), Reach::Anywhere, "{bytes:x?}");
        }
        // the far side: nothing that is not in a list is harmless
        let harmless = (0..=255u8).filter(|op| scsi(&cdb(&[*op])) == Reach::Nothing);
        // of them these are writes of no blocks: WRITE 10/12/16 and the like with a count of 0
        let empty = [0x2a, 0x2e, 0xaa, 0xae, 0x89, 0x8a, 0x8b, 0x8e, 0x9a, 0x9c];
        assert_eq!(harmless.filter(|op| !empty.contains(op)).count(), 34);
    }

    #[test]
    fn disk_health_polls_are_harmless_and_ata_writes_are_not() {
        let sat16 = |command: u8, feature: u8| {
            let mut bytes = cdb(&[0x85, 0x08, 0x0e]);
            (bytes[14], bytes[4]) = (command, feature);
            scsi(&bytes)
        };
        let sat12 = |command: u8, feature: u8| scsi(&cdb(&[0xa1, 8, 0xe, feature, 0, 0, 0, 0, 0, command]));
        for sat in [&sat16 as &dyn Fn(u8, u8) -> Reach, &sat12] {
            for (command, feature) in [(0xec, 0), (0xe5, 0), (0xb0, 0xd0), (0xb0, 0xd5), (0x2f, 0), (0xea, 0)]
            {
                assert_eq!(sat(command, feature), Reach::Nothing, "{command:x} {feature:x}");
            }
            // WRITE SECTORS, WRITE DMA EXT, TRIM, SECURITY ERASE, SMART WRITE LOG, SET MAX, unknown SMART
            for (command, feature) in
                [(0x30, 0), (0x35, 0), (0x06, 1), (0xf4, 0), (0xb0, 0xd6), (0xf9, 0), (0xb0, 0xe0)]
            {
                assert_eq!(sat(command, feature), Reach::Anywhere, "{command:x} {feature:x}");
            }
        }
    }

    #[test]
    fn nvme_writes_name_their_blocks() {
        let command = |opcode: u8, first: u64, less_one: u16| {
            let mut bytes = [0; NVME_BYTES];
            bytes[0] = opcode;
            bytes[40..48].copy_from_slice(&first.to_le_bytes());
            bytes[48..50].copy_from_slice(&less_one.to_le_bytes());
            nvme(&bytes)
        };
        for opcode in [1, 4, 8] {
            assert_eq!(command(opcode, 77, 7), Reach::Blocks { first: 77, count: 8 });
        }
        assert_eq!(command(1, 5, u16::MAX), Reach::Blocks { first: 5, count: 65536 });
        for opcode in [0, 2, 5, 0x0c, 0x0e] {
            assert_eq!(command(opcode, 77, 7), Reach::Nothing);
        }
        for opcode in [9, 0x19, 0x7d, 0x79, 0x80, 0xff, 3, 6] {
            assert_eq!(command(opcode, 77, 7), Reach::Anywhere, "{opcode:x}");
        }
        for opcode in [0x80, 0x84, 0x0d, 0x15, 0x81, 0x10, 0x11, 0xc0] {
            assert_eq!(nvme_admin(opcode), Reach::Anywhere, "{opcode:x}");
        }
        for opcode in [2, 6, 0xa, 0xc, 0x18] {
            assert_eq!(nvme_admin(opcode), Reach::Nothing, "{opcode:x}");
        }
    }

    #[test]
    fn blocks_become_sectors() {
        let reach = Reach::Blocks { first: 3, count: 2 };
        assert_eq!(reach.sectors(0), Some((3, 2)));
        assert_eq!(reach.sectors(3), Some((24, 16)));
        assert_eq!(Reach::Nothing.sectors(3), Some((0, 0)));
        assert_eq!(Reach::Anywhere.sectors(3), None);
        assert_eq!(Reach::Blocks { first: u64::MAX, count: 1 }.sectors(3), None);
    }
}
