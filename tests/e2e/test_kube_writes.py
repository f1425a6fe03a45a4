"""Writes of kube/ (write.h) against the scripted API server, and what that server promises to other tests. Source: Kubernetes API concepts."""
import base64
import itertools
import json
import pathlib
import subprocess
import threading
import time

import pytest

from conftest import BINARY, wait_for
from kube_api import KubeApi

TOOL = pathlib.Path(BINARY).parent / "tests" / "tools" / "kube_tool"
PLURALS = {"Secret": ("v1", "secrets"), "ConfigMap": ("v1", "configmaps"), "Namespace": ("v1", "namespaces"),
           "PluginCA": ("meshroot.io/v1alpha1", "pluginca"), "Deployment": ("apps/v1", "deployments")}
CONFLICT, EXISTS, NOTFOUND, DENIED, STATE = "conflict", "exists", "notfound", "denied", "state"


class Client:
    def __init__(self, config):
        self.config = config

    def __call__(self, verb, kind, ns, name, body=None, **kw):
        api, plural = PLURALS[kind]
        if body is not None:
            meta = {"name": name, **({"namespace": ns} if ns else {}), **body.pop("metadata", {})}
            kw["object"] = {"apiVersion": api, "kind": kind, "metadata": meta, **body}
        q = {"api": api, "kind": kind, "plural": plural, "ns": ns, "name": name, "deadline_ms": 40000, **kw}
        done = subprocess.run([TOOL, self.config, verb, json.dumps({k: v for k, v in q.items() if v is not None})], capture_output=True, text=True,
                              timeout=60)
        assert done.stdout, (done.returncode, done.stderr)
        return json.loads(done.stdout)


def made(said):
    assert "object" in said, said
    return said["object"]


def refused(said, code, *words):
    assert said.get("error") == code, said
    for word in words:
        assert word in said["message"], said
    return said["message"]


@pytest.fixture
def api(tmp_path):
    a = KubeApi(tmp_path)
    yield a
    a.stop()


@pytest.fixture
def client(api):
    return Client(api.kubeconfig())


def test_an_update_is_made_from_what_was_read(api, client):
    one = made(client("create", "Secret", "default", "s", {"type": "Opaque", "data": {"a": base64.b64encode(b"1").decode()}}))
    assert one["metadata"]["uid"] and one["metadata"]["managedFields"][0]["manager"] == "meshroot"
    refused(client("create", "Secret", "default", "s", {}), EXISTS, 'secrets "s" already exists')
    refused(client("create", "Secret", "nowhere", "s", {}), NOTFOUND, 'namespaces "nowhere" not found')
    refused(client("update", "Secret", "default", "s", {}), "inval", "resourceVersion")
    guard = {"metadata": {"resourceVersion": one["metadata"]["resourceVersion"]}}
    two = made(client("update", "Secret", "default", "s", {**guard, "data": {"b": "Mg=="}}))
    assert two["data"] == {"b": "Mg=="} and int(two["metadata"]["resourceVersion"]) > int(one["metadata"]["resourceVersion"])
    refused(client("update", "Secret", "default", "s", {**guard, "data": {}}), CONFLICT, "the object has been modified")
    refused(client("update", "Secret", "default", "none", guard | {"data": {}}), NOTFOUND)
    assert api.get("Secret", "default", "s")["data"] == {"b": "Mg=="}
    refused(client("create", "Secret", "default", "bad", {"data": {"a": "!"}}), "inval", "illegal base64")
    # dry run: checked, and nothing changes
    assert made(client("create", "Secret", "default", "dry", {"stringData": {"a": "b"}}, dry_run=True))["data"] == {"a": "Yg=="}
    assert api.get("Secret", "default", "dry") is None
    assert made(client("get", "Secret", "default", "s"))["metadata"]["uid"] == one["metadata"]["uid"]


def test_apply_owns_its_fields_and_no_others(api, client):
    api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "a", "labels": {"x": "theirs"}}, "data": {"them": "1"}},
            manager="istiod")
    one = made(client("apply", "ConfigMap", "a", "m", {"data": {"us": "2", "also": "3"}}))
    assert one["data"] == {"them": "1", "us": "2", "also": "3"}
    assert {f["manager"]: f["operation"] for f in one["metadata"]["managedFields"]} == {"istiod": "Update", "meshroot": "Apply"}
    words = refused(client("apply", "ConfigMap", "a", "m", {"data": {"us": "2", "them": "9"}}), CONFLICT, 'conflict with "istiod"', ".data.them")
    assert "1 conflict" in words
    assert api.get("ConfigMap", "a", "m")["data"]["them"] == "1"
    # the same value is shared, not fought over
    assert made(client("apply", "ConfigMap", "a", "m", {"data": {"us": "2", "them": "1"}}))["data"] == {"them": "1", "us": "2"}  # also: gone
    assert made(client("apply", "ConfigMap", "a", "m", {"data": {"us": "2", "them": "9"}}, force=True))["data"]["them"] == "9"
    # what is left out goes, unless someone else has it
    assert made(client("apply", "ConfigMap", "a", "m", {"data": {"us": "4"}}))["data"] == {"us": "4"}
    # again the same: no new version
    version = api.get("ConfigMap", "a", "m")["metadata"]["resourceVersion"]
    assert made(client("apply", "ConfigMap", "a", "m", {"data": {"us": "4"}}))["metadata"]["resourceVersion"] == version
    # nothing there: made; another manager by name
    assert made(client("apply", "ConfigMap", "a", "new", {"data": {"k": "v"}}, manager="other"))["metadata"]["managedFields"][0]["manager"] == "other"
    refused(client("apply", "ConfigMap", "a", "m", {"metadata": {"resourceVersion": "1"}, "data": {}}), CONFLICT, "has been modified")


def test_patch_delete_and_status(api, client):
    one = made(client("create", "PluginCA", "default", "p", {"spec": {"a": 1, "b": {"c": 2}}, "status": {"phase": "no"}}))
    assert "status" not in one and one["metadata"]["generation"] == 1
    two = made(client("patch", "PluginCA", "default", "p", object={"spec": {"b": {"c": None}, "d": [1]}, "status": {"phase": "no"}}))
    assert two["spec"] == {"a": 1, "b": {}, "d": [1]} and two["metadata"]["generation"] == 2 and "status" not in two
    three = made(client("patch", "PluginCA", "default", "p", object={"status": {"phase": "Ready"}, "spec": {"a": 9}}, sub="status"))
    assert three["status"] == {"phase": "Ready"} and three["spec"]["a"] == 1 and three["metadata"]["generation"] == 2
    four = made(client("apply", "PluginCA", "default", "p", {"status": {"conditions": [{"type": "Synced", "status": "True"}]}}, sub="status"))
    assert four["status"] == {"phase": "Ready", "conditions": [{"type": "Synced", "status": "True"}]}
    uid, version = one["metadata"]["uid"], four["metadata"]["resourceVersion"]
    refused(client("delete", "PluginCA", "default", "p", uid="other"), CONFLICT, "the UID in the precondition (other)")
    refused(client("delete", "PluginCA", "default", "p", uid=uid, version="1"), CONFLICT, "the ResourceVersion in the precondition (1)")
    made(client("delete", "PluginCA", "default", "p", uid=uid, version=version, dry_run=True))
    assert api.get("PluginCA", "default", "p")
    made(client("delete", "PluginCA", "default", "p", uid=uid, version=version, propagation="Foreground"))
    refused(client("delete", "PluginCA", "default", "p"), NOTFOUND, 'pluginca.meshroot.io "p" not found')
    # a finalizer holds it; what it owned goes with it
    owner = made(client("create", "PluginCA", "default", "f", {"metadata": {"finalizers": ["meshroot.io/x"]}, "spec": {}}))
    made(client("create", "Secret", "default", "owned", {"metadata": {"ownerReferences": [
        {"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "name": "f", "uid": owner["metadata"]["uid"]}]}}))
    made(client("delete", "PluginCA", "default", "f"))
    assert api.get("PluginCA", "default", "f")["metadata"]["deletionTimestamp"] and api.get("Secret", "default", "owned")
    made(client("patch", "PluginCA", "default", "f", object={"metadata": {"finalizers": []}}))
    assert api.get("PluginCA", "default", "f") is None and api.get("Secret", "default", "owned") is None


def test_who_may_not_is_told_what_is_missing(api):
    user = "system:serviceaccount:meshroot-system:meshroot-operator"
    api.accounts["limited"] = user
    api.allow(user, ["get"], ["secrets"], ns="istio-system", names=["cacerts"])
    api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": "istio-system"}})
    client = Client(api.kubeconfig("limited", "limited"))
    assert made(client("get", "Secret", "istio-system", "cacerts"))
    refused(client("get", "Secret", "istio-system", "other"), DENIED, f'User "{user}" cannot get resource "secrets" in API group "" in the namespace '
            '"istio-system"')
    refused(client("apply", "Secret", "istio-system", "cacerts", {}), DENIED, 'cannot patch resource "secrets"', 'in the namespace "istio-system"')
    refused(client("create", "Namespace", None, "x", {}), DENIED, 'cannot create resource "namespaces"', "at the cluster scope")
    refused(client("patch", "PluginCA", "a", "p", object={"status": {}}, sub="status"), DENIED, 'resource "pluginca/status" in API group "meshroot.io"')
    refused(Client(api.kubeconfig("unknown", "unknown"))("get", "Secret", "istio-system", "cacerts"), "auth")


def test_a_namespace_that_ends(api, client):
    api.hold_namespaces = True
    api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "ends"}, "data": {}})
    api.delete("Namespace", None, "ends")
    refused(client("create", "ConfigMap", "ends", "n", {}), STATE, "namespace ends because it is being terminated")
    refused(client("apply", "ConfigMap", "ends", "n", {}), STATE, "being terminated")
    assert made(client("patch", "ConfigMap", "ends", "m", object={"data": {"k": "v"}}))["data"] == {"k": "v"}  # what is there may change


def test_trouble_within_the_deadline(api, client):
    api.fail(429, 2, "POST", "/secrets", retry_after=1)
    began = time.monotonic()
    made(client("create", "Secret", "default", "s", {}))
    assert time.monotonic() - began >= 2 and api.count("POST", "/secrets") == 3
    api.fail(500, 2, "PATCH", "/secrets/s")
    made(client("apply", "Secret", "default", "s", {"data": {"a": "YQ=="}}))
    # a create is not sent twice: whether it was done is not known
    api.fail(500, 1, "POST", "/secrets")
    refused(client("create", "Secret", "default", "t", {}), "peer", "500")
    assert api.get("Secret", "default", "t") is None
    api.lose("POST", "/secrets")
    refused(client("create", "Secret", "default", "u", {}), "peer")
    assert api.get("Secret", "default", "u")
    # what may be sent twice is, and says what a second time says
    api.lose("DELETE", "/secrets/u")
    refused(client("delete", "Secret", "default", "u"), NOTFOUND)
    assert api.get("Secret", "default", "u") is None
    api.lose("PATCH", "/secrets/s")
    assert made(client("apply", "Secret", "default", "s", {"data": {"a": "Yg=="}}))["data"] == {"a": "Yg=="}
    # slow, and away
    api.delay(60, "PATCH", "/secrets/s")
    refused(client("apply", "Secret", "default", "s", {"data": {"a": "Yw=="}}, deadline_ms=1000), "timeout")

    def told(**faults):
        """What is said when the time is over, once the first try had its end before that: on a slow machine it may not."""
        with api.changed:
            api.faults.clear()
        for status, seconds in faults.items():
            api.fail(int(status[1:]), 1, "GET", "/secrets/s")
            api.delay(seconds, "GET", "/secrets/s")
        said = client("get", "Secret", "default", "s", deadline_ms=4000)
        return said if said.get("error") != "timeout" else None
    # a try that is cut by the deadline does not hide what the one before it was told
    refused(wait_for("an answer, and none", lambda: told(_500=60)), "peer", "500")
    api.stop()
    refused(wait_for("no connection", told), "peer")
    back = threading.Timer(0.7, api.start)
    back.start()
    assert made(client("get", "Secret", "default", "s", deadline_ms=45000))["metadata"]["name"] == "s"
    back.join()


def test_the_scripted_server_lists_and_watches(api):
    """What other tests build on: pages of one version, watches that go on, 410, selectors, bookmarks."""
    for i in range(5):
        api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"m{i}", "namespace": "a", "labels": {"n": str(i % 2)}}})
    r = api.resource("ConfigMap")
    page = api.list(r, "a", {"limit": "2"})
    api.delete("ConfigMap", "a", "m4")
    rest = api.list(r, "a", {"limit": "5", "continue": page["metadata"]["continue"]})
    assert [x["metadata"]["name"] for x in page["items"] + rest["items"]] == [f"m{i}" for i in range(5)]
    assert page["metadata"]["resourceVersion"] == rest["metadata"]["resourceVersion"] and "continue" not in rest["metadata"]
    assert len(api.list(r, None, {"labelSelector": "n=0"})["items"]) == 2 and len(api.list(r, None, {"labelSelector": "n notin (0)"})["items"]) == 2
    assert [x["metadata"]["name"] for x in api.list(r, "a", {"fieldSelector": "metadata.name=m1"})["items"]] == ["m1"]
    since = page["metadata"]["resourceVersion"]
    api.edit("ConfigMap", "a", "m0", {"metadata": {"labels": {"n": "1"}}})
    lines = api.watch(r, "a", {"resourceVersion": since, "timeoutSeconds": "60", "labelSelector": "n=0", "allowWatchBookmarks": "true"})
    got = list(itertools.islice((json.loads(x) for x in lines if x), 3))
    assert [(x["type"], x["object"]["metadata"].get("name")) for x in got[:2]] == [("DELETED", "m4"), ("DELETED", "m0")]
    assert got[-1]["type"] == "BOOKMARK" and got[-1]["object"]["metadata"]["resourceVersion"] == str(api.version)
    api.compact()
    gone = [json.loads(x) for x in api.watch(r, "a", {"resourceVersion": since}) if x]
    assert [(x["type"], x["object"]["code"]) for x in gone] == [("ERROR", 410)]
    seen = []
    api.hooks.append(lambda kind, o: seen.append((kind, o["metadata"]["name"])))
    api.edit("ConfigMap", "a", "m1", {"data": {"x": "y"}})
    wait_for("the hook", lambda: seen == [("MODIFIED", "m1")])
