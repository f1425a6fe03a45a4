"""Pods and service accounts from a watch: a scripted API server. Source: Kubernetes API concepts; specs/istio-ca.md 3.2, 3.4."""
import json
import threading
import urllib.parse

import grpc
import pytest

from conftest import wait_for
from https_peer import HttpsPeer
from test_ca import Ca, make_csr, pb, plugged, refused  # noqa: F401
from test_callers import WORLD, asks, bound, code, identity, reason

A, U = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE
KINDS = {"/api/v1/pods": "Pod", "/api/v1/serviceaccounts": "ServiceAccount"}


class Kube(HttpsPeer):
    """Lists in pages of three; a watch ends with its first events, or after half a second without any."""

    def __init__(self, folder):
        self.changed, self.version, self.log = threading.Condition(), 10, []
        self.world = {(x["kind"], x["metadata"]["namespace"], x["metadata"]["name"]): x for x in WORLD}
        super().__init__(folder, self.reply, "kube")

    def delete(self, kind, ns, name):
        with self.changed:
            self.version += 1
            gone = self.world.pop((kind, ns, name))
            gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
            self.log.append((self.version, kind, {"type": "DELETED", "object": gone}))
            self.changed.notify_all()

    def reply(self, method, path, headers, body):
        path, _, query = path.partition("?")
        q, kind = dict(urllib.parse.parse_qsl(query)), KINDS[path]
        assert method == "GET" and headers["authorization"] == "Bearer own"
        with self.changed:
            if "watch" in q:
                since = int(q["resourceVersion"])
                news = lambda: [e for v, k, e in self.log if v > since and k == kind]  # noqa: E731
                self.changed.wait_for(news, 0.5)
                mark = {"type": "BOOKMARK", "object": {"kind": kind, "metadata": {"resourceVersion": str(self.version)}}}
                return 200, {}, "".join(json.dumps(e) + "\n" for e in news() + [mark]).encode()
            items, at = [v for k, v in self.world.items() if k[0] == kind], int(q.get("continue", 0))
            meta = {"resourceVersion": str(self.version), **({"continue": str(at + 3)} if at + 3 < len(items) else {})}
            return 200, {}, {"kind": f"{kind}List", "metadata": meta, "items": items[at:at + 3]}


@pytest.fixture
def kube(tmp_path):
    k = Kube(tmp_path)
    (tmp_path / "own").write_text("own\n")
    yield k
    k.stop()


def test_a_deleted_pod_ends_and_an_outage_does_not(tmp_path, daemon, pb, plugged, kube):  # noqa: F811
    ca = Ca(tmp_path, daemon, pb, "--watch-pods", "--cluster-max-stale", "5s", "--kube-server", kube.url, "--kube-ca-file", kube.root,
            "--kube-token-file", tmp_path / "own", "--trusted-node-account", "istio-system/ztunnel").ready()
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
        wait_for("too old", lambda: code(lambda: ca.call(csr, pay, channel=channel)) == U, 20)
        assert reason(ca, "cluster_unknown")
        kube.start()
        wait_for("back", lambda: code(lambda: ca.call(csr, pay, channel=channel)) is None, 60)
