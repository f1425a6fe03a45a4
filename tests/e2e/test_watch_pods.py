"""Pods and service accounts from a watch: a scripted API server. Source: Kubernetes API concepts; specs/istio-ca.md 3.2, 3.4."""
import grpc
import pytest

from conftest import wait_for
from kube_api import KubeApi
from test_ca import Ca, make_csr, pb, plugged, refused  # noqa: F401
from test_callers import WORLD, asks, bound, code, identity, reason

A, U = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def kube(tmp_path):
    k = KubeApi(tmp_path)
    for x in WORLD:
        k.put(x)
    k.watch_s = 0.5  # closed again and again
    yield k
    k.stop()


def test_a_deleted_pod_ends_and_an_outage_does_not(tmp_path, daemon, pb, plugged, kube):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb, "--watch-pods", "--cluster-max-stale", "25s", "--kube-server", kube.url, "--kube-ca-file", kube.root,
            "--kube-token-file", kube.kubeconfig().with_suffix(".token"), "--trusted-node-account", "istio-system/ztunnel").ready()
    _, csr = make_csr()
    cart, pay = bound(ca.issuer, "shop", "cart", "cart-1"), bound(ca.issuer, "shop", "pay", "pay-1")
    proxy = bound(ca.issuer, "istio-system", "ztunnel", "ztunnel-1")
    wait_for("known", lambda: ca.status()["callers"]["pods"]["in_force"])
    assert ca.status()["callers"]["pods"]["known"] == 4
    with ca.channel() as channel:
        assert identity(ca.call(csr, cart, channel=channel)[0]) == ["spiffe://cluster.local/ns/shop/sa/cart"]
        assert ca.call(csr, proxy, channel=channel, message=asks("spiffe://cluster.local/ns/shop/sa/cart"))[0]
        refused(A, "impersonation", lambda: ca.call(csr, proxy, channel=channel, message=asks("spiffe://cluster.local/ns/shop/sa/pay")))
        kube.delete("Pod", "shop", "cart-1")
        wait_for("gone", lambda: code(lambda: ca.call(csr, cart, channel=channel)) == A)
        assert reason(ca, "pod_gone")
        kube.stop()  # away: what is known holds, then nothing does
        assert ca.call(csr, pay, channel=channel)[0]
        wait_for("too old", lambda: code(lambda: ca.call(csr, pay, channel=channel)) == U)
        assert reason(ca, "cluster_unknown")
        kube.start()
        wait_for("back", lambda: code(lambda: ca.call(csr, pay, channel=channel)) is None)
