"""The signer process from outside: where the key is and where it is not, what becomes of calls when it dies."""
import base64
import os
import pathlib
import signal
import threading

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from conftest import openssl_intermediate, wait_for
from test_ca import Ca, copy_set, make_csr, pb, plugged  # noqa: F401 (fixtures)


def memory_has(pid, needles):
    """The names of those needles that lie anywhere in a process's readable memory."""
    found = set()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            where, mode = line.split()[:2]
            if "r" not in mode or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(x, 16) for x in where.split("-"))
            if end - start > 1 << 36:
                continue  # a sanitizer's shadow
            for at in range(start, end, 1 << 24):
                try:
                    mem.seek(at)
                    data = mem.read(min((1 << 24) + 64, end - at))
                except OSError:
                    continue
                found |= {name for name, needle in needles.items() if needle in data}
    return found


def forms_of(key_pem):
    """A P-256 private scalar as files and libraries hold it."""
    scalar = serialization.load_pem_private_key(key_pem, None).private_numbers().private_value.to_bytes(32, "big")
    body = "".join(x for x in key_pem.decode().splitlines() if "-----" not in x)
    at = base64.b64decode(body).index(scalar)
    return {"big endian": scalar, "limbs": scalar[::-1], "PEM": body[(at + 2) // 3 * 4:][:32].encode()}


def calls(ca, n=20):
    _, csr = make_csr()
    for _ in range(n):
        assert ca.call(csr, ca.issuer.token())[0]


def signer(ca):
    return ca.status()["signer"]


def works(ca):
    try:
        return ca.call(make_csr()[1], ca.issuer.token())[0]
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNAVAILABLE, e
        return None


def test_the_serving_process_never_holds_the_key(tmp_path, daemon, pb, plugged):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    forms = forms_of((plugged[1] / "ca-key.pem").read_bytes())
    a2 = openssl_intermediate(tmp_path / "a2", plugged[0], "Intermediate A2", "p256")
    calls(ca)
    assert not memory_has(ca.daemon.process.pid, forms)
    assert memory_has(signer(ca)["pid"], forms), "the search finds the key where it is"
    copy_set(a2, ca.dir)  # a reload: the new key comes, the old one goes
    wait_for("A2", lambda: "A2" in ca.status()["intermediate"]["subject"])
    calls(ca)
    forms2 = forms_of((a2 / "ca-key.pem").read_bytes())
    assert not memory_has(ca.daemon.process.pid, {**{k + " 2": v for k, v in forms2.items()}, **forms})
    assert memory_has(signer(ca)["pid"], forms2)
    wait_for("the old key is wiped", lambda: not memory_has(signer(ca)["pid"], forms))


def test_a_self_signed_key_is_made_by_the_signer(tmp_path, daemon, pb):  # noqa: F811
    (tmp_path / "cacerts").mkdir()
    ca = Ca(tmp_path, daemon, pb, "--self-signed").ready()
    calls(ca)
    key = ca.state / "self-signed/ca-key.pem"
    assert os.stat(key).st_mode & 0o777 == 0o600
    forms = forms_of(key.read_bytes())
    assert not memory_has(ca.daemon.process.pid, forms) and memory_has(signer(ca)["pid"], forms)
    os.kill(signer(ca)["pid"], signal.SIGKILL)
    wait_for("another signer", lambda: signer(ca)["restarts"] == 1 and signer(ca)["up"])
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


def test_kill_9_of_the_signer_under_load(tmp_path, daemon, pb, plugged):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    codes, stop = [], threading.Event()

    def ask():
        _, csr = make_csr()
        with ca.channel() as channel:
            while not stop.is_set():
                try:
                    ca.call(csr, ca.issuer.token(), channel=channel)
                    codes.append("OK")
                except grpc.RpcError as e:
                    codes.append(e.code().name)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for t in threads:
        t.start()
    for i in range(3):
        n = len(codes)
        wait_for("answers", lambda n=n: codes[n:].count("OK") > 5)
        os.kill(signer(ca)["pid"], signal.SIGKILL)
        wait_for("another signer", lambda i=i: signer(ca)["restarts"] == i + 1 and signer(ca)["up"])
    n = len(codes)
    wait_for("answers", lambda: codes[n:].count("OK") > 5)
    stop.set()
    for t in threads:
        t.join(30)
    assert set(codes) == {"OK", "UNAVAILABLE"}
    assert ca.metric("meshroot_signer_up 1") and ca.metric("meshroot_signer_restarts_total 3")
    assert ca.status()["refused"] is None and ca.get("/readyz")[0] == 200
    assert "is lost" in ca.daemon.text() and "holds the key in force" in ca.daemon.text()


def test_a_lost_signer_over_a_bad_set_comes_back_with_the_good_one(tmp_path, daemon, pb, plugged):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    good = (ca.dir / "ca-key.pem").read_bytes()
    copy_set(openssl_intermediate(tmp_path / "a2", plugged[0], "Intermediate A2", "p256"), ca.dir, ("ca-key.pem",))
    wait_for("refused", lambda: ca.status()["refused"])
    assert works(ca), "the last good key signs"
    os.kill(signer(ca)["pid"], signal.SIGKILL)
    wait_for("another signer", lambda: signer(ca)["restarts"] == 1)
    assert not signer(ca)["up"] and ca.get("/readyz")[0] == 503 and ca.metric("meshroot_signer_up 0")
    with pytest.raises(grpc.RpcError) as e:
        ca.call(make_csr()[1], ca.issuer.token())
    assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    (ca.dir / "ca-key.pem").write_bytes(good)
    wait_for("leaves again", lambda: works(ca))
    assert signer(ca)["up"] and ca.status()["refused"] is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_signer_ends_with_its_parent(tmp_path, daemon, pb, plugged, how):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    pid = signer(ca)["pid"]
    ca.daemon.process.send_signal(how)
    ca.daemon.process.wait(10)
    wait_for("no signer", lambda: not pathlib.Path(f"/proc/{pid}/cmdline").exists()
             or not pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
