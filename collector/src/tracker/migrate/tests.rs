//! The taking over of layout 1, from the object that the first version was built with.
//!
//! The kernel side is the real one, loaded, attached and pinned as that version did it; the state files are written
//! as it wrote them. What is written before, during and after must be in our list.

use super::*;
use crate::block::{Extent, Granularity, SECTOR};
use crate::epoch::Epochs;
use crate::sys::bpf;
use crate::sys::direct::DirectFile;
use crate::tracker::btf::KernelTypes;
use crate::tracker::load::Attached;
use crate::tracker::state::{Identity, now_ms};
use crate::tracker::{Base, kernel, make_bitmap};
use aya::maps::{Array, ArrayOfMaps, HashMap};
use aya::programs::BtfTracePoint;
use aya::programs::links::FdLink;
use aya::{Btf, EbpfLoader};
use blkdelta_ebpf::{Disk, Target};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../tests/fixtures/layout-1/blkdelta.bpf.o");
const NAME: &str = "tracker::migrate";
const SIZE: u64 = 8 << 20;
const AREA: u64 = 4096;

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A machine on which the first version tracks a loop device.
struct Machine {
    folder: tempfile::TempDir,
    device: PathBuf,
    places: Places,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let bpf = self.folder.path().join("bpf");
        for (program, word, path) in [("umount", "-l", bpf.as_path()), ("losetup", "-d", &self.device)] {
            let _ = Command::new(program).arg(word).arg(path).status();
        }
    }
}

impl Machine {
    /// `None` where that cannot be tried.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/sys/kernel/btf/vmlinux").exists() {
            println!("SKIPPED: {NAME}: not root, or a kernel without BTF");
            return None;
        }
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let image = folder.path().join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
        let device = PathBuf::from(run("losetup", &["-f", "--show", image.to_str().unwrap()]));
        let places = Places::under(folder.path());
        Some(Self { folder, device, places })
    }

    fn old(&self) -> Places {
        self.places.with_layout(1)
    }

    /// Everything that `blkdelta track` of the first version left behind.
    fn track_by_layout_1(&self) -> DeviceState {
        let (old, device) = (self.old(), BlockDevice::open(&self.device).unwrap());
        old.prepare().unwrap();
        let model = bpf::create_bitmap(1).unwrap();
        let table = bpf::create_array_of_maps(256, bpf::fd(&model)).unwrap();
        bpf::pin(bpf::fd(&table), &old.map("BITMAPS")).unwrap();
        let programs = load(&old);
        let loaded =
            Loaded { layout: 1, boot: old.boot_id().unwrap(), copies: 1, programs, ..Loaded::default() };
        write_old(&old.loaded(), &loaded);
        let state = DeviceState {
            layout: 1,
            boot: old.boot_id().unwrap(),
            session: ulid::Ulid::generate().to_string(),
            path: self.device.clone(),
            identity: Identity::of(&device),
            granularity: Granularity::default(),
            slot: 1,
            disk_row: 0,
            bio_based: false,
            since_ms: now_ms(),
            difference_since_ms: now_ms(),
            epoch: 5,
            retired: 4,
            sealed: Vec::new(),
            base: Some(Base { repo: "a repository".into(), point: "a point".into() }),
            starts: Vec::new(),
            keep_full: Vec::new(),
            baseline: Default::default(),
            carry_all: 0,
        };
        link(&old, &device, &state);
        let reading = reading(&device, &old, &loaded, &state).unwrap();
        let state = DeviceState { baseline: reading.first_baseline(), ..state };
        write_old(&old.device_state(&state.key()), &state);
        state
    }

    fn write(&self, area: u64) {
        let file = DirectFile::open_write(&self.device, false).unwrap();
        file.write_at(area * AREA, &[area as u8; AREA as usize]).unwrap();
    }
}

/// A state file as the first version wrote it: it knew of no layouts.
fn write_old<T: serde::Serialize>(path: &Path, value: &T) {
    let mut value = serde_json::to_value(value).unwrap();
    value.as_object_mut().unwrap().remove("layout").unwrap();
    write_json(path, &value).unwrap();
}

fn load(old: &Places) -> Vec<Attached> {
    let mut types = KernelTypes::running().unwrap();
    let part0 = types.offset("gendisk", "part0").unwrap();
    let k = kernel::describe(&mut types).unwrap();
    let mut words = vec![
        k.bio_bdev,
        k.bio_opf,
        k.bio_flags,
        k.bio_sector,
        k.bio_size,
        k.bio_next,
        k.bdev_dev,
        k.bdev_disk,
    ];
    words.extend([k.bdev_start, part0, k.rq_queue, k.rq_flags, k.rq_length, k.rq_sector, k.rq_bio]);
    words.extend([k.rq_born, k.queue_disk, k.queue_chunk, k.bio_remapped, k.op_discard, k.op_secure_erase]);
    words.push(k.disk_queue);
    for mask in [k.harmless, k.ranged, k.zoned, k.passthrough] {
        words.extend([mask as u32, (mask >> 32) as u32]);
    }
    let btf = Btf::from_sys_fs().unwrap();
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf)).override_global("KERNEL", words.as_slice(), true);
    for name in ["DISKS", "ROWS", "TARGETS", "SLOTS", "COUNTERS", "EVENTS", "AYA_LOGS", "BITMAPS"] {
        loader.map_pin_path(name, old.map(name));
    }
    let mut object = loader.load(OBJECT).unwrap();
    let hooks = [("rq_issue", "block_rq_issue"), ("rq_complete", "block_rq_complete")];
    let attach = |(name, tracepoint): (&str, &str)| {
        let program: &mut BtfTracePoint = object.program_mut(name).unwrap().try_into().unwrap();
        program.load(tracepoint, &btf).unwrap();
        let link = program.attach().unwrap();
        let link: FdLink = program.take_link(link).unwrap().into();
        let id = program.info().unwrap().id();
        program.pin(old.program(name)).unwrap();
        link.pin(old.link(name)).unwrap();
        serde_json::from_value(serde_json::json!({"program": name, "id": id})).unwrap()
    };
    hooks.into_iter().map(attach).collect()
}

/// Disk, target and bitmap of layout 1, as its `track` put them in.
fn link(old: &Places, device: &BlockDevice, state: &DeviceState) {
    let map = |name: &str| MapData::from_pin(old.map(name)).unwrap();
    let words = state.granularity.words(device.size);
    let bitmap = make_bitmap(old, &state.key(), state.epoch, words).unwrap();
    let mut bitmaps: ArrayOfMaps<_, MapData> =
        ArrayOfMaps::try_from(Map::ArrayOfMaps(map("BITMAPS"))).unwrap();
    bitmaps.set(state.slot, &bitmap, 0).unwrap();
    let target = Target {
        start: 0,
        sectors: device.size / SECTOR,
        shift: state.granularity.sector_shift(),
        words: words as u32,
        next: 0,
        disk: 0,
    };
    let disk = Disk { first: state.slot, sectors: device.size / SECTOR, ..Disk::default() };
    Array::<_, Target>::try_from(Map::Array(map("TARGETS"))).unwrap().set(state.slot, target, 0).unwrap();
    Array::<_, Disk>::try_from(Map::Array(map("ROWS"))).unwrap().set(0, disk, 0).unwrap();
    let mut disks: HashMap<_, u32, u32> = HashMap::try_from(Map::HashMap(map("DISKS"))).unwrap();
    disks.insert(device.dev, 0, 0).unwrap();
    bitmaps.set(state.slot, &bitmap, 0).unwrap();
}

#[test]
fn nothing_is_lost_between_two_layouts() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.track_by_layout_1();
    machine.write(7);
    let stop = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut area = 100;
            while !stop.load(Ordering::Relaxed) && area < SIZE / AREA - 1 {
                machine.write(area);
                area += 1;
            }
            area
        });
        while BlockDevice::open(&machine.device).unwrap().stat().unwrap().writes < 20 {
            std::thread::yield_now();
        }
        let done = migrate(&machine.places);
        stop.store(true, Ordering::Relaxed);
        let last = writer.join().unwrap();
        done.unwrap();
        last
    });
    machine.write(9);
    assert!(!machine.old().pins().exists(), "the older pins are left");
    let mut epochs = Epochs::open(&machine.places, &machine.device).unwrap();
    let (session, base) = (epochs.session().to_owned(), epochs.base().cloned());
    assert_eq!((session, base), (before.session, before.base), "it is the same stretch of tracking");
    epochs.cut().unwrap();
    let pending = crate::diff::pending(&epochs).unwrap();
    assert_eq!(pending.suspect, [""; 0], "both saw everything");
    println!("{NAME}: {} areas written meanwhile", last - 100);
    for area in [7, 9].into_iter().chain(100..last) {
        assert!(pending.extents.contains(Extent::new(area * AREA, AREA)), "area {area} is missing");
    }
    assert!(!pending.extents.contains(Extent::new(8 * AREA, AREA)), "area 8 was never written");
    // a second time there is nothing to do
    migrate(&machine.places).unwrap();
}

/// Programs that stopped seeing, a bitmap that is gone: taken over as suspect.
#[test]
fn what_cannot_be_judged_is_suspect() {
    type Harm = fn(&Machine, &DeviceState);
    let harms: [(&str, Harm); 3] = [
        ("detached", |m, _| std::fs::remove_file(m.old().link("rq_issue")).unwrap()),
        ("removed", |m, state| std::fs::remove_file(m.old().epoch(&state.key(), 5)).unwrap()),
        ("counters", |m, _| std::fs::remove_file(m.old().map("COUNTERS")).unwrap()),
    ];
    for (what, harm) in harms {
        let Some(machine) = Machine::new() else { return };
        let state = machine.track_by_layout_1();
        machine.write(3);
        harm(&machine, &state);
        migrate(&machine.places).unwrap();
        let epochs = Epochs::open(&machine.places, &machine.device).unwrap();
        let pending = crate::diff::pending(&epochs).unwrap();
        assert!(!pending.suspect.is_empty(), "{what}: believed");
        println!("{NAME}: {what}: {:?}", pending.suspect);
        assert_eq!(epochs.base().cloned(), state.base, "{what}");
    }
}

#[test]
fn a_newer_layout_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let places = Places::under(folder.path());
    migrate(&places).unwrap();
    let newer = places.with_layout(places.layout() + 1);
    std::fs::create_dir_all(newer.pins().join("dev-7-0")).unwrap();
    let error = migrate(&places).unwrap_err();
    assert_eq!(error.kind(), Kind::Incompatible, "{error}");
    assert!(newer.pins().join("dev-7-0").exists());
}
