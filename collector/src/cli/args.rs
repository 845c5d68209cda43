//! The command line: what can be asked for, with an example each.

use crate::block::Granularity;
use crate::config::values::{compression, granularity};
pub(super) use crate::config::values::{duration, part, size};
use crate::format::{Compression, ParityShare};
use crate::job::Since;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Changed-block backup for Linux without a kernel module.
#[derive(Debug, Parser)]
#[command(name = "blkdelta", version, max_term_width = 100, after_help = EXAMPLE)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
    /// Of every verb
    #[command(flatten)]
    pub unlock: super::unlock::Unlock,
    /// Of every verb
    #[command(flatten)]
    pub reach: super::reach::Reach,
}

const EXAMPLE: &str = "A first backup, from nothing:
  blkdelta track /dev/sda
  blkdelta backup /dev/sda --repo /backup
  blkdelta list --repo /backup
  blkdelta restore --repo /backup --point latest sda.img

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but suspect or damaged.
Environment: RUST_LOG=info for the log; BLKDELTA_HOME=DIR to keep pins and state elsewhere.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start tracking block devices, mounted or not; goes on with no process running
    #[command(after_help = "Example:\n  blkdelta track /dev/sda /dev/sdb --granularity 64KiB")]
    Track(Track),
    /// Stop tracking and forget the differences
    #[command(after_help = "Examples:\n  blkdelta untrack /dev/sdb\n  blkdelta untrack --all")]
    Untrack(Untrack),
    /// Stop cleanly: keep what changed over a reboot; the devices are read-only from then on
    #[command(
        after_help = "Example:\n  blkdelta save\n\nRun at shutdown, after the file systems are unmounted. \
        `blkdelta resume` takes it back."
    )]
    Save(Life),
    /// Go on tracking after a reboot, and prove that nothing was written in between
    #[command(
        after_help = "Example:\n  blkdelta resume\n\nRun at boot, before the file systems are mounted."
    )]
    Resume(Life),
    /// What is tracked, since when, how much changed, and how healthy that is
    #[command(after_help = "Example:\n  blkdelta status --json")]
    Status(Status),
    /// A terminal view: which areas change, how fast, cuts, last backups, health, what tracking costs
    #[command(after_help = "Examples:
  blkdelta top
  blkdelta top /dev/sda --interval 500ms
  blkdelta top --once                       one frame as text, for scripts and screen readers
Keys: ? lists them. NO_COLOR=1: without colours. Exit code of --once: 3 if a device is suspect.")]
    Top(super::looking::Top),
    /// What would keep this host from being protected: kernel, settings, devices, folders, jobs, units
    #[command(after_help = "Examples:
  blkdelta doctor
  blkdelta doctor --json | jq -r '.[] | select(.level == \"wrong\") | .found'
Exit codes: 0 all well, 3 something would keep it from protection or could not be looked at, 1 failed. Changes nothing.")]
    Doctor(super::looking::Doctor),
    /// The current difference list, without ending it; or what differs between two recovery points
    #[command(after_help = "Examples:
  blkdelta diff /dev/sda --json | jq '.extents[] | select(.length > 1048576)'
  blkdelta diff --between 01JD3XQ8Z5W2M4T6Y8A0C2E4G6 latest --repo /backup")]
    Diff(Diff),
    /// Make a recovery point: first a full one, then what changed
    #[command(after_help = "Examples:
  blkdelta backup /dev/sda --repo /backup
  blkdelta backup /dev/sda --repo /backup --since latest-full")]
    Backup(Backup),
    /// Groups of files: back up, list
    #[command(after_help = "Examples:
  blkdelta group backup --name web --path /srv/www --path /etc/nginx --exclude '*.tmp' --repo /backup
  blkdelta group list --repo /backup
  blkdelta group files latest --group web --repo /backup
  blkdelta restore --group web --point latest /srv/www/index.html --into /tmp/back --repo /backup")]
    Group(super::grouping::Group),
    /// Which points a difference can be made from, and what that costs; keep more, or fewer
    #[command(after_help = "Examples:
  blkdelta keep-since /dev/sda
  blkdelta keep-since /dev/sda latest-full --repo /backup
  blkdelta keep-since /dev/sda 01JD3XQ8Z5W2M4T6Y8A0C2E4G6 --repo /backup
  blkdelta keep-since /dev/sda latest-full --repo /backup --drop")]
    KeepSince(super::starting::KeepSince),
    /// Make recovery points one after the other until Ctrl-C
    #[command(after_help = "Example:\n  blkdelta watch /dev/sda --repo /backup --every 10s")]
    Watch(Watch),
    /// Say at once when something detaches the tracking, and make the next backup compare everything
    #[command(after_help = "Examples:\n  blkdelta monitor --interval 5s\n  blkdelta monitor --once --json")]
    Monitor(Monitor),
    /// Compare what the difference list calls clean with the last recovery point, a part of the device each time
    #[command(after_help = "Example, once a day (3.4 % each: all of the device in 30 days):
  blkdelta audit /dev/sda --repo /backup")]
    Audit(Audit),
    /// The recovery points of a repository
    #[command(after_help = "Example:\n  blkdelta list --repo /backup --json")]
    List(List),
    /// Write a recovery point to a file or device
    #[command(after_help = "Examples:
  blkdelta restore --repo /backup --point latest disk.img
  blkdelta restore --repo /backup --point 01JD3XQ8Z5W2M4T6Y8A0C2E4G6 /dev/sdc --verify
  blkdelta restore --repo /backup --point latest /dev/sda --to-same-device
  blkdelta restore --repo /backup --point latest disk.img --range 0..1MiB --overwrite
  blkdelta restore --repo /backup --point latest disk.img --partial --json
  blkdelta restore --repo /backup --group web --point latest /srv/www --into /tmp/back")]
    Restore(super::restoring::Restore),
    /// Write the bytes of a recovery point to standard output
    #[command(after_help = "Examples:
  blkdelta cat --repo /backup --point latest | ssh host dd of=/dev/sdc bs=1M
  blkdelta cat --repo /backup --point latest --range 0..512 | xxd")]
    Cat(super::exporting::Cat),
    /// Write a recovery point as an image of another format
    #[command(after_help = "Example:
  blkdelta export --repo /backup --point latest --format qcow2 disk.qcow2")]
    Export(super::exporting::Export),
    /// Send recovery points to another repository, parents first; what is there already is not sent again
    #[command(after_help = "Examples:
  blkdelta copy --from /backup --to s3://bucket/offsite --all
  blkdelta copy --from /backup --to /mnt/usb/repo --point latest --full
  blkdelta copy --from /backup --from-key-file owner.key --to s3://bucket/p --to-passphrase-file words --all")]
    Copy(super::copying::Copy),
    /// Write lost or damaged indexes again from the data, and set aside what cannot be used
    #[command(after_help = "Example:\n  blkdelta repair --repo /backup --dry-run")]
    Repair(super::repairing::Repair),
    /// Make a point independent of the points below it; moves no data
    #[command(after_help = "Example:\n  blkdelta merge --repo /backup --up-to latest")]
    Merge(super::keeping::Merge),
    /// Drop points that no rule keeps, and what only they needed
    #[command(after_help = "Example:
  blkdelta prune --repo /backup --keep-last 24 --keep-daily 14 --keep-weekly 8 --dry-run")]
    Prune(super::keeping::Prune),
    /// Make a repository, encrypted if asked for (`backup` makes one that is not where there is none)
    #[command(after_help = "Examples:
  blkdelta init /backup --encrypt
  blkdelta init /backup --recipient blkdelta-public-… --write-key /etc/blkdelta/write.key")]
    Init(super::keys::Init),
    /// Keys of encrypted repositories: generate, list, add, remove, rotate, writer
    #[command(after_help = "Examples:
  blkdelta key generate owner.key
  blkdelta key add --repo /backup --recipient blkdelta-public-… --name safe
  blkdelta key list --repo /backup
  blkdelta key remove --repo /backup 01JD3XQ8Z5W2M4T6Y8A0C2E4G6
  blkdelta key rotate --repo /backup
  blkdelta key writer --repo /backup /etc/blkdelta/write.key")]
    Key(super::keys::Key),
    /// Move what is still needed out of segments that are mostly dead, so that these can go
    #[command(after_help = "Examples:
  blkdelta compact --repo /backup --dry-run
  blkdelta compact --repo /backup --dead 50% --max-bytes 20GiB --bandwidth 50MiB")]
    Compact(super::compacting::Compact),
    /// Do one job of the configuration now, with its hooks and its retention; needs no daemon
    #[command(after_help = "Example:\n  blkdelta run system --file /etc/blkdelta/config.toml")]
    Run(super::running::Run),
    /// Run all jobs of the configuration by their schedules, or ask the daemon that does
    #[command(after_help = "Examples:
  blkdelta daemon
  blkdelta daemon status
  blkdelta daemon run system")]
    Daemon(super::daemon::Daemon),
    /// The configuration file: look for mistakes in it, or show what it says with all defaults
    #[command(after_help = "Examples:
  blkdelta config check
  blkdelta config show --file /etc/blkdelta/config.toml --json")]
    Config(super::configuring::Config),
    /// Look for damage in a repository
    #[command(after_help = "Examples:
  blkdelta check --repo /backup --read-data
  blkdelta check --repo /backup --read-data=10%      every day another tenth of the data")]
    Check(super::checking::Check),
}

impl Verb {
    /// This process is to be the daemon.
    pub const fn serves(&self) -> bool {
        matches!(self, Self::Daemon(daemon) if daemon.serves())
    }

    /// What is tracked matters to it, not only a repository.
    pub const fn looks_at_the_kernel(&self) -> bool {
        match self {
            Self::Init(_) | Self::Key(_) | Self::Config(_) | Self::Daemon(_) | Self::Doctor(_) => false,
            Self::List(_) | Self::Check(_) | Self::Merge(_) | Self::Prune(_) => false,
            Self::Copy(_)
            | Self::Repair(_)
            | Self::Compact(_)
            | Self::Restore(_)
            | Self::Cat(_)
            | Self::Export(_) => false,
            Self::Diff(diff) => diff.between.is_none(),
            Self::Group(group) => group.looks_at_the_kernel(),
            _ => true,
        }
    }
}

/// `track`.
#[derive(Debug, Args)]
pub struct Track {
    /// Disks, partitions, loop devices
    #[arg(required = true, value_name = "DEV")]
    pub devices: Vec<PathBuf>,
    /// What one bit stands for, 4KiB to 1MiB. Without it: as it was before, else 4KiB, on devices of more than 4 TiB so much
    /// that a bitmap has at most 128 MiB
    #[arg(long, value_parser = granularity, value_name = "SIZE")]
    pub granularity: Option<Granularity>,
}

/// `untrack`.
#[derive(Debug, Args)]
pub struct Untrack {
    /// Tracked devices
    #[arg(required_unless_present = "all", value_name = "DEV")]
    pub devices: Vec<PathBuf>,
    /// Everything that is tracked, devices that are gone too: nothing stays in the kernel
    #[arg(long, conflicts_with = "devices")]
    pub all: bool,
}

/// `save` and `resume`.
#[derive(Debug, Args)]
pub struct Life {
    /// Only these; all that are tracked, or were
    #[arg(value_name = "DEV")]
    pub devices: Vec<PathBuf>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Only these
    #[arg(value_name = "DEV")]
    pub devices: Vec<PathBuf>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// A tracked device
    #[arg(value_name = "DEV", required_unless_present = "between", conflicts_with = "between")]
    pub device: Option<PathBuf>,
    /// Two points instead, ids as `list` prints them or `latest`: where they differ, by the hashes of their indexes,
    /// in runs of at most 64 KiB
    #[arg(long, num_args = 2, value_names = ["A", "B"], requires = "repo")]
    pub between: Option<Vec<String>>,
    /// Repository of the two points
    #[arg(long, value_name = "REPO", requires = "between", conflicts_with = "device")]
    pub repo: Option<String>,
    /// Read what the two points hold where their hashes differ, and list only blocks of 4 KiB that differ
    #[arg(long, requires = "between")]
    pub exact: bool,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// What `backup` and `watch` have in common.
#[derive(Clone, Debug, Args)]
pub struct Making {
    /// A tracked device
    #[arg(value_name = "DEV")]
    pub device: PathBuf,
    /// Repository: a folder or s3://BUCKET/PREFIX; made if it is not there
    #[arg(long, value_name = "REPO")]
    pub repo: String,
    /// Never freeze a file system; the point is then crash consistent or fuzzy, and says so
    #[arg(long)]
    pub no_freeze: bool,
    /// Freeze no longer than this; if it would take longer, do not freeze at all
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub freeze_limit: Duration,
    /// Run this command by the shell when all is copied, just before the thaw (snapshot what lies below, for
    /// example); if it fails or outlasts the freeze limit, the backup fails
    #[arg(long, conflicts_with = "no_freeze", value_name = "COMMAND")]
    pub while_frozen: Option<String>,
    /// The repository may lie on the tracked device: its own writes are then part of every difference
    #[arg(long)]
    pub allow_store_on_device: bool,
    /// `none`, or a level of zstd from 1 to 19
    #[arg(long, default_value = "1", value_parser = compression, value_name = "LEVEL")]
    pub compression: Compression,
    /// When a point has more than N points below it, merge them: it then stands alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub merge_every: Option<u32>,
    /// Parity for what is stored: up to this share of the objects, 2% for example, may be lost or rot, and `repair` gives
    /// them back; a repository that is made by this keeps to it
    #[arg(long, value_name = "SHARE")]
    pub parity: Option<ParityShare>,
    /// Copy what changed since this point, an id, `latest-full` or `latest`, and make it the parent (a differential);
    /// fails if the changes since then are not kept, see `keep-since`
    #[arg(long, value_name = "POINT")]
    pub since: Option<Since>,
    /// There is a repository, as earlier runs know: none is made, also if it vanishes at this moment
    #[arg(skip)]
    pub known: bool,
}

/// `backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// Common part
    #[command(flatten)]
    pub making: Making,
    /// Copy all used areas, not only what changed
    #[arg(long, conflicts_with = "since")]
    pub full: bool,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Common part
    #[command(flatten)]
    pub making: Making,
    /// Time from the end of one to the start of the next, at least from start to start
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub every: Duration,
    /// One line of JSON each
    #[arg(long)]
    pub json: bool,
}

/// `monitor`.
#[derive(Debug, Args)]
pub struct Monitor {
    /// Only these; by default all that are tracked, also later
    #[arg(value_name = "DEV")]
    pub devices: Vec<PathBuf>,
    /// Time between two looks
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub interval: Duration,
    /// Look once and end: exit code 3 if something is wrong
    #[arg(long)]
    pub once: bool,
    /// One line of JSON for each change, on standard output
    #[arg(long)]
    pub json: bool,
}

/// `audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// A tracked device
    #[arg(value_name = "DEV")]
    pub device: PathBuf,
    /// Repository that holds its last point: a folder, or where else it lies
    #[arg(long, value_name = "REPO")]
    pub repo: String,
    /// This part of the device, where the last audit ended; begins anew at its end
    #[arg(long, default_value = "3.4%", value_parser = part, value_name = "PART")]
    pub sample: f64,
    /// All of the device at once
    #[arg(long, conflicts_with = "sample")]
    pub all: bool,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Repository: a folder, s3://BUCKET/PREFIX, or https://HOST/PATH to read
    #[arg(long, value_name = "REPO")]
    pub repo: String,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound_and_every_verb_shows_an_example() {
        Cli::command().debug_assert();
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("blkdelta {}", verb.get_name())), "{}", verb.get_name());
        }
    }

    #[test]
    fn the_issues_command_lines_are_understood() {
        for line in [
            "blkdelta track /dev/a /dev/b --granularity 64KiB",
            "blkdelta untrack /dev/a",
            "blkdelta save",
            "blkdelta save /dev/a /dev/b --json",
            "blkdelta resume --json",
            "blkdelta status",
            "blkdelta status /dev/a --json",
            "blkdelta top",
            "blkdelta top /dev/a /dev/b --interval 500ms --light",
            "blkdelta top --once --columns 100",
            "blkdelta doctor",
            "blkdelta doctor --file x.toml --json",
            "blkdelta diff /dev/a --json",
            "blkdelta diff --between A latest --repo /r --exact --json",
            "blkdelta backup /dev/a --repo /r --full --json --no-freeze --compression none",
            "blkdelta watch /dev/a --repo /r --every 10s --merge-every 30",
            "blkdelta backup /dev/a --repo /r --merge-every 30",
            "blkdelta watch /dev/a --repo /r --every 10s",
            "blkdelta monitor",
            "blkdelta monitor /dev/a --interval 500ms --json",
            "blkdelta monitor --once",
            "blkdelta audit /dev/a --repo /r --sample 1% --json",
            "blkdelta audit /dev/a --repo /r --all",
            "blkdelta list --repo /r --json",
            "blkdelta restore --repo /r --point latest --sparse=never x.img",
            "blkdelta restore --repo /r --point latest --sparse x.img --verify",
            "blkdelta restore --repo /r --point latest /dev/a --to-same-device --verify",
            "blkdelta restore --repo /r --point latest x.img --resume --partial --json",
            "blkdelta restore --repo /r --point latest x.img --range 1MiB..1GiB --overwrite",
            "blkdelta cat --repo /r --point latest --range ..512",
            "blkdelta export --repo /r --point latest --format raw x.img",
            "blkdelta export --repo /r --point latest --format qcow2 --compress x.qcow2 --json",
            "blkdelta check --repo /r --read-data",
            "blkdelta check --repo /r --read-data=10% --json",
            "blkdelta copy --from /r --to s3://b/p --all --json",
            "blkdelta repair --repo /r --dry-run --json",
            "blkdelta copy --from /r --to /s --point latest --device d --full",
            "blkdelta backup /dev/a --repo /r --since latest-full",
            "blkdelta backup /dev/a --repo /r --since 01JD3XQ8Z5W2M4T6Y8A0C2E4G6 --merge-every 30",
            "blkdelta watch /dev/a --repo /r --every 1h --since latest-full",
            "blkdelta group backup --name g --path /a --glob /b/*/c --exclude *.o --repo /r --untracked --json",
            "blkdelta group backup /dev/a --name g --path /a --repo /r --no-freeze --full",
            "blkdelta group list --repo /r --json",
            "blkdelta group files latest --group g --repo /r",
            "blkdelta restore --group g --point latest /a/b /c --into /d --repo /r --json",
            "blkdelta restore --point latest --into /d --repo /r",
            "blkdelta keep-since /dev/a",
            "blkdelta keep-since /dev/a latest-full --repo /r --drop --json",
            "blkdelta merge --repo /r --device d --up-to latest --json",
            "blkdelta backup /dev/a --repo s3://b/p --s3-endpoint http://h:9000 --bandwidth 50MiB/s --retry-for 1m",
            "blkdelta prune --repo s3://b/p?profile=pruner --keep-last 3 --break-lock",
            "blkdelta compact --repo /r --dead 60% --max-bytes 20GiB --bandwidth 50MiB --grace 0 --dry-run --json",
            "blkdelta config check --file - --json",
            "blkdelta config show",
            "blkdelta run system --full --json",
            "blkdelta daemon",
            "blkdelta daemon --file x.toml",
            "blkdelta daemon status --json",
            "blkdelta daemon run system --json",
            "blkdelta daemon pause",
            "blkdelta daemon resume system",
            "blkdelta daemon reload",
            "blkdelta prune --repo /r --keep-last 3 --keep-hourly 1 --keep-within 7d --dry-run",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        let Verb::Watch(watch) = parse("blkdelta watch /d --repo r --every 1500ms").unwrap().verb else {
            panic!("watch is watch");
        };
        assert_eq!(watch.every, Duration::from_millis(1500));
        assert_eq!(watch.making.freeze_limit, Duration::from_secs(10));
    }

    #[test]
    fn nonsense_is_wrong_usage() {
        for line in [
            "blkdelta",
            "blkdelta frobnicate",
            "blkdelta track",
            "blkdelta top --interval never",
            "blkdelta top --columns 100",
            "blkdelta top --once --columns 3",
            "blkdelta track /d --granularity 5KiB",
            "blkdelta track /d --granularity 2MiB",
            "blkdelta track /d --granularity 99999999999999999999KiB",
            "blkdelta diff",
            "blkdelta diff /d --between A B --repo r",
            "blkdelta diff --between A B",
            "blkdelta diff --between A --repo r",
            "blkdelta diff /d --repo r",
            "blkdelta check --repo r --read-data=0%",
            "blkdelta check --repo r --read-data=ten",
            "blkdelta backup /d",
            "blkdelta backup /d --repo r --compression 20",
            "blkdelta watch /d --repo r",
            "blkdelta backup /d --repo r --since yesterday",
            "blkdelta backup /d --repo r --since latest --full",
            "blkdelta keep-since /d latest-full",
            "blkdelta keep-since /d --repo r --drop",
            "blkdelta audit /d --repo r --sample 0%",
            "blkdelta audit /d --repo r --sample 5",
            "blkdelta audit /d --repo r --all --sample 5%",
            "blkdelta watch /d --repo r --every 0s",
            "blkdelta watch /d --repo r --every 99999999999999999h",
            "blkdelta restore --repo r x.img",
            "blkdelta restore --repo r --point latest",
            "blkdelta restore --repo r --point latest --group g x",
            "blkdelta restore --repo r --point latest a --into b --range 1..2",
            "blkdelta group backup --path /a --repo r",
            "blkdelta run",
            "blkdelta daemon run",
            "blkdelta daemon stop",
            "blkdelta daemon --file x status",
            "blkdelta copy --from r --to s",
            "blkdelta copy --from r --to s --all --full",
            "blkdelta restore --repo r --point latest x.img --range 5",
            "blkdelta restore --repo r --point latest x.img --range 5..5",
            "blkdelta restore --repo r --point latest x.img --range 7K..1K",
            "blkdelta restore --repo r --point latest x.img --range 1..2 --allow-smaller",
            "blkdelta export --repo r --point latest x.img",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
