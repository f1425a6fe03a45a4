"""A vault that fails in every way it can while the mesh is up: the last good bundle stays in force, status says why, and
when the vault is well again so is sync."""
import json
import time

import pytest

from conftest import SECRETS, Mesh, openssl_intermediate, openssl_root, wait_for
from hostile_vault import HostileVault


class VaultWithSecrets(HostileVault):
    """Answers as a vault does, from `values`, until told otherwise."""

    def __init__(self, tmp):
        super().__init__(tmp)
        self.values = {}  # name: [(version, value)]
        self.answer = self.good

    def put(self, name, value):
        versions = self.values.setdefault(name, [])
        versions.append((f"{len(versions) + 1:032x}", value))

    def put_all(self, folder):
        for name in SECRETS:
            self.put(name, (folder / f"{name}.pem").read_text())

    def good(self, x):
        parts = [p for p in x.path.split("?")[0].split("/") if p][1:]
        versions = self.values.get(parts[0], [])
        found = [v for v in versions if len(parts) == 1 or v[0] == parts[1]][-1:]
        if not found:
            return x.reply(404, b'{"error":{"code":"SecretNotFound","message":"not found"}}')
        version, value = found[0]
        body = {"value": value, "id": f"{self.url}/secrets/{parts[0]}/{version}",
                "attributes": {"enabled": True, "created": 1700000000, "updated": 1700000000}}
        return x.reply(200, json.dumps(body).encode())

    def but(self, name, answer):
        """As it should be, except for the secret `name`."""
        return lambda x: answer(x) if f"/secrets/{name}" in x.path else self.good(x)


@pytest.fixture
def vault(tmp_path):
    v = VaultWithSecrets(tmp_path)
    yield v
    v.close()


@pytest.fixture
def mesh(tmp_path, daemon, vault, monkeypatch):
    for name, value in {"AZURE_TENANT_ID": "11111111-2222-4333-8444-555555555555", "AZURE_CLIENT_ID": "app",
                        "AZURE_CLIENT_SECRET": "canary-of-the-client-secret", "MESHROOT_VAULT_CA_FILE": vault.ca_file}.items():
        monkeypatch.setenv(name, str(value))
    root = openssl_root(tmp_path / "ra", "Root A", "p256")
    vault.put_all(openssl_intermediate(tmp_path / "a1", root, "Intermediate A1", "p256"))
    m = Mesh(tmp_path, daemon)
    m.run("mesh", "enable", "--key-vault-id", vault.url, "--rotation-poll-interval", "1s")
    m.root = root
    wait_for("on A1", lambda: signer(m, "Intermediate A1"))
    yield m
    log = m.up.text()
    assert "canary" not in log
    for _, key in vault.values["ca-key"]:
        assert not [line for line in key.splitlines()[1:-1] if len(line) > 16 and line in log], "a key in the log"


def signer(mesh, name):
    s = mesh.status()
    return s["ready"] and name in s["ca"]["intermediate"]["subject"] and s


def hang(vault):
    return lambda x: vault.released.wait(20)


FAULTS = {
    "html": (lambda v: lambda x: x.reply(200, b"<html>sign in</html>", "text/html"), "text/html"),
    "401": (lambda v: lambda x: x.reply(401, b"{}"), "401"),
    "403": (lambda v: lambda x: x.reply(403, b'{"error":{"code":"Forbidden","message":"no get permission"}}'), "Forbidden"),
    "429": (lambda v: lambda x: x.reply(429, b"", retry_after=1), "429"),
    "500": (lambda v: lambda x: x.reply(500, b"<html>", "text/html"), "500"),
    "503": (lambda v: lambda x: x.reply(503, b""), "503"),
    "disabled": (lambda v: v.but("ca-key", lambda x: x.reply(403, json.dumps({"error": {
        "code": "Forbidden", "message": "Operation get is not allowed on a disabled secret.",
        "innererror": {"code": "SecretDisabled"}}}).encode())), "ca-key"),
    "missing": (lambda v: v.but("cert-chain", lambda x: x.reply(
        404, b'{"error":{"code":"SecretNotFound","message":"A secret with (name/id) cert-chain was not found"}}')), "cert-chain"),
    "one is html": (lambda v: v.but("ca-cert", lambda x: x.reply(200, b"<html>", "text/html")), "ca-cert"),
}


def in_force(status):
    """What the CA has loaded; who is connected, and which of its keys signs tokens, may change by itself."""
    return {k: status["ca"][k] for k in ("mode", "generation", "loaded", "versions", "roots", "intermediate", "chain")}


def says(mesh, words):
    """The status, once sync's error has the words."""
    return wait_for(f"status says {words}", lambda: words in ((s := mesh.status())["sync"]["last_error"] or "") and s)


def test_the_last_good_bundle_stays_in_force(mesh, vault, tmp_path):
    """One mesh lives through all of them, one after another."""
    for i, (name, (fault, words)) in enumerate(FAULTS.items()):
        before = mesh.status()
        vault.answer = fault(vault)
        s = says(mesh, words)
        error = s["sync"]["last_error"]
        assert "127.0.0.1" in error or name in ("disabled", "missing"), (name, error)
        assert s["ready"] and in_force(s) == in_force(before), f"{name}: what is in force did not change"
        if i == 0:  # a workload gets its leaf all the same
            mesh.agent("web")
            wait_for("its leaf", lambda: (tmp_path / "web/cert-chain.pem").exists())
        # and when the vault is well again, what came meanwhile is picked up
        new = f"Intermediate B{i}"
        vault.put_all(openssl_intermediate(tmp_path / f"b{i}", mesh.root, new, "p256"))
        vault.answer = vault.good
        s = wait_for(f"{name}: on {new}", lambda n=new: signer(mesh, n))
        assert not s["sync"]["last_error"]


def test_a_slow_vault(mesh, vault):
    before = mesh.status()
    vault.answer = hang(vault)
    wait_for("status says so", lambda: mesh.status()["sync"]["last_error"])
    assert in_force(mesh.status()) == in_force(before) and mesh.status()["ready"]


def test_a_vault_that_is_down(mesh, vault):
    before = mesh.status()
    vault.close()
    s = says(mesh, vault.url.split("//")[1])
    assert in_force(s) == in_force(before) and s["ready"]


def test_retry_after_is_honoured(mesh, vault):
    vault.answer = lambda x: x.reply(429, b'{"error":{"code":"Throttled","message":"slow down"}}', retry_after=60)
    wait_for("throttled", lambda: mesh.status()["sync"]["last_error"])
    asked = len(vault.seen)
    time.sleep(3)  # the measure: nothing may come for a minute
    assert len(vault.seen) - asked <= 3, "requests under way when the answer came, and no more"


def test_a_restart_while_the_vault_is_down_goes_on_with_what_it_had(mesh, vault):
    before = mesh.status()
    vault.answer = lambda x: x.reply(500, b"")
    mesh.up.kill()
    mesh.start()
    s = wait_for("ready", lambda: signer(mesh, "Intermediate A1"))
    assert s["ca"]["intermediate"] == before["ca"]["intermediate"] and s["ca"]["roots"] == before["ca"]["roots"]


BAD_VALUES = [
    ("root-cert", lambda t: t + "garbage"),
    ("root-cert", lambda t: t + t),
    ("root-cert", lambda t: ""),
    ("ca-cert", lambda t: t.replace("MII", "MIJ", 1)),
    ("ca-key", lambda t: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
    ("cert-chain", lambda t: "hello"),
    ("ca-key", lambda t: "x" * 26000),
]


def test_a_bad_value_is_refused_by_name(mesh, vault):
    before = mesh.status()
    for name, change in BAD_VALUES:
        good = vault.values[name][-1][1]
        vault.put(name, change(good))
        s = says(mesh, name)
        assert s["ca"]["intermediate"] == before["ca"]["intermediate"] and s["ca"]["roots"] == before["ca"]["roots"]
        assert s["ready"]
        vault.put(name, good)
        wait_for("well again", lambda: not mesh.status()["sync"]["last_error"])
