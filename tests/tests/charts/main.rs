//! The two Helm charts: what they say agrees with the product, and real helm and promtool take them.
//!
//! `schema` and `metrics` need nothing. `render` needs `helm` and `promtool` on the path; `tests/run` provides
//! both and runs it with `--ignored`.

mod metrics;
mod render;
mod schema;

use std::path::{Path, PathBuf};

/// The folder of the charts.
fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
