"""Who may do what, cell by cell, and what those who may do nothing can cost. Source: specs/peers.md 5a (a table of roles and
methods, tested cell by cell), rows 36, 42, 50."""
import http.client
import json
import os
import socket
import ssl
import time

import grpc
import pytest

from conftest import Mesh, meshroot, openssl_intermediate, openssl_root, wait_for
from test_secrets_stay_secret import Vault

METHODS = ("/istio.v1.auth.IstioCertificateService/CreateCertificate", "/meshroot.v1.Trust/Watch", "/meshroot.v1.Trust/Acknowledge")
LOG_BRAKE_LINES, LOG_BRAKE_S = 101, 10  # obs/log.h: of one kind, in so long; one says how many were left out
LOG_KINDS, OTHER_LINES = 2, 50  # the vault's refusals and the CA's; what the mesh says beside them and its sync's own requests
V = "?api-version=7.4"
# operation: who may; what the others get is 403, and 401 without a good token
OPERATIONS = [("GET", f"/secrets{V}", ("sync", "admin")), ("GET", f"/secrets/a{V}", ("sync", "admin")),
              ("GET", f"/secrets/a/{'0' * 32}{V}", ("sync", "admin")), ("GET", f"/secrets/a/versions{V}", ("sync", "admin")),
              ("PUT", f"/secrets/a{V}", ("admin",)), ("PATCH", f"/secrets/a{V}", ("admin",)),
              ("PATCH", f"/secrets/a/{'0' * 32}{V}", ("admin",)), ("DELETE", f"/secrets/a{V}", ("admin",)),
              ("POST", f"/secrets/a/backup{V}", ("admin",)), ("POST", f"/secrets/restore{V}", ("admin",)),
              ("GET", f"/deletedsecrets{V}", ("sync", "admin")), ("GET", f"/deletedsecrets/a{V}", ("sync", "admin")),
              ("DELETE", f"/deletedsecrets/a{V}", ("admin",)), ("POST", f"/deletedsecrets/a/recover{V}", ("admin",))]
# the same operations in other words
DISGUISES = [("PUT", f"//secrets//a/{V}"), ("PUT", f"/SECRETS/a{V}"), ("PUT", f"/%73ecrets/a{V}"), ("PUT", f"/secrets%2Fa{V}"),
             ("PUT", f"/secrets/a{V}#/x")]


@pytest.fixture
def mesh(tmp_path, daemon):
    m = Mesh(tmp_path, daemon)
    m.set_all(openssl_intermediate(tmp_path / "a1", openssl_root(tmp_path / "ra", "Root A", "p256"), "Intermediate A1", "p256"))
    m.enable()
    return m


def test_vault_operations_by_role(mesh):
    vault = Vault(mesh)
    tokens = {who: vault.token(json.loads((mesh.state / f"credentials/{who}.json").read_text())) for who in ("sync", "admin")}
    forged = tokens["admin"].rsplit(".", 1)[0] + "." + tokens["sync"].rsplit(".", 1)[1]
    callers = {None: None, "forged": forged, "unsigned": tokens["admin"].rsplit(".", 1)[0] + ".", **tokens}
    wrong = []
    for who, token in callers.items():
        headers = {"authorization": f"Bearer {token}"} if token else {}
        for method, path, may in OPERATIONS + [(m, p, ("admin",)) for m, p in DISGUISES]:
            status, _ = vault.ask(method, path, '{"value":"x"}' if method in ("PUT", "PATCH", "POST") else None, **headers)
            want = 401 if who not in tokens else None if who in may else 403
            # 404: a disguise that is no operation at all is as good as a refusal
            if (want is None and status in (401, 403)) or (want is not None and status != want and (status, who) != (404, "sync")):
                wrong.append((who, method, path, status, want))
    assert not wrong


def test_grpc_methods_by_caller(mesh, tmp_path):
    """Every method, every caller without the right to one: UNAUTHENTICATED, and nothing issued."""
    def token(name, **flags):
        out = tmp_path / f"{name}.bad"
        args = {"--key": tmp_path / "issuer/issuer-key.pem", "--issuer": mesh.issuer,
                "--identity": "spiffe://cluster.local/ns/test/sa/x", "--out": out, **flags}
        meshroot("identity", "token", *[x for kv in args.items() for x in kv])
        return out.read_text().strip()

    meshroot("identity", "keygen", "--out", tmp_path / "foreign")
    good = token("good")
    metadata = {"nobody": (), "another key": (("authorization", "Bearer " + token("k", **{
                    "--key": tmp_path / "foreign/issuer-key.pem"})),),
                "another issuer": (("authorization", "Bearer " + token("i", **{"--issuer": "https://other.test"})),),
                "another scheme": (("authorization", "bearer " + good),), "no scheme": (("authorization", good),),
                "in another header": (("x-forwarded-authorization", "Bearer " + good),),
                "forwarded identity": (("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/test/sa/x"),
                                       ("impersonatedidentity", "spiffe://cluster.local/ns/test/sa/x"))}
    rows = mesh.status()["ledger_rows"]
    roots = (mesh.state / "trust/root-cert.pem").read_bytes()
    with grpc.secure_channel(f"127.0.0.1:{mesh.ca_port()}", grpc.ssl_channel_credentials(roots),
                             (("grpc.ssl_target_name_override", "localhost"),)) as channel:
        for who, meta in metadata.items():
            for method in METHODS:
                call = channel.unary_stream(method)(b"", metadata=meta, timeout=30)
                with pytest.raises(grpc.RpcError) as e:
                    next(call)
                assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED, (who, method, e.value)
    assert mesh.status()["ledger_rows"] == rows


def test_the_monitoring_port_has_nothing_else(mesh):
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"):
        for path in ("/v1/status", "/v1/mesh/enable", "/v1/mesh/disable", "/v1/rotate/force", "//v1/mesh/disable", "/metrics/../v1/status",
                     "/%761/mesh/disable"):
            c = http.client.HTTPConnection("127.0.0.1", mesh.ports["monitoring"], timeout=30)
            c.request(method, path)
            assert c.getresponse().status == 404, (method, path)
            c.close()
    assert mesh.status()["mode"] == "plugged-in"


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def connect(port, tls, what):
    """One visit, ended in the middle of something."""
    s = socket.create_connection(("127.0.0.1", port), timeout=30)
    try:
        if what == "garbage":
            s.sendall(b"\x16\x03\x01\xff\xffgarbage\r\n\r\n" * 4)
        elif what == "handshake":
            s.sendall(bytes.fromhex("1603010200010001fc0303"))
        elif what in ("request", "tls"):
            if tls:
                context = ssl._create_unverified_context()
                if tls == "h2":
                    context.set_alpn_protocols(["h2"])
                s = context.wrap_socket(s)
            if what == "request":
                s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if tls == "h2" else b"GET /secrets HTTP/1.1\r\nHost: localhost\r\n\r\n")
                s.recv(1)
    finally:
        s.close()


def test_descriptors_come_back(mesh):
    """500 connections to each port, most of them broken off: what was opened is closed."""
    pid = mesh.up.process.pid
    ports = ((mesh.ca_port(), "h2"), (int(mesh.ports["vault"].rsplit(":", 1)[1]), "http"), (mesh.ports["monitoring"], None))
    for port, tls in ports:  # what is made once is made
        connect(port, tls, "request")
    before = fds(pid)
    for port, tls in ports:
        for i in range(500):
            connect(port, tls, ("nothing", "garbage", "handshake", "tls", "request")[i % 5])
    wait_for(f"{before} descriptors", lambda: fds(pid) <= before + 2)
    assert mesh.status()["ready"]


def lines_but_the_syncs(mesh):
    return sum("status=200" not in line for line in mesh.up.text().splitlines())


def test_strangers_do_not_fill_the_log(mesh):
    vault = Vault(mesh)
    before, began = lines_but_the_syncs(mesh), time.monotonic()
    c = http.client.HTTPSConnection(vault.host, vault.port, context=vault.tls, timeout=30)
    for _ in range(2000):
        c.request("GET", "/secrets/a\x7e?api-version=7.4", headers={"authorization": "Bearer x"})
        c.getresponse().read()
    c.close()
    roots = (mesh.state / "trust/root-cert.pem").read_bytes()
    with grpc.secure_channel(f"127.0.0.1:{mesh.ca_port()}", grpc.ssl_channel_credentials(roots),
                             (("grpc.ssl_target_name_override", "localhost"),)) as channel:
        call = channel.unary_unary(METHODS[0])
        for _ in range(1000):
            with pytest.raises(grpc.RpcError):
                call(b"", timeout=30)
    turns = (time.monotonic() - began) // LOG_BRAKE_S + 2
    assert lines_but_the_syncs(mesh) - before < LOG_KINDS * LOG_BRAKE_LINES * turns + OTHER_LINES
