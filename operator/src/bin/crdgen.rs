//! Writes `kvclusters.kvasir.dev.yaml` from the structs of `crd.rs` into `crds/` and, since a chart can read
//! no file outside of itself, into the operator's chart; tests hold all of them equal.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let write = |folder: &str, text: &str| {
        let folder = top.join(folder);
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join("kvclusters.kvasir.dev.yaml"), text))
            .map_err(|error| error.to_string())
    };
    let text = kvasir_operator::crd::crd_yaml().map_err(|error| error.to_string());
    let written = text.and_then(|text| {
        write("crds", &text).and_then(|()| write("charts/kvasir-operator/files", &text))
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}; run it in a checkout that can be written");
            ExitCode::FAILURE
        }
    }
}
