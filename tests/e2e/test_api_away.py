"""The API server is stopped under load: leaves go on being issued from what the watch knows, node proxies' too; what was deleted meanwhile
is refused once it is back. MESHROOT_AWAY_S=60 for the whole minute. Source: specs/istio-ca.md 3.2, 3.4."""
import os
import threading
import time

import grpc
import pytest

from conftest import wait_for
from kube_api import KubeApi
from test_ca import Ca, make_csr, pb, plugged, refused  # noqa: F401
from test_callers import WORLD, account, asks, bound, code, identity, pod, reason
from test_clock import Clock

A = grpc.StatusCode.UNAUTHENTICATED
AWAY_S = float(os.environ.get("MESHROOT_AWAY_S", "8"))


@pytest.fixture
def kube(tmp_path):
    k = KubeApi(tmp_path)
    for x in WORLD:
        k.put(x)
    yield k
    k.stop()


def serve(tmp_path, daemon, pb, kube, *flags):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb, "--watch-pods", "--kube-server", kube.url, "--kube-ca-file", kube.root, "--kube-token-file",
            kube.kubeconfig().with_suffix(".token"), "--trusted-node-account", "istio-system/ztunnel", *flags).ready()
    wait_for("known", lambda: ca.status()["callers"]["pods"]["in_force"])
    return ca


class Asking(threading.Thread):
    """One client that asks without a pause; every answer that is no leaf is kept."""

    def __init__(self, ca, token, message=None):
        super().__init__(daemon=True)
        self.ca, self.token, self.message, self.good, self.failed, self.over = ca, token, message, 0, [], False
        self.start()

    def run(self):
        _, csr = make_csr()
        with self.ca.channel() as channel:
            while not self.over:
                try:
                    self.ca.call(csr, self.token, channel=channel, message=self.message)
                    self.good += 1
                except grpc.RpcError as e:
                    self.failed.append(f"{e.code().name}: {e.details()}")

    def stop(self):
        self.over = True
        self.join(30)
        return self.failed


def test_leaves_go_on_while_the_api_server_is_away(tmp_path, daemon, pb, plugged, kube):  # noqa: F811
    ca = serve(tmp_path, daemon, pb, kube)
    _, csr = make_csr()
    i = ca.issuer
    cart, pay, proxy = bound(i, "shop", "cart", "cart-1"), bound(i, "shop", "pay", "pay-1"), bound(i, "istio-system", "ztunnel", "ztunnel-1")
    load = [Asking(ca, cart), Asking(ca, bound(i, "shop", "cart", "cart-1")), Asking(ca, proxy, asks("spiffe://cluster.local/ns/shop/sa/cart"))]
    wait_for("leaves", lambda: all(x.good > 20 for x in load))
    kube.stop()
    before, end = [x.good for x in load], time.monotonic() + AWAY_S
    kube.delete("Pod", "shop", "pay-1")  # nobody hears of it
    kube.put(account("shop", "late"))
    kube.put(pod("shop", "late-1", "late"))
    assert ca.call(csr, pay)[0]
    # the rule of node proxies is asked of the same memory: yes and no
    refused(A, "impersonation", lambda: ca.call(csr, proxy, message=asks("spiffe://cluster.local/ns/shop/sa/pay")))
    assert code(lambda: ca.call(csr, bound(i, "shop", "late", "late-1"))) == A  # a pod that the watch has not seen is none
    wait_for("the time is over", lambda: time.monotonic() > end and all(x.good > b + 50 for x, b in zip(load, before)), AWAY_S + 60, 0.2)
    assert [x.stop() for x in load] == [[], [], []]
    assert ca.get("/readyz")[0] == 200
    kube.start()
    wait_for("the deleted pod's token is refused", lambda: code(lambda: ca.call(csr, pay)) == A)
    assert reason(ca, "pod_gone")
    wait_for("the new pod's is good", lambda: code(lambda: ca.call(csr, bound(i, "shop", "late", "late-1"))) is None)
    assert identity(ca.call(csr, cart)[0]) == ["spiffe://cluster.local/ns/shop/sa/cart"]


def test_five_minutes_of_clock_skew(tmp_path, daemon, pb, plugged, kube):  # noqa: F811
    """The CA's clock is not the API server's. Behind: a fresh token is not yet valid, and the log says so; one of before is good. Ahead: a
    token ends five minutes early, and no sooner. A deletion's grace of a minute is counted by the CA's clock."""
    clock = Clock(tmp_path)
    ca = serve(tmp_path, lambda *a, **k: daemon(*a, env=clock.env, **k), pb, kube)
    _, csr = make_csr()
    now = int(time.time())
    k = {"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart", "uid": "uid-shop-cart"},
                           "pod": {"name": "cart-1", "uid": "uid-shop-cart-1"}}}

    def token(since, until):
        return ca.issuer.token(sub="system:serviceaccount:shop:cart", iat=now + since, nbf=now + since, exp=now + until, **k)

    fresh, older, ends_soon = token(0, 3600), token(-600, 3600), token(-600, 200)
    for step, good, bad in ((0, (fresh, older, ends_soon), ()), (-300, (older, ends_soon), (fresh,)), (300, (fresh, older), (ends_soon,)),
                            (0, (fresh, older, ends_soon), ())):
        clock.step(step)
        for t in good:
            assert code(lambda: ca.call(csr, t)) is None, step
        for t in bad:
            refused(A, "request authenticate failure", lambda: ca.call(csr, t))
    assert reason(ca, "not_yet_valid") and reason(ca, "expired")
    assert "token: not valid before" in ca.daemon.text()
    assert ca.get("/readyz")[0] == 200
