"""grpc-go with the published istio.io/api module, as pilot-agent and ztunnel use it, against `meshroot ca serve`."""
import itertools
import json
import os
import signal
import subprocess

import pytest
from cryptography import x509

from conftest import openssl_intermediate, openssl_root, wait_for
from test_ca import IDENTITY, Ca, copy_set, make_csr, pb, plugged  # noqa: F401 (fixtures)


@pytest.fixture
def ca(tmp_path, daemon, pb, plugged):  # noqa: F811
    return Ca(tmp_path, daemon, pb).ready()


@pytest.fixture
def agent(ca, istio_agent):
    return istio_agent(ca, IDENTITY)


def good(a, elements=3, roots=1):
    """Leaf, intermediate, roots: a root in cert-chain.pem is not repeated among the intermediates."""
    assert (a["Code"], a["Problem"], a["URI"]) == ("OK", "", IDENTITY), a
    assert a["Attempts"] == 1 and a["Elements"] == elements and a["Roots"] == roots, a
    assert a["Seconds"] == 86400 + 120, a


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_every_key_and_shape(agent, tls):
    for key, shape in itertools.product(("rsa2048", "p256", "p384"), ("pilot-agent", "ztunnel")):
        a = agent.sign(key=key, shape=shape, tls=tls)
        good(a)
        assert a["TLS"] == f"TLS {tls}"


@pytest.mark.parametrize("kind,algorithm", [("p256", "ECDSA-SHA256"), ("rsa4096", "SHA256-RSA")])
def test_every_usual_ca(tmp_path, daemon, pb, istio_agent, kind, algorithm):  # noqa: F811
    root = openssl_root(tmp_path / "root", "Root", kind)
    openssl_intermediate(tmp_path / "cacerts", root, "Intermediate", kind)
    agent = istio_agent(Ca(tmp_path, daemon, pb).ready(), IDENTITY)
    for key in ("rsa2048", "p384"):
        a = agent.sign(key=key)
        good(a)
        assert a["Algorithm"] == algorithm and a["Issuer"] == "Intermediate"


def test_self_signed_answer_has_leaf_and_root(tmp_path, daemon, pb, istio_agent):  # noqa: F811
    (tmp_path / "cacerts").mkdir()
    good(istio_agent(Ca(tmp_path, daemon, pb, "--self-signed").ready(), IDENTITY).sign(), elements=2)


def test_metadata_that_agents_send(agent):
    good(agent.sign(cert_signer=""))
    good(agent.sign(cert_signer="meshroot"))
    a = agent.sign(cert_signer="clusterissuers.example/one")
    assert a["Code"] == "InvalidArgument" and "is not known here; leave it empty, or: meshroot" in a["Message"], a
    good(agent.sign(cluster_id=""))
    a = agent.sign(shape="ztunnel", impersonate=IDENTITY)  # nobody trusts this caller to act for others
    assert (a["Code"], a["Message"]) == ("Unauthenticated", "request impersonation authentication failure")


def test_what_is_final_is_asked_once(agent, tmp_path):
    """specs/istio-ca.md 1.7: an agent does not repeat UNAUTHENTICATED and INVALID_ARGUMENT within a call."""
    rows = [({"token_file": ""}, "Unauthenticated", "request authenticate failure"),
            ({"ttl": 2184 * 3600}, "InvalidArgument", "greater than the max allowed TTL 2160h0m0s")]
    (tmp_path / "bad.csr").write_text("hello")
    rows.append(({"csr": tmp_path / "bad.csr"}, "InvalidArgument", "certificate signing request is not properly encoded"))
    for flags, code, words in rows:
        a = agent.sign(**flags)
        assert (a["Code"], a["Attempts"]) == (code, 1) and words in a["Message"], a


def test_a_dead_signer_is_bridged_by_the_agents_retries(ca, agent):
    """UNAVAILABLE is what an agent repeats: 100, 200, 400, 800 ms are enough for the signer to come back."""
    for _ in range(5):  # it comes back after 100, 200, 400, ... ms: the first that is longer than a client takes to start is met half over
        os.kill(ca.status()["signer"]["pid"], signal.SIGKILL)
        a = agent.sign()
        assert (a["Code"], a["Problem"]) == ("OK", ""), a
        if a["Attempts"] > 1:
            return
        wait_for("the signer", lambda: ca.get("/readyz")[0] == 200)
    raise AssertionError("no call ever met the dead signer")


def test_pings_on_an_idle_connection_are_answered(agent):
    """grpc-go pings every 10 s at the most often; pilot-agent every 30 s. The same connection serves before and after."""
    out = agent.run("hold", idle="22s")
    assert out["States"] == [] and (out["First"]["Code"], out["Second"]["Code"]) == ("OK", "OK"), out


def test_renewal_with_the_certificate_instead_of_the_token(ca, agent, tmp_path):
    from cryptography.hazmat.primitives import serialization
    key, csr = make_csr()
    chain, _ = ca.call(csr, ca.issuer.token())
    (tmp_path / "chain.pem").write_text("".join(chain[:-1]))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                         serialization.NoEncryption()))
    for tls in ("1.2", "1.3"):
        good(agent.sign(token_file="", client_chain=tmp_path / "chain.pem", client_key=tmp_path / "key.pem", tls=tls))


def test_hot_rotation_under_load(ca, agent, plugged, tmp_path):  # noqa: F811
    """A second intermediate, then a second root with its own: no call fails, new answers name the new issuer."""
    other = openssl_root(tmp_path / "root-b", "Root B", "p256")
    a2 = openssl_intermediate(tmp_path / "a2", plugged[0], "Intermediate A2", "p256")
    b1 = openssl_intermediate(tmp_path / "b1", other, "Intermediate B1", "p256")
    both = (plugged[0] / "root-cert.pem").read_text() + (other / "root-cert.pem").read_text()
    (b1 / "root-cert.pem").write_text(both)
    process = agent.load(workers=3)
    try:
        def issued():
            line = [x for x in ca.get("/metrics")[1].splitlines() if x.startswith("citadel_server_success_cert_issuance_count ")]
            return float(line[0].split()[1]) if line else 0

        def more(n=60):
            before = issued()
            wait_for("more leaves", lambda: issued() >= before + n)

        more()
        for step, names in ((a2, None), (b1, ("root-cert.pem",)), (b1, None)):
            copy_set(step, ca.dir, *([names] if names else []))
            if names is None:
                subject = x509.load_pem_x509_certificate((step / "ca-cert.pem").read_bytes()).subject.rfc4514_string()
                name = [x for x in subject.split(",") if x.startswith("CN=")][0]
                wait_for(name, lambda: name in ca.status()["intermediate"]["subject"])
            else:
                wait_for("two roots", lambda: ca.roots().count(b"BEGIN CERTIFICATE") == 2)
            more()
        out, err = process.communicate("", timeout=300)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err
    seen = json.loads(out)
    assert seen["Failed"] == 0 and seen["OK"] > 200, seen
    assert seen["Issuers"] == ["Intermediate A1", "Intermediate A2", "Intermediate B1"] and seen["Roots"] == [1, 2], seen


def test_a_ca_of_another_root_is_not_spoken_to(agent, tmp_path):
    """The agent's side of the same: nothing is sent to a server that its root file does not cover."""
    other = openssl_root(tmp_path / "root-x", "Root X", "p256")
    a = agent.sign(roots=other / "root-cert.pem")
    assert a["Code"] == "Unavailable" and "certificate signed by unknown authority" in a["Message"], a
