"""The signer process from outside: where the key is and where it is not, what becomes of calls when it dies."""
import contextlib
import json
import os
import pathlib
import random
import signal
import threading

import grpc
import pytest
from cryptography import x509

from conftest import meshroot, openssl_intermediate, openssl_root, put_file, wait_for
from key_hunt import forms_of, memory_has
from test_ca import Ca, copy_set, make_csr, pb, plugged  # noqa: F401 (fixtures)


def calls(ca, n=20):
    _, csr = make_csr()
    for _ in range(n):
        assert ca.call(csr, ca.issuer.token())[0]


def signer(ca):
    return ca.status()["signer"]


def kill_signer(ca, how=signal.SIGKILL):
    pid = wait_for("a signer", lambda: signer(ca)["pid"])  # 0 would be everybody
    with contextlib.suppress(ProcessLookupError):  # one that was stopped is replaced without us after a while
        os.kill(pid, how)
    return pid


def replace_signer(ca, how=signal.SIGKILL):
    """Kills it, and waits for another; a start that goes wrong on a slow machine is followed by one more."""
    before = signer(ca)["restarts"]
    kill_signer(ca, how)
    wait_for("another signer", lambda: (s := signer(ca))["restarts"] > before and s["up"])


def works(ca):
    try:
        return ca.call(make_csr()[1], ca.issuer.token())[0]
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNAVAILABLE, e
        return None


class Load:
    """Callers that ask for leaves until they are told to stop: what became of each call; the leaves, with their keys."""

    def __init__(self, ca, callers=4):
        self.ca, self.codes, self.leaves, self.stopping = ca, [], [], threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(callers)]

    def ask(self):
        key, csr = make_csr()
        token = self.ca.issuer.token()
        with self.ca.channel() as channel:
            while not self.stopping.is_set():
                try:
                    chain, _ = self.ca.call(csr, token, channel=channel)
                    self.leaves.append((chain, key))
                    self.codes.append("OK")
                except grpc.RpcError as e:
                    self.codes.append(e.code().name)

    def more(self, n=5):
        """Waits for n more leaves."""
        had = len(self.leaves)
        wait_for("leaves", lambda: len(self.leaves) >= had + n)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for t in self.threads:
            t.join(30)


def in_signer_alone(ca, forms, name):
    assert not memory_has(ca.daemon.process.pid, forms), f"the serving process holds the key of {name}"
    found = memory_has(signer(ca)["pid"], forms)
    numbers = {x.split()[0] for x in forms if "limbs" in x}
    assert numbers <= {x.split()[0] for x in found}, f"the search does not find {name} where it is: {found}"


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_the_serving_process_never_holds_the_key(tmp_path, daemon, pb, kind):  # noqa: F811
    """Issue 4, "must show" 4: under load, after a rotation, after the signer has died."""
    root = openssl_root(tmp_path / "root", "Root A", "p256")
    a1 = openssl_intermediate(tmp_path / "cacerts", root, "Intermediate A1", kind)
    a2 = openssl_intermediate(tmp_path / "a2", root, "Intermediate A2", kind)
    forms = {x: forms_of((x / "ca-key.pem").read_bytes()) for x in (a1, a2)}
    # else A1 signs JWT-SVIDs for a while yet; and its revocation lists, until its last leaf is over
    ca = Ca(tmp_path, daemon, pb, "--jwt-publish", "0s", "--default-workload-ttl", "10s").ready()
    with Load(ca) as load:
        load.more(50)
        in_signer_alone(ca, forms[a1], "A1")
        copy_set(a2, ca.dir)  # a reload: the new key comes, the old one goes
        wait_for("A2", lambda: "A2" in ca.status()["intermediate"]["subject"])
        load.more(50)
        in_signer_alone(ca, forms[a2], "A2")
        assert not memory_has(ca.daemon.process.pid, forms[a1])
        wait_for("the old key is wiped", lambda: not memory_has(signer(ca)["pid"], forms[a1]), 90)
        replace_signer(ca)
        load.more(50)
        in_signer_alone(ca, forms[a2], "A2 after the signer's end")


def test_a_self_signed_key_is_made_by_the_signer(tmp_path, daemon, pb):  # noqa: F811
    (tmp_path / "cacerts").mkdir()
    ca = Ca(tmp_path, daemon, pb, "--self-signed").ready()
    calls(ca)
    key = ca.state / "self-signed/ca-key.pem"
    assert os.stat(key).st_mode & 0o777 == 0o600
    forms = forms_of(key.read_bytes())
    assert not memory_has(ca.daemon.process.pid, forms) and memory_has(signer(ca)["pid"], forms)
    replace_signer(ca)
    wait_for("leaves again", lambda: works(ca))


def test_the_doors_of_the_signer_are_shut(tmp_path, daemon, pb, plugged):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    pid = signer(ca)["pid"]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        status = dict(x.split(":\t", 1) for x in (task / "status").read_text().splitlines() if ":\t" in x)
        assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1", status["Name"]
    limits = {x[:26].strip(): x[26:].split()[0] for x in pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines()}
    assert limits["Max core file size"] == "0"
    open_files = {os.readlink(f) for f in pathlib.Path(f"/proc/{pid}/fd").iterdir() if int(f.name) > 2}
    assert open_files and all(f.startswith("socket:") for f in open_files)
    unix = {x.split()[6] for x in pathlib.Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]}
    assert {f[8:-1] for f in open_files} <= unix, "no other kind of socket"
    assert os.stat(f"/proc/{pid}/maps").st_uid == 0  # not dumpable


CALLERS = 32


def under_way(ca):
    """CreateCertificate calls that have begun and are not answered, as the CA counts them."""
    lines = [x.rsplit(" ", 1) for x in ca.get("/metrics")[1].splitlines()]
    begun = sum(float(n) for name, n in lines if name == "citadel_server_csr_count")
    ended = sum(float(n) for name, n in lines
                if name.startswith("grpc_server_handled_total{") and 'grpc_method="CreateCertificate"' in name)
    return begun - ended


def stop_signer_under(ca, callers):
    """Until all calls wait for a signer that is stopped. One that does not answer for ten seconds is replaced: on a slow machine the next one
    is stopped, too."""
    def are_waiting():
        kill_signer(ca, signal.SIGSTOP)
        return under_way(ca) == callers

    wait_for("all calls wait for the signer", are_waiting)


def leaf_is_right(chain, key):
    leaf, signer_cert = (x509.load_pem_x509_certificate(x.encode()) for x in chain[:2])
    leaf.verify_directly_issued_by(signer_cert)  # name and signature
    assert leaf.public_key() == key.public_key(), "a leaf for somebody else's key"
    return leaf.serial_number


def test_kill_9_of_the_signer_in_mid_batch(tmp_path, daemon, pb, plugged):  # noqa: F811
    """32 calls under way, the signer dies eight times: half of the times while it holds all 32, half of the times at
    any instant. Every call is answered, with its own leaf or UNAVAILABLE, and the ledger has one row for each leaf
    handed out and no other."""
    ca = Ca(tmp_path, daemon, pb).ready()
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    with Load(ca, CALLERS) as load:
        for i in range(8):
            load.more(CALLERS)
            if i % 2 == 0:
                stop_signer_under(ca, CALLERS)
            else:
                load.stopping.wait(rng.uniform(0, 0.05))
            replace_signer(ca)
        load.more(CALLERS)
    assert set(load.codes) == {"OK", "UNAVAILABLE"}, f"seed {seed}"
    assert load.codes.count("UNAVAILABLE") >= 4 * CALLERS, "what was under way was not all refused"
    assert under_way(ca) == 0
    serials = [leaf_is_right(chain, key) for chain, key in load.leaves]
    assert len(set(serials)) == len(serials)
    assert ca.metric("meshroot_signer_up 1") and ca.metric(f"meshroot_signer_restarts_total {signer(ca)['restarts']}")
    assert signer(ca)["restarts"] >= 8
    assert ca.status()["refused"] is None and ca.get("/readyz")[0] == 200
    assert "is lost" in ca.daemon.text() and "holds the key in force" in ca.daemon.text()
    rows = [json.loads(x) for x in meshroot("ledger", "export", "--state-dir", ca.state).stdout.splitlines()]
    assert sorted(int(r["serial"], 16) for r in rows if "serial" in r) == sorted(serials)
    assert json.loads(meshroot("ledger", "verify", "--state-dir", ca.state, "--output", "json").stdout)["ok"]


def test_a_lost_signer_over_a_bad_set_comes_back_with_the_good_one(tmp_path, daemon, pb, plugged):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    good = (ca.dir / "ca-key.pem").read_bytes()
    copy_set(openssl_intermediate(tmp_path / "a2", plugged[0], "Intermediate A2", "p256"), ca.dir, ("ca-key.pem",))
    wait_for("refused", lambda: ca.status()["refused"])
    assert works(ca), "the last good key signs"
    kill_signer(ca)
    wait_for("another signer", lambda: signer(ca)["restarts"] >= 1)
    assert not signer(ca)["up"] and ca.get("/readyz")[0] == 503 and ca.metric("meshroot_signer_up 0")
    with pytest.raises(grpc.RpcError) as e:
        ca.call(make_csr()[1], ca.issuer.token())
    assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    put_file(ca.dir / "ca-key.pem", good.decode())
    wait_for("leaves again", lambda: works(ca))
    wait_for("said so", lambda: signer(ca)["up"] and ca.status()["refused"] is None)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_signer_ends_with_its_parent(tmp_path, daemon, pb, plugged, how):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    pid = signer(ca)["pid"]
    ca.daemon.process.send_signal(how)
    ca.daemon.process.wait(60)
    wait_for("no signer", lambda: not pathlib.Path(f"/proc/{pid}/cmdline").exists()
             or not pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
