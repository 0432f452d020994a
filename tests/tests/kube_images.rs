//! The Dockerfiles make the images that the tests run: one binary, an ordinary user, nothing else. buildah builds
//! them around the static binary at hand, since a machine without docker has no compiler image to build it in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kvasir_tests::kube::{command, top};
use serde_json::Value;

/// What an image is, whoever wrote it.
#[derive(Debug, PartialEq)]
struct Image {
    user: Value,
    entrypoint: Value,
    command: Value,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

fn run(program: &str, arguments: &[&str]) {
    let said = command(program, arguments, "");
    assert!(said.ok, "{program} {}: {}{}", arguments.join(" "), said.out, said.err);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Unpacks an OCI archive and its one layer.
fn image(archive: &Path, into: &Path) -> Image {
    let (blobs, root) = (into.join("blobs"), into.join("root"));
    for folder in [&blobs, &root] {
        fs::create_dir_all(folder).expect("a folder");
    }
    run("tar", &["-xf", text(archive), "-C", text(&blobs)]);
    let json = |path: PathBuf| -> Value {
        serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("JSON")
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        blobs.join("blobs").join(digest.replace(':', "/"))
    };
    let manifest = json(blob(&json(blobs.join("index.json"))["manifests"][0]));
    let layers = manifest["layers"].as_array().expect("layers");
    for layer in layers {
        run("tar", &["-xf", text(&blob(layer)), "-C", text(&root)]);
    }
    let config = &json(blob(&manifest["config"]))["config"];
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&root).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(&root).expect("inside").to_path_buf();
        files.insert(name, fs::read(&path).expect("a file and no folder"));
    }
    Image {
        user: config["User"].clone(),
        entrypoint: config["Entrypoint"].clone(),
        command: config["Cmd"].clone(),
        files,
    }
}

fn compare(dockerfile: &str, binary: &str) {
    let images = std::env::var("KVASIR_KUBE_IMAGES");
    let images = PathBuf::from(images.expect("KVASIR_KUBE_IMAGES is set by tests/run kube"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("build")).expect("a folder");
    fs::copy(images.join(binary), at("build").join(binary)).expect("the static binary is there");
    let (root, state) = (at("storage"), at("state"));
    let storage = ["--storage-driver", "vfs", "--root", text(&root), "--runroot", text(&state)];
    let name = format!("localhost/{binary}:dev");
    let context = format!("build={}", text(&at("build")));
    let file = top().join(dockerfile);
    // An empty folder as the context: nothing of the checkout may be needed beside the binary.
    fs::create_dir(at("empty")).expect("a folder");
    let (file, empty) = (text(&file).to_string(), at("empty"));
    let build = ["build", "--isolation", "chroot", "--build-context", &context, "-f", &file];
    run("buildah", &[&storage[..], &build, &["-t", &name, text(&empty)]].concat());
    let archive = at("docker.tar");
    let to = format!("oci-archive:{}", text(&archive));
    run("buildah", &[&storage[..], &["push", &name, &to]].concat());

    let built = image(&archive, &at("built"));
    let written = image(&images.join(format!("{binary}.tar")), &at("written"));
    assert_eq!(written.files.len(), 1, "{:?}", written.files.keys());
    assert!(built == written, "{dockerfile} makes another image than tests/kube/images");
    assert_eq!(built.user, "65532:65532");
    assert_eq!(built.entrypoint, serde_json::json!([format!("/{binary}")]));
}

#[test]
#[ignore = "needs the static binaries and buildah: tests/run kube"]
fn the_dockerfile_of_the_node_makes_the_image_under_test() {
    compare("node/Dockerfile", "kvasir");
}

#[test]
#[ignore = "needs the static binaries and buildah: tests/run kube"]
fn the_dockerfile_of_the_operator_makes_the_image_under_test() {
    compare("operator/Dockerfile", "kvasir-operator");
}
