//! The kernels we run on: one line each. docs/KERNELS.md has a column for every line.

use anyhow::{Context, Result};

/// A Debian kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What people call it: the first two numbers of its version.
    pub name: &'static str,
    /// The Debian suite that has it.
    pub suite: &'static str,
    /// Its package begins so; what follows changes with every security update.
    pub package: &'static str,
}

/// The matrix.
pub const KERNELS: [Kernel; 3] = [
    Kernel { name: "6.1", suite: "bookworm", package: "linux-image-6.1." },
    Kernel { name: "6.12", suite: "trixie", package: "linux-image-6.12." },
    Kernel { name: "7.3", suite: "trixie-backports", package: "linux-image-7.3." },
];

/// The kernels of these names; all of them for none.
pub fn chosen(names: &[String]) -> Result<Vec<Kernel>> {
    if names.is_empty() {
        return Ok(KERNELS.to_vec());
    }
    let known = || KERNELS.map(|kernel| kernel.name).join(", ");
    let of = |name: &String| KERNELS.into_iter().find(|kernel| kernel.name == name);
    names
        .iter()
        .map(|name| of(name).with_context(|| format!("kernel {name}: known are {}", known())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_and_wrong_ones_are_told() {
        assert_eq!(chosen(&[]).unwrap().len(), KERNELS.len());
        assert_eq!(chosen(&["6.12".into()]).unwrap()[0].suite, "trixie");
        assert!(chosen(&["5.10".into()]).unwrap_err().to_string().contains("known are 6.1"));
    }
}
