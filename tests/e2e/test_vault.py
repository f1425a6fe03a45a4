"""The vault before its real clients: azure-keyvault-secrets with azure-identity, unmodified, and our own commands."""
import datetime
import http.client
import json
import os
import random
import ssl
import threading
import urllib.parse

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.keyvault.secrets import SecretClient

from conftest import SECRETS, lasting_port, meshroot, openssl_intermediate, openssl_root
from connect_proxy import ConnectProxy


# the SDK caches a vault's challenge for the whole process, so all tests here are one tenant
TENANT = "11111111-2222-4333-8444-555555555555"


class Vault:
    """meshroot vault serve, and a client of the real SDK that reaches it through a CONNECT proxy."""

    def __init__(self, tmp, daemon, monkeypatch):
        self.tmp, self.daemon, self.state = tmp, daemon, tmp / "state"
        self.port = lasting_port()  # the test kills it, and starts it again
        self.start()
        self.proxy = ConnectProxy(("127.0.0.1", self.port), ["vault.azure.net", "login.microsoftonline.com"])
        monkeypatch.setenv("HTTPS_PROXY", self.proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(self.state / "vault-ca.pem"))

    def start(self):
        ports = self.tmp / "vault.ports"
        self.process = self.daemon("vault", "serve", "--state-dir", self.state, "--listen", f"127.0.0.1:{self.port}",
                                   "--vault-name", "v", "--vault-name", "second", "--tenant", TENANT, "--port-file", ports,
                                   port_file=ports)
        self.url = self.process.ports()["vault"]

    def credential(self, who="admin", **other):
        c = {**json.loads((self.state / f"credentials/{who}.json").read_text()), **other}
        return ClientSecretCredential(c["tenant"], c["client_id"], c["client_secret"])

    def client(self, who="admin", name="v", **kw):
        return SecretClient(f"https://{name}.vault.azure.net", self.credential(who, **kw))

    def run(self, *args, check=True, **kw):
        return meshroot("vault", "secret", *args, "--state-dir", self.state, check=check, **kw)


@pytest.fixture
def vault(tmp_path, daemon, monkeypatch):
    v = Vault(tmp_path, daemon, monkeypatch)
    yield v
    v.proxy.close()


def test_the_real_sdk_sets_and_reads_the_four_secrets(vault, tmp_path):
    root = openssl_root(tmp_path / "root", "Root A", "p256")
    folder = openssl_intermediate(tmp_path / "int", root, "A1", "p256")
    with vault.client() as client:
        for name in SECRETS:
            text = (folder / f"{name}.pem").read_text()
            was_set = client.set_secret(name, text)
            got = client.get_secret(name)
            assert got.value == text and got.properties.version == was_set.properties.version
            assert len(got.properties.version) == 32 and got.properties.enabled
            assert got.id == f"https://v.vault.azure.net/secrets/{name}/{got.properties.version}"
        assert sorted(p.name for p in client.list_properties_of_secrets()) == sorted(SECRETS)
    # and what is on the disk does not show them
    for file in vault.state.iterdir():
        if file.is_file():
            assert b"PRIVATE KEY" not in file.read_bytes(), file
    assert "PRIVATE KEY" not in vault.process.text()


def test_versions_updates_and_attributes(vault):
    with vault.client() as client:
        first = client.set_secret("Ca-Cert", "one", content_type="text/plain", tags={"a": "b"})
        second = client.set_secret("ca-cert", "two", enabled=True,
                                   expires_on=datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc))
        assert client.get_secret("CA-CERT").value == "two"
        assert client.get_secret("ca-cert", first.properties.version).value == "one"
        assert {p.version for p in client.list_properties_of_secret_versions("ca-cert")} == {
            first.properties.version, second.properties.version}
        changed = client.update_secret_properties("ca-cert", first.properties.version, enabled=False, tags={"c": "d"})
        assert not changed.enabled and changed.tags == {"c": "d"} and changed.content_type == "text/plain"
        with pytest.raises(HttpResponseError) as e:
            client.get_secret("ca-cert", first.properties.version)
        assert e.value.status_code == 403 and "disabled" in str(e.value)
        assert client.get_secret("ca-cert").properties.expires_on.year == 2030
        future = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
        client.set_secret("later", "x", not_before=future)
        with pytest.raises(HttpResponseError) as e:
            client.get_secret("later")
        assert e.value.status_code == 403


def test_lists_of_more_than_a_page(vault):
    with vault.client() as client:
        names = sorted(f"secret-{i:03}" for i in range(57))
        for name in names:
            client.set_secret(name, name)
        assert [p.name for p in client.list_properties_of_secrets()] == names
        assert [p.name for p in client.list_properties_of_secrets(max_page_size=7)] == names
        versions = {client.set_secret("many", str(i)).properties.version for i in range(30)}
        assert {p.version for p in client.list_properties_of_secret_versions("many")} == versions
    listed = json.loads(vault.run("list", "--vault-name", "v", "--output", "json").stdout)
    assert [s["name"] for s in listed] == sorted(names + ["many"])


def test_refusals_are_those_of_the_service(vault):
    with vault.client() as client:
        with pytest.raises(ResourceNotFoundError, match="SecretNotFound"):
            client.get_secret("nothing")
        with pytest.raises(HttpResponseError) as e:
            client.set_secret("big", "x" * 26 * 1024)
        assert e.value.status_code == 400 and "25600" in str(e.value)
        client.set_secret("just-fits", "\n" * 25600)
        assert client.get_secret("just-fits").value == "\n" * 25600
        with pytest.raises(HttpResponseError) as e:
            client.set_secret("under_score", "x")
        assert e.value.status_code == 400
        with pytest.raises(HttpResponseError, match="NotSupported"):
            client.begin_delete_secret("just-fits")
    with vault.client("sync") as reader:
        assert reader.get_secret("just-fits").value
        with pytest.raises(HttpResponseError, match="setSecret/action") as e:
            reader.set_secret("x", "y")
        assert e.value.status_code == 403 and "ForbiddenByRbac" in str(e.value)
    with vault.client(client_secret="wrong") as stranger, pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        stranger.get_secret("just-fits")
    with vault.client(name="nobody") as client, pytest.raises(HttpResponseError):
        client.get_secret("just-fits")


def test_two_vaults_on_one_listener_do_not_mix(vault):
    with vault.client() as first, vault.client(name="second") as second:
        first.set_secret("who", "first")
        second.set_secret("who", "second")
        assert (first.get_secret("who").value, second.get_secret("who").value) == ("first", "second")
    assert vault.run("get", "--vault-name", "second", "--name", "who", "--output", "value").stdout == "second"


def test_commands_and_sdk_see_the_same(vault, tmp_path):
    out = tmp_path / "out.pem"
    (tmp_path / "in.pem").write_text("from the command\r\n")
    vault.run("set", "--vault-name", "v", "--name", "s", "--file", tmp_path / "in.pem", "--expires", "90d")
    with vault.client() as client:
        assert client.get_secret("s").value == "from the command\r\n"
        client.set_secret("s", "from the sdk")
    vault.run("get", "--vault-name", "v", "--name", "s", "--out", out)
    assert out.read_text() == "from the sdk" and out.stat().st_mode & 0o777 == 0o600
    assert "from the sdk" not in vault.run("get", "--vault-name", "v", "--name", "s").stdout
    assert len(json.loads(vault.run("list-versions", "--vault-name", "v", "--name", "s", "--output", "json").stdout)) == 2
    vault.run("update", "--vault-name", "v", "--name", "s", "--enabled", "false")
    done = vault.run("get", "--vault-name", "v", "--name", "s", check=False)
    assert done.returncode == 14 and "SecretDisabled" in done.stderr
    assert vault.run("get", "--vault-name", "v", "--name", "none", check=False).returncode == 3
    # our client through the public name and a proxy, as to the real service
    admin = json.loads((vault.state / "credentials/admin.json").read_text())
    env = {"AZURE_TENANT_ID": admin["tenant"], "AZURE_CLIENT_ID": admin["client_id"],
           "AZURE_CLIENT_SECRET": admin["client_secret"]}
    done = meshroot("vault", "secret", "list", "--vault-url", "https://v.vault.azure.net", "--state-dir", tmp_path / "none",
                    "--ca-file", vault.state / "vault-ca.pem", env=env)
    assert "\ns " in done.stdout and "v.vault.azure.net" in vault.proxy.seen


def _raw(vault):
    """One keep-alive connection with a token: faster than the SDK, for the crash test."""
    admin = json.loads((vault.state / "credentials/admin.json").read_text())
    tls = ssl.create_default_context(cafile=str(vault.state / "vault-ca.pem"))
    c = http.client.HTTPSConnection("127.0.0.1", vault.port, context=tls, timeout=30)
    form = urllib.parse.urlencode({"grant_type": "client_credentials", "client_id": admin["client_id"],
                                   "client_secret": admin["client_secret"],
                                   "scope": f"https://127.0.0.1:{vault.port}/.default"})
    c.request("POST", f"/{admin['tenant']}/oauth2/v2.0/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
    token = json.loads(c.getresponse().read())["access_token"]
    return c, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def test_kill_in_the_middle_of_sets_loses_nothing_that_was_answered(vault):
    chance = random.Random(7)
    answered = {}  # (name, version) -> value

    def writer(n, stop):
        try:
            c, headers = _raw(vault)
            for i in range(10000):
                if stop.is_set():
                    return
                name, value = f"s{n}", f"{n}-{i}-" + "x" * chance.randrange(20000)
                c.request("PUT", f"/secrets/{name}?api-version=7.4", json.dumps({"value": value}), headers)
                answer = c.getresponse()
                body = answer.read()
                if answer.status == 429:
                    continue
                assert answer.status == 200, body
                answered[(name, json.loads(body)["id"].rsplit("/", 1)[1])] = value
        except (OSError, http.client.HTTPException):
            return  # the kill

    for _ in range(3):
        before, stop = len(answered), threading.Event()
        threads = [threading.Thread(target=writer, args=(n, stop)) for n in range(4)]
        for t in threads:
            t.start()
        deadline = threading.Event()
        while len(answered) < before + 25 and any(t.is_alive() for t in threads):
            deadline.wait(0.01)
        vault.process.kill()
        stop.set()
        for t in threads:
            t.join(120)
            assert not t.is_alive()
        vault.start()
        c, headers = _raw(vault)
        for (name, version), value in answered.items():
            c.request("GET", f"/secrets/{name}/{version}?api-version=7.4", headers=headers)
            answer = json.loads(c.getresponse().read())
            assert answer["value"] == value
        for n in range(4):  # nothing half: every version that is listed can be read
            url = f"/secrets/s{n}/versions?api-version=7.4"
            while url:
                c.request("GET", url, headers=headers)
                page = json.loads(c.getresponse().read())
                for item in page.get("value", []):
                    c.request("GET", urllib.parse.urlsplit(item["id"]).path + "?api-version=7.4", headers=headers)
                    answer = c.getresponse()
                    assert answer.status == 200 and json.loads(answer.read())["value"].startswith(f"{n}-")
                url = page.get("nextLink") and page["nextLink"].split(f":{vault.port}", 1)[1]
        c.close()
    assert len(answered) >= 75


def test_the_state_folder_says_what_is_wrong_with_it(vault, tmp_path):
    key = vault.state / "master.key"
    second = meshroot("vault", "serve", "--state-dir", vault.state, "--listen", "127.0.0.1:0", check=False)
    assert second.returncode == 17 and str(vault.process.process.pid) in second.stderr
    vault.process.stop()
    good = key.read_text()

    def start():
        return meshroot("vault", "serve", "--state-dir", vault.state, "--listen", "127.0.0.1:0", check=False)

    key.unlink()
    assert start().returncode == 17 and "missing" in start().stderr and not key.exists()
    key.write_text("0" * 64)
    os.chmod(key, 0o600)
    assert "not the master key" in start().stderr
    key.write_text(good)
    os.chmod(key, 0o640)
    assert "chmod 600" in start().stderr
    os.chmod(key, 0o600)
    vault.start()
    with vault.client() as client:
        client.set_secret("still", "works")


def test_a_vault_under_a_name_of_its_own_is_its_own_token_endpoint(tmp_path, daemon):
    """As in a cluster: https://meshroot-vault.NAMESPACE.svc, and nobody is sent to Microsoft with the secret. What the caller needs is
    printed as a Kubernetes Secret."""
    state, ports = tmp_path / "state", tmp_path / "ports"
    d = daemon("vault", "serve", "--state-dir", state, "--listen", "127.0.0.1:0", "--vault-name", "meshroot-vault", "--dns-suffix",
               "meshroot-system.svc", "--port-file", ports, port_file=ports)
    port = int(d.ports()["vault"].rsplit(":", 1)[1])
    secret = json.loads(meshroot("vault", "credentials", "sync", "--state-dir", state, "--output", "secret").stdout)
    assert (secret["kind"], secret["metadata"], secret["type"]) == ("Secret", {"name": "meshroot-vault-credentials"}, "Opaque")
    given = secret["stringData"]
    assert sorted(given) == ["client_id", "client_secret", "tenant", "vault-ca.pem"]
    assert given["vault-ca.pem"] == (state / "vault-ca.pem").read_text()
    callers = {}
    for who in ("sync", "admin"):
        callers[who] = tmp_path / f"{who}.json"
        callers[who].write_text(meshroot("vault", "credentials", who, "--state-dir", state).stdout)
    (tmp_path / "roots.pem").write_text(given["vault-ca.pem"])
    (tmp_path / "value").write_text("other")
    proxy = ConnectProxy(("127.0.0.1", port), ["meshroot-system.svc"])

    def secret_tool(verb, who, *more, check=True, **kw):
        return meshroot("vault", "secret", verb, "--vault-url", f"https://meshroot-vault.meshroot-system.svc:{port}", "--name", "x",
                        "--credential-file", callers[who], "--ca-file", tmp_path / "roots.pem", *more, check=check,
                        env={"HTTPS_PROXY": proxy.url}, **kw)

    try:
        secret_tool("set", "admin", "--file", "/dev/stdin", input="hello")  # as through kubectl exec -i
        assert secret_tool("get", "sync", "--output", "value").stdout == "hello"
        assert secret_tool("set", "sync", "--file", tmp_path / "value", check=False).returncode == 14  # reads, and no more
        assert set(proxy.seen) == {"meshroot-vault.meshroot-system.svc"}
    finally:
        proxy.close()
    bad = meshroot("vault", "credentials", "root", "--state-dir", state, check=False)
    assert bad.returncode == 2 and "sync, or admin" in bad.stderr
    none = meshroot("vault", "credentials", "sync", "--state-dir", tmp_path / "none", check=False)
    assert none.returncode == 3 and "no such file" in none.stderr
