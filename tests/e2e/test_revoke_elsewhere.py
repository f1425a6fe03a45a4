"""What one replica of the CA has revoked, all refuse and list: the operator carries it."""
import time
import uuid

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from conftest import meshroot, wait_for
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


# -- an identity: on all replicas

CART = "spiffe://cluster.local/ns/shop/sa/cart"


def identities(at):
    return [r["identity"] for r in revoked(at)["identities"]]


def test_an_identity_is_revoked_on_all(world, daemon, pb):  # noqa: F811
    world.mesh.set_all(pki(world.tmp, "signs-lists"))
    world.plugin(target="meshroot", ttl={"default": "1h"})
    a, b = start(world, daemon, pb, ttl="1h")
    world.ready(1)
    old = [leaf(p) for p in (a, b)]
    others = leaf(b, "web")
    for at in (a, b):
        assert not any(is_refused(at, key, chain) for key, chain, _ in (*old, others))
    wait_for("the operator was here", lambda: exchanges(a))
    done = revoke(a, "--identity", CART, "--reason", "keyCompromise")
    assert done["revoked"] == 3 and done["carried"] in ("yes", "away"), "two were got by the certificates"
    a.daemon.kill()  # right after the answer
    a.start(a.ports["ca"])
    a.ready()
    assert is_refused(a, *old[0][:2]) and has(a, old[0][2]), "its own leaf"
    assert identities(a) == [CART]
    wait_for("B has done it", lambda: identities(b) == [CART])
    assert is_refused(b, *old[1][:2]) and has(b, old[1][2]), "B's own leaf, in B's list"
    wait_for("refused by all", lambda: all(is_refused(at, key, chain) for at in (a, b) for key, chain, _ in old))
    wait_for("in every list", lambda: all(has(at, cert) for at in (a, b) for *_, cert in old))
    (row,) = [r for r in revoked(b)["revoked"] if r["serial"] == serial_of(old[1][2]).zfill(len(r["serial"]))]
    assert row["reason"] == "keyCompromise" and row["identity"] == CART
    for at in (a, b):
        key, chain, cert = leaf(at)  # with its token
        assert not any(is_refused(other, key, chain) for other in (a, b)) and not has(at, cert)
        assert not is_refused(at, *others[:2])
    b.daemon.kill()
    b.start(a.ports["ca"])
    b.ready()
    assert identities(b) == [CART] and is_refused(b, *old[1][:2])
    rounds = exchanges(b)
    wait_for("it is carried on", lambda: exchanges(b) >= rounds + 3)
    assert not is_refused(b, key, chain) and len(revoked(b)["revoked"]) == 6, "and done once"


def exchanges(at):
    """Calls of the courier that were answered well."""
    lines = [x for x in at.get("/metrics")[1].splitlines() if x.startswith("grpc_server_handled_total") and "ExchangeRevoked" in x and '"OK"' in x]
    return int(float(lines[0].split()[-1])) if lines else 0


def identity_page(pb, **over):  # noqa: F811
    m = pb[1]
    return m.RevokedPage(takes_identities=True, identities=[m.RevokedIdentity(**{
        "id": uuid.uuid4().bytes, "identity": CART, "revoked": int(time.time()), "until": int(time.time()) + 3600, "reason": "superseded", **over})])


def test_an_identity_that_is_told_is_done_once(courier, pb, tmp_path, daemon):  # noqa: F811
    token = operator_token(courier)
    old = [leaf(courier) for _ in range(17)]  # whoever was asked has said --yes there
    told = identity_page(pb)
    assert exchange(courier, pb, told, token).takes_identities
    wait_for("done", lambda: identities(courier) == [CART])
    answer = exchange(courier, pb, pb[1].RevokedPage(), token)
    assert answer.identities_total == 1 and answer.identities[0] == told.identities[0] and answer.total == 17
    assert all(is_refused(courier, key, chain) and has(courier, cert) for key, chain, cert in old)
    key, chain, cert = leaf(courier)
    for _ in range(2):
        exchange(courier, pb, told, token)
    courier.daemon.kill()
    courier = Ca(tmp_path, daemon, pb, "--revocation-courier", "ops/operator").ready()
    token = operator_token(courier)
    exchange(courier, pb, told, token)
    assert exchange(courier, pb, pb[1].RevokedPage(), token).total == 17 and not is_refused(courier, key, chain)
    exchange(courier, pb, identity_page(pb), token)  # a second one: also what was issued since
    wait_for("refused", lambda: is_refused(courier, key, chain) and has(courier, cert))
    wait_for("two", lambda: len(identities(courier)) == 2)
    assert exchange(courier, pb, pb[1].RevokedPage(identities_from=1), token).identities[0].id != told.identities[0].id


def test_a_leaf_of_a_ledger_that_is_lost_is_refused_by_its_identity(courier, pb, tmp_path, daemon):  # noqa: F811
    """No list has it, for nobody knows its serial number; the CA takes it from nobody all the same."""
    (tmp_path / "gone").mkdir()
    gone = Ca(tmp_path / "gone", daemon, pb, folder=tmp_path / "cacerts").ready()
    key, chain, _ = leaf(gone)
    assert not is_refused(courier, key, chain)
    began = int(time.time())
    wait_for("the second is over", lambda: time.time() >= began + 2)
    done = revoke(courier, "--identity", CART)
    assert done["revoked"] == 1 and done["carried"] == "away", "what was got by it"
    assert is_refused(courier, key, chain)
    key, chain, _ = leaf(courier)
    assert not is_refused(courier, key, chain)
    assert exchange(courier, pb, pb[1].RevokedPage(), operator_token(courier)).identities[0].identity == CART

    def said(page):
        exchange(courier, pb, page, operator_token(courier))
        return meshroot("ca", "revoke", "--identity", CART, "--state-dir", courier.state).stdout

    wait_for("an older operator", lambda: "a version that does not tell the others" in said(pb[1].RevokedPage()))
    wait_for("one that carries it", lambda: "The others are told by the operator" in said(pb[1].RevokedPage(takes_identities=True)))
    assert f"every leaf of {CART} until" in meshroot("ca", "revoked", "--state-dir", courier.state).stdout


def test_an_unsound_identity_changes_nothing(courier, pb):  # noqa: F811
    key, chain, _ = leaf(courier)
    token = operator_token(courier)
    for over, words in (({"id": b"x" * 15}, "16 bytes"), ({"identity": "cart"}, "SPIFFE id"), ({"reason": "because"}, "keyCompromise"),
                        ({"revoked": 0}, "at no time"), ({"until": 2**60}, "until none"), ({"until": 1}, "until none")):
        refused(grpc.StatusCode.INVALID_ARGUMENT, words, lambda: exchange(courier, pb, identity_page(pb, **over), token))
    many = identity_page(pb)
    many.identities.extend([many.identities[0]] * 16)
    refused(grpc.StatusCode.INVALID_ARGUMENT, "not a RevokedPage", lambda: exchange(courier, pb, many, token))
    ended = identity_page(pb, revoked=1700000000, until=1700000001)
    assert exchange(courier, pb, ended, token).identities_total == 0
    refused(grpc.StatusCode.PERMISSION_DENIED, "may not carry", lambda: exchange(courier, pb, identity_page(pb), operator_token(courier, "other")))
    assert identities(courier) == [] and revoked(courier)["revoked"] == [] and not is_refused(courier, key, chain)


def test_a_replica_without_room_says_so_and_changes_nothing(courier, pb, tmp_path):  # noqa: F811
    key, chain, cert = leaf(courier)
    issuer = x509.load_pem_x509_certificate((tmp_path / "cacerts/ca-cert.pem").read_bytes())
    token = operator_token(courier)
    full = page(pb, cert, issuer)
    one = pb[1].RevokedLeaf.FromString(full.leaves[0].SerializeToString())
    for i in range(2048 // 64):
        del full.leaves[:]
        for k in range(64):
            one.serial = b"\1" + (64 * i + k).to_bytes(2, "big")
            full.leaves.append(one)
        exchange(courier, pb, full, token)
    told = identity_page(pb)
    number = [x["number"] for x in revoked(courier)["lists"]]
    answer = exchange(courier, pb, told, token)
    assert answer.total == 2048 and [x["number"] for x in revoked(courier)["lists"]] == number
    assert "cart is not revoked here" in answer.trouble and "would pass the limit of 2048" in answer.trouble
    assert exchange(courier, pb, pb[1].RevokedPage(), token).trouble == "", "nobody has told it again"
    assert answer.identities_total == 0 and identities(courier) == [] and not is_refused(courier, key, chain)
    done = revoke(courier, "--identity", CART, check=False)
    assert done.returncode != 0 and "would pass the limit of 2048" in done.stderr
    assert not is_refused(courier, key, chain)
