//! Judging the host: kernel, capabilities, settings, folders, memory, clock.

use super::facts::{Facts, Folder};
use super::finding::{Finding, Level};
use crate::config::words::{bytes, time};
use std::path::Path;

/// Less than this is soon full: a list of changes of a busy disk has some megabytes.
const LITTLE: u64 = 64 << 20;

/// 2024-01-01 UTC: before that there was no blkdelta.
const EARLIEST: u64 = 1_704_067_200_000;

/// A clock that is behind what was written by no more than this.
const SKEW: u64 = 60_000;

/// All of it.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(facts), bpf(facts), capabilities(facts), lockdown(facts)];
    findings.extend(settings(facts));
    findings.extend(facts.folders.iter().map(folder));
    findings.extend([memory(facts), clock(facts)]);
    findings.extend(layouts(facts));
    findings
}

fn kernel(facts: &Facts) -> Finding {
    let finding = Finding::new(
        "kernel",
        format!("BTF and tracepoints of kernel {}", facts.release),
        "the programs read the kernel's structures by its own description of them",
    );
    match &facts.kernel {
        Some(Ok(1)) => finding.fine("the kernel has all that the programs need"),
        Some(Ok(n)) => finding.fine(format!("the kernel has all that the programs need, {n} copies of each")),
        Some(Err(trouble)) if trouble.denied => {
            finding.is(Level::Unknown, trouble.what.clone(), trouble.advice_or("run as root"))
        }
        Some(Err(trouble)) => finding.is(
            Level::Wrong,
            format!("nothing can be tracked here: {}", trouble.what),
            trouble.advice_or("use a kernel from 6.1 on with CONFIG_DEBUG_INFO_BTF=y"),
        ),
        None => finding.is(Level::Unknown, "it was not looked at", "run `blkdelta doctor` again"),
    }
}

fn bpf(facts: &Facts) -> Finding {
    let (path, mounted) = &facts.bpf;
    let path = path.display();
    let why = "programs and bitmaps are pinned there, so that tracking needs no process";
    let finding = Finding::new("bpffs", format!("what is mounted at {path}"), why);
    if *mounted {
        return finding.fine(format!("a BPF file system is mounted at {path}"));
    }
    finding.is(
        Level::Note,
        format!("no BPF file system is mounted at {path}"),
        "`track` mounts one, which takes CAP_SYS_ADMIN; systemd mounts it at boot",
    )
}

fn capabilities(facts: &Facts) -> Finding {
    let finding = Finding::new(
        "capabilities",
        "the effective capabilities of this process",
        "without them some of what follows cannot be seen; docs/PRIVILEGES.md says what each verb needs",
    );
    if facts.lacking.is_empty() {
        return finding.fine("this process has all capabilities that blkdelta uses");
    }
    finding.is(
        Level::Unknown,
        format!("this process lacks {}", facts.lacking.join(", ")),
        "run `blkdelta doctor` as root for the whole answer",
    )
}

fn lockdown(facts: &Facts) -> Finding {
    let finding = Finding::new(
        "lockdown",
        "/sys/kernel/security/lockdown",
        "it can forbid programs to read kernel memory",
    );
    match facts.lockdown.trim() {
        "" => finding.fine("no kernel lockdown"),
        mode if mode.contains("[confidentiality]") => finding.is(
            Level::Note,
            format!("kernel lockdown is {mode}: SCSI and NVMe passthrough commands cannot be read"),
            "tracking works; such a command makes its disk suspect, and the next backup compares everything",
        ),
        mode => finding.fine(format!("kernel lockdown is {mode}: tracking works")),
    }
}

fn settings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let jit =
        Finding::new("sysctl", "net.core.bpf_jit_enable", "interpreted programs take several times as long");
    match facts.jit {
        Some(0) => findings.push(jit.is(
            Level::Note,
            "the kernel interprets BPF programs: every write takes longer",
            "sysctl net.core.bpf_jit_enable=1",
        )),
        Some(_) => findings.push(jit.fine("the kernel compiles BPF programs")),
        // only root may read it
        None => {}
    }
    let statistics = Finding::new("sysctl", "kernel.bpf_stats_enabled", "counting costs some 40 ns an event");
    match facts.statistics {
        Some(0) => findings.push(statistics.fine("the runs of BPF programs are not counted")),
        Some(_) => findings.push(statistics.is(
            Level::Note,
            "the kernel counts and times every run of a BPF program",
            "sysctl kernel.bpf_stats_enabled=0 when nobody needs that",
        )),
        None => {}
    }
    findings.push(
        Finding::new("memlock", "the kernel's release", "bitmaps are megabytes of locked memory").fine(
            "no limit of locked memory holds for BPF: kernels from 5.11 on charge it to the control group",
        ),
    );
    findings
}

fn folder(folder: &Folder) -> Finding {
    let path = folder.path.display();
    let at = folder.mountpoint.display();
    let why = if folder.lasting {
        "what changed is kept there over a reboot, lists of differentials too"
    } else {
        "what the pins mean stands there"
    };
    let finding = Finding::new("folder", format!("{path} and the file system it lies on ({at})"), why);
    if folder.read_only {
        return finding.is(
            Level::Wrong,
            format!("nothing can be written to {path}"),
            format!("remount {at} writable"),
        );
    }
    if folder.free < LITTLE {
        let found = format!("{path} has only {} free", bytes(folder.free));
        return finding.is(Level::Wrong, found, format!("make room on {at}"));
    }
    if folder.lasting && folder.mountpoint != Path::new("/") {
        return finding.is(
            Level::Wrong,
            format!("{path} lies on {at}, which is mounted too late and unmounted too early for `save` and `resume`"),
            "mkdir -p /etc/blkdelta/lib on the root file system: that is used instead",
        );
    }
    finding.fine(format!("{path}: writable, {} free", bytes(folder.free)))
}

/// A cut makes a second bitmap of a device; both count until the point is durable.
fn memory(facts: &Facts) -> Finding {
    let tracked =
        facts.tracked.as_ref().and_then(|all| all.as_ref().ok()).map(Vec::as_slice).unwrap_or_default();
    let held: u64 = tracked.iter().map(|device| device.memory.1).sum();
    let next: u64 = tracked.iter().map(|device| device.memory.0 * 2).sum();
    let finding = Finding::new(
        "memory",
        "MemAvailable in /proc/meminfo, and the bitmaps of what is tracked",
        "a cut takes a bitmap of the same size as the running one, a freeze two; without memory the backup fails",
    );
    match facts.memory {
        Some(free) if free < next => finding.is(
            Level::Wrong,
            format!("the next cuts may take {}, {} is free", bytes(next), bytes(free)),
            "track with a larger --granularity: 64KiB takes a sixteenth",
        ),
        Some(free) => finding.fine(format!(
            "bitmaps take {}, the next cuts up to {}, {} is free",
            bytes(held),
            bytes(next),
            bytes(free)
        )),
        None => finding.is(Level::Unknown, "how much memory is free is not known", "is /proc mounted?"),
    }
}

fn clock(facts: &Facts) -> Finding {
    let (now, newest) = facts.clock;
    let finding = Finding::new(
        "clock",
        "the clock, and the newest moment in the state files and the daemon's memory",
        "points are named and kept by their time, jobs start by it",
    );
    let found = if now < EARLIEST {
        format!("the clock says {} UTC", time(now))
    } else if now + SKEW < newest {
        format!("the clock says {} UTC, but something was written at {}", time(now), time(newest))
    } else {
        return finding.fine(format!("the clock says {} UTC, after all that was written", time(now)));
    };
    finding.is(
        Level::Wrong,
        found,
        "set the clock, and keep it right: systemctl enable --now systemd-timesyncd",
    )
}

fn layouts(facts: &Facts) -> Option<Finding> {
    let finding =
        Finding::new("version", "the folders of pins", "the maps of two versions are not laid out alike");
    let names: Vec<String> = facts.layouts.iter().map(|n| format!("v{n}")).collect();
    (!names.is_empty()).then(|| {
        finding.is(
            Level::Note,
            format!("something is pinned by another version ({})", names.join(", ")),
            "`blkdelta status` takes over what an older one left; a newer one's is left alone",
        )
    })
}
