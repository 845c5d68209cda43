//! The store as a whole: golden files, garbage in every object, a crash at every step.

mod crash;
mod garbage;
mod golden;
mod long_index;
mod model;
