"""Leader election by a Lease (kube/lease.h): two candidates, processes that die, stop and go on, an API server that is away."""
import json
import pathlib
import signal
import subprocess
import threading
import time

import pytest

from conftest import BINARY, wait_for
from kube_api import KubeApi

TOOL = pathlib.Path(BINARY).parent / "tests" / "tools" / "kube_tool"
DURATION, RENEW, RETRY = 15000, 9000, 500  # nearly client-go's: a leader that is slow for four seconds must not lose it


class Tool:
    """A job of kube_tool that goes on until it is ended; its lines so far are in .said."""

    def __init__(self, config, job, q):
        self.said = []
        # In a session of its own: when a shell above us ends, the kernel continues those of its process group that are stopped (setpgid(2)).
        self.process = subprocess.Popen([TOOL, config, job, json.dumps(q)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        start_new_session=True)
        self.reader = threading.Thread(target=lambda: [self.said.append(json.loads(x)) for x in self.process.stdout], daemon=True)
        self.reader.start()

    def end(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(60)
        self.reader.join(60)


class Candidate(Tool):
    def __init__(self, config, who):
        self.who = who
        q = {"ns": "meshroot-system", "name": "meshroot-operator", "who": who, "duration_ms": DURATION, "renew_ms": RENEW, "retry_ms": RETRY}
        super().__init__(config, "lease", q)

    def leads(self):
        return bool(self.said) and "gained" in self.said[-1]

    def last(self, word):
        return [x for x in self.said if word in x][-1]

    def spans(self, until):
        """When it led."""
        out = []
        for x in self.said:
            if "gained" in x:
                out.append([x["gained"], until])
            elif out:
                out[-1][1] = min(x.get("lost", x.get("released")), out[-1][1])
        return out


@pytest.fixture
def api(tmp_path):
    a = KubeApi(tmp_path)
    a.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "meshroot-system"}})
    yield a
    a.stop()


@pytest.fixture
def start(api):
    made = []

    def make(who):
        made.append(Candidate(api.kubeconfig(), who))
        return made[-1]
    yield make
    for c in made:
        if c.process.poll() is None:
            c.process.send_signal(signal.SIGCONT)
            c.end()


def lease(api):
    return (api.get("Lease", "meshroot-system", "meshroot-operator") or {"spec": {}})["spec"]


def two(start):
    """-> the one that leads, the other."""
    a, b = start("a"), start("b")
    wait_for("a leader", lambda: a.leads() or b.leads())
    return (a, b) if a.leads() else (b, a)


def one_at_a_time(*candidates):
    now = time.monotonic_ns() // 10 ** 6
    spans = sorted((s for c in candidates for s in c.spans(now)))
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:])), spans


def test_a_killed_leader_is_followed(api, start):
    first, second = two(start)
    assert lease(api)["holderIdentity"] == first.who and lease(api)["leaseDurationSeconds"] == DURATION // 1000
    renewed = lease(api)["renewTime"]
    wait_for("renewed", lambda: lease(api)["renewTime"] != renewed)
    assert not second.said
    first.end()  # kill -9
    version = api.get("Lease", "meshroot-system", "meshroot-operator")["metadata"]["resourceVersion"]
    wait_for("the next one", second.leads)
    got = lease(api)
    assert got["holderIdentity"] == second.who and got["leaseTransitions"] == 1
    assert int(api.get("Lease", "meshroot-system", "meshroot-operator")["metadata"]["resourceVersion"]) > int(version)


def test_an_orderly_end_frees_it(api, start):
    first, second = two(start)
    first.end(signal.SIGTERM)
    released = first.last("released")["released"]
    assert first.process.returncode == 0
    wait_for("the next one", second.leads)
    one_at_a_time(first, second)
    assert second.last("gained")["gained"] >= released

    def is_freed():
        """It has two seconds for that; one that is too slow leaves it as it is."""
        one = start("again")
        wait_for("it leads", one.leads)
        one.end(signal.SIGTERM)
        return lease(api)["holderIdentity"] == "" and lease(api)["leaseDurationSeconds"] == 1
    second.end(signal.SIGTERM)
    wait_for("freed", is_freed, 120)


def test_who_cannot_renew_stops_before_another_starts(api, start):
    """The API server refuses the leader's writes, then is away for both."""
    first, second = two(start)
    api.fail(500, 10 ** 6, "PUT", "/leases/")
    wait_for("lost", lambda: not first.leads())
    assert "not renewed in time" in first.last("lost")["message"] and "500" in first.last("lost")["message"]
    with api.changed:
        api.faults.clear()
    wait_for("one again", lambda: first.leads() or second.leads())
    one_at_a_time(first, second)
    api.stop()
    wait_for("nobody", lambda: not first.leads() and not second.leads())
    api.start()
    wait_for("one again", lambda: first.leads() or second.leads())
    one_at_a_time(first, second)


def test_a_frozen_leader_learns_that_it_is_none(api, start):
    first, second = two(start)
    first.process.send_signal(signal.SIGSTOP)
    wait_for("the next one", second.leads)
    first.process.send_signal(signal.SIGCONT)
    wait_for("it says so", lambda: not first.leads())
    for _ in range(3):
        renewed = lease(api)["renewTime"]
        wait_for("renewed", lambda: lease(api)["renewTime"] != renewed)
        assert lease(api)["holderIdentity"] == second.who and second.leads() and not first.leads()


def test_answers_that_are_lost_and_a_record_that_is_taken_away(api, start):
    first, second = two(start)
    for _ in range(2):  # done, but not told: it is still the leader's
        api.lose("PUT", "/leases/")
        wait_for("lost", lambda: api.faults[-1]["times"] == 0)
        renewed = lease(api)["renewTime"]
        wait_for("renewed", lambda: lease(api)["renewTime"] != renewed)
        assert first.leads() and not second.said
    api.delete("Lease", "meshroot-system", "meshroot-operator")
    wait_for("made anew", lambda: lease(api))
    wait_for("one leader", lambda: lease(api)["holderIdentity"] == first.who and first.leads())
    assert not second.said
    # somebody writes another name into it: it ends at once, not at the deadline
    api.edit("Lease", "meshroot-system", "meshroot-operator", {"spec": {"holderIdentity": "stranger"}})
    wait_for("lost", lambda: not first.leads())
    assert '"stranger" has it' in first.last("lost")["message"]
    wait_for("after its time", lambda: first.leads() or second.leads())
    one_at_a_time(first, second)


@pytest.mark.parametrize("stamp", ["2999-01-01T00:00:00.000000Z", "1999-01-01T00:00:00.000000Z"])
def test_the_peers_clock_is_not_believed(api, start, stamp):
    """A live leader whose clock is wrong keeps it while it renews, and loses it when it does not, whatever its stamps say."""
    r = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "meshroot-operator", "namespace": "meshroot-system"},
         "spec": {"holderIdentity": "peer", "leaseDurationSeconds": 10, "renewTime": stamp, "acquireTime": stamp, "leaseTransitions": 4}}
    api.put(r)
    one = start("one")
    began, i = time.monotonic(), 0
    while time.monotonic() < began + 12:  # alive, for longer than it lasts: each change counts, however small
        seen = api.count("GET", "/leases/meshroot-operator")
        wait_for("looked", lambda: api.count("GET", "/leases/meshroot-operator") > seen)
        r["spec"]["renewTime"] = stamp.replace("00Z", f"{i + 1:02}Z")
        i, last = i + 1, time.monotonic()
        api.put(r)
        assert not one.said
    wait_for("free", one.leads)
    assert one.last("gained")["gained"] / 1000 - last > 9.9 and lease(api)["leaseTransitions"] == 5
