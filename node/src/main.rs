//! Entry point of the `kvasir` binary.
fn main() {}
