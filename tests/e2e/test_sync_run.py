"""meshroot sync run: a vault's four secrets to a folder, for a CA in another process."""
import json
import re
import signal
import socket
import subprocess
import urllib.request

import pytest

from conftest import BINARY, Mesh, meshroot, openssl_intermediate, openssl_root, wait_for


@pytest.fixture
def place(tmp_path, daemon):
    """A vault with A1 in it, sets A2 and B1 to change to, and the flags that lead there."""
    ra, rb = openssl_root(tmp_path / "ra", "Root A", "p256"), openssl_root(tmp_path / "rb", "Root B", "p256")
    sets = {n: openssl_intermediate(tmp_path / n, r, f"Intermediate {n}", "p256") for n, r in (("A1", ra), ("A2", ra), ("B1", rb))}
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(sets["A1"])
    flags = ["--state-dir", mesh.state, "--vault-name", "meshroot", "--credential-file", mesh.state / "credentials/sync.json",
             "--target-dir", tmp_path / "cacerts"]
    return mesh, sets, flags, tmp_path / "cacerts"


def verdict(folder):
    return meshroot("pki", "verify", folder, check=False)


def test_once_writes_the_set_and_again_changes_nothing(place):
    _, sets, flags, folder = place
    meshroot("sync", "run", "--once", *flags)
    assert verdict(folder).returncode == 0
    assert (folder / "ca-cert.pem").read_text().strip() in (sets["A1"] / "ca-cert.pem").read_text()
    assert (folder / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / "manifest.json").read_text())["generation"] == 1
    before = (folder / "..data").readlink()
    meshroot("sync", "run", "--once", *flags)
    assert (folder / "..data").readlink() == before


@pytest.mark.parametrize("signo", (signal.SIGTERM, signal.SIGINT))
def test_once_that_is_stopped_before_it_has_written_is_not_done(place, signo):
    """As an init container whose pod is deleted while the vault says nothing."""
    _, _, flags, folder = place
    with socket.create_server(("127.0.0.1", 0)) as s:
        p = subprocess.Popen([str(x) for x in (BINARY, "sync", "run", "--once", *flags, "--vault-url", f"https://127.0.0.1:{s.getsockname()[1]}")],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            s.settimeout(120)
            with s.accept()[0]:
                p.send_signal(signo)
                _, said = p.communicate(timeout=120)
        finally:
            p.kill()
    assert p.returncode == 17 and "stopped by a signal: nothing was written" in said and not folder.exists()


def test_follows_the_vault_and_keeps_the_last_good_set(place, daemon):
    mesh, sets, flags, folder = place
    d = daemon("sync", "run", "--rotation-poll-interval", "1s", *flags)
    wait_for("the first set", lambda: folder.exists() and verdict(folder).returncode == 0)
    mesh.set_secret("ca-key", sets["A2"] / "ca-key.pem")
    wait_for("the half set is refused", lambda: "secret ca-key" in d.text())
    assert verdict(folder).returncode == 0
    mesh.set_secret("ca-cert", sets["A2"] / "ca-cert.pem")
    mesh.set_secret("cert-chain", sets["A2"] / "cert-chain.pem")
    wait_for("the new set", lambda: json.loads((folder / "manifest.json").read_text())["generation"] == 2)
    wait_for("it says which", lambda: "Intermediate A2" in d.text())
    assert verdict(folder).returncode == 0
    before = d.text().count("last good bundle stays")  # of the half sets
    mesh.up.kill()
    wait_for("the vault is missed", lambda: d.text().count("last good bundle stays") > before)
    assert verdict(folder).returncode == 0
    assert d.stop() == 0


def test_what_could_not_be_written_is_written_when_it_can_be(place, daemon):
    """The vault's set comes once; a disk that is full just then does not keep the CA on the old key."""
    mesh, sets, flags, folder = place
    d = daemon("sync", "run", "--rotation-poll-interval", "1s", *flags)
    wait_for("the first set", lambda: folder.exists() and verdict(folder).returncode == 0)
    (folder / "..data").unlink()  # and no rename replaces a folder with something in it
    (folder / "..data/in-the-way").mkdir(parents=True)
    mesh.set_all(sets["A2"])
    wait_for("it cannot be written", lambda: "not written" in d.text())
    (folder / "..data/in-the-way").rmdir()
    (folder / "..data").rmdir()
    wait_for("it is written", lambda: "generation 2 is in" in d.text())
    assert verdict(folder).returncode == 0 and "Intermediate A2" in d.text()


def test_a_vault_that_is_back_holds_nothing_any_more(place, daemon):
    mesh, _, flags, folder = place
    d = daemon("sync", "run", "--rotation-poll-interval", "1s", "--monitoring", "127.0.0.1:0", *flags)
    wait_for("the first set", lambda: folder.exists() and verdict(folder).returncode == 0)
    url = re.search(r"monitoring at (http://\S+)", d.text())[1]

    def status():
        return json.loads(urllib.request.urlopen(f"{url}/status", timeout=60).read())

    mesh.up.kill()
    wait_for("the vault is missed", lambda: status()["sync"].get("last_error"))
    mesh.start()
    wait_for("it is back", lambda: not status()["sync"].get("last_error"))
    assert status()["held"] is None


def test_a_root_is_not_taken_away_unless_told_to(place):
    mesh, sets, flags, folder = place
    meshroot("sync", "run", "--once", *flags)
    mesh.set_all(sets["B1"])
    held = meshroot("sync", "run", "--once", *flags, check=False)
    assert held.returncode == 17 and "--allow-root-removal" in held.stderr
    assert json.loads((folder / "manifest.json").read_text())["generation"] == 1
    meshroot("sync", "run", "--once", "--allow-root-removal", *flags)
    assert json.loads((folder / "manifest.json").read_text())["generation"] == 2


def test_what_is_no_bundle_is_named(place):
    mesh, sets, flags, folder = place
    mesh.set_secret("cert-chain", sets["B1"] / "cert-chain.pem")
    refused = meshroot("sync", "run", "--once", *flags, check=False)
    assert refused.returncode not in (0, 2) and "cert-chain" in refused.stderr
    assert not folder.exists()
