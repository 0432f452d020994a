//! Whole-node tests of Kvasir, as a library: the history checker, the load generator that writes such
//! histories, the simulation that runs production nodes in one thread, file systems whose power can
//! be cut, a fuzzer, and the ledger of long runs. The tests themselves stand under `tests/tests/`.

pub mod check;
pub mod fuzz;
pub mod kube;
pub mod ledger;
pub mod load;
pub mod power;
pub mod process;
pub mod sim;
