"""The CA over a disk that is full or a folder in use, and killed at any point: no certificate is out that has no row in
the ledger (invariant 3), and each start comes back with a ledger whose chain holds."""
import json
import random
import sqlite3
import threading

import grpc
import pytest
from cryptography import x509

from conftest import meshroot, wait_for
from small_disk import disk  # noqa: F401 (a fixture)
from test_bad_input import obey_modes
from test_ca import ISSUER, Ca, make_csr, pb, plugged  # noqa: F401 (fixtures)
from test_signer import Load


def rows(state):
    """What is on the disk under ledger/row/, read as a crash left it: every value, whatever its table is called."""
    db = sqlite3.connect(state / "meshroot.db", timeout=30)
    try:
        found = []
        for (table,) in db.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in db.execute(f'select * from "{table}"'):  # the name comes from the file's own schema
                cells = [c if isinstance(c, bytes) else str(c).encode() for c in row]
                if any(c.startswith(b"ledger/row/") for c in cells):
                    found.append(b"".join(cells))
        return found
    finally:
        db.close()


def serial_bytes(pem):
    n = x509.load_pem_x509_certificate(pem.encode()).serial_number
    return n.to_bytes((n.bit_length() + 7) // 8, "big")


def start_again(ca, tmp, daemon, pb, ready=True):  # noqa: F811
    again = Ca.__new__(Ca)
    again.tmp, again.pb, again.issuer, again.state, again.dir = tmp, pb, ca.issuer, ca.state, ca.dir
    ports = tmp / "ca.ports"
    again.daemon = daemon("ca", "serve", "--ca-dir", ca.dir, "--state-dir", ca.state, "--listen", "127.0.0.1:0",
                          "--monitoring", "127.0.0.1:0", "--issuer", f"{ISSUER}={tmp}/jwks.json", "--reread-interval",
                          "100ms", "--port-file", ports, port_file=ports)
    again.ports = again.daemon.ports()
    return again.ready() if ready else again


def test_kill_at_random_points_leaves_no_certificate_without_a_row(tmp_path, daemon, pb, plugged):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    out, count = [], 0
    for i in range(10):
        stop = threading.Event()

        def ask(ca=ca, stop=stop):
            _, csr = make_csr()
            token = ca.issuer.token()
            channel = ca.channel()
            try:
                while not stop.is_set():
                    out.append(serial_bytes(ca.call(csr, token, channel=channel)[0][0]))
            except grpc.RpcError:
                pass  # the kill
            finally:
                channel.close()

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for t in threads:
            t.start()
        wait_for("the first answers", lambda n=count: len(out) > n)
        stop.wait(rng.uniform(0.0, 0.2))
        ca.daemon.kill()
        stop.set()
        for t in threads:
            t.join(30)
        on_disk = b"\n".join(rows(ca.state))
        missing = [s.hex() for s in out if s not in on_disk]
        assert not missing, f"seed {seed}, round {i}: {len(missing)} of {len(out)} certificates have no row: {missing[:3]}"
        count = len(out)
        ca = start_again(ca, tmp_path, daemon, pb)
    assert len(out) >= 10 and len(set(out)) == len(out), "serials are unique over restarts"
    assert ca.call(make_csr()[1], ca.issuer.token())[0]


def test_disk_full_gives_no_certificate(tmp_path, daemon, pb, plugged, disk):  # noqa: F811
    """Under load: no leaf leaves, callers may try again, /readyz and a metric say why, and it mends by itself."""
    ca = Ca(tmp_path, lambda *a, **kw: daemon(*a, preexec=disk.enter, **kw), pb, state=disk.path / "state")
    ca.state = disk.view / "state"  # from here on for us to look at
    ca.ready()
    _, csr = make_csr()
    token = ca.issuer.token()
    pid = ca.daemon.process.pid
    assert ca.metric("meshroot_ledger_up 1")
    with Load(ca) as load:
        load.more(20)
        disk.fill(pid)
        refused = len(load.codes)
        wait_for("refusals", lambda: len([c for c in load.codes[refused:] if c != "OK"]) >= 20)
        said = wait_for("/readyz to say so", lambda: (r := ca.get("/readyz"))[0] == 503 and r[1])
        assert "the ledger cannot record certificates" in said
        assert any(w in said for w in ("full", "No space", "File too large")), said
        wait_for("the metric, too", lambda: ca.metric("meshroot_ledger_up 0"))
        assert not ca.metric("meshroot_ledger_failed_rows_total 0")
    assert set(load.codes) <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}, set(load.codes)
    assert ca.daemon.process.poll() is None, "a full disk does not end the CA"
    late = []

    def is_still_full():
        """Nobody asks any more. What a commit that failed halfway had of its file may be room for a smaller one, the store's own test of the disk:
        then the next row says it."""
        if ca.get("/readyz")[0] == 503:
            return True
        if (serial := next_serial(ca, csr, token)) is not None:
            late.append(serial)
        return False

    wait_for("it is still full", is_still_full)
    disk.empty(pid)
    wait_for("ready again without a caller", lambda: ca.get("/readyz")[0] == 200)
    assert ca.metric("meshroot_ledger_up 1")
    good = [serial_bytes(chain[0]) for chain, _ in load.leaves]
    good += late + [serial_bytes(ca.call(csr, token)[0][0]) for _ in range(3)]
    ca.daemon.stop()
    (tmp_path / "after").mkdir()
    for f in ca.state.glob("meshroot.db*"):
        (tmp_path / "after" / f.name).write_bytes(f.read_bytes())
    export = meshroot("ledger", "export", "--state-dir", tmp_path / "after").stdout.splitlines()
    assert sorted(int(json.loads(x)["serial"], 16) for x in export) == sorted(int.from_bytes(s, "big") for s in good), \
        "one row for each leaf that left, and no other"
    meshroot("ledger", "verify", "--state-dir", tmp_path / "after")


def next_serial(ca, csr, token):
    try:
        return serial_bytes(ca.call(csr, token)[0][0])
    except grpc.RpcError:
        return None


def test_two_processes_on_one_state_folder(tmp_path, daemon, pb, plugged):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb).ready()
    second = daemon("ca", "serve", "--ca-dir", ca.dir, "--state-dir", ca.state, "--listen", "127.0.0.1:0", "--monitoring",
                    "off", "--issuer", f"{ISSUER}={tmp_path}/jwks.json")
    assert second.process.wait(60) == 17
    assert str(ca.daemon.process.pid) in second.text() and str(ca.state) in second.text()
    assert ca.call(make_csr()[1], ca.issuer.token())[0], "the first one is not disturbed"


def test_state_folder_read_only(tmp_path, daemon, pb, plugged):  # noqa: F811
    state = tmp_path / "ro"
    state.mkdir(mode=0o555)
    d = daemon("ca", "serve", "--ca-dir", plugged[1], "--state-dir", state, "--listen", "127.0.0.1:0", "--monitoring", "off",
               preexec=obey_modes)
    assert d.process.wait(60) == 11
    assert str(state) in d.text() and "Permission denied" in d.text()
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("keys", [None, "<html>", '{"keys":[]}'], ids=["absent", "html", "empty"])
def test_without_the_issuers_keys_no_token_is_good(tmp_path, daemon, pb, plugged, keys):  # noqa: F811
    """No default key takes the place of keys that could not be loaded (CVE-2026-31837)."""
    ca = Ca(tmp_path, daemon, pb).ready()
    ca.daemon.stop()
    good = (tmp_path / "jwks.json").read_text()
    (tmp_path / "jwks.json").unlink() if keys is None else (tmp_path / "jwks.json").write_text(keys)
    ca = start_again(ca, tmp_path, daemon, pb, ready=False)
    with pytest.raises(grpc.RpcError) as e:
        ca.call(make_csr()[1], ca.issuer.token())
    assert e.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    wait_for("said why", lambda: "keys of token issuer" in (told := ca.daemon.text()) and f"not loaded from {tmp_path / 'jwks.json'}" in told)
    (tmp_path / "jwks.json").write_text(good)
    wait_for("the keys are there", lambda: next_serial(ca, make_csr()[1], ca.issuer.token()))
