"""Tokens that the Kubernetes API judges: a scripted API server, in all the ways it can answer. Source: specs/istio-ca.md 3.2; specs/protos.md 6;
specs/peers.md 5a rows 1, 21."""
import concurrent.futures
import itertools
import json
import threading
import time

import grpc
import pytest

from conftest import wait_for
from https_peer import HttpsPeer, server_cert
from test_ca import Ca, b64, make_csr, pb, plugged, refused  # noqa: F401
from test_callers import WORLD, Cluster, asks, code, identity, reason, rows

A, U, R = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
LATE = "late"  # UNAVAILABLE, too, but by the limit of every call
KEPT_S = 10  # CA_REVIEW_KEEP_MS
PATH = "/apis/authentication.k8s.io/v1/tokenreviews"


def yes(ns="shop", sa="cart", pod=None, **status):
    user = {"username": f"system:serviceaccount:{ns}:{sa}", "uid": f"uid-{ns}-{sa}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{ns}", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=7ee52be0"]}}
    if pod:
        user["extra"].update({"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [f"uid-{ns}-{pod}"],
                              "authentication.kubernetes.io/node-name": ["n1"]})
    return {"authenticated": True, "user": user, "audiences": ["istio-ca"], **status}


def jwt(name):
    """A token of the cluster: only the API server can tell what it is worth."""
    return ".".join(b64(json.dumps(x).encode()) for x in ({"alg": "RS256", "kid": "kube"}, {"iss": "https://kube.test", "jti": name})) + ".c2ln"


class Tokens(dict):
    """By the short name that a test gives them."""

    def __setitem__(self, name, what):
        super().__setitem__(jwt(name), what)

    def update(self, more):
        for name, what in more.items():
            self[name] = what


class Kube(HttpsPeer):
    """Reviews by token: a status object, or a function that answers in full. The caller's own token is in self.own."""

    def __init__(self, folder, **kw):
        self.reviews, self.own, self.specs, self.keys = Tokens(), "own-1", [], None
        super().__init__(folder, self.reply, "kube", **kw)

    def reply(self, method, path, headers, body):
        if self.own and headers.get("authorization") != f"Bearer {self.own}":
            return 401, {}, {"kind": "Status", "message": "Unauthorized"}
        if path == "/openid/v1/jwks" and self.keys:
            if "application/jwk-set+json" not in headers.get("accept", ""):  # as the real one does
                return 406, {}, {"kind": "Status", "message": "406: Not Acceptable"}
            return 200, {"content-type": "application/jwk-set+json"}, self.keys.encode()
        if method != "POST" or path != PATH:
            return 404, {}, {"kind": "Status", "message": "not found"}
        q = json.loads(body)
        assert q["kind"] == "TokenReview" and q["apiVersion"] == "authentication.k8s.io/v1"
        self.specs.append(q["spec"])
        said = self.reviews.get(q["spec"]["token"], {"authenticated": False, "error": "invalid bearer token", "user": {}})
        return said() if callable(said) else (201, {}, {**q, "status": said})

    def asked(self, token):
        return sum(1 for s in self.specs if s["token"] == jwt(token))


@pytest.fixture
def kube(tmp_path):
    k = Kube(tmp_path)
    (tmp_path / "own").write_text("own-1\n")
    yield k
    k.stop()


@pytest.fixture
def start(tmp_path, daemon, pb, plugged, kube):  # noqa: F811
    def make(*flags):
        return Ca(tmp_path, daemon, pb, "--token-review", "--kube-server", kube.url, "--kube-ca-file", kube.root, "--kube-token-file",
                  tmp_path / "own", *flags).ready()
    return make


def test_a_review_is_as_good_as_a_token(start, kube):
    ca = start()
    kube.reviews["t-cart"] = yes(pod="cart-1")
    _, csr = make_csr()
    began = time.monotonic()
    assert identity(ca.call(csr, jwt("t-cart"))[0]) == ["spiffe://cluster.local/ns/shop/sa/cart"]
    assert kube.specs[0]["audiences"] == ["istio-ca"]
    assert rows(ca)[-1]["auth"] == "review:JTI=7ee52be0"
    # kept for a while: the next hundred calls, all at once, ask nobody
    with ca.channel() as channel, concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: bool(ca.call(csr, jwt("t-cart"), channel=channel)[0]), range(100)))
    assert kube.asked("t-cart") <= 1 + (time.monotonic() - began) // KEPT_S
    # and no longer than that: what the API server no longer accepts ends
    kube.reviews["t-cart"] = {"authenticated": False, "error": "pod has been deleted"}
    wait_for("no more", lambda: code(lambda: ca.call(csr, jwt("t-cart"))) == A, step=0.3)
    assert reason(ca, "review_refused")
    # a token of the issuer whose keys we have is not sent to anyone
    assert ca.call(csr, ca.issuer.token())[0]
    assert {s["token"] for s in kube.specs} == {jwt("t-cart")}
    for token in ("opaque", "a.b.c", jwt("x").split(".")[0] + ".e30.x"):  # nor is what is no service account's token
        refused(A, "request authenticate failure", lambda: ca.call(csr, token))
    assert {s["token"] for s in kube.specs} == {jwt("t-cart")}
    assert ca.metric('meshroot_kube_requests_total{method="POST",status="201"} ')
    assert jwt("t-cart") not in ca.daemon.text() and "own-1" not in ca.daemon.text()


REFUSED = {"not authenticated": ({"authenticated": False}, "review_refused"),
           "authenticated and an error": (yes(error="token has expired"), "review_refused"),
           "authenticated as a word": (yes(authenticated="true"), "review_refused"),
           "another audience": (yes(audiences=["vault"]), "audience"),
           "an API server without audiences": (yes(audiences=[]), "audience"),
           "no word of audiences": ({k: v for k, v in yes().items() if k != "audiences"}, "audience"),
           "a person": (yes(user={"username": "alice", "groups": ["system:authenticated"]}), "workload"),
           "a person in the group": (yes(user={"username": "alice", "groups": ["system:serviceaccounts"]}), "workload"),
           "an account without the group": (yes(user={"username": "system:serviceaccount:shop:cart", "groups": []}), "workload"),
           "too short": (yes(user={"username": "system:serviceaccount:shop", "groups": ["system:serviceaccounts"]}), "workload"),
           "too long": (yes(user={"username": "system:serviceaccount:shop:a:b", "groups": ["system:serviceaccounts"]}), "workload"),
           "a path": (yes(user={"username": "system:serviceaccount:shop:../x", "groups": ["system:serviceaccounts"]}), "workload"),
           "a node": (yes(user={"username": "system:node:n1", "groups": ["system:nodes"]}), "workload")}
BROKEN = {"no status": lambda: (201, {}, {"kind": "TokenReview"}), "another kind": lambda: (201, {}, {"kind": "Pod", "status": yes()}),
          "no JSON": lambda: (201, {}, b"<html>"), "a list": lambda: (200, {}, b"[]"), "empty": lambda: (200, {}, b""),
          "username a number": lambda: (201, {}, {"kind": "TokenReview", "status": yes(user={"username": 3})}),
          "two pods": lambda: (201, {}, {"kind": "TokenReview", "status": yes(user={
              **yes()["user"], "extra": {"authentication.kubernetes.io/pod-name": ["a", "b"]}})}),
          "status twice": lambda: (201, {}, b'{"kind":"TokenReview","status":{"authenticated":false},"status":{"authenticated":true}}'),
          "403": lambda: (403, {}, {"kind": "Status", "message": 'tokenreviews is forbidden: cannot "create"'}),
          "404": lambda: (404, {}, {}), "redirect": lambda: (307, {"location": "https://127.0.0.1:1/"}, {})}


def test_answers_that_are_no_yes(start, kube):
    """A no is final, a failure is UNAVAILABLE; neither is ever a certificate."""
    ca = start()
    _, csr = make_csr()
    for name, (status, word) in REFUSED.items():
        kube.reviews[f"t-{name}"] = status
        refused(A, "request authenticate failure", lambda: ca.call(csr, jwt(f"t-{name}")))
        assert reason(ca, word), name
    for name, answer in BROKEN.items():
        kube.reviews[f"t-{name}"] = answer
        refused(U, "the API server did not answer for the token; try again", lambda: ca.call(csr, jwt(f"t-{name}")))
    assert reason(ca, "review_failed") and rows(ca) == []
    assert 'cannot "create"' in ca.daemon.text()


def test_tries_again_within_its_time(start, kube):
    """429 with Retry-After, 500, a connection that ends: answered in the end; what does not end is UNAVAILABLE, inside the call's 10 s."""
    ca = start()
    _, csr = make_csr()
    turns = itertools.count()

    def asked(n, answer):
        """The answer to a call whose review is answered so n times first: its code, how often it was asked, how long it took."""
        count, token, began = [0], f"t-{next(turns)}", time.monotonic()

        def say():
            count[0] += 1
            return (answer() if callable(answer) else answer) if count[0] <= n else (201, {}, {"kind": "TokenReview", "status": yes()})
        kube.reviews[token] = say
        try:
            assert ca.call(csr, jwt(token))[0]
        except grpc.RpcError as e:
            assert e.code() == U and "try again" in e.details(), e
            return LATE if "10 s of a call" in e.details() else U, count[0], time.monotonic() - began
        return None, count[0], time.monotonic() - began

    def until(want, n, answer):
        """On a slow machine a call's seconds may be over before its tries are: once more, then."""
        return wait_for(f"{want} after {answer}", lambda: (got := asked(n, answer))[0] == want and got, 120)

    assert until(None, 2, (429, {"retry-after": "1"}, {}))[2] >= 2  # it was asked to wait twice
    for n, answer in ((3, (500, {}, {})), (1, (503, {}, {})), (1, (504, {}, b"late"))):
        assert until(None, n, answer)[1] == n + 1
    assert until(U, 100, (429, {"retry-after": "60"}, {}))[1] == 1  # longer than the call may last: at once
    until(U, 10 ** 6, (500, {}, {}))
    hold = threading.Event()
    until(U, 100, lambda: (hold.wait(60), (500, {}, {}))[1])
    hold.set()


def test_slow_reviews_are_bounded_and_stop_nobody(start, kube):
    """64 questions at once; the 65th token is told to come again, callers with keys that we have do not wait; SIGTERM answers all."""
    ca = start()
    _, csr = make_csr()
    hold = threading.Event()
    turns, names = itertools.count(), []
    with ca.channel() as channel, ca.channel() as other:
        pool = concurrent.futures.ThreadPoolExecutor(80)

        def csrs():
            return next(int(x.split()[1]) for x in ca.get("/metrics")[1].splitlines() if x.startswith("citadel_server_csr_count "))

        def full():
            """64 calls and five twins that wait; False: the machine is so slow that the first were over before the last had come."""
            nonlocal names
            names, before = [f"t-{next(turns)}" for _ in range(65)], csrs()
            for name in names:
                kube.reviews[name] = lambda: (hold.wait(60), (201, {}, {"kind": "TokenReview", "status": yes()}))[1]
            calls = [pool.submit(code, lambda i=i: ca.call(csr, jwt(names[i]), channel=channel)) for i in range(64)]
            calls += [pool.submit(code, lambda: ca.call(csr, jwt(names[0]), channel=other)) for _ in range(5)]  # the same token: the same question
            wait_for("all are under way", lambda: csrs() == before + 69)  # else the one below may be of the 64
            if code(lambda: ca.call(csr, jwt(names[64]), channel=other)) == R:
                return calls
            assert {c.result(60) for c in calls} == {U}
            return False

        calls = wait_for("one that is too many", full, 120)
        assert ca.call(csr, ca.issuer.token(), channel=other)[0]
        ca.daemon.stop()
        assert {c.result(60) for c in calls} == {U}
        assert kube.asked(names[0]) <= 1
        hold.set()
        pool.shutdown()


def test_our_own_token_is_rotated(start, kube, tmp_path):
    ca = start()
    _, csr = make_csr()
    kube.reviews["t-1"] = kube.reviews["t-2"] = kube.reviews["t-3"] = yes()
    assert ca.call(csr, jwt("t-1"))[0]
    (tmp_path / "own").write_text("own-2")
    kube.own = "own-2"
    assert ca.call(csr, jwt("t-2"))[0]  # a 401, the file read again, an answer
    (tmp_path / "own").write_text("")
    kube.own = "own-3"
    refused(U, "try again", lambda: ca.call(csr, jwt("t-3")))


def test_a_reviewed_proxy_and_a_pod_that_is_gone(start, kube, tmp_path):
    """The same rules after a review: the pod must be there now, whatever was kept, and ztunnel's rule holds."""
    cluster = Cluster(tmp_path)
    ca = start("--pods-file", cluster.path, "--trusted-node-account", "istio-system/ztunnel")
    _, csr = make_csr()
    began = time.monotonic()
    kube.reviews.update({"t-cart": yes(pod="cart-1"), "t-z": yes("istio-system", "ztunnel", "ztunnel-1"), "t-sa": yes("istio-system", "ztunnel")})
    cart = "spiffe://cluster.local/ns/shop/sa/cart"
    assert identity(ca.call(csr, jwt("t-cart"))[0]) == [cart]
    assert identity(ca.call(csr, jwt("t-z"), message=asks(cart))[0]) == [cart]
    assert "node:istio-system/ztunnel review:JTI=7ee52be0" in [r["auth"] for r in rows(ca)]
    refused(A, "request impersonation authentication failure", lambda: ca.call(csr, jwt("t-sa"), message=asks(cart)))
    cluster.put([x for x in WORLD if x["metadata"]["name"] != "cart-1"])
    wait_for("gone", lambda: code(lambda: ca.call(csr, jwt("t-cart"))) == A)
    assert reason(ca, "pod_gone") and kube.asked("t-cart") <= 1 + (time.monotonic() - began) // KEPT_S


def test_client_certificate_and_keys_from_the_api_server(tmp_path, daemon, pb, plugged):  # noqa: F811
    """--kube-client-cert instead of a token; --issuer ISS=kubernetes: the JWKS of the API server."""
    root, pem, key = server_cert(tmp_path, "us")
    kube = Kube(tmp_path, client_root=root)
    try:
        kube.own = None
        flags = ("--kube-server", kube.url, "--kube-ca-file", kube.root, "--issuer", "https://kubernetes.default.svc=kubernetes")
        ca = Ca(tmp_path, daemon, pb, *flags, "--kube-client-cert", pem, "--kube-client-key", key)
        kube.keys = ca.issuer.jwks()
        ca.ready()
        _, csr = make_csr()
        wait_for("keys", lambda: code(lambda: ca.call(csr, ca.issuer.token(iss="https://kubernetes.default.svc"))) is None, 60, 0.3)
        ca.daemon.stop()
        # the same from a kubeconfig, paths beside it
        (tmp_path / "kubeconfig").write_text(f"""
current-context: here
contexts: [{{name: here, context: {{cluster: c, user: u}}}}, {{name: there, context: {{cluster: c, user: nobody}}}}]
clusters:
- name: c
  cluster:
    server: {kube.url}
    certificate-authority: {kube.root.name}
users:
- name: u
  user:
    client-certificate: {pem.name}
    client-key: {key}
- {{name: nobody, user: {{}}}}
""")
        config = ("--kubeconfig", tmp_path / "kubeconfig", *flags[4:])
        kube.keys = None  # else the forerunner's may be read first: of the same kid, they are not read again for minutes
        ca = Ca(tmp_path, daemon, pb, *config)
        kube.keys = ca.issuer.jwks()
        ca.ready()
        wait_for("keys", lambda: code(lambda: ca.call(csr, ca.issuer.token(iss="https://kubernetes.default.svc"))) is None, 60, 0.3)
        ca.daemon.stop()
        ca = Ca(tmp_path, daemon, pb, *config, "--kube-context", "there").ready()
        wait_for("no certificate, no keys", lambda: "https://kubernetes.default.svc not loaded" in ca.daemon.text())
        ca.daemon.stop()
        without = Ca(tmp_path, daemon, pb, *flags).ready()
        wait_for("no certificate, no keys", lambda: "https://kubernetes.default.svc not loaded" in without.daemon.text())
        refused(U, "keys are not known yet", lambda: without.call(csr, without.issuer.token(iss="https://kubernetes.default.svc")))
    finally:
        kube.stop()
