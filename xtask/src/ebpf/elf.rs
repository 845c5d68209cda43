//! The linked object without its DWARF sections: a loader reads code, maps, relocations and BTF only.
//!
//! Relocations of the BTF sections go too: the offsets they would fill in are already in place, and
//! loaders find variables by their symbols.

use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf;

/// Drops every debug section, with its relocations and symbols; keeps `.BTF` and `.BTF.ext`.
pub fn without_debug(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("parse the object")?;
    for section in builder.sections.iter_mut() {
        let name = section.name.as_slice();
        section.delete =
            [&b".debug_"[..], b".rel.debug_", b".rel.BTF"].iter().any(|drop| name.starts_with(drop));
    }
    builder.delete_orphans();
    let names: Vec<&[u8]> = builder.sections.iter().map(|section| section.name.as_slice()).collect();
    for needed in [&b".BTF"[..], b".BTF.ext"] {
        if !names.contains(&needed) {
            bail!("no {}: was it linked with --btf and debug information?", String::from_utf8_lossy(needed));
        }
    }
    // LLVM keeps section names in the symbols' string table; this writer wants a table of their own
    let table = builder.sections.add();
    table.name = ".shstrtab".into();
    table.sh_type = elf::SHT_STRTAB;
    table.sh_addralign = 1;
    table.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("write the object")?;
    Ok(stripped)
}
