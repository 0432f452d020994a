//! Whole-node tests of Kvasir, as a library: the history checker, the load generator that writes such
//! histories, and the simulation that runs production nodes in one thread. The tests themselves stand
//! under `tests/tests/`.

pub mod check;
pub mod load;
pub mod process;
pub mod sim;
