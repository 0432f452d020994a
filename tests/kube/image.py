#!/usr/bin/env python3
"""Write an OCI image archive without docker: image.py OUT NAME USER ENTRYPOINT PATH=FILE...

One layer that holds the given files and nothing else, all owned by root and executable; no time, no path of this
machine goes into it, so equal files make an equal archive. `ctr images import`, `docker load` (25 and newer),
`podman load` and `kind load image-archive` take it."""
import hashlib
import io
import json
import os
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def add(tar, name, content, mode=0o644):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


def layer_of(files):
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as tar:
        for path, source in sorted(files):
            with open(source, "rb") as file:
                add(tar, path.lstrip("/"), file.read(), 0o755)
    return blob.getvalue()


def described(blob, media_type):
    return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": "sha256:" + hashlib.sha256(blob).hexdigest(),
            "size": len(blob)}


def main(out, name, user, entrypoint, *contents):
    layer = layer_of(item.split("=", 1) for item in contents)
    layer_is = described(layer, "layer.v1.tar")
    config = json.dumps({
        "architecture": ARCHITECTURES[os.uname().machine], "os": "linux",
        "config": {"Entrypoint": entrypoint.split(), "User": user},
        "rootfs": {"type": "layers", "diff_ids": [layer_is["digest"]]},
    }).encode()
    config_is = described(config, "config.v1+json")
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_is, "layers": [layer_is],
    }).encode()
    manifest_is = described(manifest, "manifest.v1+json")
    manifest_is["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    with tarfile.open(out + ".new", "w") as archive:
        add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest_is]}).encode())
        for blob, what in ((layer, layer_is), (config, config_is), (manifest, manifest_is)):
            add(archive, "blobs/sha256/" + what["digest"].removeprefix("sha256:"), blob)
    os.replace(out + ".new", out)


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
