//! Each verb with exactly the capabilities that docs/PRIVILEGES.md gives it, and with one less: the table in that page is
//! the list. Run by a suite here and by a case in guests.

use crate::device::{Loop, Mounted};
use crate::files::KINDS;
use crate::host::{self, run};
use crate::product::{Ended, Home, binary};
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Capabilities by their kernel names.
pub type Set = BTreeSet<String>;

/// What a verb needs: for every device, and for those of device mapper besides.
pub struct Row {
    /// For every device.
    pub always: Set,
    /// For device mapper.
    pub mapper: Set,
}

/// The rows of the first table by verb.
pub fn table() -> Result<BTreeMap<String, Row>> {
    let text = include_str!("../../docs/PRIVILEGES.md");
    let rows =
        text.lines().skip_while(|l| !l.starts_with("| verb")).skip(2).take_while(|l| l.starts_with('|'));
    let mut table = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [verb, always, mapper, _] = cells[..] else { bail!("{row}: four cells are wanted") };
        ensure!(always.contains("CAP_") || always == "none", "{row}: neither capabilities nor none");
        table.insert(verb.trim_matches('`').to_owned(), Row { always: set(always), mapper: set(mapper) });
    }
    ensure!(table.len() >= 9, "the table has rows for {:?} only", table.keys());
    Ok(table)
}

fn set(cell: &str) -> Set {
    cell.split_whitespace()
        .map(|c| c.trim_matches('`').to_owned())
        .filter(|c| c.starts_with("CAP_"))
        .collect()
}

/// Verbs that need no point.
const UNBACKED: [&str; 10] =
    ["track", "untrack", "status", "top", "doctor", "diff", "monitor", "backup", "init", "config"];

/// What systemd does at boot.
fn mount_bpf(home: &Home) -> Result<()> {
    let bpf = home.path().join("bpf");
    std::fs::create_dir(&bpf)?;
    run("mount", ["-t", "bpf", "-o", "mode=0700", "bpf", &bpf.display().to_string()]).map(drop)
}

/// A process of another user, that only waits: what it has open is not for everybody to see.
struct Stranger(Child);

impl Stranger {
    fn new() -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "read line"]).uid(65534).gid(65534).stdin(Stdio::piped());
        let child =
            crate::raw::die_with_us(&mut command).spawn().context("start a process of another user")?;
        Ok(Self(child))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // its line ends with its input
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

/// Two machines: one whose disk has a mounted file system with a root of another user, and one with a disk that nobody
/// uses, which is switched off and on.
struct Stage {
    scratch: Scratch,
    home: Home,
    device: Loop,
    mounted: Mounted,
    repo: PathBuf,
    quiet_home: Home,
    quiet: Option<Loop>,
    _stranger: Stranger,
}

impl Stage {
    fn new(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let (home, quiet_home) = (Home::new(&scratch)?, Home::new(&scratch)?);
        mount_bpf(&home)?;
        mount_bpf(&quiet_home)?;
        let device = Loop::new(&scratch, "disk", 32 << 20)?;
        KINDS[0].make(device.path())?;
        let mounted = Mounted::new(&scratch, device.path(), "")?;
        run("chown", ["65534".as_ref(), mounted.point().as_os_str()])?;
        run("chmod", ["700".as_ref(), mounted.point().as_os_str()])?;
        let repo = scratch.path().join("repo");
        let quiet = Loop::new(&scratch, "quiet", 8 << 20)?;
        KINDS[0].make(quiet.path())?;
        let (quiet, _stranger) = (Some(quiet), Stranger::new()?);
        Ok(Self { home, device, mounted, repo, quiet, quiet_home, _stranger, scratch })
    }

    /// Does what must have been done before a verb, as almighty root; the verb's words, and the home to run it in.
    fn prepare(&mut self, verb: &str, missing: &str) -> Result<(PathBuf, Vec<String>)> {
        let words = match verb {
            "save" | "resume" => self.prepare_quiet(verb, missing)?,
            _ => self.prepare_mounted(verb)?,
        };
        let home = if matches!(verb, "save" | "resume") { &self.quiet_home } else { &self.home };
        Ok((home.path().to_owned(), words.iter().map(ToString::to_string).collect()))
    }

    fn prepare_mounted(&self, verb: &str) -> Result<Vec<String>> {
        let device = self.device.path().display().to_string();
        let repo = self.repo.display().to_string();
        self.home.ok(["track", &device])?;
        if !UNBACKED.contains(&verb) {
            self.home.ok(["backup", &device, "--repo", &repo])?;
        }
        let target = self.scratch.fresh("out").display().to_string();
        let files = self.files()?;
        let words = match verb {
            "group" => vec![verb, "backup", "--name", "all", "--path", &files, "--repo", &target],
            "keep-since" => vec![verb, &device, "latest-full", "--repo", &repo],
            "init" => vec![verb, &target],
            "config" => vec![verb, "check", "--file", "/dev/null"],
            "key" => vec![verb, "generate", &target],
            "copy" => vec![verb, "--from", &repo, "--to", &target, "--all"],
            "merge" => vec![verb, "--repo", &repo, "--up-to", "latest"],
            "prune" => vec![verb, "--repo", &repo, "--keep-last", "1"],
            "compact" | "repair" => vec![verb, "--repo", &repo],
            "track" => {
                self.home.ok(["untrack", &device])?;
                vec![verb, &device]
            }
            "doctor" => vec![verb],
            "untrack" | "status" | "diff" => vec![verb, &device],
            "run" => {
                self.home.ok(["untrack", &device])?;
                self.configure(&device, &repo)?;
                vec![verb, "j", "--json"]
            }
            "monitor" => vec![verb, "--once"],
            "top" => vec![verb, "--once", "--interval", "100ms"],
            "backup" | "audit" => vec![verb, &device, "--repo", &repo],
            "list" => vec![verb, "--repo", &repo],
            "check" => vec![verb, "--repo", &repo, "--read-data"],
            "restore" => vec![verb, "--repo", &repo, "--point", "latest", &target],
            "cat" => vec![verb, "--repo", &repo, "--point", "latest"],
            "export" => vec![verb, "--repo", &repo, "--point", "latest", "--format", "raw", &target],
            other => bail!("docs/PRIVILEGES.md names {other}, this test does not know how to run it"),
        };
        Ok(words.into_iter().map(ToOwned::to_owned).collect())
    }

    /// A folder below a root that is another user's.
    fn files(&self) -> Result<String> {
        let files = self.mounted.point().join("folder");
        std::fs::create_dir_all(&files)?;
        Ok(files.display().to_string())
    }

    /// A configuration with one job, `j`.
    fn configure(&self, device: &str, repo: &str) -> Result<()> {
        let text = format!(
            "[repository.r]\nlocation = {repo:?}\n[device.d]\npath = {device:?}\n[job.j]\ndevice = \"d\"\n\
             repository = \"r\"\n"
        );
        crate::device::put(&self.home.path().join("config.toml"), text.as_bytes())
    }

    fn prepare_quiet(&mut self, verb: &str, missing: &str) -> Result<Vec<String>> {
        let device = self.quiet.as_ref().context("the disk is away")?.path().display().to_string();
        // writable again, whatever the run before left
        self.quiet_home.run(["resume"])?;
        self.quiet_home.ok(["track", &device])?;
        if verb == "save" {
            return Ok(vec![verb.into(), device]);
        }
        self.quiet_home.ok(["save", &device])?;
        // what must be made writable is a disk of the same boot; what must be attached is one of another
        if missing != "CAP_SYS_ADMIN" {
            let home = self.quiet_home.rebooted(&self.scratch)?;
            let backing = self.quiet.take().context("the disk is away")?.vanish()?;
            self.quiet = Some(Loop::on(&backing, &[])?);
            mount_bpf(&home)?;
            self.quiet_home = home;
        }
        Ok(vec![verb.into()])
    }

    /// Prepares a verb and runs it with this set and nothing more.
    fn run(&mut self, verb: &str, set: &Set, missing: &str) -> Result<Ended> {
        let (home, words) = self.prepare(verb, missing).with_context(|| format!("prepare {verb}"))?;
        let mut all = "-all".to_owned();
        for name in set {
            all += &format!(",+{}", name.trim_start_matches("CAP_").to_lowercase());
        }
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &all, "--inh-caps", &all, "--no-new-privs"]).arg("--").arg(binary()?);
        Ended::of(command.args(words).env("BLKDELTA_HOME", home))
    }

    /// Without one of its set a verb does less, and says which one it lacks.
    fn one_less(&mut self, verb: &str, set: &Set, missing: &str) -> Result<()> {
        let less: Set = set.iter().filter(|c| *c != missing).cloned().collect();
        // CAP_SYS_ADMIN would stand in for these two
        let stands_in = less.contains("CAP_SYS_ADMIN") && matches!(missing, "CAP_BPF" | "CAP_PERFMON");
        let less = if stands_in { less.into_iter().filter(|c| c != "CAP_SYS_ADMIN").collect() } else { less };
        let ended = self.run(verb, &less, missing)?;
        let said = [ended.out.as_str(), &ended.err].concat();
        ensure!(said.contains(missing), "{verb} without {missing} does not name it: {ended}");
        ensure!(!did_it_all(&ended), "{verb} does not need {missing}: {ended}");
        Ok(())
    }
}

/// Why a verb cannot be run, if so: this program has none of that name.
fn unknown(verb: &str) -> Result<Option<String>> {
    let ended = Ended::of(Command::new(binary()?).args([verb, "--help"]))?;
    Ok((ended.code != Some(0)).then(|| format!("this blkdelta has no verb {verb}")))
}

/// It did all that it is for, not a part of it. What `doctor` finds of this host is no failure of its own.
fn did_it_all(ended: &Ended) -> bool {
    let looked = ended.code == Some(3) && ended.out.contains(" to note, ");
    let blind = ended.out.contains("this process lacks");
    (ended.code == Some(0) || looked)
        && !blind
        && !ended.out.contains("not frozen")
        && !ended.err.contains("CAP_")
}

/// Every verb with its row, then with each capability of the row taken away; `name` is for what is skipped.
pub fn every_row(name: &str) -> Result<()> {
    let mut stage = Stage::new("privileges")?;
    let table = table()?;
    for (verb, Row { always: set, .. }) in &table {
        // they never end by themselves; what they do again and again has a row of its own
        let again = [("watch", "backup"), ("daemon", "run")].into_iter().find(|(name, _)| name == verb);
        if let Some((_, does)) = again {
            ensure!(*set == table[does].always, "{verb} does {does}, its row says {set:?}");
            continue;
        }
        if let Some(why) = unknown(verb)? {
            host::skipped(&format!("{name}: {verb}"), &why);
            continue;
        }
        let ended = stage.run(verb, set, "")?;
        ensure!(did_it_all(&ended), "{verb} with {set:?}: {ended}");
        host::say(&format!("  {verb:<8} works with {set:?}"));
        set.iter().try_for_each(|missing| stage.one_less(verb, set, missing))?;
    }
    stage.mounted.unmount()
}
