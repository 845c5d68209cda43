//! Faults planted on purpose, so that a test can see who notices them: `cargo xtask test --faults`.
//!
//! `BLKDELTA_PLANT="name,name"` names the faults of this process; those that the kernel side has are planted in the
//! programs, which then come from the object at `BLKDELTA_PLANT_OBJECT`. Compiled in only with the cargo feature
//! `planted`; without it every call is `false`, and no release can have a fault. What each fault is stands in the one
//! table of tests/src/planted.

/// Is the fault of this name planted?
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted(_name: &'static str) -> bool {
    false
}

/// The programs with faults, and which: bits of [`blkdelta_ebpf::planted::PLANTED`].
///
/// # Errors
/// Never: there are none.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted_programs() -> crate::error::Result<Option<(u64, Vec<u8>)>> {
    Ok(None)
}

#[cfg(feature = "planted")]
pub use build::{planted, planted_programs};

#[cfg(feature = "planted")]
mod build {
    use crate::error::{Context, Error, Kind, Result};
    use blkdelta_ebpf::planted::bit;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    fn names() -> &'static [String] {
        static NAMES: OnceLock<Vec<String>> = OnceLock::new();
        NAMES.get_or_init(|| {
            let text = std::env::var("BLKDELTA_PLANT").unwrap_or_default();
            text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        })
    }

    /// Is the fault of this name planted?
    pub fn planted(name: &'static str) -> bool {
        names().iter().any(|planted| planted == name)
    }

    /// The programs with faults, and which: bits of [`blkdelta_ebpf::planted::PLANTED`].
    ///
    /// # Errors
    /// If the object is needed and cannot be read.
    pub fn planted_programs() -> Result<Option<(u64, Vec<u8>)>> {
        let bits = names().iter().fold(0, |bits, name| bits | bit(name));
        if bits == 0 {
            return Ok(None);
        }
        let path = std::env::var_os("BLKDELTA_PLANT_OBJECT").map(PathBuf::from).ok_or_else(|| {
            Error::new(Kind::Usage, "plant a fault in the programs: BLKDELTA_PLANT_OBJECT names no object")
        })?;
        let object = std::fs::read(&path).os_context(|| format!("read {}", path.display()))?;
        Ok(Some((bits, object)))
    }
}
