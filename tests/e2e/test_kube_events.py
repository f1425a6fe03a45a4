"""Kubernetes Events (kube/recorder.h) against the scripted API server. Source: Kubernetes API reference, Event v1 core."""
import json
import pathlib
import re
import subprocess

import pytest

from conftest import BINARY
from kube_api import KubeApi

TOOL = pathlib.Path(BINARY).parent / "tests" / "tools" / "kube_tool"


@pytest.fixture
def api(tmp_path):
    a = KubeApi(tmp_path)
    yield a
    a.stop()


@pytest.fixture
def about(api):
    return api.put({"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "metadata": {"name": "mesh", "namespace": "istio-system"}, "spec": {}})


def say(api, about, rows, ms=5000, config=None):
    q = {"about": about, "say": rows, "ms": ms}
    done = subprocess.run([TOOL, config or api.kubeconfig(), "events", json.dumps(q)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    page = json.loads(done.stdout)["metrics"]
    return {k: int(float(v)) for k, v in re.findall(r'meshroot_kube_events_total\{result="(\w+)"\} (\S+)', page)}


def test_an_event_is_of_its_object(api, about):
    assert say(api, about, [[False, "Rotated", "intermediate\n2 is in force", 1], [True, "Held", "one workload \u2026 has not said its word", 1]]) == {
        "created": 2}
    by = {e["reason"]: e for e in api.all("Event", "istio-system")}
    one = by["Rotated"]
    assert one["involvedObject"] == {"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "name": "mesh", "namespace": "istio-system",
                                     "uid": about["metadata"]["uid"], "resourceVersion": about["metadata"]["resourceVersion"]}
    assert one["type"] == "Normal" and one["message"] == "intermediate 2 is in force" and one["count"] == 1
    assert one["source"] == {"component": "meshroot-operator"} and one["reportingInstance"] == "operator-0"
    assert re.fullmatch(r"mesh\.[0-9a-f]+", one["metadata"]["name"]) and one["firstTimestamp"] == one["lastTimestamp"]
    assert by["Held"]["type"] == "Warning" and "\u2026" in by["Held"]["message"]
    node = api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    say(api, node, [[False, "Seen", "x" * 3000, 1]])
    assert len(api.all("Event", "default")[0]["message"]) == 1023


def test_the_same_words_are_one_series(api, about):
    assert say(api, about, [[True, "Held", "the same", 1000], [True, "Held", "other words", 1]], 9500) == {"created": 2, "counted": 1}
    assert sorted((e["message"], e["count"]) for e in api.all("Event")) == [("other words", 1), ("the same", 1000)]
    assert api.count("POST", "/events") == 2 and api.count("PATCH", "/events/") == 1


def test_a_flood_is_bounded(api, about):
    """64 series, 25 writes at once and one a second; the rest is counted, not sent."""
    got = say(api, about, [[True, "Flood", f"words {i}", 1] for i in range(200)])
    assert got["left_out"] == 200 - 64 and 25 <= got["created"] <= 33
    assert len(api.all("Event")) == got["created"]


def test_what_cannot_be_written_stops_nobody(api, about):
    api.accounts["poor"] = "poor"
    api.rules["poor"] = []
    assert say(api, about, [[True, "Held", "x", 3]], config=api.kubeconfig("poor", "poor")) == {"failed": 1}
    api.fail(500, 1, "POST", "/events")
    assert say(api, about, [[True, "Held", "x", 1]]) == {"failed": 1}
    # gone meanwhile: the next one is a new one
    api.hooks.append(lambda kind, o: kind == "ADDED" and o["kind"] == "Event" and api.delete("Event", o["metadata"]["namespace"], o["metadata"]["name"]))
    assert say(api, about, [[True, "Held", "x", 2]], 9500) == {"created": 1}
    assert api.count("PATCH", "/events/") == 1 and api.all("Event") == []
