//! Writes `crds/kvclusters.kvasir.dev.yaml` from the structs of `crd.rs`; a test holds them equal.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    let written =
        kvasir_operator::crd::crd_yaml().map_err(|error| error.to_string()).and_then(|text| {
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(folder.join("kvclusters.kvasir.dev.yaml"), text))
                .map_err(|error| error.to_string())
        });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}; run it in a checkout that can be written");
            ExitCode::FAILURE
        }
    }
}
