"""mesh enable against a vault that never comes to rest: what was given up does not come back."""
import itertools
import json
import subprocess
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

from conftest import Mesh, SECRETS, openssl, openssl_intermediate, openssl_root, wait_for
from hostile_vault import HostileVault

TENANT = "11111111-2222-4333-8444-555555555555"


def test_an_enable_that_was_given_up_is_over(tmp_path, daemon, monkeypatch):
    """Its secrets have another version at every look, so no two looks agree and none is judged: the command ends after 20 s, and so
    does its sync. Otherwise the next enable, of another vault, would meet the old vault's bundle."""
    first = tmp_path / "first"
    first.mkdir()
    restless = HostileVault(first)
    versions = itertools.count(1)
    for name, value in {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "app", "AZURE_CLIENT_SECRET": "secret",
                        "MESHROOT_VAULT_CA_FILE": restless.ca_file}.items():
        monkeypatch.setenv(name, str(value))
    evil = openssl_intermediate(tmp_path / "e1", openssl_root(tmp_path / "re", "Root Evil", "p256"), "Intermediate Evil", "p256")
    is_steady = threading.Event()
    values = {name: (evil / f"{name}.pem").read_text() for name in SECRETS}

    def answer(x):
        if "oauth2" in x.path:
            return x.reply(200, json.dumps({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}).encode())
        if not x.headers.get("authorization"):
            return x.reply(401, b"{}", www_authenticate=f'Bearer authorization="{restless.url}/{TENANT}", resource="{restless.url}"')
        name = urllib.parse.urlsplit(x.path).path.split("/")[2]
        version = 0 if is_steady.is_set() else next(versions)
        body = {"value": values[name], "id": f"{restless.url}/secrets/{name}/{version:032x}", "attributes": {"enabled": True}}
        return x.reply(200, json.dumps(body).encode())

    restless.answer = answer
    try:
        mesh = Mesh(tmp_path, daemon)
        done = mesh.run("mesh", "enable", "--key-vault-id", restless.url, "--rotation-poll-interval", "1s", check=False)
        assert done.returncode != 0 and "20 s" in done.stderr, done
        assert mesh.status()["mode"] == "disabled" and not mesh.status()["sync"]
        is_steady.set()
        for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):  # they were for the daemon
            monkeypatch.delenv(name)
        mesh.set_all(openssl_intermediate(tmp_path / "a1", openssl_root(tmp_path / "ra", "Root A", "p256"), "Intermediate A1",
                                          "p256"))
        mesh.enable()
        s = wait_for("ready", lambda: (s := mesh.status())["ready"] and s["ca"] and s)
        assert "Intermediate A1" in s["ca"]["intermediate"]["subject"]
        before, asked = s["sync"]["last_success"], len(restless.seen)
        wait_for("another poll", lambda: mesh.status()["sync"]["last_success"] != before)
        assert "Evil" not in str(mesh.status()) and len(restless.seen) == asked
    finally:
        restless.close()


def test_a_disable_while_an_enable_waits_ends_both(mesh, tmp_path):
    """The intermediate lives too short to sign, so the enable waits for the CA; what disables the mesh meanwhile answers it.
    Otherwise it waited for ever, and so did every later one."""
    root = openssl_root(tmp_path / "r", "Root A", "p256")
    short = openssl_intermediate(tmp_path / "short", root, "Intermediate short", "p256")
    openssl("x509", "-req", "-in", short / "ca.csr", "-CA", root / "root-cert.pem", "-CAkey", root / "root-key.pem", "-CAcreateserial",
            "-days", "1", "-sha256", "-extfile", short / "int.conf", "-extensions", "ext", "-out", short / "ca-cert.pem")
    (short / "cert-chain.pem").write_text((short / "ca-cert.pem").read_text() + (root / "root-cert.pem").read_text())
    wait_for("it ends before a leaf of now would", lambda: subprocess.run(  # in the second it was made it is just long enough
        ["openssl", "x509", "-noout", "-checkend", "86399", "-in", short / "ca-cert.pem"], stdout=subprocess.DEVNULL).returncode == 1)
    mesh.set_all(short)
    with ThreadPoolExecutor(1) as pool:
        enable = pool.submit(mesh.enable, check=False)
        wait_for("the settings are stored", lambda: mesh.status()["mode"] == "plugged-in")
        mesh.run("mesh", "disable")
        done = enable.result()
    assert done.returncode != 0 and ("disabled" in done.stderr or "20 s" in done.stderr), done  # 20 s: on a slow machine
    assert mesh.status()["mode"] == "disabled" and not mesh.status()["sync"]
    mesh.set_all(openssl_intermediate(tmp_path / "a1", root, "Intermediate A1", "p256"))
    mesh.enable()
    wait_for("ready", lambda: mesh.status()["ready"])
