"""The operator with meshroot's own CA as the target: two replicas behind a stand-in of the kubelet, whose word opens the gates."""
import base64
import json
import shutil
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from conftest import lasting_port, wait_for
from kube_world import now
from test_ca import ISSUER, Ca, Issuer, make_csr, pb  # noqa: F401
from test_operator import NS, OWN, World


class Pod(Ca):
    """One pod of the StatefulSet: its own state, the Secret's volume, an address of its own."""

    def __init__(self, world, daemon, pb, name, ip, port, ttl):  # noqa: F811
        self.tmp, self.pb, self.issuer, self.name, self.ip, self.ttl = world.tmp, pb, world.issuer, name, ip, ttl
        self.state, self.dir, self.daemons = world.tmp / name, world.tmp / "volume", daemon
        self.start(port)

    def start(self, port):
        ports = self.tmp / f"{self.name}.ports"
        us = f"{OWN}/meshroot-operator"
        self.daemon = self.daemons("ca", "serve", "--ca-dir", self.dir, "--state-dir", self.state, "--listen", f"{self.ip}:{port}", "--monitoring",
                                   "127.0.0.1:0", "--issuer", f"{ISSUER}={self.tmp}/jwks.json", "--reread-interval", "100ms", "--replica", self.name,
                                   "--evidence-reader", us, "--revocation-courier", us, "--serving-account", us, "--serving-name",
                                   "istiod.istio-system.svc", "--default-workload-ttl", self.ttl, "--port-file", ports, port_file=ports)
        self.ports = self.daemon.ports()


@pytest.fixture
def world(tmp_path, daemon, pb):  # noqa: F811
    w = World(tmp_path, daemon)
    w.issuer = Issuer()
    (tmp_path / "jwks.json").write_text(w.issuer.jwks())
    (tmp_path / "token").write_text(w.issuer.token(sub=f"system:serviceaccount:{OWN}:meshroot-operator", exp=int(10**10)))
    volume, lock, newest = tmp_path / "volume", threading.Lock(), [0]

    def kubelet(kind, o):
        """A Secret's volume: a new folder, then one rename."""
        if o["kind"] != "Secret" or o["metadata"]["name"] != "meshroot-ca" or kind == "DELETED":
            return
        with lock:
            version = int(o["metadata"]["resourceVersion"])
            if version < newest[0]:
                return  # the one after it was told first
            newest[0], data = version, volume / f"..{version}"
            data.mkdir(parents=True)
            for k, v in o["data"].items():
                (data / k).write_bytes(base64.b64decode(v))
                if not (volume / k).is_symlink():
                    (volume / k).symlink_to(f"..data/{k}")
            tmp = volume / "..tmp"
            tmp.symlink_to(data.name)
            tmp.rename(volume / "..data")
    w.api.hooks.append(kubelet)
    yield w
    w.api.stop()


def pod_object(world, name, ip, phase="Running"):
    world.api.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": OWN, "labels": {
        "app.kubernetes.io/name": "meshroot", "app.kubernetes.io/component": "ca"}}, "spec": {}, "status": {"phase": phase, "podIP": ip}})


def start(world, daemon, pb, *flags, ttl="8s"):  # noqa: F811
    """The first set, then two replicas, then the operator that knows their port."""
    first = world.run("--lease", "off")
    wait_for("the first set", lambda: world.generation("meshroot-ca", OWN) == 1)
    assert first.stop() == 0
    a = Pod(world, daemon, pb, "meshroot-ca-0", "127.0.0.1", lasting_port(), ttl).ready()
    b = Pod(world, daemon, pb, "meshroot-ca-1", "127.0.0.2", a.ports["ca"], ttl).ready()
    for p in (a, b):
        pod_object(world, p.name, p.ip)
    world.operator = world.run("--lease", "off", "--ca-name", "localhost", "--ca-port", str(a.ports["ca"]), "--token-file", world.tmp / "token",
                               *flags)
    return a, b


def test_both_replicas_must_have_loaded_and_no_leaf_be_left(world, daemon, pb):  # noqa: F811
    world.plugin(target="meshroot", ttl={"default": "1m"})
    a, b = start(world, daemon, pb)
    s = world.secret("meshroot-ca", OWN)
    assert sorted(s["data"]) == ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "manifest.json", "root-cert.pem"]
    assert world.secret() is None, "cacerts is a stock istiod's"
    world.ready(1)
    _, csr = make_csr()
    assert a.call(csr, world.issuer.token())[0] and b.call(csr, world.issuer.token())[0]  # two leaves under root A, 8 s each
    b.daemon.kill()
    world.mesh.set_all(world.sets["B1"])
    wait_for("widened", lambda: world.generation("meshroot-ca", OWN) == 2)
    wait_for("the dead one holds it", lambda: world.is_condition("Held", "True", "Replicas"))
    assert world.holds("B1") is False
    b.start(a.ports["ca"])
    wait_for("leaves hold it, or are over", lambda: world.is_condition("Held", "True", "Trust") or world.generation("meshroot-ca", OWN) >= 3)
    wait_for("through all gates", lambda: world.is_at_rest("meshroot-ca", OWN) and world.generation("meshroot-ca", OWN) == 4, 120)
    assert "Root B" in world.status()["root"] and "CN=Root A" not in world.status()["root"]
    assert [r["name"] for r in world.status()["replicas"]] == ["meshroot-ca-0", "meshroot-ca-1"]
    for p in (a, b):
        wait_for("loaded", lambda: p.status()["generation"] == 4)
        wait_for("told", lambda: world.api.get("Pod", OWN, p.name)["metadata"].get("annotations", {}).get("meshroot.io/generation") == "4")


def test_a_replica_that_is_not_there_is_waited_for(world, daemon, pb):  # noqa: F811
    world.plugin(target="both", ttl={"default": "1h"}, gates={"stockWait": "0s", "mountWait": "0s"})
    a, b = start(world, daemon, pb)
    wait_for("both known", lambda: len(world.status().get("replicas", [])) == 2)
    wait_for("both Secrets", lambda: world.generation() == world.generation("meshroot-ca", OWN) == 1)
    world.api.delete("Pod", OWN, "meshroot-ca-1")
    b.daemon.kill()
    world.mesh.set_all(world.sets["B1"])
    wait_for("held", lambda: world.is_condition("Held", "True", "Replicas"))
    assert json.dumps(world.status()["replicas"]).count("meshroot-ca-1") == 1 and world.generation("meshroot-ca", OWN) == 2
    b.start(a.ports["ca"])
    pod_object(world, "meshroot-ca-1", "127.0.0.2")
    wait_for("it came back", lambda: world.is_at_rest() and world.generation() == world.generation("meshroot-ca", OWN) == 4)


def test_more_pods_than_are_followed_are_said_once_and_hold_the_gates(world, daemon, pb):  # noqa: F811
    world.plugin(target="meshroot", ttl={"default": "1h"})
    start(world, daemon, pb)
    world.ready(1)
    for i in range(2, 33):  # 33 pods: names sort after the two that are there
        pod_object(world, f"meshroot-ca-{i:03}", "", phase="Pending")
    wait_for("an Event", lambda: world.events("TooManyReplicas"))
    world.mesh.set_all(world.sets["B1"])
    wait_for("the condition says it", lambda: world.is_condition("Held", "True", "Replicas") and
             "there are more than 32" in world.condition("Held")["message"])
    assert "run fewer replicas" in world.condition("Held")["message"]
    asked = world.api.count("GET", "/pods?labelSelector")
    wait_for("looked at some times more", lambda: world.api.count("GET", "/pods?labelSelector") >= asked + 3)
    assert world.operator.text().count("there are more than 32") == 1
    world.api.delete("Pod", OWN, world.condition("Held")["message"].split()[2])
    wait_for("not said any more", lambda: "more than 32" not in world.condition("Held")["message"])


def test_replicas_are_counted_after_the_set_was_written(world, daemon, pb):  # noqa: F811
    """A pod that is made between the last look at the pods and the set mounts the set of before."""
    world.plugin(target="meshroot", ttl={"default": "1m"}, gates={"mountWait": "0s"})
    a, b = start(world, daemon, pb)
    wait_for("both known", lambda: len(world.status().get("replicas", [])) == 2)
    pods, asked, answered = f"/api/v1/namespaces/{OWN}/pods", threading.Event(), threading.Event()
    world.api.answers[pods] = lambda *_: (asked.set(), answered.wait(60), (500, {}, {}))[2]
    assert asked.wait(60)
    world.mesh.set_all(world.sets["B1"])
    for p in (a, b):
        wait_for("widened", lambda: p.status()["generation"] == 2)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert world.generation("meshroot-ca", OWN) == 2, "moved by a list of pods that is older than the set"
        time.sleep(0.1)
    del world.api.answers[pods]
    answered.set()
    wait_for("the rotation", lambda: world.is_at_rest("meshroot-ca", OWN) and world.generation("meshroot-ca", OWN) == 4)


def test_a_replica_answers_for_leaves_that_live_longer_than_most(world, daemon, pb):  # noqa: F811
    """One was scaled away hours ago; a leaf that it gave for longer than ttl.default is in use. And one that is there says when its last ends."""
    far = now(7200)
    world.plugin(target="meshroot", ttl={"default": "1m"})
    world.api.edit("PluginCA", NS, "default", {"status": {"replicas": [{"name": "meshroot-ca-9", "lastSeen": "2026-01-01T00:00:00Z", "leavesEnd": far}]}},
                   sub="status")
    a, b = start(world, daemon, pb)
    _, csr = make_csr()
    least = now(3590)
    assert a.call(csr, world.issuer.token(), validity=3600)[0]
    ends = lambda n: next((r.get("leavesEnd", "") for r in world.status().get("replicas", []) if r["name"] == n), "")  # noqa: E731
    wait_for("told", lambda: ends("meshroot-ca-0") >= least)
    world.mesh.set_all(world.sets["B1"])
    wait_for("held", lambda: world.is_condition("Held", "True", "Replicas"))
    assert ends("meshroot-ca-9") == far and world.holds("A1") is False and world.generation("meshroot-ca", OWN) == 2


def test_istiod_s_own_certificate_follows_the_set_and_holds_nothing_up(world, daemon, pb):  # noqa: F811
    world.plugin(target="meshroot", gates={"mountWait": "1s"})
    start(world, daemon, pb, "--istiod-tls-name", "istiod.istio-system.svc", ttl="10m")  # so that none is renewed while we look
    tls = lambda key: base64.b64decode(s["data"][key])  # noqa: E731
    wait_for("made", lambda: world.generation("istiod-tls") == 1)
    s = world.secret("istiod-tls")
    assert s["type"] == "kubernetes.io/tls" and sorted(s["data"]) == ["ca.crt", "tls.crt", "tls.key"]
    leaf = x509.load_pem_x509_certificate(tls("tls.crt"))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["istiod.istio-system.svc"]
    assert serialization.load_pem_private_key(tls("tls.key"), None).public_key() == leaf.public_key()
    assert "Root A" in x509.load_pem_x509_certificate(tls("ca.crt")).subject.rfc4514_string()
    wait_for("its generation is in force", lambda: world.status().get("phase") == "Ready")
    assert world.secret("istiod-tls")["metadata"]["resourceVersion"] == s["metadata"]["resourceVersion"]
    world.mesh.set_all(world.sets["B1"])
    wait_for("a rotation", lambda: world.is_at_rest("meshroot-ca", OWN) and world.generation("meshroot-ca", OWN) == 4)
    wait_for("it came along", lambda: world.generation("istiod-tls") == 4)
    s = world.secret("istiod-tls")
    assert "Intermediate B1" in x509.load_pem_x509_certificate(tls("tls.crt")).issuer.rfc4514_string()


def test_a_mesh_whose_istiod_has_no_certificate_is_not_ready(world, daemon, pb):  # noqa: F811
    """An istiod without a CA that starts before istiod-tls is there never opens its TLS port: "mesh enable --wait" must wait for it."""
    world.plugin(target="meshroot", gates={"mountWait": "1s"})
    start(world, daemon, pb, "--istiod-tls-name", "stranger.istio-system.svc")  # which the CA was not told of
    wait_for("it says what is missing", lambda: world.is_condition("Loaded", "False", "IstiodTls"))
    assert "istiod-tls" in world.condition("Loaded")["message"]
    wait_for("and why", lambda: "stranger.istio-system.svc" in world.condition("Loaded")["message"])
    wait_for("not Ready", lambda: world.status()["phase"] == "Rotating")


def test_a_replica_that_lost_its_ledger_has_leaves_all_the_same(world, daemon, pb):  # noqa: F811
    """An emptyDir, or a volume that somebody deleted: the new pod of the same name knows no leaf. Those of before are in use."""
    world.plugin(target="meshroot", ttl={"default": "1m"})
    a, b = start(world, daemon, pb, ttl="1h")
    told = lambda: {r["name"]: r for r in world.status().get("replicas", [])}  # noqa: E731
    _, csr = make_csr()
    assert a.call(csr, world.issuer.token())[0] and b.call(csr, world.issuer.token())[0]
    wait_for("both told of theirs", lambda: len(told()) == 2 and all(r.get("leavesEnd") and r.get("ledger") for r in told().values()))
    before = told()
    assert not any("lostLeavesEnd" in r for r in before.values())
    world.operator.stop()  # nobody looks when it happens
    b.daemon.kill()
    shutil.rmtree(b.state)
    b.start(a.ports["ca"])
    b.ready()
    world.operator = world.run("--lease", "off", "--ca-name", "localhost", "--ca-port", str(a.ports["ca"]), "--token-file", world.tmp / "token")
    wait_for("it is said", lambda: world.events("LedgerLost") and "lostLeavesEnd" in told()["meshroot-ca-1"])
    after = told()
    assert after["meshroot-ca-1"]["ledger"] != before["meshroot-ca-1"]["ledger"] and after["meshroot-ca-0"]["ledger"] == before["meshroot-ca-0"]["ledger"]
    assert after["meshroot-ca-1"]["lostLeavesEnd"] >= before["meshroot-ca-1"]["leavesEnd"] and "lostLeavesEnd" not in after["meshroot-ca-0"]
    world.mesh.set_all(world.sets["A2"])  # under the same root nobody is at risk
    wait_for("a new intermediate", lambda: world.is_at_rest("meshroot-ca", OWN) and world.generation("meshroot-ca", OWN) == 2)
    world.mesh.set_all(world.sets["B1"])
    wait_for("held by what is not known", lambda: world.generation("meshroot-ca", OWN) == 3 and world.is_condition("Held", "True", "Trust") and
             "lost ledger of meshroot-ca-1" in json.dumps(world.status()))
    a.daemon.kill()  # and a restart with its volume loses nothing
    wait_for("missed", lambda: world.is_condition("Held", "True", "Replicas"))
    a.start(a.ports["ca"])
    wait_for("it is back", lambda: world.is_condition("Held", "True", "Trust"))
    assert "lostLeavesEnd" not in told()["meshroot-ca-0"] and len(world.events("LedgerLost")) == 1
