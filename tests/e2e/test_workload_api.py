"""The SPIFFE Workload API of meshroot agent run, with the real go-spiffe as its client."""
import base64
import json
import os
import pathlib
import re
import subprocess
import urllib.request

import pytest

from conftest import Mesh, meshroot, openssl_intermediate, openssl_root, wait_for
from test_flow import settled

ID = "spiffe://cluster.local/ns/test/sa/"


def status(agent):
    with urllib.request.urlopen(f"http://127.0.0.1:{agent.ports()['monitoring']}/status", timeout=30) as r:
        return json.load(r)


def metrics(agent):
    with urllib.request.urlopen(f"http://127.0.0.1:{agent.ports()['monitoring']}/metrics", timeout=30) as r:
        return r.read().decode()


def fetch(gospiffe, socket, uid=None):
    done = subprocess.run([gospiffe, "fetch", f"unix://{socket}"], capture_output=True, text=True, timeout=300, user=uid)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Peer:
    """A workload that talks mTLS with its peer, both ways, over new connections all the time."""

    def __init__(self, gospiffe, socket, other):
        self.process = subprocess.Popen([gospiffe, "peer", f"unix://{socket}", other], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)
        self.addr = json.loads(self.process.stdout.readline())["addr"]

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def seen(self, line=""):
        self.say(line)
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.fixture
def peers():
    started = []
    yield started
    for p in started:
        p.process.kill()
        p.process.wait(60)


@pytest.fixture
def hierarchy(tmp_path):
    root = openssl_root(tmp_path / "ra", "Root A", "p256")
    return root, openssl_intermediate(tmp_path / "a1", root, "Intermediate A1", "p256")


def test_rotations_under_go_spiffe_lose_no_connection(tmp_path, daemon, gospiffe, hierarchy, peers):
    root_a, a1 = hierarchy
    a2 = openssl_intermediate(tmp_path / "a2", root_a, "Intermediate A2", "p256")
    root_b = openssl_root(tmp_path / "rb", "Root B", "p256")
    b1 = openssl_intermediate(tmp_path / "b1", root_b, "Intermediate B1", "p256")
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(a1)
    mesh.enable()
    sockets = {name: tmp_path / "run" / f"{name}.sock" for name in ("web", "cart")}
    agents = [mesh.agent(name, "--workload-socket", path) for name, path in sockets.items()]
    wait_for("both on A1", lambda: settled(mesh, "Intermediate A1", 2))
    peers += [Peer(gospiffe, sockets["web"], ID + "cart"), Peer(gospiffe, sockets["cart"], ID + "web")]
    peers[0].say(peers[1].addr)
    peers[1].say(peers[0].addr)

    def talk(n, issuer):
        """n more connections each way, once both see leaves of `issuer`: the agents are ahead of those who read from them."""
        wait_for(f"both meet {issuer}", lambda: all(p.seen()["issuers"][-1:] == [issuer] for p in peers))
        goal = [p.seen()["ok"] + n for p in peers]
        wait_for("new connections", lambda: all(p.seen()["ok"] >= g for p, g in zip(peers, goal)))

    talk(20, "Intermediate A1")
    mesh.set_all(a2)
    wait_for("both on A2", lambda: settled(mesh, "Intermediate A2", 2))
    talk(20, "Intermediate A2")
    mesh.set_all(b1)
    wait_for("both on B1, root A gone",
             lambda: (s := settled(mesh, "Intermediate B1", 2)) and len(s["ca"]["roots"]) == 1)
    talk(20, "Intermediate B1")
    for last in [p.seen("stop") for p in peers]:  # neither goes before both have stopped dialling
        assert last["failed"] == 0 and last["refused"] == 0, last
        assert last["ok"] >= 60 and last["served"] >= 60, last
        assert last["issuers"] == ["Intermediate A1", "Intermediate A2", "Intermediate B1"], last
    for p in peers:
        p.end()
    for a, name in zip(agents, sockets):
        api = status(a)["workload_api"]
        assert api["endpoint"] == f"unix://{sockets[name]}" and api["refused"] == 0 and api["pushes"] >= 4, api
        wait_for("its stream is gone", lambda: status(a)["workload_api"]["streams"] == 0)
        page = metrics(a)
        assert 'meshroot_agent_workload_requests_total{method="FetchX509SVID",code="OK"} 1' in page, page
        assert re.search(r"^meshroot_agent_workload_pushes_total [4-9]", page, re.M), page


def test_what_go_spiffe_fetches(tmp_path, daemon, gospiffe, hierarchy):
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(hierarchy[1])
    mesh.enable()
    socket = tmp_path / "web.sock"
    agent = mesh.agent("web", "--workload-socket", f"unix://{socket}")
    wait_for("on A1", lambda: settled(mesh, "Intermediate A1", 1))
    got = fetch(gospiffe, socket)
    assert got["code"] == "OK" and got["id"] == ID + "web" and got["hint"] == ""
    assert got["chain"] == ["Intermediate A1", "Root A"] and got["trust"] == ["Root A"]
    assert got["bundles"] == {"spiffe://cluster.local": ["Root A"]}
    assert got["jwt"] == "OK"
    assert agent.stop() == 0
    assert not socket.exists()


def test_who_is_not_allowed_gets_nothing(tmp_path, daemon, gospiffe, hierarchy):
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(hierarchy[1])
    mesh.enable()
    mine, theirs = tmp_path / "mine.sock", tmp_path / "theirs.sock"
    uid = os.geteuid()
    own = mesh.agent("own", "--workload-socket", mine)
    other = mesh.agent("other", "--workload-socket", theirs, "--workload-allow-uid", uid + 4242)
    wait_for("both on A1", lambda: settled(mesh, "Intermediate A1", 2))
    assert mine.stat().st_mode & 0o777 == 0o600 and theirs.stat().st_mode & 0o777 == 0o666
    assert fetch(gospiffe, mine)["code"] == "OK"
    refused = fetch(gospiffe, theirs)
    assert refused["code"] == "PermissionDenied" and f"uid {uid} may not use this agent" in refused["message"]
    assert refused["bundles"] == {} and status(other)["workload_api"]["refused"] >= 2
    assert status(other)["workload_api"]["uids"] == [uid + 4242]
    assert f"uid={uid}" in other.text() and "may not use the Workload API" in other.text()
    assert status(own)["workload_api"]["refused"] == 0


def test_before_the_first_certificate_a_client_is_told_to_wait(tmp_path, daemon, gospiffe, hierarchy):
    socket = tmp_path / "web.sock"
    ports = tmp_path / "web.ports"
    agent = daemon("agent", "run", "--dir", tmp_path / "web", "--identity", ID + "web", "--ca-addr", "127.0.0.1:1", "--ca-root-cert",
                   hierarchy[0] / "root-cert.pem", "--monitoring", "127.0.0.1:0", "--port-file", ports, "--workload-socket",
                   socket, port_file=ports)
    agent.ports()
    got = fetch(gospiffe, socket)
    assert got["code"] == "Unavailable" and "no valid certificate is in use yet" in got["message"]


def key_on_the_wire(key_pem):
    """The field x509_svid_key of the answer: only a message has these bytes, never OpenSSL or the agent's own copy."""
    der = base64.b64decode("".join(line for line in key_pem.read_text().splitlines() if not line.startswith("-")))
    assert 128 <= len(der) < 16384
    return bytes([0x1A, len(der) & 0x7F | 0x80, len(der) >> 7]) + der


def copies_in_memory(pid, needle):
    """How often the bytes stand in what the process may write to."""
    n = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            where, perms = line.split()[:2]
            start, end = (int(x, 16) for x in where.split("-"))
            if not perms.startswith("rw") or end - start > 1 << 30:  # a sanitizer's shadow is larger
                continue
            try:
                mem.seek(start)
                n += mem.read(end - start).count(needle)
            except OSError:
                continue
    return n


def test_a_key_that_was_sent_is_wiped_from_the_buffers(tmp_path, daemon, gospiffe, hierarchy):
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(hierarchy[1])
    mesh.enable()
    socket = tmp_path / "web.sock"
    agent = mesh.agent("web", "--workload-socket", socket)
    wait_for("on A1", lambda: settled(mesh, "Intermediate A1", 1))
    needle = key_on_the_wire(tmp_path / "web" / "key.pem")
    for _ in range(3):
        assert fetch(gospiffe, socket)["code"] == "OK"
        wait_for("wiped", lambda: copies_in_memory(agent.process.pid, needle) == 0)  # the client may be ahead of the agent
    assert copies_in_memory(agent.process.pid, needle[3:]) > 0  # the search does find: the agent's own copy, in locked memory


def test_ephemeral_does_not_say_that_a_given_key_is_gone(tmp_path, daemon, gospiffe, hierarchy):
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(hierarchy[1])
    mesh.enable()
    gave, kept = tmp_path / "gave.sock", tmp_path / "kept.sock"
    giver = mesh.agent("giver", "--ephemeral", "--workload-socket", gave)
    keeper = mesh.agent("keeper", "--ephemeral", "--workload-socket", kept)
    wait_for("both on A1", lambda: settled(mesh, "Intermediate A1", 2))
    assert fetch(gospiffe, gave)["code"] == "OK"
    assert giver.stop() == 0 and keeper.stop() == 0
    assert "workloads may hold it" in giver.text() and "workloads may hold it" not in keeper.text()
    assert not list((tmp_path / "giver").glob("**/key.pem"))
    agents = {a["identity"] for a in mesh.status()["fleet"]["agents"]}
    assert ID + "giver" in agents and ID + "keeper" not in agents, "its leaf counts until it expires"


@pytest.mark.parametrize("flags,part", [
    (["--workload-socket", "web.sock"], "is not an absolute path"),
    (["--workload-socket", "tcp://127.0.0.1:1"], "is not an absolute path"),
    (["--workload-socket", "/tmp/" + "x" * 120], "socket path has 125 bytes"),
    (["--workload-socket", "/tmp/a.sock", "--workload-allow-uid", "root"], 'workload-allow-uid "root" is not a user'),
    (["--workload-allow-uid", "1"], "--workload-allow-uid without --workload-socket"),
])
def test_wrong_flags_are_named(tmp_path, flags, part):
    done = meshroot("agent", "run", "--dir", tmp_path / "d", "--identity", ID + "web", "--ca-root-cert", "/none", "--monitoring",
                    "off", *flags, check=False)
    assert done.returncode == 2 and part in done.stderr, done.stderr


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    folder = pathlib.Path(tmp_path / "open")
    folder.mkdir()
    folder.chmod(0o777)
    done = meshroot("agent", "run", "--dir", tmp_path / "d", "--identity", ID + "web", "--ca-root-cert", "/none", "--monitoring",
                    "off", "--workload-socket", folder / "a.sock", check=False)
    assert done.returncode == 14 and "others may write to" in done.stderr
