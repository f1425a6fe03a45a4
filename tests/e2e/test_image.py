"""The container image of tools/image.py, around the binary under test: the archive by its own words, the same bytes twice, and a
CA that runs in it as a cluster would run it: nobody special, nothing to write to but its state, the set mounted as a kubelet does."""
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile

import pytest
from conftest import BINARY, meshroot, wait_for
from manifests import committed, pods

HERE = pathlib.Path(__file__).resolve().parents[2]
UID = 65532


def make(*args):
    return subprocess.run([sys.executable, HERE / "tools/image.py", "--binary", BINARY, *args], capture_output=True, text=True,
                          timeout=300)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    out = tmp_path_factory.mktemp("image") / "image.tar"
    done = make("--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


class Archive:
    def __init__(self, path):
        with tarfile.open(path) as t:
            self.files = {m.name: t.extractfile(m).read() for m in t if m.isfile()}
            self.times = {m.mtime for m in t}

    def json(self, path):
        return json.loads(self.files[path])

    def blob(self, of):
        content = self.files["blobs/" + of["digest"].replace(":", "/")]
        assert len(content) == of["size"] and "sha256:" + hashlib.sha256(content).hexdigest() == of["digest"]
        return content


@pytest.fixture(scope="module")
def rootfs(archive, tmp_path_factory):
    """Both layers, one over the other, with their owners and modes."""
    root = tmp_path_factory.mktemp("rootfs")
    root.chmod(0o755)
    a = Archive(archive[0])
    manifest = json.loads(a.blob(a.json("index.json")["manifests"][0]))
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(a.blob(layer)), mode="r:gz") as t:
            t.extractall(root, numeric_owner=True)
    return root


def test_the_archive_is_an_oci_layout_and_a_docker_archive(archive):
    a = Archive(archive[0])
    assert a.json("oci-layout") == {"imageLayoutVersion": "1.0.0"}
    (entry,) = a.json("index.json")["manifests"]
    version = (HERE / "VERSION").read_text().strip()
    assert entry["annotations"]["io.containerd.image.name"] == f"meshroot.io/meshroot:{version}"
    assert entry["digest"] in archive[1]
    manifest = json.loads(a.blob(entry))
    config = json.loads(a.blob(manifest["config"]))
    layers = [a.blob(layer) for layer in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(gzip.decompress(x)).hexdigest() for x in layers]
    assert config["config"]["User"] == f"{UID}:{UID}"
    (docker,) = a.json("manifest.json")
    assert docker["RepoTags"] == [f"meshroot.io/meshroot:{version}"]
    assert json.loads(a.files[docker["Config"]]) == config and [a.files[x] for x in docker["Layers"]] == layers
    assert len(a.files) == 3 + 2 + len(layers)  # nothing else


def test_two_builds_have_the_same_bytes(archive, tmp_path):
    assert make("--out", tmp_path / "again.tar").returncode == 0
    assert (tmp_path / "again.tar").read_bytes() == archive[0].read_bytes()
    assert Archive(archive[0]).times == {0}


def test_the_dockerfile_says_the_same(archive):
    a = Archive(archive[0])
    config = json.loads(a.blob(json.loads(a.blob(a.json("index.json")["manifests"][0]))["config"]))["config"]
    text = (HERE / "deploy/Dockerfile").read_text().split("FROM scratch")[1]
    said = dict(re.findall(r"^([A-Z]+) (.*)$", text, re.M))
    assert json.loads(said["ENTRYPOINT"]) == config["Entrypoint"] and json.loads(said["CMD"]) == config["Cmd"]
    assert said["USER"] == config["User"] and said["WORKDIR"] == config["WorkingDir"] and said["STOPSIGNAL"] == config["StopSignal"]
    assert said["ENV"].split() == config["Env"]


def test_nothing_is_in_the_image_that_is_not_needed(rootfs):
    """Every library is one that the loader maps for the binary or for libcurl, which the binary loads by name; each file's
    package has its licence and version; there is no shell; nobody may change or become anything."""
    named = set(re.findall(rb"lib[a-z0-9+._-]+\.so\.[0-9]+", (rootfs / "usr/bin/meshroot").read_bytes()))
    have = {p.name for p in rootfs.rglob("*.so*")}
    assert {n.decode() for n in named} <= have  # what the binary names, linked or loaded, is there
    needed, todo = set(), {n.decode() for n in named}
    while todo:
        name = todo.pop()
        needed.add(name)
        (file,) = [p for p in rootfs.rglob(name)]
        text = subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True).stdout
        todo |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", text)) - needed
    assert have - needed <= {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    assert [p.name for p in (rootfs / "usr/bin").iterdir()] == ["meshroot"]
    for p in rootfs.rglob("*"):
        if p.is_symlink():
            assert p.resolve().exists() or (rootfs / os.readlink(p).lstrip("/")).exists(), p
            continue
        mode = p.stat().st_mode
        assert mode & 0o6000 == 0, p
        assert mode & 0o022 == 0 or (p == rootfs / "tmp" and mode & 0o1000), p
    for p in (rootfs / "var/lib/dpkg/status.d").iterdir():
        assert re.search(r"^Version: \S+$", p.read_text(), re.M), p
        assert (rootfs / "usr/share/doc" / p.name / "copyright").stat().st_size > 0
    roots = (rootfs / "etc/ssl/certs/ca-certificates.crt").read_text()
    assert roots.count("BEGIN CERTIFICATE") > 100 and f"meshroot:x:{UID}:{UID}:" in (rootfs / "etc/passwd").read_text()


ENTER = """set -e
mount --rbind "$1" "$1"; mount -o remount,bind,ro "$1"
mount --rbind /dev "$1/dev"; mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=2777,uid=0,gid=65532 tmpfs "$1/var/lib/meshroot" # an emptyDir with fsGroup
if [ -n "$2" ]; then mount -t tmpfs tmpfs "$1/run"; mkdir "$1/run/set"; mount --bind "$2" "$1/run/set"; fi
root=$1; shift 2
exec setpriv --no-new-privs chroot --userspec=65532:65532 --groups= "$root" /usr/bin/meshroot "$@"
"""


# as the CA's container has it in the manifests; the tools on the way in need a PATH
(CA,) = [t["spec"]["containers"][0] for name, t in pods(committed("meshroot")) if name == "meshroot-ca"]
ENV = {k: v for k, v in os.environ.items() if k == "PATH" or "SAN_OPTIONS" in k} | {e["name"]: e["value"] for e in CA["env"]}


def contained(rootfs, folder, *args):
    """argv of meshroot in the image: read-only root, uid 65532, no privileges to gain, mounts and processes of its own."""
    return ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh", str(rootfs),
            str(folder or ""), *map(str, args)]


def test_meshroot_runs_in_it(rootfs):
    done = subprocess.run(contained(rootfs, None, "version"), capture_output=True, text=True, timeout=60, env=ENV)
    assert done.returncode == 0, done.stderr
    assert (HERE / "VERSION").read_text().strip() in done.stdout


def secret_volume(folder, source):
    """As the kubelet mounts a Secret with defaultMode 0440 and fsGroup: files of root, readable by the group, behind ..data."""
    data = folder / "..2026_11_26_00_00_00.1"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for name in ("root-cert.pem", "ca-cert.pem", "ca-key.pem", "cert-chain.pem"):
        (data / name).write_bytes((source / name).read_bytes())
        (data / name).chmod(0o440)
        (folder / name).symlink_to(f"..data/{name}")
    for p in (folder, data, *data.iterdir()):
        os.chown(p, 0, UID)
    data.chmod(0o2750)
    folder.chmod(0o3777)
    return folder


@pytest.fixture
def hierarchy(tmp_path):
    meshroot("pki", "root", "--out", tmp_path / "root", "--subject", "O=Istio,CN=Root A")
    meshroot("pki", "intermediate", "--root", tmp_path / "root", "--out", tmp_path / "a1", "--subject", "O=Istio,CN=A1")
    meshroot("identity", "keygen", "--out", tmp_path / "issuer")
    return tmp_path


def test_a_ca_in_it_signs(rootfs, hierarchy, tmp_path, daemon):
    """The key through a mounted Secret, the signer process; and libcurl, which is loaded by name: the keys of a second issuer would
    come by https from a port where nobody listens, and it is curl that says so."""
    volume = secret_volume(tmp_path / "set", tmp_path / "a1")
    (volume / "jwks.json").write_bytes((tmp_path / "issuer/jwks.json").read_bytes())
    (volume / "jwks.json").chmod(0o444)
    trust = tmp_path / "trust.pem"
    trust.write_bytes((tmp_path / "a1/root-cert.pem").read_bytes())

    argv = contained(rootfs, volume, "ca", "serve", "--ca-dir", "/run/set", "--listen", "127.0.0.1:0", "--monitoring",
                     "127.0.0.1:0", "--port-file", "/var/lib/meshroot/ports", "--issuer", "https://issuer.test=/run/set/jwks.json",
                     "--issuer", "https://second.test=https://127.0.0.1:1/keys")
    log = tmp_path / "ca.log"
    with open(log, "wb") as out:
        p = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, env=ENV)
    try:
        def port():
            assert p.poll() is None, log.read_text()
            m = re.search(r"starting secure gRPC discovery service at \S+, port (\d+)", log.read_text())
            return m and int(m.group(1))

        at = wait_for("the CA's port", port)
        meshroot("identity", "token", "--key", tmp_path / "issuer/issuer-key.pem", "--issuer", "https://issuer.test", "--identity",
                 "spiffe://cluster.local/ns/test/sa/web", "--out", tmp_path / "web.token")
        agent = daemon("agent", "run", "--dir", tmp_path / "web", "--ca-addr", f"127.0.0.1:{at}", "--ca-root-cert", trust,
                       "--token-file", tmp_path / "web.token", "--identity", "spiffe://cluster.local/ns/test/sa/web",
                       "--monitoring", "off")
        wait_for("a leaf", lambda: (tmp_path / "web/cert-chain.pem").exists())
        wait_for("a word of libcurl", lambda: "second.test" in log.read_text())
        assert "cannot be used" not in log.read_text()  # of libcurl
        agent.stop()
    finally:
        # unshare waits for its child whatever it is told; the child is the CA
        (child,) = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert p.wait(60) == 0, log.read_text()
    assert "Sanitizer" not in log.read_text()
