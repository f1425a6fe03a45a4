"""meshroot ledger list, show, verify, export: beside a running mesh and after it, and on a ledger that was tampered with."""
import csv
import io
import json
import pathlib
import sqlite3
import subprocess
import sys

import pytest

from check_ledger import check
from conftest import BINARY, meshroot, openssl, openssl_intermediate, openssl_root, wait_for
from test_ca import Ca, make_csr, pb  # noqa: F401  (pb is a fixture)

ID = "spiffe://cluster.local/ns/test/sa/"


def rows(mesh, *flags):
    return json.loads(mesh.run("ledger", "list", "--output", "json", *flags).stdout)


def exported(mesh):
    return mesh.run("ledger", "export").stdout.splitlines()


@pytest.fixture
def issued(mesh):
    """A self-signed mesh with two workloads, each with one leaf in use."""
    mesh.run("mesh", "enable")
    for name in ("web", "cart"):
        mesh.agent(name)
        wait_for(f"leaf of {name}", lambda: (mesh.tmp / name / "cert-chain.pem").exists())
    wait_for("both have said what they use", lambda: len(mesh.status()["fleet"]["agents"]) == 2)
    return mesh


def serial_forms(serial):
    """As our own list, openssl x509 -serial (whole line) and -text, a browser, and a program that prints a number show the same."""
    hexa = serial.lower()
    pairs = [hexa[i:i + 2] for i in range(0, len(hexa), 2)]
    return (hexa, serial.upper(), "serial=" + serial, ":".join(pairs), " ".join(pairs).upper(), "0x" + hexa, "0X" + serial, "00:" + ":".join(pairs),
            "    " + ":".join(pairs) + "\n", hexa.lstrip("0"))


def test_beside_the_running_mesh_and_after_it(issued):
    mesh = issued
    serial = openssl("x509", "-in", mesh.tmp / "web/cert-chain.pem", "-noout", "-serial").strip().split("=")[1]
    signer = mesh.status()["ca"]["intermediate"]
    for running in (True, False):
        if not running:
            mesh.up.kill()
        all_rows = rows(mesh)
        assert {r["identity"] for r in all_rows} == {ID + "web", ID + "cart"}
        assert [r["seq"] for r in all_rows] == sorted((r["seq"] for r in all_rows), reverse=True)
        assert {r["identity"] for r in rows(mesh, "--identity", ID + "w*")} == {ID + "web"}
        assert len(rows(mesh, "--live", "--since", "1h", "--issuer", signer["subject"])) == len(all_rows)
        assert len(rows(mesh, "--issuer", signer["id"][:12], "--limit", "1")) == 1
        assert rows(mesh, "--since", "2099-01-01") == []
        assert mesh.run("ledger", "list", "--issuer", "nobody", check=False).returncode == 3
        shown = json.loads(mesh.run("ledger", "show", serial, "--output", "json").stdout)
        assert (shown["identity"], shown["state"], shown["signer"]) == (ID + "web", "in use", signer["id"])
        assert shown["signer_subject"] == signer["subject"]
        aki = openssl("x509", "-in", mesh.tmp / "web/cert-chain.pem", "-noout", "-ext", "authorityKeyIdentifier").split()[-1]
        assert shown["version"] == 2 and shown["key_id"] == aki.replace("keyid:", "").replace(":", "").lower()
        for form in serial_forms(serial):
            assert ID + "web" in mesh.run("ledger", "show", form).stdout, form
        assert mesh.run("ledger", "show", "4711", check=False).returncode == 3
        good = json.loads(mesh.run("ledger", "verify", "--output", "json").stdout)
        assert good["ok"] and good["rows"] == len(all_rows)
        assert f"mark: {good['seq']}:{good['hash']}" in mesh.run("ledger", "verify").stdout
        mesh.run("ledger", "verify", "--mark", f"{good['seq']}:{good['hash']}")
        assert check(exported(mesh), f"{good['seq']}:{good['hash']}") == len(all_rows)
        table = csv.DictReader(io.StringIO(mesh.run("ledger", "export", "--output", "csv").stdout))
        assert [r["hash"] for r in table] == [json.loads(x)["hash"] for x in exported(mesh)]
        listed = mesh.run("ledger", "list").stdout.splitlines()
        assert listed[0].split()[:3] == ["ROW", "SERIAL", "ISSUED"] and len(listed) == 1 + len(all_rows)
        assert mesh.run("ledger", "list", "--output", "csv").stdout.count("\n") == 1 + len(all_rows)
    mesh.start()
    wait_for("ready again", lambda: mesh.status()["ready"])


def test_the_check_program_works_alone(issued):
    lines = exported(issued)
    text = "\n".join(lines)
    program = pathlib.Path(__file__).with_name("check_ledger.py")
    done = subprocess.run([sys.executable, program], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(lines) >= 2 and f"{len(lines)} rows" in done.stdout, done.stderr
    done = subprocess.run([sys.executable, program, "1:00"], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "1:00 is not there" in done.stderr


CHANGES = {
    "edited": ("UPDATE kv SET value = CAST(replace(value, CAST('sa/web' AS BLOB), CAST('sa/ham' AS BLOB)) AS BLOB) "
               "WHERE key LIKE 'ledger/row/%'", "was edited"),
    "first removed": ("DELETE FROM kv WHERE key = (SELECT min(key) FROM kv WHERE key LIKE 'ledger/row/%')", "does not follow"),
    "last removed": ("DELETE FROM kv WHERE key = (SELECT max(key) FROM kv WHERE key LIKE 'ledger/row/%')", "is the newest"),
    "moved": ("UPDATE kv SET value = (SELECT o.value FROM kv o WHERE o.key LIKE 'ledger/row/%' AND o.key <> kv.key) "
              "WHERE key LIKE 'ledger/row/%'", "was moved"),
    "all removed": ("DELETE FROM kv WHERE key LIKE 'ledger/row/%'", "is the newest"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_verify_names_what_was_done(issued, what):
    issued.up.stop()
    good = issued.run("ledger", "verify").stdout.split("mark: ")[1].strip()
    db = sqlite3.connect(issued.state / "meshroot.db")
    assert db.execute(CHANGES[what][0]).rowcount > 0
    db.commit()
    db.close()
    for flags in ((), ("--mark", good)):
        done = issued.run("ledger", "verify", *flags, check=False)
        assert done.returncode == 1 and CHANGES[what][1] in done.stdout and "row " in done.stdout, done.stdout
    done = issued.run("ledger", "verify", "--output", "json", check=False)
    assert done.returncode == 1 and not json.loads(done.stdout)["ok"]


def test_a_flipped_byte_of_the_file_is_named(issued):
    issued.up.stop()
    row = json.loads(exported(issued)[0])
    file = issued.state / "meshroot.db"
    good = file.read_bytes()
    record = good.find(bytes.fromhex(row["serial"]) + len(row["identity"]).to_bytes(2, "big") + row["identity"].encode())
    assert record > 0, "the row is in the file, not in SQLite's log"
    end = good.index(bytes.fromhex(row["hash"]), record) + 32
    for at in range(record, end, 7):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
        done = issued.run("ledger", "verify", check=False)
        assert done.returncode == 1 and f"ledger row {row['seq']}: " in done.stdout, (at - record, done.stdout, done.stderr)
    file.write_bytes(good)
    issued.run("ledger", "verify")


def test_a_ledger_written_anew_does_not_have_the_mark(issued):
    good = issued.run("ledger", "verify").stdout.split("mark: ")[1].strip()
    seq, digest = good.split(":")
    other = f"{seq}:{'0' if digest[0] != '0' else '1'}{digest[1:]}"
    done = issued.run("ledger", "verify", "--mark", other, check=False)
    assert done.returncode == 1 and f"row {seq}: its hash is not the one that was kept" in done.stdout


@pytest.mark.parametrize("args, status, words", [
    (("list", "--since", "yesterday"), 2, "is no time"),
    (("list", "--output", "xml"), 2, "table|json|csv"),
    (("list", "--limit", "-1"), 2, "limit"),
    (("show", "xyz"), 2, "is no serial number"),
    (("show", "0"), 2, "is no serial number"),
    (("show", "00" * 21 + "1"), 3, "no ledger"),
    (("show", "11" * 40), 2, "is no serial number"),
    (("show",), 2, "usage"),
    (("verify", "--mark", "1:ab"), 2, "is no mark"),
    (("list",), 3, "no ledger in"),
    (("verify",), 3, "no ledger in"),
    (("export",), 3, "no ledger in"),
])
def test_bad_input(tmp_path, args, status, words):
    done = meshroot("ledger", *args, "--state-dir", tmp_path, check=False)
    assert done.returncode == status and words in done.stderr, (done.returncode, done.stderr)
    assert list(tmp_path.iterdir()) == [], "a reader makes no files"


@pytest.mark.parametrize("command", ["list", "show", "verify", "export"])
def test_help_has_examples(command):
    text = meshroot("ledger", command, "--help").stdout
    assert f"meshroot ledger {command}" in text.split("Examples:")[1]


def test_a_reader_that_goes_away_is_an_error(issued):
    with open("/dev/full", "w") as full:
        done = subprocess.run([BINARY, "ledger", "export", "--state-dir", issued.state], stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 11 and "cannot write to the standard output" in done.stderr


def test_retention_keeps_a_verifiable_rest_over_kills(tmp_path, daemon, pb):
    """Rows come and go, the process is killed at any moment: what is left is a chain, and says what went before it."""
    root = openssl_root(tmp_path / "root-a", "Root A", "p256")
    openssl_intermediate(tmp_path / "cacerts", root, "Intermediate A1", "p256")
    issued, mark = 0, None
    for turn in range(4):
        ca = Ca(tmp_path, daemon, pb, "--ledger-retention", "1s").ready()
        token, removed = ca.issuer.token(), verified(ca)["removed_rows"]

        def more():
            nonlocal issued
            with ca.channel() as channel:
                for _ in range(60):
                    ca.call(csr, token, validity=1, channel=channel)
                    issued += 1
            return verified(ca)["removed_rows"] > removed + 62

        csr = make_csr()[1]
        wait_for("more than one step", more, 240)
        ca.daemon.kill()
        good = verified(ca)
        assert good["ok"] and good["rows"] == issued and 0 < good["removed_rows"] < issued
        if mark is not None:
            done = meshroot("ledger", "verify", "--mark", mark, "--state-dir", ca.state, check=False)
            assert done.returncode == 3 and f"row {mark.split(':')[0]} was removed by --ledger-retention" in done.stderr
        lines = meshroot("ledger", "export", "--state-dir", ca.state).stdout.splitlines()
        assert json.loads(lines[0])["removed"]["rows"] == good["removed_rows"]
        assert check(lines, f"{good['seq']}:{good['hash']}") == issued
        first = json.loads(lines[1])
        mark = f"{first['seq']}:{first['hash']}"
        meshroot("ledger", "verify", "--mark", mark, "--state-dir", ca.state)
    done = meshroot("ledger", "show", "77", "--state-dir", ca.state, check=False)
    assert done.returncode == 3 and "were removed by --ledger-retention" in done.stderr


def verified(ca):
    return json.loads(meshroot("ledger", "verify", "--state-dir", ca.state, "--output", "json").stdout)
