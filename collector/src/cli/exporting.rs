//! `cat` and `export`: a point for other programs.

use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use super::restoring::{Asked, Span, range};
use super::show::bytes;
use crate::error::{Error, Kind};
use crate::restore::{self, Image, Restore};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// `cat`.
#[derive(Debug, Args)]
pub struct Cat {
    #[command(flatten)]
    asked: Asked,
    /// Only these bytes
    #[arg(long, value_parser = range, value_name = "START..END")]
    range: Option<Span>,
}

/// Formats of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The bytes of the device, with holes where it is zero
    Raw,
    /// QEMU's; made by qemu-img, which must be installed
    Qcow2,
}

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    asked: Asked,
    /// Format of the image
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Format,
    /// File to make; for qcow2 its folder must have room for the point's content besides
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Compress a qcow2
    #[arg(long)]
    compress: bool,
    /// Replace a file that is there and not empty
    #[arg(long)]
    overwrite: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Writes a point's bytes to standard output.
pub fn cat(args: &Cat) -> Result<Ending> {
    let out = std::io::stdout();
    if out.is_terminal() {
        let error = Error::new(Kind::Usage, "cat: standard output is a terminal, not a file or a pipe");
        return Err(error.hint("`blkdelta cat … > image`, or `| program`").into());
    }
    let (repo, device, point) = args.asked.find()?;
    let restore = Restore::prepare(&repo, &device, point)?;
    let range = args.range.map(|span| span.of(restore.size()));
    let bar = Bar::new(stop_flag()?);
    bar.begin("writing", restore.range(range)?.length);
    // past the line buffer of standard output
    let mut out = File::from(out.as_fd().try_clone_to_owned()?);
    restore.stream(range, &mut out, &bar)?;
    Ok(Ending::Fine)
}

/// Writes a point as an image file.
pub fn export(args: &Export) -> Result<Ending> {
    let image = match (args.format, args.compress) {
        (Format::Raw, false) => Image::Raw,
        (Format::Raw, true) => return Err(Error::new(Kind::Usage, "export: raw cannot be compressed").into()),
        (Format::Qcow2, compressed) => Image::Qcow2 { compressed },
    };
    let (repo, device, point) = args.asked.find()?;
    let restore = Restore::prepare(&repo, &device, point)?;
    let bar = Bar::new(stop_flag()?);
    bar.begin("exporting", restore.size());
    let made = restore::export(&restore, &args.out, image, args.overwrite, &bar)?;
    drop(bar);
    for warning in &made.warnings {
        say(&format!("warning: {warning}"));
    }
    if args.json {
        print_json(&made)?;
    } else {
        let (size, length) = (bytes(made.size), bytes(made.bytes));
        let out = args.out.display();
        print(&format!("exported {} to {out}: {size} as {}, {length}\n", made.point, made.format))?;
    }
    Ok(if made.sound { Ending::Fine } else { Ending::Suspect })
}
