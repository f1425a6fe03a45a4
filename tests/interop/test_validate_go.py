"""The root validator looks at servers on Go's TLS and grpc-go, as istiod's secure port is one: what they present, and the roots that they name.
Source: specs/istio-ca.md 2.1, 2.3."""
import json

import pytest

from conftest import meshroot
from test_validate import Istiod, api, args, lines, sets, validate  # noqa: F401 (fixtures among them)


@pytest.fixture
def istiod(api, tmp_path, go_tool):  # noqa: F811
    program = go_tool("istiodface")

    class OnGo(Istiod):
        def serve(self, folder, address):
            return [program, address, *(folder / f for f in ("cert", "key", "chain", "roots"))]

    i = OnGo(api, tmp_path, replicas=2)
    yield i
    i.stop()


def test_a_wider_set(istiod, sets):  # noqa: F811
    istiod.secret(sets["AB a"]).start(sets["A"])
    pods = json.loads(meshroot(*args(istiod, "--dry-run", "--output", "json")).stdout)["pods"]
    assert [p["seen"] and p["stale"] for p in pods] == [True, True], "each names the roots that it started with"
    out = validate(istiod)
    assert [x for x in out.splitlines() if x in lines()] == lines()
    pods = json.loads(meshroot(*args(istiod, "--output", "json")).stdout)["pods"]
    assert [p["stale"] for p in pods] == [False, False]


def test_new_pods_that_serve_something_else(istiod, sets):  # noqa: F811
    istiod.secret(sets["AB a"]).start(sets["A"])
    istiod.how, istiod.other = "deaf", sets["A"]
    assert "has not loaded the Secret's roots" in validate(istiod, "--timeout", "20s", code=17)
