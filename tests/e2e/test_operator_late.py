"""Orders in which a watch, a list, an answer and a timer reach the operator, each forced; and an etcd that was put back from a backup.

Source: Kubernetes API concepts "Resource versions"; issue 5 "Targets"; kubernetes issue 107457 (a watch from a version that has not come yet).
"""
import base64
import threading

from conftest import wait_for
from https_peer import HttpsPeer
from kube_world import now
from test_operator import CM, NS, OWN, PLAN, world  # noqa: F401


def self_signed(world):  # noqa: F811
    root = (world.sets["B1"] / "root-cert.pem").read_text()
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "istio-ca-secret", "namespace": NS}, "type": "istio.io/ca-root",
              "data": {"ca-cert.pem": base64.b64encode(root.encode()).decode()}}
    return secret, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CM, "namespace": NS}, "data": {"root-cert.pem": root}}


def test_an_etcd_is_put_back_under_a_running_operator(world):  # noqa: F811
    world.plugin()
    d = world.run("--lease", "off")
    world.ready(1)
    old = world.api.backup()
    world.mesh.set_all(world.sets["A2"])
    world.ready(2)
    wait_for("A2", lambda: world.holds("A2"))
    for i in range(200):  # so far are its numbers ahead of the backup's
        world.namespace("kube-public", n=str(i))
    numbers = []

    def watch(kind, o):
        if o["kind"] == "Secret" and o["metadata"]["name"] == "cacerts" and kind != "DELETED":
            numbers.append(int(o["metadata"]["annotations"]["meshroot.io/generation"]))
    world.api.refuses_future = True  # at once; a silent watch is found out by the list after KUBE_FEED_RELIST_MS (test_kube_feed.py)
    world.api.stop()
    world.api.put_back(old)
    assert world.generation() == 1
    world.api.hooks.append(watch)
    world.api.start()
    wait_for("put back", lambda: world.holds("A2") and world.generation() >= 2)
    wait_for("said so", lambda: "went back from version" in d.text())
    wait_for("the status too", lambda: world.status().get("phase") == "Ready" and world.status()["generation"] >= 2)
    world.mesh.set_all(world.sets["B1"])  # the plan is the backup's still: the first step is over what nobody has read
    wait_for("B1 in its turn", lambda: world.holds("B1") and world.is_at_rest(), 120)
    assert numbers == sorted(numbers) and numbers[0] >= 2, "no generation comes twice"
    wait_for("everywhere", lambda: all(world.roots(ns) == 1 for ns in (NS, "shop", "default")))


def test_the_answer_about_istiod_s_root_comes_after_the_end(world):  # noqa: F811
    secret, _ = self_signed(world)
    asked, go = threading.Event(), threading.Event()

    def slow(*_):
        asked.set()
        go.wait(60)
        return 200, {}, secret
    world.api.answers[f"/api/v1/namespaces/{NS}/secrets/istio-ca-secret"] = slow
    world.plugin()
    d = world.run("--lease", "off")
    assert asked.wait(60)
    world.api.fail(503, times=1000, method="PATCH", path="/pluginca/default")  # it stays, and so does what retires it
    world.api.delete("PluginCA", NS, "default")
    wait_for("retired", lambda: "the plugged-in CA is off" in d.text())
    go.set()
    wait_for("the answer is out", lambda: world.api.count("GET", "/secrets/istio-ca-secret"))
    with world.api.changed:
        world.api.faults.clear()
    wait_for("gone", lambda: world.api.get("PluginCA", NS, "default") is None)
    assert d.process.poll() is None


def test_istiod_starts_while_the_vault_is_waited_for(world):  # noqa: F811
    """That there was no self-signed root is an answer of before."""
    login = world.api.get("Secret", NS, "vault-sync")
    world.api.delete("Secret", NS, "vault-sync")
    world.plugin()
    world.run("--lease", "off")
    wait_for("no login", lambda: world.is_condition("Held", "True", "VaultLogin"))
    for o in self_signed(world):
        world.api.put(o)
    wait_for("asked again", lambda: world.is_condition("Held", "True", "SelfSignedInUse"))
    world.api.put({k: v for k, v in login.items() if k != "metadata"} | {"metadata": {"name": "vault-sync", "namespace": NS}})
    asked = world.api.count("GET", "/secrets/istio-ca-secret")
    wait_for("held still", lambda: world.api.count("GET", "/secrets/istio-ca-secret") > asked)
    assert world.secret() is None and world.roots("shop") == 0


def test_namespaces_that_are_not_known_yet_are_not_none(world):  # noqa: F811
    """The list of them comes after all else: until then nobody knows who has what."""
    world.plugin()
    before = world.run("--lease", "off")
    world.ready(1)
    assert before.stop() == 0
    world.namespace("new")
    go, phases = threading.Event(), []
    world.api.answers["/api/v1/namespaces"] = lambda *_: (go.wait(60), (503, {}, {}))[1]
    world.api.hooks.append(lambda _, o: o["kind"] == "PluginCA" and phases.append(o["status"]["phase"]))
    world.run("--lease", "off")
    wait_for("all else is known", lambda: world.is_condition("Distributed", "False") and world.is_condition("Synced", "True"))
    assert phases and "Ready" not in phases
    del world.api.answers["/api/v1/namespaces"]
    go.set()
    world.ready(1)
    assert world.roots("new") == 1


def test_it_is_not_ready_before_the_vault_has_said_what_it_wants(world, tmp_path):  # noqa: F811
    """Opened anew, as by another leader or spec: what lies there may be the middle of a rotation, and nothing waits for a gate yet."""
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    asked, go, told = threading.Event(), threading.Event(), []

    def slow(method, path, headers, body):
        if method == "POST":
            return 200, {}, {"token_type": "Bearer", "expires_in": 3600, "access_token": "t"}
        if "authorization" not in headers:
            return 401, {"WWW-Authenticate": f'Bearer authorization="{peer.url}/token", resource="{peer.url}"'}, {}
        asked.set()
        go.wait(60)
        return 403, {}, {"error": {"code": "Forbidden", "message": "not you"}}

    def watch(_, o):
        if o["kind"] == "PluginCA" and o.get("status", {}).get("observedGeneration") == o["metadata"]["generation"] > 1:
            told.append((o["status"]["phase"], {c["type"]: c["status"] for c in o["status"]["conditions"]}))
    peer = HttpsPeer(tmp_path / "peer", slow)
    world.api.hooks.append(watch)
    world.plugin(vault={"url": peer.url, "caBundle": peer.root.read_text(), "auth": {"clientSecret": {"name": "vault-sync"}}})
    assert asked.wait(60)
    there = wait_for("all that is there", lambda: [phase for phase, is_so in list(told) if is_so["Loaded"] == is_so["Distributed"] == "True"])
    assert set(there) == {"Starting"}
    go.set()
    wait_for("its word", lambda: world.is_condition("Synced", "False", "VaultRefused"))
    wait_for("what is in force is whole", lambda: world.status()["phase"] == "Ready")
    peer.stop()


def test_its_end_does_not_hang_on_an_answer_that_is_lost(world):  # noqa: F811
    """The plan's last write is done, its answer is lost, and the same again is refused: it was changed since."""
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    world.api.edit("ConfigMap", OWN, PLAN, {"metadata": {"annotations": {"a": "hand's"}}})
    world.api.lose("PUT", f"/configmaps/{PLAN}")
    world.api.delete("PluginCA", NS, "default")
    wait_for("gone", lambda: world.api.get("PluginCA", NS, "default") is None)
    assert world.plan()["data"] == {"generation": "1"} and world.secret() is None


def test_a_status_that_another_writes_is_put_right(world):  # noqa: F811
    """A hand; or a leader of before, whose last word comes when it leads no more."""
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    world.api.edit("PluginCA", NS, "default", {"status": {"phase": "Held", "generation": 0}}, sub="status")
    world.ready(1)


def test_what_the_leader_before_wrote_last_is_read(world):  # noqa: F811
    """The watch of the one that follows may not have told of it when it leads."""
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "meshroot-operator", "namespace": OWN}, "spec": {
        "holderIdentity": "another", "leaseDurationSeconds": 3600, "acquireTime": now(), "renewTime": now(), "leaseTransitions": 0}}
    world.api.put(lease)
    world.plugin(target="meshroot")
    world.api.edit("PluginCA", NS, "default", {"metadata": {"finalizers": ["meshroot.io/plugged-in"]}})
    d = world.run()
    wait_for("it follows", lambda: world.api.count("GET", "pluginca?watch=1"))
    with world.api.changed:
        world.api.mute = "pluginca"
    world.api.edit("PluginCA", NS, "default", {"status": {"generation": 7, "replicas": [{"name": "meshroot-ca-9", "lastSeen": now(), "leavesEnd": now(3600)}]}},
                   sub="status")
    world.api.edit("Lease", OWN, "meshroot-operator", {"spec": {"holderIdentity": ""}})
    wait_for("it leads", lambda: "leads" in d.text())
    wait_for("above what was told", lambda: world.generation("meshroot-ca", OWN) >= 8)
    names = lambda: [r["name"] for r in world.status().get("replicas", [])]  # noqa: E731
    wait_for("its own status", lambda: world.status().get("conditions"))
    assert names() == ["meshroot-ca-9"], "it answers for its leaves still"
