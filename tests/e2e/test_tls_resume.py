"""Sessions with the CA's listener: who showed no certificate may resume, until roots or certificate change; who showed one is
verified anew every time, and not at all once its root is gone. Source: specs/peers.md 5b (23: SPIRE 1.14.3; 24: CVE-2022-21654)."""
import socket
import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from conftest import openssl_intermediate, openssl_root, wait_for
from test_ca import ca, copy_set, make_csr, pb, plugged  # noqa: F401 (fixtures)

VERSIONS = {"TLS 1.2 ticket": ssl.TLSVersion.TLSv1_2, "TLS 1.3 PSK": ssl.TLSVersion.TLSv1_3}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def context(version, leaf=None):
    c = ssl._create_unverified_context()
    c.minimum_version = c.maximum_version = version
    c.set_alpn_protocols(["h2"])
    if leaf:
        c.load_cert_chain(leaf)
    return c


def visit(ca, c, session=None):  # noqa: F811
    """Connects and reads the server's SETTINGS, after which a TLS 1.3 client has its ticket; (resumed?, session)."""
    with c.wrap_socket(socket.create_connection(("127.0.0.1", ca.ports["ca"]), timeout=30), session=session) as s:
        s.sendall(PREFACE)
        assert s.recv(9)[3:4] == b"\4"
        return s.session_reused, s.session


def leaf_file(ca, tmp_path):  # noqa: F811
    key, csr = make_csr()
    chain, _ = ca.call(csr, ca.issuer.token())
    file = tmp_path / "leaf-and-key.pem"
    file.write_bytes("".join(chain[:-1]).encode() + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return file


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_certificate_until_the_set_changes(ca, plugged, tmp_path, version):  # noqa: F811
    c = context(VERSIONS[version])
    resumed, session = visit(ca, c)
    assert not resumed
    resumed, session = visit(ca, c, session)
    assert resumed
    copy_set(openssl_intermediate(tmp_path / "a2", plugged[0], "Intermediate A2", "p256"), ca.dir)
    wait_for("A2", lambda: "A2" in ca.status()["intermediate"]["subject"])
    wait_for("every worker has the new settings", lambda: not visit(ca, c, session)[0])
    assert not any(visit(ca, c, session)[0] for _ in range(8))


@pytest.mark.parametrize("version", VERSIONS)
def test_with_a_certificate_never_and_not_at_all_without_its_root(ca, plugged, tmp_path, version):  # noqa: F811
    c = context(VERSIONS[version], leaf_file(ca, tmp_path))
    resumed, session = visit(ca, c)
    assert not resumed
    resumed, session = visit(ca, c, session)
    assert not resumed
    # the removal of root A, in the two steps that a CA takes
    a, rb = plugged[0], openssl_root(tmp_path / "root-b", "Root B", "p256")
    b1 = openssl_intermediate(tmp_path / "b1", rb, "Intermediate B1", "p256")
    only_b = (b1 / "root-cert.pem").read_text()
    (b1 / "root-cert.pem").write_text((a / "root-cert.pem").read_text() + only_b)
    copy_set(b1, ca.dir)
    wait_for("both roots", lambda: len(ca.status()["roots"]) == 2)
    (b1 / "root-cert.pem").write_text(only_b)
    copy_set(b1, ca.dir)
    wait_for("root B only", lambda: len(ca.status()["roots"]) == 1)

    def is_refused():
        try:
            visit(ca, c, session)
        except (ssl.SSLError, ConnectionError, AssertionError):
            return True
        return False

    wait_for("refused", is_refused)
    assert all(is_refused() for _ in range(8)), "by every worker"
