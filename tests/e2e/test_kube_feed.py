"""A watch (kube/feed.h) through all that an API server does to it: what is known in the end is what there is. Source: API concepts."""
import json
import signal
import subprocess

import pytest

from conftest import wait_for
from kube_api import KubeApi
from test_kube_lease import TOOL, Tool


class Feed(Tool):
    def __init__(self, config, path="/api/v1/configmaps", **more):
        super().__init__(config, "watch", {"path": path, "wait_first_ms": 50, **more})

    def world(self):
        """What its owner knows; None before the first whole list."""
        known, listed = None, {}
        for x in list(self.said):
            if "begin" in x:
                listed = {}
            elif "whole" in x:
                known, listed = listed, {}
            elif "put" in x:
                listed[x["put"]] = x["version"]
                if known is not None:
                    known[x["put"]] = x["version"]
            else:
                (known if known is not None else listed).pop(x["gone"], None)
                listed.pop(x["gone"], None)
        return known


def there(api):
    return {f"{o['metadata']['namespace']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in api.all("ConfigMap")}


@pytest.fixture
def api(tmp_path):
    a = KubeApi(tmp_path)
    a.bookmark_s = 0.2
    for i in range(250):  # three pages
        put(a, i)
    yield a
    a.stop()


@pytest.fixture
def feed(api):
    f = Feed(api.kubeconfig())
    wait_for("the list", lambda: f.world() == there(api))
    yield f
    f.end(signal.SIGTERM)
    assert f.process.returncode == 0


def put(api, i, text=""):
    api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"m{i}", "namespace": f"n{i % 3}"}, "data": {"x": text}})


def in_step(api, feed, what):
    """Once all that goes wrong has: a change, a new one and a deletion arrive."""
    wait_for(f"{what}: used up", lambda: all(f["times"] == 0 for f in api.faults))
    put(api, 1, what)
    put(api, 1000, what)
    api.delete("ConfigMap", "n2", f"m{in_step.gone}")
    in_step.gone += 3
    wait_for(what, lambda: feed.world() == there(api))


in_step.gone = 2


def lists(api):
    return sum(1 for m, p, _, _ in list(api.seen) if "limit=" in p and "continue=" not in p)


def test_whatever_the_server_does(api, feed):
    assert lists(api) == 1 and api.count("GET", "continue=") == 2
    in_step(api, feed, "as it should be")
    api.watch_s = 0.3
    in_step(api, feed, "closed again and again")
    watches = api.count("GET", "watch=1")
    wait_for("more of them", lambda: api.count("GET", "watch=1") > watches + 3)
    assert lists(api) == 1  # it goes on where it ended
    api.fail(500, 3, "GET", "watch=1")
    api.fail(429, 1, "GET", "watch=1", retry_after=1)
    in_step(api, feed, "refused")
    api.fail(410, 1, "GET", "watch=1")
    in_step(api, feed, "too old")
    wait_for("the list again", lambda: lists(api) == 2)
    api.stop()
    put(api, 7, "while it is away")
    api.delete("ConfigMap", "n0", "m9")
    api.start()
    in_step(api, feed, "away")
    api.stop()
    put(api, 8, "while it is away")
    api.compact()  # and etcd has forgotten
    api.start()
    in_step(api, feed, "compacted")
    wait_for("the list again", lambda: lists(api) >= 3)


@pytest.mark.parametrize("refuses", (False, True))
def test_an_etcd_that_was_restored(api, refuses):
    """Its revisions begin again at those of the backup: a watch from where we were is silent until they have caught up, or is refused."""
    f = Feed(api.kubeconfig(), relist_ms=3000)
    wait_for("the list", lambda: f.world() == there(api))
    old = api.backup()
    for i in range(300, 340):
        put(api, i)
    api.delete("ConfigMap", "n0", "m0")
    wait_for("in step", lambda: f.world() == there(api))
    api.refuses_future = refuses
    api.restore(old)
    put(api, 1, "since")  # far fewer than were lost
    wait_for("what is there now", lambda: f.world() == there(api))
    assert "n0/m0" in f.world() and "n0/m300" not in f.world()
    in_step(api, f, "restored")
    f.end(signal.SIGTERM)


def test_a_continue_token_that_is_too_old(api, tmp_path):
    api.fail(410, 1, "GET", "continue=")
    f = Feed(api.kubeconfig())
    wait_for("the list, from its first page", lambda: f.world() == there(api))
    assert lists(api) == 2
    f.end(signal.SIGTERM)


def test_watches_take_no_call_s_way(api):
    """A watch keeps its connection for good: forty of them, and calls get through as ever."""
    config = api.kubeconfig()
    query = {"watches": 40, "path": "/api/v1/configmaps", "api": "v1", "kind": "ConfigMap", "plural": "configmaps", "ns": "n1", "name": "m1",
             "times": 5, "pause_ms": 200, "deadline_ms": 50000}  # a watch lasts for 60 s
    done = subprocess.run([TOOL, config, "get", json.dumps(query)], capture_output=True, text=True, timeout=400)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [s["object"]["metadata"]["name"] for s in said] == ["m1"] * 5, (done.stdout, done.stderr)
