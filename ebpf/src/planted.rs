//! Names of the faults that a test build of the programs can have (`cargo xtask test --faults`).
//!
//! The programs of the committed object have none: there every `planted!` is the constant `false`. What each fault
//! is, and who has to notice it, stands in the one table of tests/src/planted.

/// The symbol that the collector's test build sets: bit n plants `PLANTED[n]`.
pub const SYMBOL: &str = "PLANTED";

/// The faults, in the order of their bits.
pub const PLANTED: [&str; 23] = [
    "unseen",
    "unseen-submission",
    "unseen-completion",
    "unmarked",
    "late",
    "no-slot",
    "slot-freed-early",
    "few-slots",
    "overflow-uncounted",
    "wrong-device",
    "no-bitmap",
    "first-target-only",
    "start-off",
    "end-off",
    "last-area",
    "shift-off",
    "word-tail",
    "inner-words",
    "discards",
    "write-zeroes",
    "minor-8-bits",
    "counters-frozen",
    "counted-twice",
];

/// The bit of a fault; 0 if there is none of that name.
pub const fn bit(name: &str) -> u64 {
    let mut at = 0;
    while at < PLANTED.len() {
        if same(PLANTED[at].as_bytes(), name.as_bytes()) {
            return 1 << at;
        }
        at += 1;
    }
    0
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut equal = a.len() == b.len();
    let mut at = 0;
    while equal && at < a.len() {
        equal = a[at] == b[at];
        at += 1;
    }
    equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_bit_of_its_own() {
        let all = PLANTED.iter().fold(0, |all, name| all ^ bit(name));
        assert_eq!(all, (1 << PLANTED.len()) - 1);
        assert_eq!(bit("no such fault"), 0);
    }
}
