"""The bad input that is operational: disks, folders, kills, vaults that misbehave. Each is a clear error that names the
thing, and the last good state is untouched."""
import ctypes
import json
import os
import random
import resource
import signal
import threading
import time

import pytest

from conftest import meshroot, wait_for
from hostile_vault import HostileVault, secret_body
from small_disk import disk  # noqa: F401 (a fixture)

CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


def obey_modes():
    """In the child: root, too, is bound by the modes of files. Fails for others, who are bound anyway."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


class Vault:
    """meshroot vault serve over a folder that the test breaks."""

    def __init__(self, tmp, daemon, state=None, view=None):
        self.tmp, self.daemon, self.state = tmp, daemon, state or tmp / "state"
        self.view = view or self.state  # the same folder as we see it

    def start(self, preexec=None, wait=True):
        ports = self.tmp / "vault.ports"
        self.process = self.daemon("vault", "serve", "--state-dir", self.state, "--listen", "127.0.0.1:0", "--port-file",
                                   ports, port_file=ports, preexec=preexec)
        if wait:
            self.url = self.process.ports()["vault"]
        return self

    def secret(self, *args, check=True):
        return meshroot("vault", "secret", *args, "--vault-url", self.url, "--credential-file",
                        self.view / "credentials/admin.json", "--ca-file", self.view / "vault-ca.pem", check=check)

    def set(self, name, value, check=True):
        return self.secret("set", "--name", name, "--value", value, check=check)

    def get(self, name):
        return self.secret("get", "--name", name, "--output", "value").stdout.rstrip("\n")


@pytest.fixture
def vault(tmp_path, daemon):
    return Vault(tmp_path, daemon)


# -- folders and disks --------------------------------------------------------------------------------------------------


def test_state_folder_read_only_at_the_first_start(vault):
    vault.state.mkdir(mode=0o555)
    vault.start(preexec=obey_modes, wait=False)
    assert vault.process.process.wait(60) == 11
    assert str(vault.state) in vault.process.text() and "Permission denied" in vault.process.text()
    assert list(vault.state.iterdir()) == []


def test_state_folder_read_only_at_a_later_start(vault):
    vault.start().set("a", "first")
    assert vault.process.stop() == 0
    before = {p.name: p.read_bytes() for p in vault.state.iterdir() if p.is_file()}
    for p in vault.state.iterdir():
        p.chmod(0o500 if p.is_dir() else 0o400)
    vault.state.chmod(0o555)
    vault.start(preexec=obey_modes, wait=False)
    assert vault.process.process.wait(60) == 11
    assert str(vault.state) in vault.process.text()
    assert {p.name: p.read_bytes() for p in vault.state.iterdir() if p.is_file()} == before
    vault.state.chmod(0o700)
    for p in vault.state.iterdir():
        p.chmod(0o700 if p.is_dir() else 0o600)
    assert vault.start().get("a") == "first"


def test_disk_full_while_serving(tmp_path, daemon, disk):  # noqa: F811
    vault = Vault(tmp_path, daemon, disk.path / "state", disk.view / "state")
    vault.start(preexec=disk.enter)
    pid = vault.process.process.pid
    vault.set("a", "before")
    disk.fill(pid)
    big = "x" * 20000  # more than what is left in the journal's last page
    refused = [vault.set("a", big, check=False) for _ in range(10)]
    failed = [r for r in refused if r.returncode != 0]
    assert failed, "the disk was not full"
    assert all(r.returncode in (11, 19, 20) and r.stderr and "Traceback" not in r.stderr for r in failed), failed[0].stderr
    assert vault.process.process.poll() is None, "a full disk does not end the vault"
    assert vault.get("a") in ("before", big)
    assert any(w in vault.process.text() for w in ("full", "No space", "File too large")), vault.process.text()
    disk.empty(pid)
    vault.set("a", "after")
    assert vault.get("a") == "after"
    vault.process.kill()
    assert vault.start(preexec=disk.enter).get("a") == "after"


def test_disk_full_at_the_first_start(tmp_path, daemon, disk):  # noqa: F811
    if not disk.mounted:
        pre = lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16)))  # noqa: E731
    else:
        pre = disk.enter
        disk.fill(0)
    vault = Vault(tmp_path, daemon, disk.path / "state", disk.view / "state")
    vault.start(preexec=pre, wait=False)
    assert vault.process.process.wait(60) != 0
    if disk.mounted:
        assert str(disk.path) in vault.process.text() and "No space left" in vault.process.text()
        disk.empty(0)
        vault.start(preexec=pre).set("a", "b")
        assert vault.get("a") == "b"


def test_two_processes_on_one_state_folder(vault):
    vault.start().set("a", "b")
    first, url = vault.process.process.pid, vault.url
    vault.start(wait=False)
    assert vault.process.process.wait(60) == 17
    assert str(first) in vault.process.text() and str(vault.state) in vault.process.text()
    vault.url = url
    assert vault.get("a") == "b", "the first one is not disturbed"


# -- kills --------------------------------------------------------------------------------------------------------------


def test_kill_at_random_points_loses_nothing_that_was_acknowledged(vault):
    rounds, names = 10, ("a", "b")
    acked, tried = {n: None for n in names}, {n: set() for n in names}
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for i in range(rounds):
        vault.start()
        stop = threading.Event()

        def write(name, i=i, stop=stop):
            k = 0
            while not stop.is_set():
                value = f"{name}-{i}-{k}"
                tried[name].add(value)
                if vault.set(name, value, check=False).returncode == 0:
                    acked[name] = (i, k)
                k += 1

        writers = [threading.Thread(target=write, args=(n,)) for n in names]
        for w in writers:
            w.start()
        if i == 0:
            wait_for("the first acknowledged", lambda: all(acked.values()))
        stop.wait(rng.uniform(0.0, 0.4))
        vault.process.kill()
        stop.set()
        for w in writers:
            w.join(120)
        vault.start()
        for name in names:
            if acked[name] is None:
                continue
            value = vault.get(name)
            assert value in tried[name], f"seed {seed}, round {i}: {name} has a value that nobody wrote: {value[:80]}"
            have = tuple(int(x) for x in value.split("-")[1:])
            assert have >= acked[name], f"seed {seed}, round {i}: {name} is {value}, acknowledged was {acked[name]}"
        vault.process.kill()
    vault.start()
    for name in names:
        versions = json.loads(vault.secret("list-versions", "--name", name, "--output", "json").stdout)
        for v in versions:
            value = vault.secret("get", "--name", name, "--version", v["version"], "--output", "value").stdout.rstrip("\n")
            assert value in tried[name]


def test_kill_in_the_first_start(vault):
    """The first start makes keys, roots and credentials one after another; a kill in between leaves a folder that the
    next start takes."""
    rng = random.Random(7)
    for _ in range(10):
        vault.start(wait=False)
        time.sleep(rng.uniform(0.0, 0.05))  # the point of the kill, not a wait for anything
        vault.process.kill()
    vault.start().set("a", "b")
    assert vault.get("a") == "b"


# -- vaults that misbehave ----------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path):
    h = HostileVault(tmp_path)
    yield h
    h.close()


def hostile_get(hostile, tmp_path, *flags, url=None, name="root-cert", timeout="30s"):
    cred = tmp_path / "cred.json"
    cred.write_text(json.dumps({"tenant": "11111111-2222-4333-8444-555555555555", "client_id": "app",
                                "client_secret": "canary-of-the-client-secret"}))
    out = tmp_path / "got.pem"
    out.write_text("last good")
    done = meshroot("vault", "secret", "get", "--vault-url", url or hostile.url, "--name", name, "--credential-file", cred,
                    "--ca-file", hostile.ca_file, "--timeout", timeout, "--out", out, *flags, check=False)
    assert out.read_text() == "last good", "nothing changes"
    assert "canary" not in done.stdout + done.stderr
    assert all("canary" not in (auth or "") for _, _, auth in hostile.seen)
    return done


AZURE_403 = json.dumps({"error": {"code": "Forbidden", "message": "The user, group or application 'appid=app' does not have "
                                  "secrets get permission on key vault 'v'.", "innererror": {"code": "ForbiddenByRbac"}}}).encode()
GOOD_ID = "https://127.0.0.1/secrets/root-cert/" + "0" * 32


@pytest.mark.parametrize("answer,status,says", [
    (lambda x: x.reply(200, b"<html><body>Please sign in</body></html>", "text/html"), 19, "text/html"),
    (lambda x: x.reply(200, b'{"value": "x", "id"', "application/json"), 19, "JSON"),
    (lambda x: x.reply(200, b"{}"), 19, "no secret id"),
    (lambda x: x.reply(200, b"[]"), 19, "JSON"),
    (lambda x: x.reply(200, b""), 19, "JSON"),
    (lambda x: x.reply(200, b'{"value": 7, "id": "' + GOOD_ID.encode() + b'"}'), 19, "root-cert"),
    (lambda x: x.reply(200, b"x" * (3 << 20)), 16, "larger than"),
    (lambda x: x.reply(302, b"", location="https://127.0.0.1:1/"), 19, "302"),
    (lambda x: x.reply(401, b"<html>", "text/html"), 13, "401"),
    (lambda x: x.reply(403, AZURE_403), 14, "ForbiddenByRbac"),
    (lambda x: x.reply(403, b"<html>blocked by proxy", "text/html"), 14, "403"),
    (lambda x: x.reply(404, b'{"error":{"code":"SecretNotFound","message":"A secret with (name/id) root-cert was not found"}}'),
     3, "SecretNotFound"),
    (lambda x: x.reply(429, b'{"error":{"code":"Throttled","message":"slow down"}}', retry_after=3600), 20, "429"),
    (lambda x: x.reply(500, b"<html>Internal Server Error", "text/html"), 20, "500"),
    (lambda x: x.reply(503, b""), 20, "503"),
], ids=["html", "cut json", "empty object", "list", "empty", "value a number", "3 MiB", "redirect", "401 without challenge",
        "403", "403 of a proxy", "404", "429", "500", "503"])
def test_vault_answers(hostile, tmp_path, answer, status, says):
    hostile.answer = answer
    done = hostile_get(hostile, tmp_path, timeout="5s" if status == 20 else "30s")  # what is tried again is so until then
    if done.returncode == 21:  # a machine too slow for one answer in that time
        done = hostile_get(hostile, tmp_path)
    assert done.returncode == status and says in done.stderr, (done.returncode, done.stderr)
    assert "127.0.0.1" in done.stderr and "root-cert" in done.stderr, "names the vault and the secret: " + done.stderr


def test_vault_is_slow(hostile, tmp_path):
    hostile.answer = lambda x: hostile.released.wait(150)
    done = hostile_get(hostile, tmp_path, timeout="1s")
    assert done.returncode == 21 and "1000 ms" in done.stderr, done.stderr


def test_vault_sends_a_body_that_never_ends(hostile, tmp_path):
    def drip(x):
        x.send_response(200)
        x.send_header("content-type", "application/json")
        x.send_header("content-length", "1000000")
        x.end_headers()
        x.wfile.write(b'{"value": "')
        hostile.released.wait(150)

    hostile.answer = drip
    done = hostile_get(hostile, tmp_path, timeout="1s")
    assert done.returncode == 21, done.stderr


def test_vault_hangs_up(hostile, tmp_path):
    def hang_up(x):
        x.close_connection = True

    hostile.answer = hang_up
    done = hostile_get(hostile, tmp_path)
    assert done.returncode == 19 and "127.0.0.1" in done.stderr, done.stderr


def test_vault_is_down(hostile, tmp_path):
    hostile.close()
    done = hostile_get(hostile, tmp_path)
    assert done.returncode == 19 and hostile.url.split("//")[1] in done.stderr, done.stderr


def test_vault_of_another_root(hostile, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    stranger = HostileVault(other)
    try:
        stranger.answer = lambda x: x.reply(200, secret_body(stranger.url, "root-cert", "x"))
        done = hostile_get(hostile, tmp_path, url=stranger.url)
        assert done.returncode == 19 and "certificate not accepted" in done.stderr, done.stderr
        assert stranger.seen == []
    finally:
        stranger.close()


@pytest.mark.parametrize("challenge", [
    'Bearer authorization="http://127.0.0.1:1/t", resource="https://vault.azure.net"',
    'Bearer authorization="https://evil.example/t", resource="https://evil.example"',
    'Bearer authorization="", resource=""',
    "Basic realm=x",
    'Bearer authorization="' + "x" * 3000 + '"',
    "Bearer",
])
def test_a_challenge_that_leads_elsewhere_gets_no_secret(hostile, tmp_path, challenge):
    hostile.answer = lambda x: x.reply(401, b"{}", www_authenticate=challenge)
    done = hostile_get(hostile, tmp_path)
    assert done.returncode in (12, 13, 14, 19) and "127.0.0.1" in done.stderr, (done.returncode, done.stderr)
    assert len(hostile.seen) <= 2
