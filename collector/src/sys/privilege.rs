//! Which capability was missing when the kernel said no.
//!
//! What must stay true: a hint names a capability only if this process lacks it; where it lacks none, something else
//! forbids (a security module, kernel lockdown), and that is said instead. docs/PRIVILEGES.md has the whole table.

use crate::error::{Error, Kind};

/// A capability that some verb needs (`include/uapi/linux/capability.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// Files and folders of others may be read and entered.
    DacReadSearch = 2,
    /// File systems may be mounted and frozen; includes the two below.
    SysAdmin = 21,
    /// Programs may look at kernel memory.
    Perfmon = 38,
    /// Maps and programs may be made.
    Bpf = 39,
}

impl Capability {
    const fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// `CAP_SYS_ADMIN` stands in for `CAP_BPF` and `CAP_PERFMON` (`bpf_capable`, `perfmon_capable`,
    /// include/linux/capability.h).
    fn is_in(self, set: u64) -> bool {
        let has = |c: Self| set >> c as u32 & 1 == 1;
        has(self) || matches!(self, Self::Bpf | Self::Perfmon) && has(Self::SysAdmin)
    }
}

/// Adds to a refusal which of `needed` this process lacks. Other errors stay as they are.
pub fn explained(error: Error, needed: &[Capability]) -> Error {
    if error.kind() != Kind::Denied {
        return error;
    }
    match effective() {
        Some(set) => {
            let text = advice(set, needed);
            error.hint(text)
        }
        None => error.hint("run as root"),
    }
}

fn advice(set: u64, needed: &[Capability]) -> String {
    let missing: Vec<&str> = needed.iter().filter(|c| !c.is_in(set)).map(|c| c.name()).collect();
    if missing.is_empty() {
        let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
        let lockdown =
            if lockdown.is_empty() { String::new() } else { format!("; lockdown: {}", lockdown.trim()) };
        return format!("no capability is missing: a security module or a setting forbids it{lockdown}");
    }
    format!("run as root, or with {}, which this process lacks", missing.join(" and "))
}

/// The effective capabilities of this process.
fn effective() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named() {
        let all = [Capability::Bpf, Capability::Perfmon];
        assert!(advice(0, &all).contains("CAP_BPF and CAP_PERFMON, which"));
        let bpf = 1 << Capability::Bpf as u32;
        assert!(advice(bpf, &all).contains("with CAP_PERFMON, which"));
        assert!(advice(1 << Capability::SysAdmin as u32, &all).contains("no capability is missing"));
    }

    #[test]
    fn only_a_refusal_is_explained() {
        let error = |n| Error::os("x", std::io::Error::from_raw_os_error(n));
        assert_eq!(explained(error(libc::ENOENT), &[Capability::Bpf]).advice(), None);
        assert!(explained(error(libc::EPERM), &[Capability::Bpf]).advice().is_some());
    }
}
