"""The real pilot-agent and its citadel client against our CA; real Envoys on its SDS socket. No cluster: only the binaries of one."""
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from conftest import TOP, Mesh as E2eMesh, openssl, openssl_intermediate, openssl_root, wait_for
from pilot_agent import PilotAgent
from test_ca import IDENTITY, Ca, pb, plugged  # noqa: F401 (fixtures)

sys.path.append(str(TOP / "tests" / "interop"))
from envoy_peer import Load, client_config, server_config  # noqa: E402

SHOP = {"namespace": "shop"}
ID = "spiffe://cluster.local/ns/test/sa/"
TTL = "60s"
ISSUED = "generated new workload certificate"
RETRY = "ca request failed, starting attempt"


@pytest.fixture
def agents():
    """agents(name, ca_addr, roots, ...) -> PilotAgent"""
    started = []

    def start(*args, **env):
        started.append(PilotAgent(*args, **env))
        return started[-1]

    yield start
    for a in started:
        a.stop()


@pytest.fixture
def ca(tmp_path, daemon, pb, plugged):  # noqa: F811
    return Ca(tmp_path, daemon, pb).ready()


def address(ca):
    """A name with "localhost" in it: the agent then expects istiod's own in the certificate, which is among ours by default."""
    return f"localhost:{ca.ports['ca']}"


def uri(leaf):
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.UniformResourceIdentifier)


@pytest.mark.parametrize("env", [{}, {"ECC_SIGNATURE_ALGORITHM": "ECDSA"}, {"ECC_SIGNATURE_ALGORITHM": "ECDSA", "ECC_CURVE": "P384"},
                                 {"PKCS8_KEY": "true", "WORKLOAD_RSA_KEY_SIZE": "3072"}, {"ISTIO_META_CERT_SIGNER": "meshroot", "CA_HEADER_X_ANY": "value"}],
                         ids=["rsa2048", "p256", "p384", "rsa3072", "cert-signer"])
def test_its_first_certificate(ca, agents, env):
    a = agents("cart", address(ca), ca.roots(), ca.issuer.token(), **SHOP, **env)
    out = a.has_files()
    chain = x509.load_pem_x509_certificates((out / "cert-chain.pem").read_bytes())
    key = serialization.load_pem_private_key((out / "key.pem").read_bytes(), None)
    assert uri(chain[0]) == [IDENTITY] and chain[0].public_key() == key.public_key()
    names = [c.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value for c in chain[1:]]
    assert names == ["Intermediate A1", "Root A"], "the agent appends the roots, once"
    assert (out / "root-cert.pem").read_bytes().strip() == ca.roots().strip()
    openssl("verify", "-CAfile", out / "root-cert.pem", "-untrusted", out / "cert-chain.pem", "-purpose", "sslserver", out / "cert-chain.pem")
    assert RETRY not in a.text() and "error" not in a.text(), a.text()


def test_a_token_that_is_refused_is_asked_once_and_mended(ca, agents):
    """UNAUTHENTICATED is final within a call; the outer loop asks again, with the token that is there then."""
    a = agents("cart", address(ca), ca.roots(), ca.issuer.token(aud=["another"]), **SHOP)
    a.says("code = Unauthenticated desc = request authenticate failure")
    assert RETRY not in a.text()
    a.show(ca.issuer.token())
    a.has_files()


def test_a_request_that_is_refused_says_why(ca, agents):
    a = agents("cart", address(ca), ca.roots(), ca.issuer.token(), **SHOP, ISTIO_META_CERT_SIGNER="other.example/one")
    a.says("code = InvalidArgument desc =")
    assert "is not known here; leave it empty, or: meshroot" in a.text() and RETRY not in a.text()


def test_a_ca_that_is_not_ready_is_asked_again(tmp_path, daemon, pb, plugged, agents):  # noqa: F811
    """UNAVAILABLE is repeated within a call: 100, 200, 400, 800 ms; and then by the outer loop."""
    whole = (tmp_path / "cacerts" / "ca-key.pem").read_bytes()
    (tmp_path / "cacerts" / "ca-key.pem").unlink()
    ca = Ca(tmp_path, daemon, pb)
    a = agents("cart", address(ca), (plugged[0] / "root-cert.pem").read_bytes(), ca.issuer.token(), **SHOP)
    a.says(RETRY, 4)
    (tmp_path / "cacerts" / "ca-key.pem").write_bytes(whole)
    a.has_files()


def test_a_ca_under_another_root_is_left_until_the_root_file_has_it(ca, agents, tmp_path):
    """The agent reads its root file again after each failed call: a ConfigMap that comes late is enough."""
    other = openssl_root(tmp_path / "root-x", "Root X", "p256")
    a = agents("cart", address(ca), (other / "root-cert.pem").read_bytes(), ca.issuer.token(), **SHOP)
    a.says("certificate signed by unknown authority")
    a.root_file.write_bytes(ca.roots())
    a.has_files()


# -- two workloads ------------------------------------------------------------------------------------------------------------


class Pair:
    """web talks to cart, each by a real Envoy that a real agent has started and gives its secrets to; `meshroot up` signs."""

    def __init__(self, tmp, daemon, agents, bundle):
        self.mesh, self.start = E2eMesh(tmp, daemon), agents
        self.mesh.set_all(bundle)
        self.mesh.enable()
        wait_for("a signer", lambda: self.mesh.status()["ready"])
        cart = self.agent("cart", lambda socket: server_config(socket, [ID + "web"], "GRPC"))
        to = wait_for("cart listens", lambda: cart.envoy.is_live() and cart.envoy.port("in"))
        web = self.agent("web", lambda socket: client_config(socket, ID + "cart", "GRPC", to))
        self.port = wait_for("web listens", lambda: web.envoy.is_live() and web.envoy.port("out"))
        self.agents = (cart, web)

    def agent(self, name, config):
        roots = (self.mesh.state / "trust/root-cert.pem").read_bytes()
        return self.start(name, f"localhost:{self.mesh.ca_port()}", roots, self.mesh.token(name).read_text(), config, SECRET_TTL=TTL)

    def rotate(self, bundle, subject, roots):
        """New secrets in the vault, until the CA has come to what they say: with agents that say no word, by what its ledger knows."""
        self.mesh.set_all(bundle)
        wait_for(f"the CA signs with {subject} and trusts {roots}", lambda: (s := self.mesh.status()["ca"]) and subject in s["intermediate"]["subject"] and
                 len(s["roots"]) == roots, 300)

    def restart_ca(self):
        """Agents that have known it under root A only must dial it under B: they read their root file again when a call has failed."""
        for a in self.agents:
            a.root_file.write_bytes((self.mesh.state / "trust/root-cert.pem").read_bytes())  # as the kubelet does with the ConfigMap
        self.mesh.up.kill()
        self.mesh.start()
        had = [a.text().count(ISSUED) for a in self.agents]
        wait_for("leaves from the CA that is back", lambda: all(a.text().count(ISSUED) > n for a, n in zip(self.agents, had)), 120)


def both_see(load, name):
    """Until server and client show each other leaves of intermediate `name`."""
    wait_for(f"leaves of {name}", lambda: load.failed or all(any(name in i for i in seen) for seen in (load.server_issuers, load.client_issuers)), 120)
    assert not load.failed, load.failed[0]


def test_rotations_under_load_lose_no_request(tmp_path, daemon, agents):
    """They cannot acknowledge: each gate opens by the ledger alone, when no leaf from before it is alive."""
    a, b = openssl_root(tmp_path / "ra", "Root A", "p256"), openssl_root(tmp_path / "rb", "Root B", "p256")
    a1, a2, b1 = (openssl_intermediate(tmp_path / n, r, f"Intermediate {n.upper()}", "p256") for n, r in (("a1", a), ("a2", a), ("b1", b)))
    pair = Pair(tmp_path, daemon, agents, a1)
    load = Load(pair.port)
    both_see(load, "A1")
    pair.rotate(a2, "Intermediate A2", 1)
    both_see(load, "A2")
    pair.rotate(b1, "Intermediate B1", 1)  # root A, then A+B, then B
    both_see(load, "B1")
    pair.restart_ca()
    goal = load.ok + 50
    wait_for("50 requests more", lambda: load.ok >= goal or load.failed)
    load.stop()
    assert not load.failed and load.ok >= 500, (load.ok, len(load.failed), load.failed[:1], load.failed[-1:])
    for seen in (load.server_issuers, load.client_issuers):
        assert [next(w for w in ("A1", "A2", "B1") if w in i) for i in seen] == ["A1", "A2", "B1"], seen
    for agent in pair.agents:
        assert "ACK ERROR" not in agent.text()
        assert "certificate signed by unknown authority" in agent.text(), "the root file was read again"
    print(f"pilot-agent and Envoy: {load.ok} requests, {len(load.failed)} failed")
