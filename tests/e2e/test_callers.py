"""Callers of a cluster: tokens that are bound to a pod, and node proxies. Source: specs/istio-ca.md 3.2, 3.4; specs/peers.md 5a rows 1, 4, 14."""
import csv
import io
import json
import os

import grpc
import pytest
from cryptography import x509

from conftest import Mesh, meshroot, openssl_intermediate, openssl_root, put_file, wait_for
from test_ca import Ca, make_csr, pb, plugged, refused  # noqa: F401

U, A = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED
TD = "spiffe://cluster.local"


def pod(ns, name, sa, node="n1", uid=None, **more):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": ns, "name": name, "uid": uid or f"uid-{ns}-{name}", **more},
            "spec": {"serviceAccountName": sa, "nodeName": node}, "status": {"phase": "Running"}}


def account(ns, name, uid=None):
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": ns, "name": name, "uid": uid or f"uid-{ns}-{name}"}}


WORLD = [account("shop", "cart"), account("shop", "pay"), account("istio-system", "ztunnel"), pod("shop", "cart-1", "cart"),
         pod("shop", "pay-1", "pay", node="n2"), pod("istio-system", "ztunnel-1", "ztunnel"),
         pod("istio-system", "ztunnel-2", "ztunnel", node="n2")]


class Cluster:
    """A file of pods that is replaced as a whole, as a careful writer does."""

    def __init__(self, folder):
        self.path = folder / "pods.json"
        self.put(WORLD)

    def put(self, items):
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        os.replace(new, self.path)


def bound(issuer, ns, sa, name=None, pod_uid=None, sa_uid=None, **more):
    """A projected token as the API server makes it."""
    k = {"namespace": ns, "serviceaccount": {"name": sa, "uid": sa_uid or f"uid-{ns}-{sa}"}}
    if name:
        k["pod"] = {"name": name, "uid": pod_uid or f"uid-{ns}-{name}"}
        k["node"] = {"name": "n1", "uid": "uid-n1"}
    k.update(more)
    return issuer.token(sub=f"system:serviceaccount:{ns}:{sa}", jti=f"jti-{name or sa}", **{"kubernetes.io": k})


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.fixture
def ca(tmp_path, daemon, pb, plugged, cluster):  # noqa: F811
    return Ca(tmp_path, daemon, pb, "--pods-file", cluster.path, "--trusted-node-account", "istio-system/ztunnel").ready()


def identity(chain):
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.UniformResourceIdentifier)


def code(call):
    """The gRPC code of one call, None for an answer."""
    try:
        call()
    except grpc.RpcError as e:
        return e.code()
    return None


def rows(ca):
    text = meshroot("ledger", "list", "--state-dir", ca.state, "--output", "csv").stdout
    return list(csv.DictReader(io.StringIO(text)))


def reason(ca, word):
    return ca.metric(f'meshroot_ca_auth_failures_total{{reason="{word}"}}')


def test_a_bound_token_lives_as_long_as_its_pod(ca, cluster):
    """Each change of the cluster counts from the next reading on, on an open connection too, and back."""
    _, csr = make_csr()
    token = bound(ca.issuer, "shop", "cart", "cart-1")
    def without(what):
        return [x for x in WORLD if what not in (x["metadata"]["name"], x["kind"] + x["metadata"]["name"])]

    gone = [("pod_gone", without("cart-1")),
            ("pod_uid", without("cart-1") + [pod("shop", "cart-1", "cart", uid="uid-another")]),
            ("pod_account", without("cart-1") + [pod("shop", "cart-1", "pay")]),
            ("account_gone", without("ServiceAccountcart")),
            ("account_uid", without("ServiceAccountcart") + [account("shop", "cart", "uid-another")]),
            ("pod_gone", without("cart-1") + [pod("shop", "cart-1", "cart", deletionTimestamp="2020-01-01T00:00:00Z")])]
    with ca.channel() as channel:
        assert identity(ca.call(csr, token, channel=channel)[0]) == [f"{TD}/ns/shop/sa/cart"]
        for word, world in gone:
            cluster.put(world)
            wait_for(word, lambda: code(lambda: ca.call(csr, token, channel=channel)) == A)
            assert reason(ca, word), word
            cluster.put(WORLD)
            wait_for("back", lambda: code(lambda: ca.call(csr, token, channel=channel)) is None)


def test_tokens_bound_to_what_we_cannot_see(ca):
    _, csr = make_csr()
    i = ca.issuer
    assert ca.call(csr, bound(i, "shop", "cart"))[0]  # to a service account alone
    for token in (bound(i, "shop", "cart", secret={"name": "s", "uid": "u"}), bound(i, "shop", "cart", node={"name": "n1", "uid": "u"}),
                  bound(i, "shop", "cart", pod={"name": "cart-1"}), bound(i, "shop", "cart", pod={"uid": "uid-shop-cart-1"}),
                  bound(i, "shop", "cart", serviceaccount={"name": "cart"})):
        refused(A, "request authenticate failure", lambda: ca.call(csr, token))
    assert reason(ca, "unbound")
    for k in ("x", 3, [], {"namespace": "shop", "serviceaccount": "cart"}, {"namespace": "shop", "serviceaccount": {"name": "other"}},
              {"namespace": "shop", "serviceaccount": {"name": "cart", "uid": "a/b"}}):
        refused(A, "request authenticate failure", lambda: ca.call(csr, i.token(**{"kubernetes.io": k})))
    assert ca.call(csr, i.token())[0]  # of an issuer outside Kubernetes: as good as before


def test_a_cluster_that_is_not_known_is_no_yes(tmp_path, daemon, pb, plugged):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb, "--pods-file", tmp_path / "absent.json").ready()
    _, csr = make_csr()
    wait_for("keys", lambda: ca.metric('meshroot_jwks_loads_total{result="changed"} 1'))
    refused(U, "the state of the caller's pod is not known now", lambda: ca.call(csr, bound(ca.issuer, "shop", "cart", "cart-1")))
    assert reason(ca, "cluster_unknown")
    wait_for("said why", lambda: "no such file" in ca.daemon.text())


def asks(wanted):
    def message(q):
        q.metadata.fields["ImpersonatedIdentity"].string_value = wanted
    return message


def test_node_proxies(ca, cluster):
    """specs/istio-ca.md 3.4: a proxy gets leaves for the pods on its node, and for no one else."""
    _, csr = make_csr()
    i, words = ca.issuer, "request impersonation authentication failure"
    z1, z2 = bound(i, "istio-system", "ztunnel", "ztunnel-1"), bound(i, "istio-system", "ztunnel", "ztunnel-2")
    cart, pay = f"{TD}/ns/shop/sa/cart", f"{TD}/ns/shop/sa/pay"
    assert identity(ca.call(csr, z1, message=asks(cart))[0]) == [cart]
    assert identity(ca.call(csr, z2, message=asks(pay))[0]) == [pay]
    assert identity(ca.call(csr, z1, message=asks(""))[0]) == [f"{TD}/ns/istio-system/sa/ztunnel"]
    assert identity(ca.call(csr, z1, message=asks(f"{TD}/ns/istio-system/sa/ztunnel"))[0]) == [f"{TD}/ns/istio-system/sa/ztunnel"]
    got = [(r["identity"], r["auth"]) for r in rows(ca)]
    assert (cart, "node:istio-system/ztunnel jwt:jti-ztunnel-1") in got and (pay, "node:istio-system/ztunnel jwt:jti-ztunnel-2") in got
    before = len(got)
    for token, wanted in ((z1, pay), (z2, cart), (z1, f"{TD}/ns/shop/sa/none"), (z1, "spiffe://other.local/ns/shop/sa/cart"), (z1, "cart"),
                          (z1, cart + "/"), (z1, f"{TD}/ns/shop/sa/*"), (z1, "spiffe://CLUSTER.local/ns/shop/sa/cart"), (z1, cart + "\n"),
                          (bound(i, "istio-system", "ztunnel"), cart), (bound(i, "shop", "cart", "cart-1"), pay),
                          (bound(i, "shop", "cart", "cart-1"), cart),
                          (i.token(sub="system:serviceaccount:istio-system:ztunnel"), cart)):
        refused(A, words, lambda: ca.call(csr, token, message=asks(wanted)))
    assert len(rows(ca)) == before and reason(ca, "impersonation")
    cluster.put([x for x in WORLD if x["metadata"]["name"] != "cart-1"])  # it left the node
    wait_for("gone", lambda: code(lambda: ca.call(csr, z1, message=asks(cart))) == A)


def test_a_certificate_never_impersonates(ca):
    """Only a token that is bound to the proxy's pod does: the leaf of the same account does not say which pod."""
    key, csr = make_csr()
    z1 = bound(ca.issuer, "istio-system", "ztunnel", "ztunnel-1")
    chain, _ = ca.call(csr, z1)
    from cryptography.hazmat.primitives import serialization as s
    pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    with ca.channel(pem, "".join(chain[:-1]).encode()) as channel:
        assert ca.call(make_csr()[1], channel=channel)[0]
        for token in (None, z1):  # the certificate comes first, so the token is not looked at
            refused(A, "request impersonation authentication failure",
                    lambda: ca.call(make_csr()[1], token, channel=channel, message=asks(f"{TD}/ns/shop/sa/cart")))


FORWARDED = [("x-forwarded-client-cert", f"By={TD};URI={TD}/ns/shop/sa/cart"), ("x-forwarded-for", "127.0.0.1"),
             ("x-forwarded-user", "system:serviceaccount:shop:cart"), ("x-remote-user", "system:serviceaccount:shop:cart"),
             ("x-forwarded-authorization", "Bearer x"), ("impersonatedidentity", f"{TD}/ns/shop/sa/cart"),
             ("impersonate-user", "system:serviceaccount:shop:cart"), ("clusterid", "Kubernetes"), ("x-real-ip", "127.0.0.1")]


def test_forwarded_headers_say_nothing(ca):
    """specs/peers.md 5a 4 (CVE-2022-39388): not from loopback, not beside a token either."""
    _, csr = make_csr()
    for header in FORWARDED:
        refused(A, "request authenticate failure", lambda: ca.call(csr, metadata=[header]))
    refused(A, "request authenticate failure", lambda: ca.call(csr, metadata=FORWARDED))
    pay = bound(ca.issuer, "shop", "pay", "pay-1")
    assert identity(ca.call(csr, pay, metadata=FORWARDED)[0]) == [f"{TD}/ns/shop/sa/pay"]


def test_status_says_whom_we_can_tell(ca, cluster):
    def now():
        return ca.status()["callers"]

    wait_for("keys and pods", lambda: now()["issuers"][0]["keys"] == 1 and now()["pods"]["known"] == 4)
    assert now()["pods"]["trouble"] == "" and now()["issuers"][0]["trouble"] == "" and not now()["token_review"]
    put_file(cluster.path, "{")
    wait_for("trouble", lambda: "JSON" in now()["pods"]["trouble"])
    assert now()["pods"]["known"] == 4


def test_the_same_in_meshroot_up(tmp_path, daemon, cluster, pb):  # noqa: F811
    from test_ca import Issuer
    issuer = Issuer()
    (tmp_path / "python.json").write_text(issuer.jwks())
    m = Mesh(tmp_path, daemon, "--issuer", f"https://issuer2.test={tmp_path}/python.json", "--pods-file", cluster.path,
             "--trusted-node-account", "istio-system/ztunnel", "--cert-signer", "other.example/ca")
    m.set_all(openssl_intermediate(tmp_path / "a1", openssl_root(tmp_path / "ra", "Root A", "p256"), "Intermediate A1", "p256"))
    m.enable()
    wait_for("ready", lambda: m.status()["ready"])

    def call(token, message=None):
        q = pb[0].IstioCertificateRequest(csr=make_csr()[1])
        if message:
            message(q)
        roots = (m.state / "trust/root-cert.pem").read_bytes()
        with grpc.secure_channel(f"127.0.0.1:{m.ca_port()}", grpc.ssl_channel_credentials(roots),
                                 (("grpc.ssl_target_name_override", "localhost"),)) as channel:
            stub = channel.unary_unary("/istio.v1.auth.IstioCertificateService/CreateCertificate",
                                       request_serializer=lambda x: x.SerializeToString(),
                                       response_deserializer=pb[0].IstioCertificateResponse.FromString)
            return list(stub(q, metadata=[("authorization", f"Bearer {token}")], timeout=30).cert_chain)

    class Named:
        @staticmethod
        def token(**claims):
            return issuer.token(iss="https://issuer2.test", **claims)
    z1 = bound(Named, "istio-system", "ztunnel", "ztunnel-1")
    assert identity(call(z1, asks(f"{TD}/ns/shop/sa/cart"))) == [f"{TD}/ns/shop/sa/cart"]
    assert code(lambda: call(z1, asks(f"{TD}/ns/shop/sa/pay"))) == A
    assert code(lambda: call(bound(Named, "shop", "cart", "cart-1", pod_uid="old"))) == A
    def signer(q):
        q.metadata.fields["CertSigner"].string_value = "other.example/ca"
    assert identity(call(z1, signer)) == [f"{TD}/ns/istio-system/sa/ztunnel"]


def test_flags_that_do_not_fit(tmp_path):
    args = ("ca", "serve", "--ca-dir", tmp_path, "--state-dir", tmp_path / "s")
    for flags, words in ((("--trusted-node-account", "istio-system/ztunnel"), "add --watch-pods or --pods-file"),
                         (("--pods-file", "p", "--trusted-node-account", "ztunnel"), "want NAMESPACE/SERVICEACCOUNT"),
                         (("--pods-file", "p", "--trusted-node-account", "a/*"), "want NAMESPACE/SERVICEACCOUNT")):
        done = meshroot(*args, *flags, check=False)
        assert done.returncode == 2 and words in done.stderr, done.stderr


WATCH, ACK = "/meshroot.v1.Trust/Watch", "/meshroot.v1.Trust/Acknowledge"


def test_who_may_do_what(ca, cluster, pb):  # noqa: F811
    """specs/peers.md 5d: every kind of caller by every method, and by a request for another's leaf. None: it is answered."""
    from cryptography.hazmat.primitives import serialization as s

    from test_client_certs import leaf
    i, words, cart = ca.issuer, pb[1], f"{TD}/ns/shop/sa/cart"
    cluster.put([x for x in WORLD if x["metadata"]["name"] != "pay-1"])
    wait_for("pay-1 is gone", lambda: code(lambda: ca.call(make_csr()[1], bound(i, "shop", "pay", "pay-1"))) == A)
    own = make_csr()[0]
    chain, _ = ca.call(make_csr(own)[1], i.token())
    ours = (own.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()), "".join(chain[:-1]).encode())
    callers = {  # token, certificate, headers; then: own leaf, watch, acknowledge, another's leaf
        "nobody": (None, (None, None), [], A, A, A, A),
        "nobody with headers": (None, (None, None), FORWARDED, A, A, A, A),
        "a stranger's token": (i.token(iss="https://evil.test"), (None, None), [], A, A, A, A),
        "a token without a pod": (i.token(), (None, None), [], None, None, None, A),
        "a pod": (bound(i, "shop", "cart", "cart-1"), (None, None), FORWARDED, None, None, None, A),
        "a pod that is gone": (bound(i, "shop", "pay", "pay-1"), (None, None), [], A, A, A, A),
        "a pod made anew": (bound(i, "shop", "cart", "cart-1", pod_uid="uid-old"), (None, None), [], A, A, A, A),
        "a certificate": (None, ours, [], None, None, None, A),
        "an expired certificate": (None, leaf(ca.dir, start=-7200, end=-3600), [], U, U, U, U),  # no handshake
        "a certificate and a bad token": ("x", ours, [], None, None, None, A),
        "the node's proxy": (bound(i, "istio-system", "ztunnel", "ztunnel-1"), (None, None), [], None, None, None, None),
        "another node's proxy": (bound(i, "istio-system", "ztunnel", "ztunnel-2"), (None, None), [], None, None, None, A),
        "the proxy's account, no pod": (bound(i, "istio-system", "ztunnel"), (None, None), [], None, None, None, A),
    }
    wrong = []
    for n, (who, (token, pair, headers, *want)) in enumerate(callers.items()):
        me = f"{n:032x}"  # an instance speaks for one identity
        with ca.channel(*pair) as channel:
            meta = list(headers) + ([("authorization", f"Bearer {token}")] if token else [])
            watch = channel.unary_stream(WATCH, request_serializer=lambda m: m.SerializeToString())
            ack = channel.unary_unary(ACK, request_serializer=lambda m: m.SerializeToString())
            got = [code(lambda: ca.call(make_csr()[1], token, metadata=headers, channel=channel)),
                   code(lambda: next(watch(words.WatchRequest(instance=me), metadata=meta, timeout=30))),
                   code(lambda: ack(words.Word(instance=me, generation=1), metadata=meta, timeout=30)),
                   code(lambda: ca.call(make_csr()[1], token, metadata=headers, channel=channel, message=asks(cart)))]
        if got != want:
            wrong.append((who, got, want))
    assert not wrong


def test_no_csr_says_who_it_is_for(ca):
    """specs/peers.md 5a 5 (CVE-2021-27098): the leaf's name is the caller's, whatever names a CSR has, in any number and order."""
    import random
    names = [f"{TD}/ns/{n}/sa/{a}" for n in ("shop", "istio-system", "a") for a in ("cart", "pay", "ztunnel")] + ["https://x", f"{TD}/x"]
    dice, token = random.Random(7), bound(ca.issuer, "shop", "cart", "cart-1")
    with ca.channel() as channel:
        for _ in range(60):
            sans = dice.sample(names, dice.randrange(2))  # two are refused altogether
            _, csr = make_csr(sans=sans, cn=dice.choice([None, *names]))
            assert identity(ca.call(csr, token, channel=channel)[0]) == [f"{TD}/ns/shop/sa/cart"], sans
