//! Passthrough commands that may have changed anything, in words: how many, and which opcodes.

use super::state::CounterSums;

/// The largest count of the copies, and every opcode that one of them saw.
pub(super) fn most(copies: &[CounterSums]) -> CounterSums {
    let passthrough = copies.iter().map(|c| c.passthrough).max().unwrap_or(0);
    let commands = std::array::from_fn(|i| copies.iter().fold(0, |all, c| all | c.commands[i]));
    CounterSums { passthrough, commands, ..CounterSums::default() }
}

/// What was sent to the disk since `before`, if anything.
pub(super) fn to_disk(now: &CounterSums, before: &CounterSums) -> Option<String> {
    say("passthrough commands that may have written anywhere were sent to the disk", now, before)
}

/// What was sent to NVMe controllers since `before`, if anything.
pub(super) fn to_controllers(now: &CounterSums, before: &CounterSums) -> Option<String> {
    say("commands that may change namespaces were sent to an NVMe controller", now, before)
}

fn say(what: &str, now: &CounterSums, before: &CounterSums) -> Option<String> {
    let count = now.passthrough.checked_sub(before.passthrough).filter(|n| *n > 0)?;
    let new: [u64; 4] = std::array::from_fn(|i| now.commands[i] & !before.commands[i]);
    // none that was not seen before: then those are what it may have been
    let known = if new == [0; 4] { now.commands } else { new };
    let set = (0..256u32).filter(|op| known[(op / 64) as usize] >> (op % 64) & 1 == 1);
    let opcodes: Vec<String> = set.map(|op| format!("{op:#04x}")).collect();
    Some(format!("{what} ({count}; opcode {})", opcodes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_named() {
        let seen = |passthrough, ops: &[u32]| {
            let mut commands = [0; 4];
            for op in ops {
                commands[(op / 64) as usize] |= 1u64 << (op % 64);
            }
            CounterSums { passthrough, commands, ..CounterSums::default() }
        };
        let (none, first, second) = (seen(0, &[]), seen(2, &[0x42, 0xff]), seen(3, &[0x42, 0xff]));
        assert_eq!(to_disk(&none, &none), None);
        assert!(to_disk(&first, &none).unwrap().ends_with("(2; opcode 0x42, 0xff)"));
        assert!(to_disk(&second, &first).unwrap().ends_with("(1; opcode 0x42, 0xff)"));
        assert!(
            to_controllers(&seen(9, &[0x42, 0xff, 0x80]), &second).unwrap().ends_with("(6; opcode 0x80)")
        );
        assert_eq!(most(&[first, seen(5, &[1])]), seen(5, &[1, 0x42, 0xff]));
    }
}
