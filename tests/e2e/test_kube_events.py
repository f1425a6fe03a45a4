"""Kubernetes Events (kube/recorder.h) against the scripted API server. Source: Kubernetes API reference, Event v1 core."""
import re
import signal
import time

import pytest

from conftest import wait_for
from kube_api import KubeApi
from test_kube_lease import Tool


@pytest.fixture
def api(tmp_path):
    a = KubeApi(tmp_path)
    yield a
    a.stop()


@pytest.fixture
def about(api):
    return api.put({"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "metadata": {"name": "mesh", "namespace": "istio-system"}, "spec": {}})


class Recorder(Tool):
    """Says its rows at once: [is it a warning, reason, message, how often]."""

    def __init__(self, api, about, rows, config=None):
        super().__init__(config or api.kubeconfig(), "events", {"about": about, "say": rows})

    def page(self):
        return self.said[-1]["metrics"] if self.said else ""

    def results(self):
        return {k: int(float(v)) for k, v in re.findall(r'meshroot_kube_events_total\{result="(\w+)"\} (\S+)', self.page())}

    def until(self, want):
        wait_for(f"{want}", lambda: self.results() == want)
        return self

    def over(self):
        self.end(signal.SIGTERM)
        assert self.process.returncode == 0


def test_an_event_is_of_its_object(api, about):
    Recorder(api, about, [[False, "Rotated", "intermediate\n2 is in force", 1], [True, "Held", "one workload \u2026 has not said its word", 1]]).until(
        {"created": 2}).over()
    by = {e["reason"]: e for e in api.all("Event", "istio-system")}
    one = by["Rotated"]
    assert one["involvedObject"] == {"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "name": "mesh", "namespace": "istio-system",
                                     "uid": about["metadata"]["uid"], "resourceVersion": about["metadata"]["resourceVersion"]}
    assert one["type"] == "Normal" and one["message"] == "intermediate 2 is in force" and one["count"] == 1
    assert one["source"] == {"component": "meshroot-operator"} and one["reportingInstance"] == "operator-0"
    assert re.fullmatch(r"mesh\.[0-9a-f]+", one["metadata"]["name"]) and one["firstTimestamp"] <= one["lastTimestamp"]
    assert by["Held"]["type"] == "Warning" and "\u2026" in by["Held"]["message"]
    node = api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    Recorder(api, node, [[False, "Seen", "x" * 3000, 1]]).until({"created": 1}).over()
    assert len(api.all("Event", "default")[0]["message"]) == 1023


def test_the_same_words_are_one_series(api, about):
    r = Recorder(api, about, [[True, "Held", "the same", 1000], [True, "Held", "other words", 1]]).until({"created": 2, "counted": 1})
    assert sorted((e["message"], e["count"]) for e in api.all("Event")) == [("other words", 1), ("the same", 1000)]
    assert api.count("POST", "/events") == 2 and api.count("PATCH", "/events/") == 1
    r.over()


def test_a_flood_is_bounded(api, about):
    """64 series, 25 writes at once and one a second; the rest is counted, not sent."""
    began = time.monotonic()
    r = Recorder(api, about, [[True, "Flood", f"words {i}", 1] for i in range(200)])
    wait_for("more than at once", lambda: r.results().get("created", 0) >= 27)
    assert 27 <= len(api.all("Event")) <= 25 + 1 + time.monotonic() - began
    assert r.results()["left_out"] == 200 - 64
    r.over()


def test_what_cannot_be_written_stops_nobody(api, about):
    api.accounts["poor"] = "poor"
    api.rules["poor"] = []
    Recorder(api, about, [[True, "Held", "x", 3]], api.kubeconfig("poor", "poor")).until({"failed": 1}).over()
    api.fail(500, 1, "POST", "/events")
    Recorder(api, about, [[True, "Held", "x", 1]]).until({"failed": 1}).over()
    # gone meanwhile: the next one is a new one
    api.hooks.append(lambda kind, o: kind == "ADDED" and o["kind"] == "Event" and api.delete("Event", o["metadata"]["namespace"], o["metadata"]["name"]))
    r = Recorder(api, about, [[True, "Held", "x", 2]])
    wait_for("it is told", lambda: 'meshroot_kube_requests_total{method="PATCH",status="404"} 1' in r.page())
    assert r.results() == {"created": 1} and api.count("PATCH", "/events/") == 1 and api.all("Event") == []
    r.over()
