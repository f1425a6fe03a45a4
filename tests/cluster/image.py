#!/usr/bin/env python3
"""image.py ARCHIVE NAME:TAG ENTRYPOINT FILE:PATH...: a docker archive with these programs (or folders) in it, for `ctr images import`. They run
as IMAGE_USER of the environment, or as root."""
import hashlib
import io
import json
import os
import sys
import tarfile


def entry(name, size, mode):
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, mode
    return info


def owned_by_root(info):
    info.uid, info.gid, info.uname, info.gname = 0, 0, "", ""
    return info


def layer_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tmp = entry("tmp", 0, 0o1777)
        tmp.type = tarfile.DIRTYPE
        tar.addfile(tmp)
        for source, path in (f.split(":") for f in files):
            tar.add(os.path.realpath(source), path.lstrip("/"), filter=owned_by_root)
    return out.getvalue()


def main():
    archive, name, entrypoint, *files = sys.argv[1:]
    layer = layer_of(files)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": [entrypoint], "User": os.environ.get("IMAGE_USER", ""), "Env": ["PATH=/usr/local/bin:/"]},
                         "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        for path, content in ((config_name, config), ("layer.tar", layer), ("manifest.json", manifest)):
            tar.addfile(entry(path, len(content), 0o644), io.BytesIO(content))


if __name__ == "__main__":
    main()
