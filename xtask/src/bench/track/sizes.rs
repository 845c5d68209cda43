//! What grows with the disk: memory of a bitmap, time of a cut, and whether writers notice it. Disks are sparse files on
//! loop devices; only their bitmaps are real.

use super::{Bed, meter};
use crate::bench::document::Headline;
use crate::command::{say, text as output};
use crate::rig::device::Loop;
use crate::rig::process::sleep;
use crate::rig::product::utf8;
use crate::rig::scratch::memory;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

const TIB: u64 = 1 << 40;

/// The tables, and the figures that count.
pub fn run(bed: &Bed) -> Result<(String, Vec<Headline>)> {
    let (mut text, mut headlines) = bitmaps(bed)?;
    let (more, lines) = cuts(bed)?;
    text = text + "\n" + &more;
    headlines.extend(lines);
    Ok((text, headlines))
}

/// Memory per TiB and epoch: a bit per area, and what the kernel's allocator counts.
fn bitmaps(bed: &Bed) -> Result<(String, Vec<Headline>)> {
    let mut text = String::from(
        "### Memory of a bitmap\n\nPer TiB and epoch; one epoch runs, and a sealed one stands until its point is \
         durable. *Measured*: growth of the kernel's VmallocUsed while a sparse disk of 1 TiB becomes tracked.\n\n\
         | areas of | a bit each | measured |\n|---|--:|--:|\n",
    );
    let disk = Loop::on(&bed.scratch.sparse("tib.img", TIB)?)?;
    let mut headlines = Vec::new();
    // the programs and their maps are there already
    bed.tracking(&bed.kinds[0].device, || {
        for (name, area) in [("4 KiB", 4096), ("64 KiB", 65536), ("1 MiB", 1 << 20)] {
            let before = settled()?;
            bed.product.run(&["track", utf8(disk.path())?, "--granularity", &area.to_string()])?;
            let grown = settled()?.saturating_sub(before) as f64 / f64::from(1 << 20);
            bed.product.run(&["untrack", utf8(disk.path())?])?;
            let bits = (TIB / area / 8) as f64 / f64::from(1 << 20);
            writeln!(text, "| {name} | {bits:.3} MiB | {grown:.3} MiB |")?;
            if area == 4096 {
                let what = "tracking: memory per TiB and epoch, areas of 4 KiB";
                headlines.push(Headline::new(what, format!("{grown:.1} MiB"), "≤ 34 MiB", grown <= 34.0));
            }
        }
        Ok(())
    })?;
    bed.forget("tib.img")?;
    Ok((text, headlines))
}

/// [`vmalloc`] once it stands still: what was freed goes a while later.
fn settled() -> Result<u64> {
    let (mut last, mut same) = (vmalloc()?, 0);
    for _ in 0..50 {
        sleep(Duration::from_millis(100))?;
        let now = vmalloc()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == 3 {
            break;
        }
    }
    Ok(last)
}

fn vmalloc() -> Result<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").context("read the memory's table")?;
    let line = table.lines().find_map(|line| line.strip_prefix("VmallocUsed:")).context("no VmallocUsed")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().context("VmallocUsed is no number")? << 10)
}

/// Cuts of disks of growing size, under a writer.
fn cuts(bed: &Bed) -> Result<(String, Vec<Headline>)> {
    let mut text = String::from(
        "### A cut\n\nAreas of 4 KiB. A writer writes 4 KiB at random places of the first 64 MiB, one after the other; \
         each disk is cut again and again for a while, and left alone for as long, in turns. *Ready*: making and mapping \
         the next bitmap, before the cut and before a freeze. A cut puts it in place, which takes an RCU grace period, \
         and reads the old one; the writer waits for none of it, but shares the machine's memory and processors with \
         it. While file systems are frozen their writers wait for two cuts.\n\n| size | bitmap | cuts | ready, median | \
         cut, median | slowest | writer's p50, alone → during cuts | \
         p99.9 | longest |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut headlines = Vec::new();
    for (name, size, cuts) in [("1 GiB", 1 << 30, 40), ("1 TiB", TIB, 20), ("100 TiB", 100 * TIB, 3)] {
        let bitmap = size / 4096 / 8;
        if memory().unwrap_or(0) < 3 * bitmap {
            say(format!("not enough memory to cut a disk of {name}"));
            writeln!(
                text,
                "| {name} | {} MiB | not measured: too little memory was free ||||||",
                bitmap >> 20
            )?;
            continue;
        }
        let disk = Loop::on(&bed.scratch.sparse("cut.img", size)?)?;
        let found = bed.tracking(disk.path(), || cut(bed, disk.path(), cuts))?;
        drop(disk);
        bed.forget("cut.img")?;
        row(&mut text, &format!("{name} | {} MiB | {cuts}", bitmap >> 20), &found)?;
        let (alone, during) = (get(&found, "alone_p999")?, get(&found, "during_p999")?);
        headlines.push(Headline::new(
            format!("tracking, {name}: a writer's p99.9 during cuts (alone {alone:.0} µs)"),
            format!("{during:.0} µs"),
            "no stall: ≤ 2 × alone",
            during <= 2.0 * alone,
        ));
        let (alone, during) = (get(&found, "alone_longest")?, get(&found, "during_longest")?);
        headlines.push(Headline::new(
            format!("tracking, {name}: a writer's longest write during cuts (alone {:.1} ms)", alone / 1e3),
            format!("{:.1} ms", during / 1e3),
            "no stall: ≤ 2 × alone",
            during <= 2.0 * alone,
        ));
    }
    text += WHY;
    Ok((text, headlines))
}

const WHY: &str = "\nNo write waits for a cut: the switch is one exchange of a pointer, and whoever is in a program goes on \
    with the bitmap it has (`bpf_fd_array_map_update_elem`, kernel/bpf/arraymap.c). What a writer notices of cuts that follow each \
    other without a pause is a third busy thread on this machine's two processors, beside its own and the loop device's \
    worker. The *longest* write tells a stall from that: it does not grow with the disk.\n";

fn get(found: &Value, key: &str) -> Result<f64> {
    found[key].as_f64().with_context(|| format!("the meter told no {key}"))
}

fn row(text: &mut String, what: &str, found: &Value) -> Result<()> {
    write!(text, "| {what} |")?;
    for of in ["ready_median", "cut_median", "cut_slowest"] {
        write!(text, " {:.1} ms |", get(found, of)?)?;
    }
    for of in ["p50", "p999", "longest"] {
        let (alone, during) = (get(found, &format!("alone_{of}"))?, get(found, &format!("during_{of}"))?);
        write!(text, " {alone:.0} → {during:.0} µs |")?;
    }
    text.push('\n');
    Ok(())
}

fn cut(bed: &Bed, device: &std::path::Path, cuts: u32) -> Result<Value> {
    let said = output(&mut meter(bed, &["cuts", utf8(device)?, &cuts.to_string()])?)?;
    serde_json::from_str(&said).context("what the meter found")
}
