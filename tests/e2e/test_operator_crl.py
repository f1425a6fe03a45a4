"""The operator and ca-crl.pem: in cacerts as a stock istiod takes it, in meshroot-ca as our CA does, and what the PluginCA says of it.

Source: issue 5 "Targets"; specs/istio-ca.md 5.3 (check 7), 13.3.
"""
import base64
import json

import pytest

from conftest import wait_for
from test_ca import pb  # noqa: F401
from test_ca_crl import crl, load
from test_operator import FOUR, NS, OWN, World
from test_operator_ca import start, world as ca_world  # noqa: F401
from test_revoke import pki

FIVE = sorted(FOUR + ["ca-crl.pem"])
NAMES = {"objectNames": {"rootCert": "root-cert", "caCert": "ca-cert", "caKey": "ca-key", "certChain": "cert-chain", "caCrl": "ca-crl"}}


def own_pki(w):
    """Roots that may sign lists, which openssl_root's may not."""
    w.sets = {n: pki(w.tmp, f"own-{n}") for n in ("A1", "A2")}
    w.root = w.tmp / "root"
    w.mesh.set_all(w.sets["A1"])
    return w


def put_lists(w, *texts):
    w.mesh.put_lists("".join(texts))


def both(w, name, number, *revoked):
    """The root's list and the intermediate's own."""
    return crl(w.root, *revoked, number=number), crl(w.sets[name], number=number, key="ca-key.pem", cert="ca-cert.pem")


@pytest.fixture
def world(tmp_path, daemon):
    w = own_pki(World(tmp_path, daemon))
    yield w
    w.api.stop()


def said(w):
    return w.status().get("revocation", {}).get("refused") or ""


def test_cacerts_has_the_fifth_key_when_istiod_takes_it(world):
    w = world
    w.plugin(**NAMES)
    operator = w.run("--lease", "off")
    w.ready(1)
    assert sorted(w.secret()["data"]) == FOUR and w.status()["revocation"]["lists"] == 0
    put_lists(w, crl(w.root, number=1))  # istiod would refuse the whole set
    wait_for("said which is missing", lambda: 'there is no list of "CN=own-A1,O=Istio"' in said(w))
    wait_for("an Event", lambda: w.events("ListsRefused"))
    assert sorted(w.secret()["data"]) == FOUR
    put_lists(w, *both(w, "A1", 2))
    wait_for("the fifth key", lambda: sorted(w.secret()["data"]) == FIVE)
    wait_for("and the status", lambda: w.status()["revocation"]["lists"] == 2 and said(w) == "")
    assert w.part("ca-crl.pem").count("BEGIN X509 CRL") == 2 and w.status()["revocation"]["nextUpdate"]
    assert set(json.loads(w.secret()["metadata"]["annotations"]["meshroot.io/versions"])) == {"root-cert", "ca-cert", "ca-key", "cert-chain", "ca-crl"}
    generation, before = w.generation(), w.part("ca-crl.pem")
    # by somebody's hand: changed, then taken away
    for change in ({"ca-crl.pem": base64.b64encode(b"").decode()}, None):
        s = w.secret()
        s["data"] = {**{k: v for k, v in s["data"].items() if k != "ca-crl.pem"}, **(change or {})}
        w.api.put(s)
        wait_for("put back", lambda: w.part("ca-crl.pem") == before)
        wait_for("and the key is in order", lambda: w.generation() == generation)
    wait_for("an Event", lambda: any("ca-crl.pem is not as it was written" in json.dumps(e) for e in w.events("Restored")))
    # over a restart, and beside what is no list
    assert operator.stop() == 0
    put_lists(w, "garbage")
    w.run("--lease", "off")
    wait_for("refused", lambda: "no revocation list" in said(w))
    assert w.part("ca-crl.pem") == before and w.generation() == generation
    put_lists(w, *both(w, "A1", 1))
    wait_for("goes back", lambda: "goes back: its number is 1" in said(w))
    assert w.part("ca-crl.pem") == before


def test_signer_and_list_change_in_one_write(world):
    """At no moment does cacerts have a list that revokes its signer, or one that does not reach over its chain."""
    w, seen = world, []
    a1 = load(w.sets["A1"] / "ca-cert.pem")
    w.api.hooks.append(lambda kind, o: seen.append({k: base64.b64decode(v).decode() for k, v in o["data"].items()})
                       if o["kind"] == "Secret" and o["metadata"]["name"] == "cacerts" and "data" in o else None)
    put_lists(w, *both(w, "A1", 1))
    w.plugin(**NAMES)
    w.run("--lease", "off")
    w.ready(1)
    put_lists(w, *both(w, "A2", 2, a1))
    wait_for("refused", lambda: "A2" in said(w) or "set another intermediate" in w.condition("Synced")["message"])
    assert w.holds("A1") and w.part("ca-crl.pem").count("BEGIN") == 2
    w.mesh.set_all(w.sets["A2"])
    wait_for("A2", lambda: w.holds("A2") and w.status().get("revocation", {}).get("entries") == 1)
    states = {("A2" if (w.sets["A2"] / "ca-cert.pem").read_text().strip() in s["ca-cert.pem"] else "A1", s.get("ca-crl.pem", "").count("BEGIN")) for s in seen}
    assert states <= {("A1", 2), ("A2", 2)}, states


def test_our_ca_gets_the_roots_list_alone(ca_world, daemon, pb):  # noqa: F811
    w = own_pki(ca_world)
    w.plugin(target="meshroot", ttl={"default": "1m"}, **NAMES)
    a, b = start(w, daemon, pb)
    w.ready(1)
    put_lists(w, crl(w.root, load(w.sets["A2"] / "ca-cert.pem"), number=1))
    wait_for("the sixth key", lambda: "ca-crl.pem" in w.secret("meshroot-ca", OWN)["data"])
    for p in (a, b):
        wait_for("loaded by both", lambda p=p: p.status()["ca_lists"]["entries"] == 1)
        assert p.get("/ca-crl.pem")[1].count("BEGIN X509 CRL") == 2
    assert w.secret("cacerts", NS) is None
    put_lists(w, "\n")
    wait_for("gone", lambda: "ca-crl.pem" not in w.secret("meshroot-ca", OWN)["data"])
    wait_for("gone at the CA", lambda: a.status()["ca_lists"]["lists"] == 0)
