"""meshroot with a real API server (no node): callers known from the watch, and an API server that goes away."""
import threading
import time

import grpc
import pytest

from conftest import wait_for
from test_ca import Ca, make_csr, pb, plugged  # noqa: F401

CLUSTER_ISSUER = "https://kubernetes.default.svc.cluster.local"
AWAY = 60  # seconds without an API server


def namespace(api, name):
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    wait_for("its service account", lambda: api.kubectl("get", "serviceaccount", "default", "-n", name))


def pod(api, ns, name, account):
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": ns}},
              {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": ns},
               "spec": {"serviceAccountName": account, "containers": [{"name": "app", "image": "none"}]}})
    return api.kubectl("create", "token", account, "-n", ns, "--audience=istio-ca", "--bound-object-kind=Pod",
                       f"--bound-object-name={name}", "--duration=1h").strip()


def code(call):
    try:
        call()
    except grpc.RpcError as e:
        return e.code()
    return None


def leaf(ca, csr, token):
    """Until the CA gives one: it may not have heard of the pod yet."""
    def asks():
        try:
            return ca.call(csr, token)
        except grpc.RpcError as e:
            raise AssertionError(f"{e.code()}: {e.details()}") from None

    wait_for("a leaf", asks)


class Load(threading.Thread):
    """One leaf after the other, until told to end."""

    def __init__(self, ca, token):
        super().__init__(daemon=True)
        self.ca, self.token, self.issued, self.failed, self.ended = ca, token, 0, [], threading.Event()

    def run(self):
        _, csr = make_csr()
        with self.ca.channel() as channel:
            while not self.ended.is_set():
                if (why := code(lambda: self.ca.call(csr, self.token, channel=channel))) is None:
                    self.issued += 1
                else:
                    self.failed.append((time.strftime("%T"), why))

    def stop(self):
        self.ended.set()
        self.join(20)
        return self.issued


@pytest.fixture
def real_ca(api, tmp_path, daemon, pb, plugged):  # noqa: F811
    namespace(api, "shop")
    return Ca(tmp_path, daemon, pb, "--watch-pods", "--kubeconfig", api.dir / "admin.conf", "--issuer", f"{CLUSTER_ISSUER}=kubernetes").ready()


def test_leaves_go_on_without_an_api_server(api, real_ca, report):
    kept, gone = pod(api, "shop", "kept-1", "kept"), pod(api, "shop", "gone-1", "gone")
    _, csr = make_csr()
    for token in (kept, gone):
        leaf(real_ca, csr, token)
    report.heading("The API server goes away for a minute")
    load = Load(real_ca, kept)
    load.start()
    api.sh(f"cluster_end {api.dir} apiserver")
    with report.step(f"API server stopped for {AWAY} s under load") as seen:
        before, ends = load.issued, time.monotonic() + AWAY
        while time.monotonic() < ends:  # the outage is what is tested: it lasts as long as it lasts
            assert code(lambda: real_ca.call(csr, gone)) is None  # not deleted yet
            time.sleep(1)
        during = load.issued - before
        seen(f"{during} leaves issued meanwhile, {len(load.failed)} refused")
        assert during > AWAY and not load.failed, (during, load.failed[:3])
    with report.step("the API server is back, a pod is deleted, its token is refused") as seen:
        api.sh(f"cluster_api_run {api.dir}; cluster_wait 60 'the API server' cluster_api_ready {api.dir}")
        api.kubectl("delete", "pod", "gone-1", "-n", "shop", "--grace-period=0", "--force")
        wait_for("its refusal", lambda: code(lambda: real_ca.call(csr, gone)) == grpc.StatusCode.UNAUTHENTICATED, 60)
        load.stop()
        seen(f"{load.issued} leaves issued in all, {len(load.failed)} refused")
        assert not load.failed


def test_a_recreated_pod_and_another_audience(api, real_ca):
    _, csr = make_csr()
    old = pod(api, "shop", "again-1", "again")
    leaf(real_ca, csr, old)
    api.kubectl("delete", "pod", "again-1", "-n", "shop", "--grace-period=0", "--force")
    new = pod(api, "shop", "again-1", "again")  # the same name, another UID
    leaf(real_ca, csr, new)
    wait_for("none for the old", lambda: code(lambda: real_ca.call(csr, old)) == grpc.StatusCode.UNAUTHENTICATED)
    other = api.kubectl("create", "token", "again", "-n", "shop", "--audience=somebody-else").strip()
    assert code(lambda: real_ca.call(csr, other)) == grpc.StatusCode.UNAUTHENTICATED

