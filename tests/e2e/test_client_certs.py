"""Callers that show a certificate: any root of the trust set, and every reason to refuse one. Source: specs/istio-ca.md 2.3, 3.2; specs/peers.md
5a 10, 18; 5b 26."""
import datetime

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Use
from cryptography.x509.oid import NameOID

from conftest import openssl_intermediate, openssl_root, put_file, wait_for
from test_ca import IDENTITY, Ca, make_csr, pb, plugged, refused  # noqa: F401

A = grpc.StatusCode.UNAUTHENTICATED
BOTH = [Use.SERVER_AUTH, Use.CLIENT_AUTH]
URI = x509.UniformResourceIdentifier


def leaf(ca_folder, sans=(URI(IDENTITY),), use=BOTH, start=-60, end=3600, is_ca=False, chain=True, cn=None):
    """A client certificate under that intermediate, made by another tool than ours: (key PEM, chain PEM)."""
    issuer = x509.load_pem_x509_certificate((ca_folder / "ca-cert.pem").read_bytes())
    issuer_key = serialization.load_pem_private_key((ca_folder / "ca-key.pem").read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    b = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else []))
         .issuer_name(issuer.subject).public_key(key.public_key()).serial_number(x509.random_serial_number())
         .not_valid_before(now + datetime.timedelta(seconds=start)).not_valid_after(now + datetime.timedelta(seconds=end))
         .add_extension(x509.BasicConstraints(is_ca, None), True)
         .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False))
    if sans:
        b = b.add_extension(x509.SubjectAlternativeName(list(sans)), True)
    if use is not None:
        b = b.add_extension(x509.ExtendedKeyUsage(use), False)
    pem = b.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    if chain:
        pem += (ca_folder / "ca-cert.pem").read_bytes()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), pem


@pytest.fixture
def ca(tmp_path, daemon, pb, plugged):  # noqa: F811
    """The CA signs under Root A and trusts Root B too."""
    other = openssl_root(tmp_path / "root-b", "Root B", "p256")
    openssl_intermediate(tmp_path / "b1", other, "Intermediate B1", "p256")
    roots = tmp_path / "cacerts/root-cert.pem"
    roots.write_text(roots.read_text() + (other / "root-cert.pem").read_text())
    return Ca(tmp_path, daemon, pb).ready()


def code(ca, pair, token=None):
    with ca.channel(*pair) as channel:
        try:
            ca.call(make_csr()[1], token, channel=channel)
        except grpc.RpcError as e:
            return e.code()
    return None


def test_any_root_of_the_trust_set(ca, tmp_path):
    for folder in (ca.dir, tmp_path / "b1"):
        assert code(ca, leaf(folder)) is None, folder
    # Root B goes while a connection is open: the same connection is nobody from then on
    pair = leaf(tmp_path / "b1")
    with ca.channel(*pair) as channel:
        assert ca.call(make_csr()[1], channel=channel)[0]
        generation = ca.status()["generation"]
        put_file(ca.dir / "root-cert.pem", (tmp_path / "root-a/root-cert.pem").read_text())
        wait_for("Root B is gone", lambda: ca.status()["generation"] > generation)

        def is_nobody():
            try:
                ca.call(make_csr()[1], channel=channel)
            except grpc.RpcError as e:
                return e.code() == A
            return False
        wait_for("refused", is_nobody)
    assert ca.metric('meshroot_ca_auth_failures_total{reason="cert_root"}')
    assert code(ca, leaf(tmp_path / "b1")) is not None and code(ca, leaf(ca.dir)) is None


def test_an_open_connection_outlives_no_certificate(ca):
    def said(channel):
        try:
            ca.call(make_csr()[1], channel=channel)
        except grpc.RpcError as e:
            return e.code()
        return None

    def connected():
        """On a slow machine eight seconds may be over before the first call is."""
        channel = ca.channel(*leaf(ca.dir, end=8))
        if said(channel) is None:
            return channel
        channel.close()
        return None

    with wait_for("let in", connected) as channel:
        wait_for("expired while connected", lambda: said(channel) == A, step=0.2)
    assert ca.metric('meshroot_ca_auth_failures_total{reason="cert_expired"}')


def rows(tmp_path, ca):
    stranger = openssl_root(tmp_path / "root-c", "Root C", "p256")
    foreign = openssl_intermediate(tmp_path / "c1", stranger, "Intermediate C1", "p256")
    two = (URI(IDENTITY), URI("spiffe://cluster.local/ns/shop/sa/pay"))
    return {"expired": dict(start=-7200, end=-3600), "not yet valid": dict(start=3600, end=7200),
            "two URIs": dict(sans=two), "two URIs, the other way round": dict(sans=two[::-1]), "the same URI twice": dict(sans=(URI(IDENTITY),) * 2),
            "no SAN": dict(sans=()), "no SAN, a name": dict(sans=(), cn=IDENTITY), "a DNS name": dict(sans=(x509.DNSName("cart.shop"),)),
            "an e-mail address": dict(sans=(x509.RFC822Name("spiffe@cluster.local"),)),
            "another trust domain": dict(sans=(URI("spiffe://other.local/ns/shop/sa/cart"),)),
            "another shape": dict(sans=(URI("spiffe://cluster.local/cart"),)), "not SPIFFE": dict(sans=(URI("https://cluster.local/ns/shop/sa/cart"),)),
            "trust domain in capitals": dict(sans=(URI("spiffe://CLUSTER.local/ns/shop/sa/cart"),)),
            "dots": dict(sans=(URI("spiffe://cluster.local/ns/shop/sa/.."),)), "an escape": dict(sans=(URI("spiffe://cluster.local/ns/shop/sa/%63art"),)),
            "no EKU": dict(use=None), "any EKU": dict(use=[Use.ANY_EXTENDED_KEY_USAGE]), "e-mail EKU": dict(use=[Use.EMAIL_PROTECTION]),
            "server EKU": dict(use=[Use.SERVER_AUTH]), "client EKU alone": dict(use=[Use.CLIENT_AUTH]),
            "a CA": dict(is_ca=True), "no chain": dict(chain=False), "a root that is not trusted": dict(ca_folder=foreign)}


def test_certificates_that_are_not_good(ca, tmp_path):
    """Refused in the handshake or at the call, each one; and a bearer token beside it is looked at only where the handshake lets it."""
    for name, how in rows(tmp_path, ca).items():
        got = code(ca, leaf(**{"ca_folder": ca.dir, **how}))
        assert got in (A, grpc.StatusCode.UNAVAILABLE), (name, got)
    assert code(ca, leaf(ca.dir)) is None  # the same without a fault
    assert ca.metric("citadel_server_success_cert_issuance_count 1")
