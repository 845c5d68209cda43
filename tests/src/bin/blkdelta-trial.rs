//! Runs one trial of tests/src/planted in a process of its own: `blkdelta-trial NAME`, with `BLKDELTA_PLANT`.

fn main() -> anyhow::Result<()> {
    tests::planted::run_here(&std::env::args().nth(1).unwrap_or_default())
}
