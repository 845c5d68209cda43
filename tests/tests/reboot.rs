//! Promise: over a reboot, a crash or a gap of any kind, nothing that changed is left out of the next backup; an
//! incremental is made only where it was proved that nobody wrote meanwhile.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use tests::device::{Loop, Mounted, open_with};
use tests::files::{self, KINDS};
use tests::image::Image;
use tests::machine::Machine;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

const SIZE: u64 = 16 << 20;

/// What happens to a machine between its save and its resume.
type Gap = fn(&mut Machine<'_>) -> Result<()>;

/// Reason that must be given, name, deed.
const GAPS: [(&str, &str, Gap); 8] = [
    ("not stopped cleanly", "not saved", |m| m.reboot()),
    ("this kernel wrote", "written by this kernel before resume", |m| {
        m.saved()?;
        m.reboot()?;
        m.write_at(1 << 20)
    }),
    ("somebody wrote", "written elsewhere while off", |m| {
        m.saved()?;
        let backing = m.off()?;
        let elsewhere = Loop::newborn(&backing)?;
        m.care.device = elsewhere.path().into();
        m.write_at(3 << 20)?;
        elsewhere.vanish()?;
        m.on(&backing)
    }),
    ("cannot be used", "the saved map is cut short", |m| {
        m.saved()?;
        let map = m.lib_file("map")?;
        let length = std::fs::metadata(&map)?.len();
        std::fs::File::options().write(true).open(map)?.set_len(length - 1)?;
        m.reboot()
    }),
    ("cannot be used", "the saved map is gone", |m| {
        m.saved()?;
        std::fs::remove_file(m.lib_file("map")?)?;
        m.reboot()
    }),
    ("cannot be used", "an older map in its place", |m| {
        m.saved()?;
        let old = std::fs::read(m.lib_file("map")?)?;
        m.care.home.ok(["resume"])?;
        m.write_at(5 << 20)?;
        m.saved()?;
        tests::device::put(&m.lib_file("map")?, &old)?;
        m.reboot()
    }),
    ("somebody wrote", "record and map of an earlier save in their place", |m| {
        m.saved()?;
        let (record, map) = (m.lib_file("json")?, m.lib_file("map")?);
        let old = (std::fs::read(&record)?, std::fs::read(&map)?);
        m.care.home.ok(["resume"])?;
        m.write_at(6 << 20)?;
        m.saved()?;
        tests::device::put(&record, &old.0)?;
        tests::device::put(&map, &old.1)?;
        m.reboot()
    }),
    ("not stopped cleanly", "written after a save that was taken back", |m| {
        m.saved()?;
        m.care.home.ok(["resume"])?;
        m.write_at(7 << 20)?;
        m.reboot()
    }),
];

/// Each of these makes the saved map unbelievable, and is said.
#[test]
fn no_proof_no_incremental() -> Result<()> {
    const NAME: &str = "reboot::no_proof_no_incremental";
    skip_if!(host::no_tracking(), NAME);
    for (reason, what, gap) in GAPS {
        let scratch = Scratch::new("gap")?;
        let mut machine = Machine::new(&scratch, NAME, SIZE, None)?;
        churn(&machine.care.device, &mut machine.random, 20)?;
        gap(&mut machine).context(what)?;
        let row = machine.ensure_comes_back("suspect", what)?;
        ensure!(row.to_string().contains(reason), "{what}: for another reason: {row}");
    }
    Ok(())
}

/// Mounted elsewhere while the machine was off: every file system notices.
#[test]
fn a_mount_elsewhere_is_noticed() -> Result<()> {
    const NAME: &str = "reboot::a_mount_elsewhere_is_noticed";
    skip_if!(host::no_tracking(), NAME);
    for kind in [&KINDS[0], &KINDS[3], &KINDS[5]] {
        if let Some(why) = host::no_filesystem(kind.name) {
            host::skipped(NAME, &why);
            continue;
        }
        let scratch = Scratch::new("elsewhere")?;
        let mut machine = Machine::new(&scratch, NAME, 400 << 20, Some(kind))?;
        machine.work()?;
        machine.saved()?;
        let backing = machine.off()?;
        let elsewhere = Loop::newborn(&backing)?;
        machine.care.device = elsewhere.path().into();
        let mounted = Mounted::new(&scratch, elsewhere.path(), "")?;
        tests::device::put(&mounted.point().join("new"), b"written elsewhere")?;
        mounted.unmount()?;
        elsewhere.vanish()?;
        machine.on(&backing)?;
        let row = machine.ensure_comes_back("suspect", kind.name)?;
        ensure!(row.to_string().contains("somebody wrote"), "{}: {row}", kind.name);
    }
    Ok(())
}

/// A device in use is not saved, and says why; neither is one that nothing would tell of.
#[test]
fn what_cannot_be_proved_is_not_saved() -> Result<()> {
    const NAME: &str = "reboot::what_cannot_be_proved_is_not_saved";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let refused = |machine: &Machine<'_>, why: &str| -> Result<()> {
        let ended = machine.save()?.expect(3, "save")?;
        ensure!(ended.out.contains(why), "wanted {why:?}: {ended}");
        let name = machine.device().file_name().context("name")?;
        let read_only = std::fs::read_to_string(Path::new("/sys/class/block").join(name).join("ro"))?;
        ensure!(read_only.trim() == "0", "it must stay writable");
        Ok(())
    };
    let scratch = Scratch::new("unsaved")?;
    let mut machine = Machine::new(&scratch, NAME, 64 << 20, Some(&KINDS[0]))?;
    let mounted = Mounted::new(&scratch, machine.device(), "")?;
    refused(&machine, "is mounted at")?;
    mounted.unmount()?;
    let open = open_with(machine.device(), 0)?;
    // one of our own processes: the test itself
    refused(&machine, "open for writing")?;
    drop(open);
    let above = Loop::on(machine.device(), &[])?;
    refused(&machine, "stands on it")?;
    above.detach()?;
    let twin = Loop::on(machine.disk.as_ref().context("on")?.backing(), &[])?;
    refused(&machine, "2 devices are")?;
    twin.detach()?;
    machine.saved()?;
    ensure!(machine.write_at(0).is_err(), "writable after the save");
    // mount(8) may fall back to mounting it read-only, which changes nothing: the kernel refuses every write
    let written = Mounted::new(&scratch, machine.device(), "")
        .and_then(|mounted| Ok(std::fs::File::create(mounted.point().join("x"))?));
    ensure!(written.is_err(), "mounted and written to after the save");
    machine.reboot()?;
    machine.ensure_comes_back("proved", "after all that")?;
    // an ext4 super block that did not change although something did: a leftover under something else
    machine.write_at(40 << 20)?;
    refused(&machine, "was not written by the ext4")?;
    // no file system, and too large to be read whole
    let big = Loop::new(&scratch, "big", (1 << 30) + (1 << 20))?;
    machine.care.home.ok(["track".as_ref(), big.path().as_os_str()])?;
    let ended = machine.care.home.run(["save".as_ref(), big.path().as_os_str()])?.expect(3, "save")?;
    ensure!(ended.out.contains("nothing in them counts writes"), "{ended}");
    machine.care.home.ok(["untrack".as_ref(), big.path().as_os_str()]).map(|_| ())
}

/// A kernel that did not count what was written before `resume` (dm before 6.3) proves nothing, however often `resume`
/// is tried: the first try has switched the count on.
#[test]
fn what_was_not_counted_is_not_proved() -> Result<()> {
    const NAME: &str = "reboot::what_was_not_counted_is_not_proved";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    for kill in [None, Some("track.before-count=kill"), Some("resume.after-attach=kill")] {
        let scratch = Scratch::new("uncounted")?;
        let mut machine = Machine::new(&scratch, NAME, 64 << 20, Some(&KINDS[0]))?;
        machine.work()?;
        machine.saved()?;
        machine.reboot()?;
        let name = machine.device().file_name().context("name")?.to_string_lossy().into_owned();
        tests::device::poke(&format!("/sys/block/{name}/queue/iostats"), "0")?;
        // past the file system: its super block stays as it is
        machine.write_at(40 << 20)?;
        if let Some(kill) = kill {
            let ended = machine.care.home.run_failing(kill, ["resume"])?;
            ensure!(ended.signal == Some(9), "{kill}: not killed: {ended}");
        }
        let row = machine.ensure_comes_back("suspect", kill.unwrap_or("not killed"))?;
        ensure!(row.to_string().contains("did not count"), "for another reason: {row}");
    }
    Ok(())
}

/// What breaks in this very boot needs no full either: pins gone, the device away for a while or back under another number.
#[test]
fn what_broke_in_this_boot_is_compared() -> Result<()> {
    const NAME: &str = "reboot::what_broke_in_this_boot_is_compared";
    skip_if!(host::no_tracking(), NAME);
    let broken: [(&str, Gap); 3] = [
        ("pins gone", |m| host::run("umount", [m.care.home.path().join("bpf")]).map(drop)),
        ("pins gone after a save", |m| {
            m.saved()?;
            host::run("umount", [m.care.home.path().join("bpf")]).map(drop)
        }),
        ("away, and back under another number", |m| {
            let backing = m.disk.take().context("the machine is off")?.vanish()?;
            m.on(&backing)
        }),
    ];
    for (what, deed) in broken {
        for verb in ["resume", "track"] {
            let scratch = Scratch::new("broken")?;
            let mut machine = Machine::new(&scratch, NAME, SIZE, None)?;
            churn(&machine.care.device, &mut machine.random, 10)?;
            deed(&mut machine).context(what)?;
            if what != "pins gone after a save" {
                machine.write_at(2 << 20)?;
            }
            let device = machine.device().display().to_string();
            let words: &[&str] = if verb == "track" { &["track", &device] } else { &["resume"] };
            let ended = machine.care.home.run(words)?;
            ensure!(ended.out.contains("SUSPECT"), "{what}, {verb}: {ended}");
            machine.write_at(3 << 20).with_context(|| format!("{what}, {verb}: it stays read-only"))?;
            machine.ensure_next_is_whole(true, &format!("{what}, {verb}"))?;
            machine.write_at(4 << 20)?;
            machine.ensure_next_is_whole(false, &format!("{what}, {verb}, the one after"))?;
            ensure!(
                machine.care.home.json(["status"])?.as_array().is_some_and(|all| all.len() == 1),
                "{what}: status"
            );
        }
    }
    Ok(())
}

/// Two devices of one identity: none of them is taken for the one that was saved, then or later.
#[test]
fn twins_are_not_guessed() -> Result<()> {
    const NAME: &str = "reboot::twins_are_not_guessed";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("twins")?;
    let mut machine = Machine::new(&scratch, NAME, SIZE, None)?;
    churn(&machine.care.device, &mut machine.random, 20)?;
    machine.saved()?;
    let backing = machine.off()?;
    let twin = Loop::newborn(&backing)?;
    machine.on(&backing)?;
    let row = machine.resume()?;
    ensure!(row["outcome"] == "waiting" && row.to_string().contains("2 devices are"), "{row}");
    twin.vanish()?;
    machine.ensure_comes_back("suspect", "alone again").map(|_| ())
}

/// A disk that is not there keeps its record until it is.
#[test]
fn an_absent_disk_is_waited_for() -> Result<()> {
    const NAME: &str = "reboot::an_absent_disk_is_waited_for";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("absent")?;
    let mut machine = Machine::new(&scratch, NAME, SIZE, None)?;
    churn(&machine.care.device, &mut machine.random, 20)?;
    machine.saved()?;
    let backing = machine.off()?;
    let row = machine.resume()?;
    ensure!(row["outcome"] == "waiting", "{row}");
    machine.care.home = machine.care.home.rebooted(&scratch)?;
    machine.on(&backing)?;
    machine.ensure_comes_back("proved", "one boot later")?;
    churn(&machine.care.device, &mut machine.random, 10)?;
    machine.reboot()?;
    // `track` goes on as well
    machine.care.home.ok(["track".as_ref(), machine.device().as_os_str()])?;
    machine.ensure_next_is_whole(true, "tracked again without a save")
}

/// After a crash only used areas are read, and everything that changed is found.
#[test]
fn a_crash_costs_one_look_at_what_is_used() -> Result<()> {
    const NAME: &str = "reboot::a_crash_costs_one_look_at_what_is_used";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    const DISK: u64 = 400 << 20;
    let scratch = Scratch::new("crash")?;
    let mut machine = Machine::new(&scratch, NAME, DISK, Some(&KINDS[0]))?;
    for round in 0..2 {
        machine.work()?;
        machine.reboot()?;
        let row = machine.resume()?;
        ensure!(row["outcome"] == "suspect", "round {round}: {row}");
        // what the system does next: it mounts, and its users go on
        let mounted = Mounted::new(&scratch, machine.device(), "")?;
        files::churn(&mounted.point().join("work"), &mut machine.random, 20)?;
        let point = machine.care.backup(&[])?;
        ensure!(point.kind() == "incremental", "round {round}: {}", point.json);
        let (read, millis) = (&point.json["passes"][0]["bytes"], &point.json["passes"][0]["millis"]);
        host::say(&format!("  round {round}: compared {read} of {DISK} bytes in {millis} ms"));
        ensure!(read.as_u64().is_some_and(|read| read > 0 && read < DISK / 2), "read {read} bytes");
        mounted.unmount()?;
        let (wanted, point) = (Image::of(machine.device())?, machine.care.incremental()?);
        machine.ensure_files_of(&point.id, &wanted)?;
    }
    Ok(())
}

/// Killed, or failing, at every failpoint of `save` and of `resume`: nothing is lost, and the device opens again.
#[test]
fn killed_at_every_step() -> Result<()> {
    const NAME: &str = "reboot::killed_at_every_step";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("steps")?;
    let mut machine = Machine::new(&scratch, NAME, 4 << 20, None)?;
    let ours = ["epoch.after-", "publish.", "record.", "save.", "resume.", "start."];
    let mut names = tests::fault::failpoints()?;
    names.retain(|name| ours.iter().any(|room| name.starts_with(room)));
    let mut hits = [0, 0];
    for name in &names {
        for (verb, how) in
            [(0, "kill"), (0, "error"), (1, "kill"), (1, "error"), (0, "kill@2"), (1, "kill@2")]
        {
            let arm = if how.contains('@') { format!("{name}={how}") } else { format!("{name}={how}@1") };
            churn(&machine.care.device, &mut machine.random, 6)?;
            if verb == 1 {
                machine.saved()?;
                machine.reboot()?;
            }
            let words = [["save"], ["resume"]][verb];
            let ended = machine.care.home.run_failing(&arm, words)?;
            ensure!(ended.code != Some(101), "{arm} {words:?}: panic: {ended}");
            let hit = ended.signal == Some(9) || ended.err.contains("failpoint");
            if !hit {
                ensure!(ended.code == Some(0), "{arm} {words:?}: neither hit nor done: {ended}");
                if verb == 0 {
                    machine.care.home.ok(["resume"])?;
                }
                continue;
            }
            hits[verb] += 1;
            machine.after_death(verb, &format!("{arm} {words:?}"))?;
        }
    }
    host::say(&format!("{NAME}: {} deaths of save, {} of resume", hits[0], hits[1]));
    ensure!(hits[0] > 10 && hits[1] > 8, "too few failpoints on the way: {hits:?}");
    machine.care.ensure_sound()
}

/// Saved and resumed: true incrementals over several boots, raw device and each file system.
#[test]
fn a_clean_reboot_keeps_the_increment() -> Result<()> {
    const NAME: &str = "reboot::a_clean_reboot_keeps_the_increment";
    skip_if!(host::no_tracking(), NAME);
    let kinds = [None, Some(&KINDS[0]), Some(&KINDS[3]), Some(&KINDS[5])];
    for kind in kinds {
        if let Some(why) = kind.and_then(|k| host::no_filesystem(k.name)) {
            host::skipped(NAME, &why);
            continue;
        }
        let scratch = Scratch::new("clean")?;
        let mut machine = Machine::new(&scratch, NAME, kind.map_or(SIZE, |_| 400 << 20), kind)?;
        for boot in 0..3 {
            match kind {
                Some(_) => machine.work()?,
                None => churn(&machine.care.device, &mut machine.random, 20).map(|_| ())?,
            }
            let ended = machine.save()?.expect(0, "save")?;
            host::say(&format!("  {}", ended.out.trim()));
            machine.reboot()?;
            machine.ensure_comes_back("proved", &format!("boot {boot}, {:?}", kind.map(|k| k.name)))?;
        }
    }
    Ok(())
}
