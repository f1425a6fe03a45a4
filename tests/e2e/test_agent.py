"""meshroot agent run against meshroot ca serve: files, proxies, renewal, outage, restart."""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request

import pytest

from conftest import lasting_port, openssl_intermediate, openssl_root, put_file, verify_files, wait_for
from test_ca import Ca, pb  # noqa: F401  (pb is a fixture)

TD = "spiffe://cluster.local/ns/shop/sa/"


class Echo(threading.Thread):
    """A plain TCP service that sends back what it gets."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    @staticmethod
    def serve(peer):
        with peer, contextlib.suppress(ConnectionError):
            while data := peer.recv(65536):
                peer.sendall(data)


class Agent:
    def __init__(self, tmp, daemon, ca, name, *flags, token=True):
        self.tmp, self.daemon, self.ca, self.name, self.flags, self.has_token = tmp, daemon, ca, name, flags, token
        self.dir = tmp / name
        self.start()

    def start(self):
        args = ["agent", "run", "--dir", self.dir, "--identity", TD + self.name, "--ca-addr",
                f"127.0.0.1:{self.ca.ports['ca']}", "--ca-root-cert", self.ca.state / "trust/root-cert.pem", "--monitoring",
                "127.0.0.1:0", "--port-file", self.tmp / f"{self.name}.ports"]
        if self.has_token:
            token = self.tmp / f"{self.name}.token"
            token.write_text(self.ca.issuer.token(sub=f"system:serviceaccount:shop:{self.name}") + "\n")
            args += ["--token-file", token]
        self.run = self.daemon(*args, *self.flags, port_file=self.tmp / f"{self.name}.ports")
        self.ports = self.run.ports()
        return self

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['monitoring']}{path}", timeout=30) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def status(self):
        return json.loads(self.get("/status")[1])

    def ready(self):
        wait_for(f"{self.name} ready", lambda: self.get("/readyz")[0] == 200)
        return self

    def serial(self):
        return self.status()["leaf"]["serial"]


def talk(port, text=b"hello\n"):
    """One question over a new connection; what came back, b"" when it was refused."""
    with socket.create_connection(("127.0.0.1", port), 60) as s:
        try:
            s.sendall(text)
            got = b""
            while len(got) < len(text) and (more := s.recv(4096)):
                got += more
            return got
        except OSError:
            return b""


@pytest.fixture
def hierarchy(tmp_path, request):
    kind = getattr(request, "param", "p256")
    root = openssl_root(tmp_path / "root", "Root A", kind)
    return root, openssl_intermediate(tmp_path / "cacerts", root, "Intermediate A1", kind)


@pytest.fixture
def ca(tmp_path, daemon, pb, hierarchy):
    return Ca(tmp_path, daemon, pb, "--listen", f"127.0.0.1:{lasting_port()}").ready()


@pytest.fixture
def echo():
    e = Echo()
    yield e
    e.listener.close()


def pair(tmp, daemon, ca, echo, allow=TD + "web", expect=TD + "db", *flags):
    db = Agent(tmp, daemon, ca, "db", "--inbound", f"127.0.0.1:{lasting_port()}=127.0.0.1:{echo.port}", "--allow", allow, *flags).ready()
    web = Agent(tmp, daemon, ca, "web", "--outbound", f"127.0.0.1:0=127.0.0.1:{db.ports['inbound']}={expect}", *flags).ready()
    return web, db


def test_files_appear_as_one_set(tmp_path, daemon, ca, hierarchy):
    web = Agent(tmp_path, daemon, ca, "web").ready()
    for name, mode in (("key.pem", 0o600), ("cert-chain.pem", 0o644), ("root-cert.pem", 0o644), ("meshroot.json", 0o644)):
        link = web.dir / name
        assert os.readlink(link) == f"..data/{name}"
        assert link.stat().st_mode & 0o777 == mode
    verify_files(web.dir, "-purpose", "sslclient")
    key = subprocess.run(["openssl", "pkey", "-in", web.dir / "key.pem", "-pubout"], capture_output=True, text=True, check=True)
    cert = subprocess.run(["openssl", "x509", "-in", web.dir / "cert-chain.pem", "-noout", "-pubkey", "-ext",
                           "subjectAltName"], capture_output=True, text=True, check=True)
    assert key.stdout in cert.stdout and f"URI:{TD}web" in cert.stdout
    meta = json.loads((web.dir / "meshroot.json").read_text())
    assert meta["generation"] == web.status()["generation"] == ca.status()["generation"]
    wait_for("acknowledged", lambda: web.status()["acknowledged_generation"] == meta["generation"])
    metrics = web.get("/metrics")[1]
    assert 'istio_agent_cert_expiry_seconds{resource_name="default"}' in metrics
    assert f"meshroot_agent_generation {meta['generation']}\n" in metrics


@pytest.mark.parametrize("kind,words", [("ed25519", "ED25519"), ("p384", "(384 bit)")])
def test_other_kinds_of_keys(tmp_path, daemon, ca, echo, kind, words):
    web, db = pair(tmp_path, daemon, ca, echo, TD + "web", TD + "db", "--key-type", kind)
    assert talk(web.ports["outbound"][0]) == b"hello\n"
    for agent in (web, db):
        text = subprocess.run(["openssl", "x509", "-in", agent.dir / "cert-chain.pem", "-noout", "-text"], capture_output=True, text=True,
                              check=True).stdout
        assert words in text and f"URI:{TD}{agent.name}" in text


@pytest.mark.parametrize("hierarchy,words", [("ed25519", "ED25519"), ("p384", "ecdsa-with-SHA384")], indirect=["hierarchy"])
def test_other_kinds_of_cas(tmp_path, daemon, ca, echo, hierarchy, words):
    web, _ = pair(tmp_path, daemon, ca, echo)
    assert talk(web.ports["outbound"][0]) == b"hello\n"
    verify_files(web.dir)
    text = subprocess.run(["openssl", "x509", "-in", web.dir / "cert-chain.pem", "-noout", "-text"], capture_output=True, text=True,
                          check=True).stdout
    assert f"Signature Algorithm: {words}" in text


def test_proxies_talk_and_refuse(tmp_path, daemon, ca, echo):
    web, db = pair(tmp_path, daemon, ca, echo)
    assert talk(web.ports["outbound"][0]) == b"hello\n"
    big = os.urandom(3_000_000)
    with socket.create_connection(("127.0.0.1", web.ports["outbound"][0]), 60) as s:
        sender = threading.Thread(target=lambda: (s.sendall(big), s.shutdown(socket.SHUT_WR)))
        sender.start()
        got = b""
        while more := s.recv(65536):
            got += more
        sender.join()
    assert got == big
    other = Agent(tmp_path, daemon, ca, "other", "--outbound",
                  f"127.0.0.1:0=127.0.0.1:{db.ports['inbound']}={TD}db").ready()
    assert talk(other.ports["outbound"][0]) == b""
    wait_for("said why", lambda: "other is not allowed" in db.run.text())
    wrong = Agent(tmp_path, daemon, ca, "wrong", "--outbound",
                  f"127.0.0.1:0=127.0.0.1:{db.ports['inbound']}={TD}billing").ready()
    assert talk(wrong.ports["outbound"][0]) == b""
    wait_for("said why", lambda: f"peer {TD}db is not allowed" in wrong.run.text())
    wait_for("counted", lambda: 'direction="inbound",result="refused",reason="denied"' in db.get("/metrics")[1])


def test_open_connection_survives_renewals(tmp_path, daemon, ca, echo):
    web, db = pair(tmp_path, daemon, ca, echo, TD + "web", TD + "db", "--ttl", "4s")

    def opened():
        """A leaf of 4 s may end while we look away: then the next connection."""
        s = socket.create_connection(("127.0.0.1", web.ports["outbound"][0]), 60)
        with contextlib.suppress(ConnectionError):
            s.sendall(b"one")
            if s.recv(100) == b"one":
                return s
        s.close()
        return None

    with wait_for("a connection", opened) as s:
        serials = (web.serial(), db.serial())
        for text in (b"two", b"three", b"four"):
            s.sendall(text)
            assert s.recv(100) == text
            wait_for("both renewed", lambda: web.serial() != serials[0] and db.serial() != serials[1])
            serials = (web.serial(), db.serial())
        s.sendall(b"last")
        assert s.recv(100) == b"last"
        wait_for("new ones too", lambda: talk(web.ports["outbound"][0]) == b"hello\n")


def test_ca_down_keeps_the_leaf_and_comes_back(tmp_path, daemon, ca, echo, pb, hierarchy):
    web, db = pair(tmp_path, daemon, ca, echo, TD + "web", TD + "db", "--ttl", "60s")
    serial = web.serial()
    ca.daemon.kill()
    wait_for("tried", lambda: web.status()["failures"] >= 2, 120)
    assert web.serial() == serial and web.get("/readyz")[0] == 200
    assert talk(web.ports["outbound"][0]) == b"hello\n"
    assert "failed to sign CSR" in web.status()["last_error"]
    port = ca.ports["ca"]
    again = Ca.__new__(Ca)
    again.__dict__.update(ca.__dict__)
    again.daemon = daemon("ca", "serve", "--ca-dir", ca.dir, "--state-dir", ca.state, "--listen", f"127.0.0.1:{port}",
                          "--monitoring", "off", "--issuer", f"https://issuer.test={tmp_path}/jwks.json", "--port-file",
                          tmp_path / "again.ports", port_file=tmp_path / "again.ports")
    again.daemon.ports()
    wait_for("renewed", lambda: web.serial() != serial, 120)
    wait_for("and well", lambda: web.status()["last_error"] is None)


def test_kill_and_restart_goes_on_with_the_same_leaf(tmp_path, daemon, ca, echo):
    web, db = pair(tmp_path, daemon, ca, echo)
    before = web.status()
    for _ in range(3):
        web.run.kill()
        web.start().ready()
        now = web.status()
        assert now["instance"] == before["instance"] and now["leaf"]["serial"] == before["leaf"]["serial"]
    assert talk(web.ports["outbound"][0]) == b"hello\n"
    wait_for("said again", lambda: web.status()["acknowledged_generation"] == before["generation"])
    # and without a token, the leaf itself is enough
    web.run.stop()
    web.has_token = False
    web.start().ready()
    wait_for("watching", lambda: web.status()["watching"])


def test_new_intermediate_is_followed_and_new_root_is_trusted(tmp_path, daemon, ca, echo, hierarchy):
    web, db = pair(tmp_path, daemon, ca, echo)
    root_b = openssl_root(tmp_path / "root-b", "Root B", "p256")
    both = (hierarchy[0] / "root-cert.pem").read_text() + (root_b / "root-cert.pem").read_text()
    put_file(ca.dir / "root-cert.pem", both)
    wait_for("both trust two roots", lambda: all(len(a.status()["roots"]) == 2 for a in (web, db)))
    wait_for("acknowledged", lambda: all(a.status()["acknowledged_generation"] == ca.status()["generation"]
                                         for a in (web, db)))
    assert (web.dir / "root-cert.pem").read_text().count("BEGIN CERTIFICATE") == 2
    assert talk(web.ports["outbound"][0]) == b"hello\n"


def test_reload_command_runs_before_the_word(tmp_path, daemon, ca):
    seen, script = tmp_path / "seen", tmp_path / "reload.sh"
    script.write_text(f"#!/bin/sh\ncat '{tmp_path}/web/meshroot.json' >> '{seen}'\ntest -e '{tmp_path}/ok'\n")
    script.chmod(0o755)
    web = Agent(tmp_path, daemon, ca, "web", "--reload-command", f"{script} ignored").ready()
    wait_for("run", seen.exists)
    wait_for("its failure is shown", lambda: "reload command: exit status 1" in (web.status()["last_error"] or ""))
    assert web.status()["acknowledged_generation"] == 0  # its readers may still have the old set
    (tmp_path / "ok").touch()
    wait_for("acknowledged", lambda: web.status()["acknowledged_generation"] == web.status()["generation"])


def test_ephemeral_wipes_the_key_and_says_goodbye(tmp_path, daemon, ca):
    web = Agent(tmp_path, daemon, ca, "web", "--ephemeral").ready()
    wait_for("acknowledged", lambda: web.status()["acknowledged_generation"] > 0)
    assert web.run.stop() == 0
    assert not list(web.dir.glob("**/key.pem")) and not list(web.dir.glob("..*/key.pem"))
    assert "did not take our goodbye" not in web.run.text() and "cannot say goodbye" not in web.run.text()


@pytest.mark.parametrize("flags,part", [
    (["--inbound", "127.0.0.1:0=127.0.0.1:1"], "inbound without a rule"),
    (["--inbound", "127.0.0.1:0", "--allow", TD + "*"], "is not LISTEN=TO"),
    (["--outbound", "127.0.0.1:0=127.0.0.1:1=nobody"], "is not LISTEN=PEER=RULE"),
    (["--identity", "https://a"], "identity"),
    (["--ca-addr", "nowhere"], "the CA's address"),
])
def test_wrong_flags_are_named(tmp_path, flags, part):
    from conftest import meshroot
    done = meshroot("agent", "run", "--dir", tmp_path / "d", "--identity", TD + "web", "--ca-root-cert", "/none", "--monitoring",
                    "off", *flags, check=False)
    assert done.returncode != 0 and part in done.stderr


def test_missing_ca_roots_are_named_and_waited_for(tmp_path, daemon, ca):
    late = tmp_path / "late.pem"
    web = Agent(tmp_path, daemon, ca, "web", "--ca-root-cert", late)
    wait_for("said", lambda: str(late) in (web.status()["last_error"] or ""))
    assert web.get("/readyz")[0] == 503
    shutil.copy(ca.state / "trust/root-cert.pem", late)
    web.ready()


def test_two_agents_on_one_folder(tmp_path, daemon, ca):
    from conftest import meshroot
    Agent(tmp_path, daemon, ca, "web").ready()
    done = meshroot("agent", "run", "--dir", tmp_path / "web", "--identity", TD + "web", "--ca-root-cert", "/none",
                    "--monitoring", "off", check=False)
    assert done.returncode == 17 and "in use by another meshroot process" in done.stderr
