//! Programs into the kernel: load, attach, pin; and the proof, later, that they are still there.
//!
//! Every load goes the same way, the first one and one that adds hooks: the maps are taken from their pins
//! or made and pinned, only the missing programs are loaded, each is attached and pinned. `loaded.json` is
//! written last and names what must be found; whatever is pinned without it is a torn start and is removed.

use super::btf::KernelTypes;
use super::disks::Disks;
use super::kernel;
use super::places::Places;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::privilege::{Capability, explained};
use crate::sys::{bpf, failpoint, planted, planted_programs, publish};
use aya::maps::{Array, ArrayOfMaps, MapData, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, EbpfLoader};
use blkdelta_ebpf::{Counters, Disk, HOOKS, Hook, KERNEL_SYMBOL, Kernel, MAX_TARGETS, Role, Target};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The kernel side, built by `cargo xtask ebpf` from `ebpf/` and committed beside it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/blkdelta.bpf.o");

/// Maps that are pinned by name; the array of bitmaps is made by hand.
const MAPS: [&str; 7] = ["DISKS", "ROWS", "TARGETS", "SLOTS", "COUNTERS", "EVENTS", "AYA_LOGS"];
const BITMAPS: &str = "BITMAPS";

/// A program that must be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Name in the object, and of its pins.
    pub program: String,
    /// The kernel's id of the program when it was attached.
    pub id: u32,
    /// The kernel's id of its link; 0 in a file that knows none. A raw tracepoint's link cannot be detached and
    /// attached again (`bpf_raw_tp_link_lops` has no `detach`, no `update_prog`) and no id is given twice
    /// (`idr_alloc_cyclic`, both kernel/bpf/syscall.c): the same link was attached without a break.
    #[serde(default)]
    pub link: u32,
}

/// What must be found pinned: `loaded.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Layout of the maps; files of the first one do not say it.
    #[serde(default = "super::state::first_layout")]
    pub layout: u32,
    /// Boot in which it was loaded.
    pub boot: String,
    /// Version of the program that loaded it.
    pub tool: String,
    /// Copies of each program.
    pub copies: u32,
    /// The programs.
    pub programs: Vec<Attached>,
    /// Inode of the folder they are pinned in; 0 in a file that knows none. A BPF file system that is mounted anew
    /// gives another one.
    #[serde(default)]
    pub folder: u64,
}

impl Loaded {
    /// What is loaded now, if anything is.
    ///
    /// # Errors
    /// If the state file cannot be read; a file of an earlier boot, or one whose maps are not all pinned any
    /// more, counts as nothing.
    pub fn read(places: &Places) -> Result<Option<Self>> {
        let loaded: Option<Self> = read_json(&places.loaded())?;
        let boot = places.boot_id()?;
        let complete = || MAPS.iter().chain([&BITMAPS]).all(|name| places.map(name).exists());
        Ok(loaded.filter(|l| l.boot == boot && l.layout == places.layout() && complete()))
    }

    /// Hooks of these roles that have no program yet.
    fn missing(&self, roles: &[Role]) -> Vec<&'static Hook> {
        HOOKS
            .iter()
            .filter(|h| roles.contains(&h.role) && h.copy < self.copies)
            .filter(|h| !(planted("hook-forgotten") && h.program == "rq_complete"))
            .filter(|h| !self.programs.iter().any(|p| p.program == h.program))
            .collect()
    }
}

/// Reads a state file; `None` if there is none.
pub(crate) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.os_context(|| format!("read {}", path.display()))?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::caused(Kind::Damaged, format!("read state file {}", path.display()), e))
}

/// Writes a state file.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::caused(Kind::Bug, format!("write state file {}", path.display()), e))?;
    publish(path, &text)
}

/// Turns an aya failure into ours; the whole chain stays below it.
pub(crate) fn aya_error(
    context: impl Into<String>,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let denied = std::iter::successors(Some(&source as &(dyn std::error::Error + 'static)), |e| e.source())
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::PermissionDenied);
    let kind = if denied { Kind::Denied } else { Kind::Unsupported };
    let error = Error::caused(kind, context, shortened(&source));
    // is_perfmon_prog_type and bpf_capable, kernel/bpf/syscall.c
    explained(error, &[Capability::Bpf, Capability::Perfmon])
}

/// An aya error and its causes as one text. The verifier's log can be megabytes: its end says what is wrong.
fn shortened(source: &(dyn std::error::Error + 'static)) -> String {
    const KEEP: usize = 1500;
    let texts: Vec<String> =
        std::iter::successors(Some(source), |e| e.source()).map(|e| e.to_string()).collect();
    let text = texts.join(": ");
    match text.char_indices().rev().nth(KEEP) {
        Some((from, _)) => format!("… {}", &text[from..]),
        None => text,
    }
}

/// Makes sure that the programs for `roles` are loaded, attached and pinned.
///
/// # Errors
/// `Unsupported` if the kernel lacks something, `Denied` without privileges.
pub fn ensure(places: &Places, roles: &[Role]) -> Result<Loaded> {
    places.prepare()?;
    let mut loaded = match Loaded::read(places)? {
        Some(loaded) => loaded,
        None => {
            remove_pins(places)?;
            let (layout, boot) = (places.layout(), places.boot_id()?);
            Loaded { layout, boot, tool: env!("CARGO_PKG_VERSION").into(), ..Loaded::default() }
        }
    };
    // the kernel's types are megabytes: read only where something is to be loaded
    if loaded.copies > 0 && asked_copies().is_none() && loaded.missing(roles).is_empty() {
        return Ok(loaded);
    }
    let mut types = KernelTypes::running()?;
    kernel::check_signatures(&types)?;
    loaded.copies = loaded.copies.max(wanted_copies(&types));
    let missing = loaded.missing(roles);
    if !missing.is_empty() {
        remove_torn(places, &missing)?;
        make_bitmap_table(places)?;
        loaded.folder = places.check_mount()?;
        loaded.programs.extend(attach(places, &kernel::describe(&mut types)?, &missing)?);
        failpoint("track.after-load")?;
        write_json(&places.loaded(), &loaded)?;
        lose_pins(places)?;
    }
    Ok(loaded)
}

/// Faults: a link is lost, another program stands in the place of ours.
fn lose_pins(places: &Places) -> Result<()> {
    const VICTIM: &str = "rq_complete";
    let gone = |path: &Path| std::fs::remove_file(path).os_context(|| format!("lose {}", path.display()));
    if planted("link-lost") {
        gone(&places.link(VICTIM))?;
    }
    if planted("program-replaced") {
        let other = bpf::open_pin(&places.program("rq_issue"))?;
        gone(&places.program(VICTIM))?;
        bpf::pin(bpf::fd(&other), &places.program(VICTIM))?;
    }
    Ok(())
}

/// Detaches programs that somebody pinned who did not live to say so: beside ours they would count twice.
fn remove_torn(places: &Places, hooks: &[&Hook]) -> Result<()> {
    for pin in hooks.iter().flat_map(|h| [places.link(h.program), places.program(h.program)]) {
        match std::fs::remove_file(&pin) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::os(format!("remove {}", pin.display()), e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What `BLKDELTA_COPIES` asks for.
fn asked_copies() -> Option<u32> {
    std::env::var("BLKDELTA_COPIES").ok().and_then(|n| n.parse().ok())
}

/// Copies by the kernel's kind, or what was asked for.
fn wanted_copies(types: &KernelTypes) -> u32 {
    asked_copies().unwrap_or_else(|| kernel::copies_needed(types)).clamp(1, blkdelta_ebpf::COPIES)
}

/// The array of bitmaps: aya's loader finds it pinned and takes it as it is.
fn make_bitmap_table(places: &Places) -> Result<()> {
    let path = places.map(BITMAPS);
    if path.exists() {
        return Ok(());
    }
    let model = bpf::create_bitmap(1)?;
    let table = bpf::create_array_of_maps(MAX_TARGETS, bpf::fd(&model))?;
    bpf::pin(bpf::fd(&table), &path)
}

/// Loads the programs of `hooks` over the pinned maps, attaches and pins them.
fn attach(places: &Places, kernel: &Kernel, hooks: &[&Hook]) -> Result<Vec<Attached>> {
    let btf = Btf::from_sys_fs().map_err(|e| aya_error("read the kernel's type information", e))?;
    let planted = planted_programs()?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf)).override_global(KERNEL_SYMBOL, kernel, true);
    for name in MAPS.iter().chain([&BITMAPS]) {
        loader.map_pin_path(name, places.map(name));
    }
    if let Some((faults, _)) = &planted {
        loader.override_global(blkdelta_ebpf::planted::SYMBOL, faults, true);
    }
    let object = planted.as_ref().map_or(OBJECT, |(_, object)| object);
    let mut object = loader.load(object).map_err(|e| aya_error("load blkdelta's kernel programs", e))?;
    let mut attached = Vec::new();
    for hook in hooks {
        let what = |doing: &str| format!("{doing} program {} on {}", hook.program, hook.tracepoint);
        let program: &mut BtfTracePoint = object
            .program_mut(hook.program)
            .ok_or_else(|| Error::new(Kind::Bug, what("find")))?
            .try_into()
            .map_err(|e| aya_error(what("use"), e))?;
        program.load(hook.tracepoint, &btf).map_err(|e| aya_error(with_log(places, what("load"), &e), e))?;
        let link = program.attach().map_err(|e| aya_error(what("attach"), e))?;
        let link = program.take_link(link).map_err(|e| aya_error(what("keep"), e))?;
        let id = program.info().map_err(|e| aya_error(what("examine"), e))?.id();
        program.pin(places.program(hook.program)).map_err(|e| aya_error(what("pin"), e))?;
        let link = FdLink::from(link);
        let link_id = link.info().map_err(|e| aya_error(what("examine"), e))?.id();
        link.pin(places.link(hook.program)).map_err(|e| aya_error(what("pin"), e))?;
        attached.push(Attached { program: hook.program.into(), id, link: link_id });
    }
    Ok(attached)
}

/// Keeps the whole of what the verifier said beside the state files; `what`, with where it is.
fn with_log(places: &Places, what: String, error: &ProgramError) -> String {
    let ProgramError::LoadError { verifier_log, .. } = error else { return what };
    let (path, log) = (places.state().join("verifier.log"), verifier_log.to_string());
    // that the program does not load matters more than where its log could be put
    if log.is_empty() || publish(&path, log.as_bytes()).is_err() {
        return what;
    }
    format!("{what} (the verifier's whole log is in {})", path.display())
}

/// Removes everything that is pinned: programs detach, maps and bitmaps go when nobody holds them.
///
/// # Errors
/// If a pin cannot be removed.
pub fn remove_pins(places: &Places) -> Result<()> {
    if places.loaded().exists() {
        std::fs::remove_file(places.loaded()).os_context(|| "remove loaded.json".into())?;
    }
    let pins = places.pins();
    match std::fs::remove_dir_all(pins) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        other => other.os_context(|| format!("remove the pins in {}", pins.display()))?,
    }
    std::fs::create_dir_all(pins).os_context(|| format!("make folder {}", pins.display()))
}

/// The pinned maps, opened.
pub struct Maps {
    /// Rows of tracked disks by `dev_t`.
    pub disks: Disks,
    /// Tracked disks by row.
    pub rows: Array<MapData, Disk>,
    /// Tracked devices by slot.
    pub targets: Array<MapData, Target>,
    /// Running bitmaps by slot.
    pub bitmaps: ArrayOfMaps<MapData, MapData>,
    /// Descriptor of the same, for what aya's type cannot do.
    pub bitmap_table: MapData,
    /// What the programs counted.
    pub counters: PerCpuArray<MapData, Counters>,
    /// What is in flight.
    pub slots: MapData,
}

impl Maps {
    /// Opens them.
    ///
    /// # Errors
    /// If one is not pinned or is of another shape.
    pub fn open(places: &Places) -> Result<Self> {
        let map = |name: &str| {
            MapData::from_pin(places.map(name)).map_err(|e| {
                aya_error(format!("open pinned map {name}"), e)
                    .hint("tracking is broken: run `blkdelta track` again; the next backup reads everything")
            })
        };
        let shape = |e| aya_error("open the pinned maps", e);
        Ok(Self {
            disks: Disks::new(Array::try_from(aya::maps::Map::Array(map("DISKS")?)).map_err(shape)?),
            rows: Array::try_from(aya::maps::Map::Array(map("ROWS")?)).map_err(shape)?,
            targets: Array::try_from(aya::maps::Map::Array(map("TARGETS")?)).map_err(shape)?,
            bitmaps: ArrayOfMaps::try_from(aya::maps::Map::ArrayOfMaps(map(BITMAPS)?)).map_err(shape)?,
            bitmap_table: map(BITMAPS)?,
            counters: PerCpuArray::try_from(aya::maps::Map::PerCpuArray(map("COUNTERS")?)).map_err(shape)?,
            slots: map("SLOTS")?,
        })
    }
}

/// A program's runs, and whether it is still what was attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramHealth {
    /// Its name.
    pub program: String,
    /// Events skipped since it was loaded.
    pub skipped: u64,
    /// Runs, while the kernel counts them.
    pub runs: u64,
    /// Time in it, ns, while the kernel counts it.
    pub nanoseconds: u64,
    /// Why it cannot be trusted, if so.
    pub trouble: Option<String>,
}

impl Loaded {
    /// Looks at every program that should be there.
    pub fn examine(&self, places: &Places) -> Vec<ProgramHealth> {
        self.programs.iter().map(|program| examine(places, program)).collect()
    }
}

fn examine(places: &Places, attached: &Attached) -> ProgramHealth {
    let name = &attached.program;
    let mut health =
        ProgramHealth { program: name.clone(), skipped: 0, runs: 0, nanoseconds: 0, trouble: None };
    match read_runs(places, attached) {
        Ok(runs) => {
            (health.skipped, health.runs, health.nanoseconds) = (runs.skipped, runs.count, runs.nanoseconds);
            health.skipped += if planted("skips") { super::state::now_ms() } else { 0 };
        }
        Err(e) => health.trouble = Some(format!("program {name}: {e}")),
    }
    if health.trouble.is_none()
        && let Err(e) = check_link(places, attached)
    {
        health.trouble = Some(format!("program {name}: {e}"));
    }
    health
}

fn read_runs(places: &Places, attached: &Attached) -> Result<bpf::Runs> {
    // by its pin, not by its id: that would take CAP_SYS_ADMIN
    let program =
        bpf::open_pin(&places.program(&attached.program)).map_err(|e| e.within("its pin is gone"))?;
    let runs = bpf::runs(bpf::fd(&program))?;
    if runs.id != attached.id {
        return Err(Error::new(Kind::Damaged, "another program is pinned in its place"));
    }
    Ok(runs)
}

fn check_link(places: &Places, attached: &Attached) -> Result<()> {
    let link = PinnedLink::from_pin(places.link(&attached.program))
        .map_err(|e| aya_error("it was detached (its link is gone)", e))?;
    let link: FdLink = link.into();
    let info = link.info().map_err(|e| aya_error("its link cannot be read", e))?;
    if info.program_id() != attached.id {
        return Err(Error::new(Kind::Damaged, "its link belongs to another program"));
    }
    if attached.link != 0 && info.id() != attached.link {
        return Err(Error::new(Kind::Damaged, "it was detached and attached again"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_program_that_does_not_load_is_kept_whole() {
        if !rustix::process::geteuid().is_root() || KernelTypes::running().is_err() {
            println!("SKIPPED: tracker::load: not root, or a kernel without BTF");
            return;
        }
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let places = Places::under(folder.path());
        places.prepare().unwrap();
        make_bitmap_table(&places).unwrap();
        let mut kernel = kernel::describe(&mut KernelTypes::running().unwrap()).unwrap();
        // beyond its structure: no pointer of that type may be read there
        kernel.rq_queue = 1 << 20;
        let every: Vec<&Hook> = HOOKS.iter().filter(|hook| hook.copy == 0).collect();
        let said = attach(&places, &kernel, &every).map(drop).unwrap_err().in_full();
        rustix::mount::unmount(folder.path().join("bpf"), rustix::mount::UnmountFlags::DETACH).unwrap();
        let log = std::fs::read_to_string(places.state().join("verifier.log")).unwrap();
        assert!(said.contains("verifier.log") && said.contains("… "), "{said}");
        assert!(log.contains("processed ") && log.len() > 1500, "{} bytes: {log}", log.len());
    }
}
