"""Canaries in every place where a secret can be, the flow and its failures run over them, and then a search of everything
that comes out: logs, status, metrics, error bodies, /proc, the state folder. Source: specs/peers.md 5, row 46."""
import http.client
import json
import os
import pathlib
import ssl
import stat
import urllib.parse

import grpc
import pytest

from conftest import Mesh, meshroot, openssl_intermediate, openssl_root, wait_for

CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


def pem_lines(path):
    """The lines of a key that are its own; a short last line says nothing."""
    return [line for line in pathlib.Path(path).read_text().splitlines() if len(line) > 24 and not line.startswith("-----")]


class Vault:
    """Raw requests to the vault's listener; what it answers is kept."""

    def __init__(self, mesh):
        at = urllib.parse.urlsplit(mesh.ports["vault"])
        self.host, self.port = at.hostname, at.port
        self.tls = ssl.create_default_context(cafile=mesh.state / "vault-ca.pem")
        self.seen = []

    def ask(self, method, path, body=None, **headers):
        c = http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=30)
        try:
            c.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            r = c.getresponse()
            text = r.read().decode(errors="replace")
            self.seen.append(f"{method} {path.split('?')[0]} -> {r.status}\n{r.headers}\n{text}")
            return r.status, text
        finally:
            c.close()

    def token(self, cred):
        form = {"grant_type": "client_credentials", "client_id": cred["client_id"], "client_secret": cred["client_secret"],
                "scope": "https://vault.azure.net/.default"}
        status, text = self.ask("POST", f"/{cred['tenant']}/oauth2/v2.0/token", urllib.parse.urlencode(form),
                                content_type="application/x-www-form-urlencoded")
        self.seen.pop()  # the one answer whose job it is to hold a token
        assert status == 200, text
        return json.loads(text)["access_token"]


def monitoring(port, path):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    c.request("GET", path)
    text = c.getresponse().read().decode()
    c.close()
    return text


def grpc_with(mesh, token):
    """A call with a token that is refused; what the CA says."""
    roots = (mesh.state / "trust/root-cert.pem").read_bytes()
    with grpc.secure_channel(f"127.0.0.1:{mesh.ca_port()}", grpc.ssl_channel_credentials(roots),
                             (("grpc.ssl_target_name_override", "localhost"),)) as channel:
        with pytest.raises(grpc.RpcError) as e:
            channel.unary_unary(CREATE)(b"", metadata=[("authorization", f"Bearer {token}")], timeout=30)
    return str(e.value)


def misuse(mesh, vault, bearer, canary):
    """Every way to be refused that carries a secret."""
    v = "?api-version=7.4"
    cred = json.loads((mesh.state / "credentials/admin.json").read_text())
    form = f"grant_type=client_credentials&scope=x&client_id={cred['client_id']}&client_secret="
    vault.ask("POST", f"/{cred['tenant']}/oauth2/v2.0/token", form + canary("guess"))
    vault.ask("POST", f"/{cred['tenant']}/oauth2/v2.0/token", form + canary("escape") + "%zz")
    vault.ask("POST", f"/{cred['tenant']}/oauth2/v2.0/token", form.replace("client_credentials", "password") + canary("grant"))
    vault.ask("GET", f"/secrets/x{v}", authorization="Bearer " + canary("bearer"))
    vault.ask("GET", f"/secrets/x{v}", authorization="Bearer " + bearer[:-8] + "AAAAAAAA")
    vault.ask("GET", f"/secrets/x{v}", authorization="Basic " + canary("basic"))
    for body in ('{"value":"%s"' % canary("json"), '{"value":"%s","value":"y"}' % canary("twice"), '["%s"]' % canary("list"),
                 '{"value":["%s"]}' % canary("kind"), '{"value":"%s","attributes":{"exp":"x"}}' % canary("exp")):
        vault.ask("PUT", f"/secrets/broken{v}", body, authorization="Bearer " + bearer, content_type="application/json")
    vault.ask("PUT", "/secrets/broken?api-version=!", '{"value":"%s"}' % canary("version"), authorization="Bearer " + bearer)
    vault.ask("PUT", f"/secrets/big{v}", '{"value":"%s"}' % (canary("big") + "x" * 30000), authorization="Bearer " + bearer)
    vault.ask("PUT", f"/secrets/huge{v}", canary("huge") + "x" * 200000, authorization="Bearer " + bearer)
    return [grpc_with(mesh, canary("grpc")), grpc_with(mesh, "a." + canary("payload") + ".c")]


def test_canaries(tmp_path, daemon):
    root = openssl_root(tmp_path / "root", "Root A", "p256")
    first = openssl_intermediate(tmp_path / "a1", root, "Intermediate A1", "rsa4096")
    second = openssl_intermediate(tmp_path / "a2", root, "Intermediate A2", "p256")
    mesh = Mesh(tmp_path, daemon, "--log-level", "debug")
    canaries = {}

    def canary(name):
        return canaries.setdefault(name, f"canary{name}0123456789abcdefcanary")

    vault = Vault(mesh)
    mesh.set_all(first)
    mesh.enable()
    agent = mesh.agent("web")
    wait_for("a leaf", lambda: (tmp_path / "web/cert-chain.pem").exists())
    bearer = vault.token(json.loads((mesh.state / "credentials/admin.json").read_text()))
    (tmp_path / "value").write_text(canary("value"))
    mesh.set_secret("canary", tmp_path / "value")
    assert canary("value") in vault.ask("GET", "/secrets/canary?api-version=7.4", authorization="Bearer " + bearer)[1]
    vault.seen.pop()
    said = misuse(mesh, vault, bearer, canary)

    # a value that is no key, and a rotation: both handle keys and report
    (tmp_path / "no-key").write_text("-----BEGIN PRIVATE KEY-----\n" + canary("pem") + "\n-----END PRIVATE KEY-----\n")
    mesh.set_secret("ca-key", tmp_path / "no-key")
    wait_for("a bad key is told of", lambda: "secret ca-key version" in mesh.up.text())
    mesh.set_all(second)
    wait_for("A2 signs", lambda: "A2" in mesh.status()["ca"]["intermediate"]["subject"])

    for name, key in (("key1", first / "ca-key.pem"), ("key2", second / "ca-key.pem"), ("leaf", tmp_path / "web/key.pem"),
                      ("issuer", tmp_path / "issuer/issuer-key.pem")):
        canaries.update({f"{name}.{i}": line for i, line in enumerate(pem_lines(key))})
    for who in ("admin", "sync"):
        canaries[who] = json.loads((mesh.state / f"credentials/{who}.json").read_text())["client_secret"]
    canaries["master"] = (mesh.state / "master.key").read_text().strip()
    canaries["token"] = (tmp_path / "web.token").read_text().strip().split(".")[2]
    canaries["access token"] = bearer.split(".")[2]

    places = {"up's log": mesh.up.text(), "the agent's log": agent.text(), "status": json.dumps(mesh.status()),
              "status as text": mesh.run("mesh", "status").stdout, "metrics": monitoring(mesh.ports["monitoring"], "/metrics"),
              "what the vault answered": "\n".join(vault.seen), "what the CA answered": "\n".join(said)}
    agent_port = json.loads((tmp_path / "web.ports").read_text())["monitoring"]
    for path in ("/metrics", "/status"):
        places[f"agent {path}"] = monitoring(agent_port, path)
    for name, d in (("up", mesh.up), ("agent", agent)):
        for file in ("environ", "cmdline"):
            places[f"{name} /proc {file}"] = pathlib.Path(f"/proc/{d.process.pid}/{file}").read_bytes().decode(errors="replace")
    for command in ("up", "agent run", "vault secret set", "vault secret get"):
        places[f"{command} --help"] = meshroot(*command.split(), "--help").stdout
    leaks = [(where, what) for where, text in places.items() for what, value in canaries.items() if value in text]
    assert not leaks
    wait_for("at rest", lambda: mesh.status()["rotation"]["settled"])  # no file is half way to its name
    state_folder_is_closed(mesh.state, canaries)


# what of the state folder others may read, and which file may hold which secret in clear text
PUBLIC = {"vault-ca.pem", "vault.url", "root-cert.pem", "cert-chain.pem", "ca-cert.pem", "generation", "manifest.json"}
MAY_HOLD = {"master.key": ("master",), "admin.json": ("admin",), "sync.json": ("sync",), "ca-key.pem": ("key1", "key2")}


def state_folder_is_closed(state, canaries):
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for folder, _, files in os.walk(state):
        for name in files:
            path = pathlib.Path(folder, name)
            if not path.is_file():
                continue
            try:
                mode, data = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
            except FileNotFoundError:
                continue  # the daemon goes on
            if name not in PUBLIC:
                assert mode & 0o077 == 0, path
            for what, value in canaries.items():
                allowed = what.split(".")[0] in MAY_HOLD.get(name, ())
                assert allowed or value.encode() not in data, f"{what} is in {path}"


def test_modes_do_not_depend_on_the_umask(tmp_path, daemon):
    before = os.umask(0)
    try:
        mesh = Mesh(tmp_path, daemon)
        mesh.set_all(openssl_intermediate(tmp_path / "a1", openssl_root(tmp_path / "root", "Root A", "p256"), "A1", "p256"))
        mesh.enable()
    finally:
        os.umask(before)
    wait_for("at rest", lambda: mesh.status()["rotation"]["settled"])  # no file is half way to its name
    state_folder_is_closed(mesh.state, {})


def test_a_state_folder_that_others_can_write_is_refused(tmp_path):
    """Whoever can write there can swap the set that the CA signs with."""
    for command in (("up", "--ca-listen", "127.0.0.1:0", "--vault-listen", "127.0.0.1:0", "--monitoring", "127.0.0.1:0"),
                    ("vault", "serve", "--listen", "127.0.0.1:0"), ("ca", "serve", "--listen", "127.0.0.1:0")):
        state = tmp_path / "-".join(command[:2]).replace("/", "")
        state.mkdir()
        state.chmod(0o777)
        flag = ("--ca-dir", tmp_path / "none") if command[0] == "ca" else ()
        done = meshroot(*command, "--state-dir", state, *flag, check=False)
        assert done.returncode == 14 and "chmod go-w" in done.stderr, done
        assert not list(state.iterdir())
