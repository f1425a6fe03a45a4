"""Two real Envoys with mTLS between them, keys and trust from our agents by SDS; rotations under load lose nothing."""
import pytest

from conftest import WITH_LISTS, Mesh, meshroot, openssl_intermediate, openssl_root, wait_for
from envoy_peer import Envoy, Load, client_config, server_config
from test_flow import settled
from test_workload_api import status

ID = "spiffe://cluster.local/ns/test/sa/"
SDS = ("--sds", "--sds-grace", "2s")


@pytest.fixture
def bundles(tmp_path):
    """A1 and A2 under root A, B1 under root B."""
    a, b = openssl_root(tmp_path / "ra", "Root A", "p256"), openssl_root(tmp_path / "rb", "Root B", "p256")
    return {name: openssl_intermediate(tmp_path / name, root, f"Intermediate {name.upper()}", "p256")
            for name, root in (("a1", a), ("a2", a), ("b1", b))}


@pytest.fixture
def start(tmp_path):
    started = []

    def run(name, config):
        started.append(Envoy(tmp_path, name, config))
        return started[-1]

    yield run
    for e in started:
        e.stop()


class Pair:
    """web talks to cart, each behind an Envoy that gets its secrets from an agent of ours."""

    def __init__(self, tmp, daemon, start, bundle, api, names=(("default", "ROOTCA"),) * 2, flags=()):
        self.tmp, self.mesh, self.start_envoy, self.api = tmp, Mesh(tmp, daemon), start, api
        self.mesh.set_all(bundle)
        self.mesh.enable(flags=flags)
        self.sockets = {n: tmp / "run" / f"{n}.sock" for n in ("web", "cart")}
        self.agents = {n: self.agent(n) for n in self.sockets}
        wait_for("both on A1", lambda: settled(self.mesh, "Intermediate A1", 2))
        self.cart = start("cart", server_config(self.sockets["cart"], [ID + "web", ID + "shop"], api, names[0]))
        self.to_port = wait_for("cart listens", lambda: self.cart.is_live() and self.cart.port("in"))
        self.port = self.client("web", names[1])

    def client(self, name, names=("default", "ROOTCA")):
        """The port behind which an Envoy with the secrets of agent `name` talks to cart."""
        envoy = self.start_envoy(name, client_config(self.sockets[name], ID + "cart", self.api, self.to_port, names))
        return wait_for(f"{name} listens", lambda: envoy.is_live() and envoy.port("out"))

    def another(self, name):
        """A client more: an agent and its Envoy."""
        self.sockets[name] = self.tmp / "run" / f"{name}.sock"
        self.agents[name] = self.agent(name)
        return self.client(name)

    def agent(self, name):
        return self.mesh.agent(name, "--workload-socket", self.sockets[name], *SDS)

    def sds(self, name):
        return status(self.agents[name])["workload_api"]["sds"]

    def rotate(self, bundle, subject, roots=1):
        self.mesh.set_all(bundle)
        wait_for(f"both on {subject}", lambda: (s := settled(self.mesh, subject, 2)) and len(s["ca"]["roots"]) == roots)


def more(load, n):
    goal = load.ok + n
    wait_for(f"{n} more requests", lambda: load.ok >= goal or load.failed)


@pytest.mark.parametrize("api", ["GRPC", "DELTA_GRPC"])
def test_rotations_under_load_lose_no_request(tmp_path, daemon, start, bundles, api):
    pair = Pair(tmp_path, daemon, start, bundles["a1"], api)
    load = Load(pair.port)
    more(load, 30)
    pair.rotate(bundles["a2"], "Intermediate A2")  # another leaf, the same root
    more(load, 30)
    pair.rotate(bundles["b1"], "Intermediate B1")  # root A, then A+B, then B
    more(load, 30)
    load.stop()
    assert not load.failed, (len(load.failed), load.failed[0], load.failed[-1])
    assert load.ok >= 90
    for seen in (load.server_issuers, load.client_issuers):
        assert [next(w for w in ("A1", "A2", "B1") if w in i) for i in seen] == ["A1", "A2", "B1"], seen
    for name in ("web", "cart"):
        sds = pair.sds(name)
        assert sds["settled"] and sds["refused"] == 0 and sds["pushes"] >= 4, sds
        assert {s["state"] for s in sds["streams"]} == {"acknowledged"}, sds
        assert {s["api"] for s in sds["streams"]} == {"delta" if api == "DELTA_GRPC" else "sotw"}, sds
        assert sorted(n for s in sds["streams"] for n in s["names"]) == ["ROOTCA", "default"], sds
    assert pair.cart.stat("listener.127.0.0.1_0.ssl.fail_verify_error") == 0


def test_kill_9_of_the_agent_leaves_envoy_serving(tmp_path, daemon, start, bundles):
    pair = Pair(tmp_path, daemon, start, bundles["a1"], "GRPC")
    load = Load(pair.port)
    more(load, 20)
    pair.agents["cart"].kill()
    more(load, 20)
    pair.agents["cart"] = pair.agent("cart")
    wait_for("Envoy is back", lambda: len(pair.sds("cart")["streams"]) == 2)
    wait_for("and has said its word", lambda: pair.sds("cart")["settled"])
    pair.rotate(bundles["a2"], "Intermediate A2")
    more(load, 20)
    load.stop()
    assert load.failed == []
    assert any("A2" in i for i in load.server_issuers), load.server_issuers


def test_envoy_with_spiffe_names(tmp_path, daemon, start, bundles):
    names = ((ID + "cart", "spiffe://cluster.local"), (ID + "web", "spiffe://cluster.local"))
    pair = Pair(tmp_path, daemon, start, bundles["a1"], "DELTA_GRPC", names)
    load = Load(pair.port)
    more(load, 10)
    load.stop()
    assert load.failed == [] and pair.sds("web")["settled"]


@pytest.fixture
def signers(tmp_path):
    """Intermediates that may sign lists, under one root."""
    meshroot("pki", "root", "--out", tmp_path / "root", "--subject", "O=Istio,CN=Root A")
    for n in ("a1", "a2", "a3"):
        meshroot("pki", "intermediate", "--root", tmp_path / "root", "--out", tmp_path / n, "--subject", f"O=Istio,CN=Intermediate {n.upper()}")
    return {n: tmp_path / n for n in ("a1", "a2", "a3")}


def test_envoy_refuses_a_revoked_peer_and_no_other(tmp_path, daemon, start, signers):
    """The list comes with ROOTCA; a new leaf, got with the token, is let in."""
    pair = Pair(tmp_path, daemon, start, signers["a1"], "GRPC")
    other = Load(pair.another("shop"))  # through all of it
    load = Load(pair.port)
    more(load, 20)
    serial = status(pair.agents["web"])["leaf"]["serial"]
    pair.agents["web"].kill()  # Envoy goes on with the leaf that it has
    more(load, 20)
    meshroot("ca", "revoke", "--serial", serial, "--state-dir", pair.mesh.state)
    wait_for("cart's Envoy refuses web", lambda: load.failed)
    load.stop()
    refused = Load(pair.port)
    wait_for("every time", lambda: len(refused.failed) >= 3)
    refused.stop()
    assert refused.ok == 0
    assert pair.cart.stat("listener.127.0.0.1_0.ssl.fail_verify_error") > 0
    assert pair.sds("cart")["refused"] == 0, "Envoy takes the list"
    pair.agents["web"] = pair.agent("web")  # a new leaf
    wait_for("another leaf", lambda: status(pair.agents["web"])["leaf"]["serial"] != serial)
    wait_for("Envoy has it", lambda: (s := pair.sds("web"))["settled"] and len(s["streams"]) == 2)
    again = Load(pair.port)
    more(again, 20)
    more(other, 20)
    again.stop()
    other.stop()
    assert again.failed == [] and other.failed == [], (again.failed[:1], other.failed[:1])
    assert other.ok >= 40


def test_envoy_refuses_a_leaf_under_a_revoked_intermediate(tmp_path, daemon, start, signers):
    """With a list of each root Envoy looks above the leaf: A1 is in the root's, and web still shows a leaf under A1."""
    pair = Pair(tmp_path, daemon, start, signers["a1"], "GRPC", flags=WITH_LISTS)
    other = pair.another("shop")
    load = Load(pair.port)
    more(load, 20)
    pair.agents["web"].kill()  # Envoy goes on with the leaf that it has
    meshroot("pki", "crl", "--root", tmp_path / "root", "--out", tmp_path / "crl.pem", "--revoke", tmp_path / "a1/ca-cert.pem")
    pair.mesh.set_secret("ca-crl", tmp_path / "crl.pem")
    pair.mesh.set_all(signers["a2"])
    wait_for("cart's Envoy refuses web", lambda: load.failed)
    load.stop()
    refused = Load(pair.port)
    wait_for("every time", lambda: len(refused.failed) >= 3)
    refused.stop()
    assert refused.ok == 0
    assert pair.cart.stat("listener.127.0.0.1_0.ssl.fail_verify_error") > 0 and pair.sds("cart")["refused"] == 0
    wait_for("shop and cart are under A2", lambda: pair.sds("shop")["settled"] and pair.sds("cart")["settled"])
    let_in = Load(other)  # with a list for each CA of its path
    wait_for("shop is let in, by a leaf under A2", lambda: let_in.ok >= 20 and "A2" in let_in.server_issuers[-1])
    let_in.stop()


@pytest.mark.parametrize("api", ["GRPC", "DELTA_GRPC"])
def test_intermediates_change_while_something_is_revoked(tmp_path, daemon, start, signers, api):
    """Envoy, once it has lists, wants one for each signer: that of a new one is there before its first leaf."""
    pair = Pair(tmp_path, daemon, start, signers["a1"], api)
    serial = status(pair.agents["web"])["leaf"]["serial"]
    meshroot("ca", "revoke", "--serial", serial, "--state-dir", pair.mesh.state)
    wait_for("another leaf", lambda: status(pair.agents["web"])["leaf"]["serial"] != serial)
    wait_for("Envoy has it", lambda: pair.sds("web")["settled"] and pair.sds("cart")["settled"])
    load = Load(pair.port)
    more(load, 20)
    for n in ("A2", "A3"):
        pair.rotate(signers[n.lower()], f"Intermediate {n}")
        more(load, 20)
    load.stop()
    assert not load.failed, (len(load.failed), load.failed[0], load.failed[-1])
    assert any("A3" in i for i in load.server_issuers) and any("A3" in i for i in load.client_issuers)
    assert pair.cart.stat("listener.127.0.0.1_0.ssl.fail_verify_error") == 0
