//! What a guest consists of, in qemu's words.

use crate::command::which;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk
    Virtio,
    /// A SCSI disk on virtio-scsi, with logical and physical blocks of so many bytes.
    Scsi(u32, u32),
    /// A second path to the SCSI disk with the same file.
    SecondPath,
    /// An NVMe namespace.
    Nvme,
}

/// A disk on a file of the host's. What the guest saw written is in the file, whatever becomes of qemu.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its serial number: how the guest finds it.
    pub serial: &'static str,
    /// How it is attached.
    pub bus: Bus,
    /// The file.
    pub file: PathBuf,
}

impl Disk {
    /// On a file in `folder`, which [`make`](Self::make) makes.
    pub fn new(folder: &Path, serial: &'static str, bus: Bus) -> Self {
        Self { serial, bus, file: folder.join(format!("{serial}.img")) }
    }

    /// Makes the file, all zeros.
    pub fn make(&self, size: u64) -> Result<()> {
        let file = File::create(&self.file).with_context(|| format!("create {}", self.file.display()))?;
        file.set_len(size).context("size a disk's file")
    }

    fn words(&self, number: usize) -> Vec<String> {
        // two paths lead to one file: qemu must not lock it
        let locking =
            if matches!(self.bus, Bus::Scsi(..) | Bus::SecondPath) { ",file.locking=off" } else { "" };
        let file = self.file.display().to_string().replace(',', ",,");
        let drive =
            format!("file={file},format=raw,if=none,id=d{number},cache=writethrough,discard=unmap{locking}");
        let serial = self.serial;
        let device = match self.bus {
            Bus::Virtio => format!("virtio-blk-pci,drive=d{number},serial={serial}"),
            Bus::Scsi(logical, physical) => format!(
                "scsi-hd,bus=scsi.0,scsi-id={number},drive=d{number},serial={serial},share-rw=on,\
                 logical_block_size={logical},physical_block_size={physical}"
            ),
            Bus::SecondPath => {
                format!("scsi-hd,bus=scsi.0,scsi-id={number},drive=d{number},serial={serial},share-rw=on")
            }
            Bus::Nvme => format!("nvme,drive=d{number},serial={serial}"),
        };
        ["-drive", &drive, "-device", &device].map(str::to_owned).to_vec()
    }
}

/// What a machine does with the memory of one that ran before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// It has none: it boots.
    None,
    /// It boots, and has a monitor at this path, by which its memory can be kept.
    Kept(PathBuf),
    /// It goes on from the memory in this file.
    From(PathBuf),
}

/// A machine to be booted.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The kernel's image.
    pub image: PathBuf,
    /// Its first file system.
    pub initramfs: PathBuf,
    /// MiB of memory.
    pub memory: u32,
    /// Processors.
    pub processors: u32,
    /// Words for the kernel.
    pub arguments: String,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// The memory it begins with.
    pub past: Past,
    /// Where its console goes.
    pub folder: PathBuf,
}

impl Machine {
    /// The command line, program first.
    pub fn qemu(&self) -> Result<Vec<String>> {
        let program = which("qemu-system-x86_64").context("there is no qemu-system-x86_64")?;
        let path = |path: &Path| path.display().to_string();
        let console = format!("file:{}", path(&self.folder.join("console")));
        // no_timer_check: on a busy machine an emulated timer is late, and the kernel would take it for broken
        let arguments = format!(
            "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check rdinit=/init {}",
            self.arguments
        );
        let (memory, processors) = (self.memory.to_string(), self.processors.to_string());
        let (image, initramfs) = (path(&self.image), path(&self.initramfs));
        let fixed = [
            &["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", &processors, "-m", &memory][..],
            &["-display", "none", "-nodefaults", "-no-reboot", "-kernel", &image, "-initrd", &initramfs],
            &["-append", &arguments, "-serial", &console, "-device", "virtio-serial-pci"],
            &["-chardev", "stdio,id=wire,signal=off", "-device", "virtserialport,chardev=wire,name=blkdelta"],
            &["-device", "virtio-scsi-pci,id=scsi"],
        ];
        let mut words = vec![path(&program)];
        words.extend(fixed.concat().into_iter().map(str::to_owned));
        words.extend(match &self.past {
            Past::None => Vec::new(),
            Past::Kept(monitor) => {
                vec!["-monitor".into(), format!("unix:{},server=on,wait=off", path(monitor))]
            }
            Past::From(memory) => vec!["-incoming".into(), format!("exec:cat {}", path(memory))],
        });
        words.extend(self.disks.iter().enumerate().flat_map(|(number, disk)| disk.words(number)));
        Ok(words)
    }
}
