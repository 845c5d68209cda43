//! The one table of all faults.

use super::notice::Notices;
use super::{backups, epochs, groups, reboots, writes};
use anyhow::Result;

/// A fault, or several that only show together.
#[derive(Debug)]
pub struct Fault {
    /// What `planted` answers to; several are separated by commas.
    pub plants: &'static str,
    /// Where it is planted.
    pub place: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Where it shows.
    pub trial: Trial,
}

macro_rules! trials {
    ($($trial:ident = $room:ident :: $run:ident),+ $(,)?) => {
        /// A workload in which every check is asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each says what it is where it is written")]
        pub enum Trial {
            $($trial),+
        }

        impl Trial {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$trial),+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$trial => stringify!($run)),+
                }
            }

            /// Runs it in this process.
            pub(super) fn run(self, notices: &mut Notices) -> Result<()> {
                match self {
                    $(Self::$trial => $room::$run(notices)),+
                }
            }
        }
    };
}

trials! {
    Writes = writes::of_requests,
    Emptied = writes::that_empty,
    Bios = writes::of_bios,
    Minor = writes::of_a_large_minor,
    Partitions = writes::of_partitions,
    Epochs = epochs::kept_until_retired,
    Busy = epochs::cut_while_written,
    Grown = epochs::grown,
    Flight = epochs::in_flight,
    Backups = backups::after_a_failed_one,
    Doubt = backups::after_a_doubt,
    Unreadable = backups::of_what_cannot_be_read,
    OtherDisk = backups::of_another_disk,
    Restored = backups::restored_to_a_used_disk,
    Files = backups::of_files,
    Glance = groups::without_a_walk,
    Clean = reboots::clean,
    SavedTwice = reboots::saved_twice,
    Elsewhere = reboots::written_elsewhere,
    BeforeResume = reboots::written_before_resume,
    AfterSave = reboots::written_after_save,
    Crashed = reboots::crashed_after_resume,
    OldState = reboots::state_of_another_boot,
}

const fn fault(plants: &'static str, place: &'static str, trial: Trial, what: &'static str) -> Fault {
    Fault { plants, place, what, trial }
}

/// All faults: the programs first, then the collector, lowest room first.
#[rustfmt::skip]
pub const FAULTS: &[Fault] = &[
    fault("unseen", "ebpf main", Trial::Writes, "one write of four is seen neither at submission nor at completion"),
    fault("unseen", "ebpf main", Trial::Bios, "the same on zram, which takes bios"),
    fault("unseen-submission", "ebpf main", Trial::Flight, "submissions are not seen: marked at completion only"),
    fault("unseen-completion", "ebpf main", Trial::Flight, "completions are not seen: slots are never freed"),
    fault("unseen-completion,skips", "ebpf main", Trial::Writes, "completions are not seen, and the kernel counts skipped programs"),
    fault("unmarked", "ebpf mark", Trial::Writes, "one area of four is never marked, though the write is counted"),
    fault("late", "ebpf mark", Trial::Writes, "each mark is set eight marks later"),
    fault("shift-off", "ebpf mark", Trial::Writes, "areas of twice the size: the shift is one too large"),
    fault("start-off", "ebpf mark", Trial::Writes, "a target begins one sector later"),
    fault("end-off", "ebpf mark", Trial::Writes, "a target ends one sector earlier"),
    fault("last-area", "ebpf mark", Trial::Writes, "the last area of a write counts only if it is filled"),
    fault("word-tail", "ebpf mark", Trial::Writes, "of a write over two words of the bitmap, the second is lost"),
    fault("inner-words", "ebpf mark", Trial::Writes, "of a long write only the first and the last word are marked"),
    fault("no-bitmap", "ebpf maps", Trial::Writes, "the bitmap is not found"),
    fault("wrong-device", "ebpf maps", Trial::Partitions, "the other tracked device is marked"),
    fault("first-target-only", "ebpf mark", Trial::Partitions, "of two tracked parts of a disk only one is marked"),
    fault("minor-8-bits", "ebpf maps", Trial::Minor, "minor numbers are cut to 8 bits"),
    fault("discards", "ebpf classify", Trial::Emptied, "discards are taken for harmless"),
    fault("write-zeroes", "ebpf classify", Trial::Emptied, "write-zeroes are taken for harmless"),
    fault("counters-frozen", "ebpf track", Trial::Writes, "nothing is counted"),
    fault("counted-twice", "ebpf track", Trial::Writes, "completed sectors count double"),
    fault("no-slot", "ebpf inflight", Trial::Flight, "a write gets no slot"),
    fault("slot-freed-early", "ebpf inflight", Trial::Flight, "a slot is freed as soon as it is taken"),
    fault("few-slots,overflow-uncounted", "ebpf inflight", Trial::Flight, "four slots, and what finds none is not counted"),
    fault("wrong-offset", "tracker kernel", Trial::Writes, "another field is read as a request's sector"),
    fault("hook-forgotten", "tracker load", Trial::Writes, "the completion program is not attached"),
    fault("link-lost", "tracker load", Trial::Writes, "a program's link is lost: it is detached"),
    fault("program-replaced", "tracker load", Trial::Writes, "another program is pinned in the place of ours"),
    fault("kernel-unread", "tracker health", Trial::Writes, "the kernel's counters always read 0"),
    fault("unseen-completion,skips,skips-ignored", "tracker health", Trial::Writes, "completions are not seen, and the misses counters are ignored"),
    fault("partition-start-lost", "tracker start", Trial::Partitions, "a partition is tracked as if it began at sector 0"),
    fault("list-cut", "tracker registry", Trial::Partitions, "a second part of a disk takes the place of the first"),
    fault("identity-ignored", "tracker state", Trial::OtherDisk, "another disk behind the same number is taken for the tracked one"),
    fault("other-boot-believed", "tracker state", Trial::OldState, "a state file of an earlier boot is believed"),
    fault("doubts-ignored", "tracker doubt", Trial::Doubt, "what an audit found does not reach the cut"),
    fault("grace-skipped", "epoch cut", Trial::Busy, "the ending epoch is read while programs may still mark it"),
    fault("switch-skipped", "epoch cut", Trial::Epochs, "the cut leaves the old bitmap in place"),
    fault("carry-skipped", "epoch carry", Trial::Flight, "what is in flight is not carried into the next epoch"),
    fault("carry-skipped,unseen-completion", "epoch carry", Trial::Flight, "the same, and completions are not seen"),
    fault("few-slots,carry-all-skipped", "epoch cut", Trial::Flight, "four slots, and an overflow does not carry the epoch over"),
    fault("unseen,suspect-dropped", "epoch cut", Trial::Writes, "writes are not seen, and the cut forgets why that is suspect"),
    fault("fold-drops", "epoch cut", Trial::Epochs, "the oldest of many sealed epochs is dropped, not folded into the next"),
    fault("retired-too-many", "epoch", Trial::Epochs, "an epoch too many is retired"),
    fault("unpinned-too-many", "epoch", Trial::Epochs, "a bitmap too many is unpinned"),
    fault("sealed-forgotten", "epoch recover", Trial::Backups, "after a failed backup its sealed epochs are forgotten"),
    fault("resize-unnoticed", "epoch resize", Trial::Grown, "another size is not noticed"),
    fault("new-space-clean", "epoch resize", Trial::Grown, "new space counts as unchanged"),
    fault("used-short", "usage", Trial::Files, "the used areas lack their longest extent"),
    fault("last-epoch-only", "diff", Trial::Backups, "of several sealed epochs only the last is listed"),
    fault("end-lost", "diff", Trial::Backups, "a last area that is not whole is not listed"),
    fault("last-extent-skipped", "copy plan", Trial::Backups, "the last extent is not copied"),
    fault("page-cache", "sys direct", Trial::Files, "the device is read through its page cache"),
    fault("failed-read-zeros", "sys direct", Trial::Unreadable, "what cannot be read is taken for zeros"),
    fault("compares-nothing", "copy judge", Trial::Doubt, "a comparison takes everything for equal"),
    fault("suspect-not-compared", "job backup", Trial::Doubt, "a suspect difference is copied without a comparison"),
    fault("retired-early", "job backup", Trial::Backups, "epochs are retired before the point is durable"),
    fault("frame-not-indexed", "repository writer", Trial::Backups, "one frame of four is stored and not indexed"),
    fault("stored-bit-flipped", "repository upload", Trial::Backups, "a stored bit is not what it was"),
    fault("zeros-not-restored", "restore target", Trial::Restored, "what is zero in the point is left as it was on the target"),
    fault("saved-map-cut", "life save", Trial::Clean, "half of the saved map reaches the disk"),
    fault("saved-map-bit-flipped", "life save", Trial::Clean, "a bit of the saved map is flipped"),
    fault("saved-map-short", "life save", Trial::Clean, "the saved map lacks an extent"),
    fault("old-map-kept", "life save", Trial::SavedTwice, "the map of an earlier save lies in place of the new one"),
    fault("old-map-kept,map-hash-ignored", "life resume", Trial::SavedTwice, "the same, and it is believed"),
    fault("resume-drops-map", "tracker start", Trial::Clean, "what the saved map lists is not marked again"),
    fault("witness-ignored", "life resume", Trial::Elsewhere, "another machine wrote, and the witness is not asked"),
    fault("gap-skipped", "life gap", Trial::BeforeResume, "this kernel wrote before tracking began, and its counters are not asked"),
    fault("fence-skipped", "life save", Trial::AfterSave, "a saved device stays writable, and is written to"),
    fault("record-not-voided", "tracker record", Trial::Crashed, "a saved map is believed a second time"),
    fault("inode-block-forgotten", "group glance", Trial::Glance, "a changed block of inodes is not looked at"),
    fault("audit-skips", "audit", Trial::Doubt, "the audit skips what it should compare"),
];
