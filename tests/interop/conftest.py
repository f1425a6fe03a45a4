"""Tests with real peers: the fixtures and helpers of tests/e2e by the same names, and the Go tools of tests/interop/go."""
import json
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]

sys.path.insert(0, str(TOP / "tests"))
import borrow  # noqa: E402

borrow.e2e(globals())


@pytest.fixture(scope="session")
def go_tool():
    """go_tool("istioca") -> the program. Versions: tests/interop/go/go.sum."""
    return lambda name: go_build(HERE / "go", f"./{name}", TOP / "build" / "interop" / name)  # noqa: F821 (borrowed)


class IstioAgent:
    """The program istioca for one CA: what a pilot-agent or ztunnel would get from it."""

    def __init__(self, program, ca, identity, tmp):
        self.program, self.ca, self.identity, self.tmp = program, ca, identity, tmp
        self.token_file = tmp / "istio-token"
        self.token_file.write_text(ca.issuer.token() + "\n")

    def args(self, verb, **flags):
        roots = self.tmp / "istio-ca-root-cert.pem"
        roots.write_bytes(self.ca.roots())
        given = {"addr": f"127.0.0.1:{self.ca.ports['ca']}", "roots": roots, "token_file": self.token_file, "id": self.identity,
                 **flags}
        return [str(self.program), verb, *(f"-{k.replace('_', '-')}={v}" for k, v in given.items())]

    def run(self, verb, **flags):
        done = subprocess.run(self.args(verb, **flags), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def sign(self, **flags):
        return self.run("sign", **flags)

    def load(self, **flags):
        return subprocess.Popen(self.args("load", **flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True)


@pytest.fixture
def istio_agent(go_tool, tmp_path):
    """istio_agent(ca, identity) -> IstioAgent"""
    return lambda ca, identity: IstioAgent(go_tool("istioca"), ca, identity, tmp_path)
