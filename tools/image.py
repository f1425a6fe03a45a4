#!/usr/bin/env python3
"""image.py - the container image, made from this machine's Debian packages without a container engine.

One tar that is both an OCI layout (`ctr images import`, `skopeo copy oci-archive:`) and a docker archive (`docker load`). The same
input gives the same bytes: entries sorted, owners and times fixed (SOURCE_DATE_EPOCH, else 0). Two layers: the libraries, which
change with Debian's packages, and meshroot. `--rootfs DIR` writes the files into a folder instead: the Dockerfile does that.
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

NAME = "meshroot.io/meshroot"
UID = 65532  # "nonroot", as other images of this kind have it
LOADED = ["libcurl.so.4"]  # by dlopen (src/net/http_curl.c), so that no ELF header names it
ROOTS = "/usr/share/ca-certificates/mozilla"  # the package's own: not what somebody added to this machine
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
FIELDS = ["Package", "Status", "Architecture", "Version", "Source", "Maintainer", "Homepage"]
PASSWD = f"root:x:0:0:root:/:/usr/sbin/nologin\nmeshroot:x:{UID}:{UID}:meshroot:/var/lib/meshroot:/usr/sbin/nologin\n"
GROUP = f"root:x:0:\nmeshroot:x:{UID}:\n"


class ImageError(Exception):
    pass


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        raise ImageError(f"{' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Tree:
    """Files of a layer by their path in the image; folders on the way come by themselves."""

    def __init__(self):
        self.entries = {}  # path -> (mode, uid, bytes | None for a folder | str for a link)

    def _parents(self, path):
        for parent in list(pathlib.PurePosixPath(path).parents)[:-1]:
            self.entries.setdefault(str(parent), (0o755, 0, None))

    def file(self, path, content, mode=0o644):
        self._parents(path)
        self.entries[path] = (mode, 0, content)

    def folder(self, path, mode=0o755, uid=0):
        self._parents(path)
        self.entries[path] = (mode, uid, None)

    def link(self, path, to):
        self._parents(path)
        self.entries[path] = (0o777, 0, to)

    def tar(self, when):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as t:
            for path, (mode, uid, what) in sorted(self.entries.items()):
                i = tarfile.TarInfo(path)
                i.mode, i.uid, i.gid, i.mtime = mode, uid, uid, when
                if what is None:
                    i.type = tarfile.DIRTYPE
                elif isinstance(what, str):
                    i.type, i.linkname = tarfile.SYMTYPE, what
                else:
                    i.size = len(what)
                t.addfile(i, io.BytesIO(what) if isinstance(what, bytes) else None)
        return out.getvalue()

    def write(self, root):
        """Into a folder, as root: modes and owners too."""
        for path, (mode, uid, what) in sorted(self.entries.items()):
            at = root / path
            if isinstance(what, str):
                at.symlink_to(what)
                continue
            if what is None:
                at.mkdir(parents=True, exist_ok=True)
            else:
                at.write_bytes(what)
            at.chmod(mode)
            os.chown(at, uid, uid)


# -- what the libraries are ---------------------------------------------------------------------------------------------


def libraries(binary):
    """{path in the image: file here} of the loader and everything that it would map for `binary` and for LOADED."""
    found = {}
    cache = run("ldconfig", "-p")
    at = [binary]
    for name in LOADED:
        m = re.search(rf"^\s*{re.escape(name)} \(.*=> (\S+)$", cache, re.M)
        if m is None:
            raise ImageError(f"{name} is not here: apt-get install libcurl4")
        at.append(m.group(1))
    for elf in at:
        text = run("ldd", elf)
        if "not found" in text:
            raise ImageError(f"{elf} needs a library that is not here:\n{text}")
        for m in re.finditer(r"^\s*(?:\S+ => )?(/\S+) \(0x", text, re.M):
            found.update(library_at(m.group(1)))
    for elf in at[1:]:
        found.update(library_at(elf))
    return found


def library_at(path):
    """A library lies under its SONAME beside where its file is; the loader lies where the ELF header says it is, so /lib64 is
    the link that it is on Debian."""
    real = pathlib.Path(path).resolve()
    folder = "usr/lib64" if path.startswith("/lib64/") else str(real.parent).lstrip("/")
    return {f"{folder}/{pathlib.Path(path).name}": real}


def package_of(file):
    """Debian's databases may know a file by its name from before /lib was a link."""
    for name in (str(file), re.sub(r"^/usr", "", str(file))):
        done = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.split(": ")[0]
    raise ImageError(f"{file} belongs to no Debian package: the image has nothing whose licence and version are not known")


def package_add(tree, package):
    """Licence, and the version where scanners look for it in images without dpkg."""
    name = package.split(":")[0]
    control = "".join(f"{f}: {v}\n" for f in FIELDS if (v := run("dpkg-query", "-W", f"-f=${{{f}}}", package)))
    tree.file(f"var/lib/dpkg/status.d/{name}", control.encode())
    tree.file(f"usr/share/doc/{name}/copyright", pathlib.Path(f"/usr/share/doc/{name}/copyright").read_bytes())


def base(binary):
    tree = Tree()
    packages = {"ca-certificates", "base-files"}
    for path, file in libraries(binary).items():
        tree.file(path, file.read_bytes(), 0o755)
        packages.add(package_of(file))
    roots = sorted(pathlib.Path(ROOTS).glob("*.crt"))
    if not roots:
        raise ImageError(f"{ROOTS} has no certificates: apt-get install ca-certificates")
    tree.file(BUNDLE, b"".join(r.read_bytes() for r in roots))
    tree.link("usr/lib/ssl/cert.pem", f"/{BUNDLE}")  # where OpenSSL looks
    tree.link("lib", "usr/lib")
    tree.link("lib64", "usr/lib64")
    tree.file("etc/os-release", pathlib.Path("/etc/os-release").read_bytes())
    tree.file("etc/passwd", PASSWD.encode())
    tree.file("etc/group", GROUP.encode())
    tree.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    for folder in ("dev", "proc", "sys", "run"):
        tree.folder(folder)
    tree.folder("tmp", 0o1777)
    tree.folder("var/lib/meshroot", 0o700, UID)
    for package in sorted(packages):
        package_add(tree, package)
    return tree


def ours(binary, source):
    tree = Tree()
    stripped = pathlib.Path(f"{binary}.stripped")
    run("strip", "--strip-all", "-o", str(stripped), binary)
    tree.file("usr/bin/meshroot", stripped.read_bytes(), 0o755)
    stripped.unlink()
    tree.file("usr/share/doc/meshroot/copyright", (source / "LICENSE").read_bytes())
    return tree


# -- the archive --------------------------------------------------------------------------------------------------------


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def described(kind, content, **more):
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(content), "size": len(content), **more}


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def archive(trees, name, version, when):
    """The bytes of the archive, and the digest of its manifest."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    plain = [t.tar(when) for t in trees]
    layers = [gzip.compress(p, 9, mtime=0) for p in plain]
    created = run("date", "-u", "-d", f"@{when}", "+%Y-%m-%dT%H:%M:%SZ").strip()
    labels = {"org.opencontainers.image.title": "meshroot", "org.opencontainers.image.version": version,
              "org.opencontainers.image.licenses": "Apache-2.0"}
    config = as_json({
        "architecture": arch, "os": "linux", "created": created,
        "config": {"User": f"{UID}:{UID}", "Entrypoint": ["/usr/bin/meshroot"], "Cmd": ["--help"], "WorkingDir": "/",
                   "Env": ["PATH=/usr/bin", "MESHROOT_STATE_DIR=/var/lib/meshroot"], "StopSignal": "SIGTERM",
                   "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest(p) for p in plain]},
        "history": [{"created": created, "created_by": "tools/image.py", "comment": c} for c in ("libraries", "meshroot")],
    })
    manifest = as_json({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", config), "annotations": labels,
        "layers": [described("layer.v1.tar+gzip", layer) for layer in layers],
    })
    ref = f"{name}:{version}"
    index = as_json({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described("manifest.v1+json", manifest, platform={"architecture": arch, "os": "linux"},
                                annotations={"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": version})],
    })
    blob = {b: "blobs/" + digest(b).replace(":", "/") for b in (config, manifest, *layers)}
    docker = as_json([{"Config": blob[config], "RepoTags": [ref], "Layers": [blob[layer] for layer in layers]}])
    out = Tree()
    out.file("oci-layout", as_json({"imageLayoutVersion": "1.0.0"}))
    out.file("index.json", index)
    out.file("manifest.json", docker)
    for content, path in blob.items():
        out.file(path, content)
    return out.tar(when), digest(manifest)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", required=True, help="the meshroot to pack; stripped on its way in")
    p.add_argument("--out", default="build/meshroot-image.tar")
    p.add_argument("--rootfs", help="write the files into this folder, which must be empty or new, instead of an archive")
    p.add_argument("--name", default=NAME, help=f"of the image, without its tag [{NAME}]")
    a = p.parse_args()
    source = pathlib.Path(__file__).resolve().parents[1]
    version = (source / "VERSION").read_text().strip()
    if "bookworm" not in pathlib.Path("/etc/os-release").read_text():
        raise ImageError("the image is made of Debian 12's packages, and this is not Debian 12: build deploy/Dockerfile instead")
    trees = [base(a.binary), ours(a.binary, source)]
    if a.rootfs:
        root = pathlib.Path(a.rootfs)
        root.mkdir(exist_ok=True)
        if any(root.iterdir()):
            raise ImageError(f"{root} is not empty")
        for tree in trees:
            tree.write(root)
        return
    content, of = archive(trees, a.name, version, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))
    out = pathlib.Path(a.out)
    out.with_suffix(".new").write_bytes(content)
    out.with_suffix(".new").rename(out)
    print(f"{out}: {a.name}:{version}@{of}, {len(content) / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except (ImageError, OSError) as e:
        sys.exit(f"image: {e}")
