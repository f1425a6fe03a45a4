"""The client of src/kube/ against a real API server and etcd: what tests/e2e/kube_api.py says of it is true there too."""
import base64
import signal
import time

import pytest

from conftest import wait_for
from test_kube_events import Recorder
from test_kube_feed import Feed
from test_kube_lease import Candidate
from test_kube_writes import CONFLICT, DENIED, EXISTS, NOTFOUND, STATE, Client, made, refused

NS = "kube-client"


@pytest.fixture(scope="module", autouse=True)
def config(api):
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}})
    yield api.dir / "admin.conf"
    api.kubectl("delete", "namespace", NS, "--wait=false")


@pytest.fixture
def client(config):
    return Client(config)


def account(api, tmp_path, name, *rules, ns=NS):
    """A kubeconfig of a service account that may do what the rules say."""
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": ns}},
              {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name, "namespace": ns}, "rules": list(rules)},
              {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name, "namespace": ns},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
               "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": ns}]})
    return api.config_of(name, ns, tmp_path)


def test_create_update_delete(api, client):
    one = made(client("create", "Secret", NS, "s", {"type": "Opaque", "data": {"a": base64.b64encode(b"1").decode()}}))
    assert one["metadata"]["managedFields"][0]["manager"] == "meshroot"
    refused(client("create", "Secret", NS, "s", {}), EXISTS, 'secrets "s" already exists')
    refused(client("create", "Secret", "no-such-namespace", "s", {}), NOTFOUND, 'namespaces "no-such-namespace" not found')
    guard = {"metadata": {"resourceVersion": one["metadata"]["resourceVersion"]}}
    two = made(client("update", "Secret", NS, "s", {**guard, "data": {"b": "Mg=="}}))
    assert two["data"] == {"b": "Mg=="}
    refused(client("update", "Secret", NS, "s", {**guard, "data": {}}), CONFLICT, "the object has been modified")
    refused(client("update", "Secret", NS, "s", {"metadata": {"resourceVersion": two["metadata"]["resourceVersion"]}, "type": "Other"}), "inval",
            "field is immutable")
    refused(client("create", "Secret", NS, "bad", {"data": {"a": "!"}}), "inval", "illegal base64")
    refused(client("create", "Secret", NS, "bad", {"dat": {"a": "MQ=="}}), "inval", "unknown field")  # fieldValidation=Strict
    made(client("create", "Secret", NS, "dry", {"stringData": {"a": "b"}}, dry_run=True))
    refused(client("get", "Secret", NS, "dry"), NOTFOUND, 'secrets "dry" not found')
    uid, version = two["metadata"]["uid"], two["metadata"]["resourceVersion"]
    refused(client("delete", "Secret", NS, "s", uid="00000000-0000-0000-0000-000000000000"), CONFLICT, "the UID in the precondition (0")
    refused(client("delete", "Secret", NS, "s", uid=uid, version="1"), CONFLICT, "the ResourceVersion in the precondition (1)")
    made(client("delete", "Secret", NS, "s", uid=uid, version=version, dry_run=True))
    made(client("delete", "Secret", NS, "s", uid=uid, version=version, propagation="Foreground"))
    wait_for("it is gone", lambda: client("get", "Secret", NS, "s").get("error") == NOTFOUND)


def test_apply_and_patch(api, client):
    api.kubectl("create", "configmap", "m", "-n", NS, "--from-literal=them=1")
    one = made(client("apply", "ConfigMap", NS, "m", {"data": {"us": "2", "also": "3"}}))
    assert one["data"] == {"them": "1", "us": "2", "also": "3"}
    refused(client("apply", "ConfigMap", NS, "m", {"data": {"us": "2", "them": "9"}}), CONFLICT, 'conflict with "kubectl-create"', ".data.them")
    assert made(client("apply", "ConfigMap", NS, "m", {"data": {"us": "2", "them": "1"}}))["data"] == {"them": "1", "us": "2"}
    assert made(client("apply", "ConfigMap", NS, "m", {"data": {"us": "2", "them": "9"}}, force=True))["data"]["them"] == "9"
    left = made(client("apply", "ConfigMap", NS, "m", {"data": {"us": "4"}}))
    assert left["data"] == {"us": "4"}
    assert made(client("apply", "ConfigMap", NS, "m", {"data": {"us": "4"}}))["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]
    refused(client("apply", "ConfigMap", NS, "m", {"metadata": {"resourceVersion": "1"}, "data": {}}), CONFLICT, "has been modified")
    assert made(client("apply", "ConfigMap", NS, "new", {"data": {"k": "v"}}, manager="other"))["metadata"]["managedFields"][0]["manager"] == "other"
    assert made(client("patch", "ConfigMap", NS, "m", object={"data": {"us": None, "x": "y"}}))["data"] == {"x": "y"}
    # a status by its own door
    made(client("create", "Deployment", NS, "d", {"spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}}}))
    said = made(client("patch", "Deployment", NS, "d", object={"status": {"observedGeneration": 77}, "spec": {"paused": True}}, sub="status"))
    assert said["status"]["observedGeneration"] == 77 and "paused" not in said["spec"]


def test_owners_and_a_namespace_that_ends(api, client):
    owner = made(client("create", "ConfigMap", NS, "owner", {}))
    made(client("create", "ConfigMap", NS, "owned", {"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"], "controller": True}]}}))
    made(client("delete", "ConfigMap", NS, "owner"))
    wait_for("what it owned is gone", lambda: client("get", "ConfigMap", NS, "owned").get("error") == NOTFOUND)
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ending"}})
    made(client("create", "ConfigMap", "ending", "held", {"metadata": {"finalizers": ["meshroot.io/test"]}}))
    api.kubectl("delete", "namespace", "ending", "--wait=false")
    refused(client("create", "ConfigMap", "ending", "n", {}), STATE, "because it is being terminated")
    refused(client("apply", "ConfigMap", "ending", "n", {}), STATE, "because it is being terminated")
    made(client("patch", "ConfigMap", "ending", "held", object={"metadata": {"finalizers": None}}))


def test_who_may_not(api, tmp_path):
    mine = Client(account(api, tmp_path, "poor", {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]}))
    wait_for("its role", lambda: mine("get", "Secret", NS, "one").get("error") == NOTFOUND)
    user = f"system:serviceaccount:{NS}:poor"
    refused(mine("get", "Secret", NS, "other"), DENIED, f'User "{user}" cannot get resource "secrets" in API group "" in the namespace "{NS}"')
    refused(mine("apply", "Secret", NS, "one", {}), DENIED, 'cannot patch resource "secrets"', f'in the namespace "{NS}"')
    refused(mine("create", "Namespace", None, "x", {}), DENIED, 'cannot create resource "namespaces"', "at the cluster scope")


def test_a_leader_that_is_killed_and_one_that_ends(api, tmp_path):
    """With no more than the chart lets the operator do."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "meshroot-system"}})
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    config = account(api, tmp_path, "candidate", {**leases, "resourceNames": ["meshroot-operator"], "verbs": ["get", "update"]},
                     {**leases, "verbs": ["create"]}, ns="meshroot-system")
    candidates = [Candidate(config, who) for who in "abc"]
    try:
        def leader():
            return next((c for c in candidates if c.process.poll() is None and c.leads()), None)

        def lease():
            return api.get("lease", "meshroot-operator", "-n", "meshroot-system")["spec"]
        first = wait_for("a leader", leader)
        assert lease()["holderIdentity"] == first.who and lease()["leaseTransitions"] == 0
        first.end()  # kill -9
        second = wait_for("the next one", leader)
        assert lease()["holderIdentity"] == second.who and lease()["leaseTransitions"] == 1
        second.end(signal.SIGTERM)
        third = wait_for("the last one", leader)
        api.sh(f"cluster_end {api.dir} apiserver")
        wait_for("nobody", lambda: not leader())
        assert "not renewed in time" in third.last("lost")["message"]
        api.sh(f"cluster_api_run {api.dir}; cluster_wait 60 'the API server' cluster_api_ready {api.dir}")
        wait_for("it leads again", leader)
        now = time.monotonic_ns() // 10 ** 6
        spans = sorted(s for c in candidates for s in c.spans(now) if c is not first)  # when first died, nobody has written down
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:])), spans
        third.end(signal.SIGTERM)
        assert lease()["holderIdentity"] == ""
    finally:
        for c in candidates:
            if c.process.poll() is None:
                c.end()


def test_a_watch_goes_on_over_an_outage(api, client, config):
    api.apply(*({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"w{i}", "namespace": NS}} for i in range(120)))
    feed = Feed(config, f"/api/v1/namespaces/{NS}/configmaps")
    try:
        def there():
            return {f"{NS}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in api.get("configmaps", "-n", NS)["items"]}
        wait_for("the list", lambda: feed.world() == there())
        made(client("patch", "ConfigMap", NS, "w1", object={"data": {"a": "b"}}))
        made(client("delete", "ConfigMap", NS, "w2"))
        wait_for("a change and a deletion", lambda: feed.world() == there())
        api.sh(f"cluster_end {api.dir} apiserver; cluster_api_run {api.dir}; cluster_wait 60 'the API server' cluster_api_ready {api.dir}")
        made(client("patch", "ConfigMap", NS, "w3", object={"data": {"a": "b"}}))
        wait_for("in step again", lambda: feed.world() == there(), 90)
        assert sum(1 for x in feed.said if "whole" in x) <= 2  # a new API server has forgotten where it was (410): one more list, no more
    finally:
        feed.end(signal.SIGTERM)


def test_events_are_on_the_object(api, config, client):
    about = {"apiVersion": "v1", "kind": "ConfigMap", **made(client("create", "ConfigMap", NS, "about", {}))}
    said = [[True, "Held", "the same words", 50], [False, "Rotated", "done", 1]]
    Recorder(api, about, said, config).until({"created": 2, "counted": 1}).over()
    seen = {e["reason"]: e for e in api.get("events", "-n", NS, "--field-selector", "involvedObject.name=about")["items"]}
    assert seen["Held"]["count"] == 50 and seen["Held"]["type"] == "Warning" and seen["Rotated"]["count"] == 1
    assert "the same words" in api.kubectl("describe", "configmap", "about", "-n", NS)
