"""What one replica of the CA has revoked, all refuse and list: the operator carries it."""
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from conftest import wait_for
from test_ca import Ca, make_csr, pb, refused  # noqa: F401
from test_operator_ca import start, world  # noqa: F401
from test_replicas import operator_token
from test_revoke import leaf, lists, pki, plug, revoke, revoked, serial_of
from test_words_elsewhere import agent, service  # noqa: F401

EXCHANGE = "/meshroot.v1.Revocations/Exchange"
UNAUTHENTICATED = "request authenticate failure"


def is_refused(replica, key, chain):
    """As a client certificate."""
    with replica.channel(key, chain.encode()) as c:
        try:
            replica.call(make_csr()[1], channel=c)
        except grpc.RpcError as e:
            return e.code() == grpc.StatusCode.UNAUTHENTICATED
    return False


def has(replica, cert):
    return any(x.get_revoked_certificate_by_serial_number(cert.serial_number) is not None for x in lists(replica))


def test_revoked_at_one_is_refused_and_listed_by_all(world, daemon, pb, service):  # noqa: F811
    world.mesh.set_all(pki(world.tmp, "signs-lists"))
    world.plugin(target="meshroot", ttl={"default": "1h"})
    a, b = start(world, daemon, pb, ttl="1h")
    world.ready(1)
    web = agent(world, daemon, service((a, b)), a).ready()
    wait_for("on B's stream", lambda: b.metric("meshroot_ca_trust_streams 1"))
    leaves = {p: leaf(p, p.name) for p in (a, b)}
    for at, other in ((a, b), (b, a)):
        key, chain, cert = leaves[at]
        assert not is_refused(other, key, chain)
        assert revoke(at, "--serial", serial_of(cert), "--reason", "keyCompromise")["revoked"] == 1
        wait_for("refused by the other", lambda: is_refused(other, key, chain))
        wait_for("in its signed list", lambda: has(other, cert))
        (row,) = [r for r in revoked(other)["revoked"] if r["serial"] == serial_of(cert).zfill(len(r["serial"]))]
        assert row["reason"] == "keyCompromise" and row["identity"].endswith(f"/sa/{at.name}")
        assert other.metric("meshroot_crl_unsigned 0")
    wait_for("both have both", lambda: all(len(revoked(p)["revoked"]) == 2 for p in (a, b)))
    file = web.dir / "ca-crl.pem"
    wait_for("the agent has them", lambda: file.exists() and all(
        x509.load_pem_x509_crl(file.read_bytes()).get_revoked_certificate_by_serial_number(c.serial_number) for _, _, c in leaves.values()))
    assert web.run.stop() == 0
    key, chain, cert = leaves[a]
    b.daemon.kill()
    b.start(a.ports["ca"])
    b.ready()
    assert is_refused(b, key, chain) and has(b, cert), "it is on B's own disk"


# -- the call itself: who may, and what is taken


def page(pb, cert, issuer, **over):  # noqa: F811
    m = pb[1]
    n = cert.serial_number
    leaf_of = {"signer_id": issuer.fingerprint(hashes.SHA256()), "serial": n.to_bytes((n.bit_length() + 7) // 8, "big"),
               "not_after": int(cert.not_valid_after_utc.timestamp()), "revoked": 1700000000, "reason": "superseded",
               "identity": "spiffe://cluster.local/ns/shop/sa/cart", **over}
    return m.RevokedPage(leaves=[m.RevokedLeaf(**leaf_of)], issuers=[issuer.public_bytes(serialization.Encoding.DER)])


def exchange(at, pb, request, metadata):  # noqa: F811
    with at.channel() as c:
        return c.unary_unary(EXCHANGE, request_serializer=lambda m: m.SerializeToString(),
                             response_deserializer=pb[1].RevokedPage.FromString)(request, metadata=metadata, timeout=30)


@pytest.fixture
def courier(tmp_path, daemon, pb):  # noqa: F811
    """A CA whose courier is ops/operator."""
    plug(pki(tmp_path, "a1"), tmp_path / "cacerts")
    return Ca(tmp_path, daemon, pb, "--revocation-courier", "ops/operator").ready()


def test_only_the_courier_may(courier, pb):  # noqa: F811
    m = pb[1]
    for token in (operator_token(courier, "other"), [("authorization", f"Bearer {courier.issuer.token()}")]):
        refused(grpc.StatusCode.PERMISSION_DENIED, "may not carry revocations", lambda: exchange(courier, pb, m.RevokedPage(), token))
    refused(grpc.StatusCode.UNAUTHENTICATED, UNAUTHENTICATED, lambda: exchange(courier, pb, m.RevokedPage(), []))
    assert exchange(courier, pb, m.RevokedPage(), operator_token(courier)).total == 0
    assert courier.metric('meshroot_ca_auth_failures_total{reason="revocation_courier"} 2')


def test_what_is_malformed_changes_nothing(courier, pb, tmp_path):  # noqa: F811
    key, chain, cert = leaf(courier)
    issuer = x509.load_pem_x509_certificate((tmp_path / "cacerts/ca-cert.pem").read_bytes())
    token = operator_token(courier)
    for over, words in (({"signer_id": b"x" * 31}, "a signer's id"), ({"serial": b""}, "a serial number"), ({"serial": b"\0\1"}, "a serial number"),
                        ({"serial": b"x" * 21}, "a serial number"), ({"identity": "cart"}, "no SPIFFE id"), ({"reason": "because"}, "keyCompromise"),
                        ({"revoked": 0}, "at no time"), ({"not_after": 2**40}, "longer than its issuer"), ({"signer_id": b"x" * 32}, "is not there")):
        refused(grpc.StatusCode.INVALID_ARGUMENT, words, lambda: exchange(courier, pb, page(pb, cert, issuer, **over), token))
    many = page(pb, cert, issuer)
    many.leaves.extend([many.leaves[0]] * 64)
    refused(grpc.StatusCode.INVALID_ARGUMENT, "not a RevokedPage", lambda: exchange(courier, pb, many, token))
    own = page(pb, cert, x509.load_pem_x509_certificate(chain.split("-----END CERTIFICATE-----\n")[0].encode() + b"-----END CERTIFICATE-----\n"))
    refused(grpc.StatusCode.INVALID_ARGUMENT, "no CA", lambda: exchange(courier, pb, own, token))
    assert exchange(courier, pb, page(pb, cert, issuer, not_after=1700000000), token).total == 0, "it has ended"
    assert revoked(courier)["revoked"] == [] and not is_refused(courier, key, chain)
    many = page(pb, cert, issuer, revoked=2**40)  # its clock is ahead
    many.leaves.extend([many.leaves[0]] * 3)
    assert exchange(courier, pb, many, token).total == 1
    assert is_refused(courier, key, chain)
    assert exchange(courier, pb, many, token).leaves[0].reason == "superseded"


def test_a_signer_that_was_never_here_is_listed_unsigned(courier, pb, tmp_path, daemon):  # noqa: F811
    """A leaf of before this replica's first start: only our own agents are told, as after a restart."""
    other = pki(tmp_path, "a0")
    (tmp_path / "before").mkdir()  # with an issuer of its own
    before = Ca(tmp_path / "before", daemon, pb, folder=other).ready()
    key, chain, cert = leaf(before)
    issuer = x509.load_pem_x509_certificate((other / "ca-cert.pem").read_bytes())
    with courier.channel(key, chain.encode()) as c:
        assert courier.call(make_csr()[1], channel=c)[0]
    answer = exchange(courier, pb, page(pb, cert, issuer), operator_token(courier))
    assert answer.total == 1 and answer.issuers[0] == issuer.public_bytes(serialization.Encoding.DER)
    for _ in range(2):
        wait_for("refused", lambda: is_refused(courier, key, chain))
        assert courier.metric("meshroot_crl_unsigned 1")
        (row,) = [x for x in revoked(courier)["lists"] if "CN=a0" in x["signer"]]
        assert row["entries"] == 1 and not row["signed"]
        courier.daemon.kill()  # and after a restart
        courier = Ca(tmp_path, daemon, pb, "--revocation-courier", "ops/operator").ready()
