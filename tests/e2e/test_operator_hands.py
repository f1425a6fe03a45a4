"""What other people's hands may do to the operator: objects made, changed and taken away by somebody who is not its friend.

Source: issue 5 "Targets", "Bad input"; design.md "What must hold" 1, 2 and 9.
"""
import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization

from conftest import meshroot, wait_for
from https_peer import HttpsPeer
from kube_world import now
from test_operator import CM, FOUR, NS, OWN, PLAN, world  # noqa: F401


def test_many_pluginca_displace_nobody(world):  # noqa: F811
    """The list is by name: theirs come first, and there are more than are kept."""
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    made = world.api.get("PluginCA", NS, "default")["metadata"]["creationTimestamp"]
    wait_for("another second", lambda: now() > made)  # of two that are as old the first by name is in force
    for i in range(20):
        world.plugin(name=f"a{i:02}", adopt=True)
    world.api.compact()  # 410: all are read again
    world.namespace("late")
    wait_for("the late one", lambda: world.roots("late") == 1)
    wait_for("they are refused", lambda: all(world.condition("Held", f"a{i:02}")["reason"] == "AnotherPluginCA" for i in range(15)))
    world.api.edit("Secret", NS, "cacerts", {"data": {"extra": "eA=="}})
    wait_for("put back", lambda: sorted(world.secret()["data"]) == FOUR)
    assert world.secret()["metadata"]["annotations"]["meshroot.io/owner"] == f"{NS}/default"
    assert not any(c["type"] == "Loaded" for i in range(20) for c in world.status(f"a{i:02}").get("conditions", []))
    for i in range(20):
        world.api.delete("PluginCA", NS, f"a{i:02}")
    world.api.edit("PluginCA", NS, "default", {"spec": {"pollInterval": "2s"}})
    wait_for("the one that is left is heard", lambda: world.status().get("observedGeneration") == world.api.get("PluginCA", NS, "default")["metadata"]["generation"])


def b64(path):
    return base64.b64encode(path.read_bytes()).decode()


def as_written(world, name):  # noqa: F811
    """Byte for byte what the operator would write."""
    key = serialization.load_pem_private_key((world.sets[name] / "ca-key.pem").read_bytes(), None)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {k: b64(world.sets[name] / k) for k in FOUR} | {"ca-key.pem": base64.b64encode(pem).decode()}


def theirs(world, name):  # noqa: F811
    """Somebody plugged a CA in by hand: cacerts, and the ConfigMaps that istiod makes of it."""
    root = (world.sets[name] / "root-cert.pem").read_text()
    world.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": NS},
                   "data": {k: b64(world.sets[name] / k) for k in FOUR}})
    for ns in (NS, "shop"):
        world.api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CM, "namespace": ns}, "data": {"root-cert.pem": root}})
    return root


def test_a_mesh_that_is_somebody_else_s_keeps_its_roots(world):  # noqa: F811
    root = theirs(world, "B1")
    world.plugin()
    d = world.run("--lease", "off")
    wait_for("held", lambda: world.is_condition("Loaded", "False", "NotOwned") and world.is_condition("Held", "True", "NotOwned"))
    world.namespace("late")
    d.stop()
    for ns in (NS, "shop"):
        assert world.api.get("ConfigMap", ns, CM)["data"]["root-cert.pem"] == root
    assert world.plan() is None and world.roots("late") == 0


def test_adopting_cuts_nobody_off(world):  # noqa: F811
    """A set under another root is not what a mesh in use is switched to at once."""
    root = theirs(world, "B1")
    world.plugin(adopt=True, gates={"stockWait": "1s", "mountWait": "0s"})
    world.run("--lease", "off")
    wait_for("held", lambda: "under another one" in world.condition("Held")["message"])
    world.mesh.set_secret("root-cert", world.both())  # it trusts theirs too, and still signs under A
    world.namespace("late")
    assert world.api.get("ConfigMap", "shop", CM)["data"]["root-cert.pem"] == root and world.part("root-cert.pem") == root
    world.mesh.set_all(world.sets["B1"])
    world.ready(1)
    assert world.holds("B1") and world.secret()["metadata"]["annotations"]["meshroot.io/owner"] == f"{NS}/default"
    world.mesh.set_all(world.sets["A1"])  # from here on by its gates
    wait_for("by its gates", lambda: world.holds("A1") and world.status()["generation"] == 4)


def test_a_set_put_into_the_secret_by_hand_is_nobody_s_root(world):  # noqa: F811
    """Whole, and with our annotations: who may write that one Secret does not say what other namespaces trust."""
    world.plugin()
    d = world.run("--lease", "off")
    world.ready(1)
    root, seen = (world.sets["B1"] / "root-cert.pem").read_text().strip(), []

    def watch(kind, o):
        if o["kind"] == "ConfigMap" and root in (o.get("data") or {}).get("root-cert.pem", ""):
            seen.append(o["metadata"]["namespace"])
    world.api.hooks.append(watch)
    for generation in (1, 7):
        world.api.edit("Secret", NS, "cacerts", {"data": as_written(world, "B1"), "metadata": {"annotations": {"meshroot.io/generation": str(generation)}}})
        wait_for("put back", lambda: world.holds("A1"))
    world.ready(8)
    wait_for("told", lambda: any("another whole set" in e.get("note", e.get("message", "")) for e in world.events("Restored")))
    d.stop()  # and while nobody looks
    world.api.edit("Secret", NS, "cacerts", {"data": as_written(world, "B1")})
    world.run("--lease", "off")
    wait_for("put back", lambda: world.holds("A1"))
    wait_for("at rest", world.is_at_rest)
    assert world.generation() == 8 and not seen


def test_who_holds_a_gate_by_a_namespace_s_config_map_is_named(world):  # noqa: F811
    """One write a day is no dispute, and would hold a gate of a day for ever: it cannot be prevented, so it is said at once, and by whom."""
    world.plugin(gates={"stockWait": "1h", "mountWait": "0s"})
    world.run("--lease", "off")
    world.ready(1)
    world.mesh.set_all(world.sets["B1"])
    wait_for("widened, and held", lambda: world.roots("shop") == 2 and world.is_condition("Held", "True", "Trust"))
    wait_for("everywhere", lambda: world.is_condition("Distributed", "True"))
    assert "began anew" not in world.condition("Held")["message"]
    world.api.edit("ConfigMap", "shop", CM, {"data": {"root-cert.pem": (world.sets["A1"] / "root-cert.pem").read_text()}}, manager="kubectl-edit")
    said = wait_for("said", lambda: "began anew" in world.condition("Held")["message"] and world.condition("Held")["message"])
    assert "kubectl-edit changed istio-ca-root-cert in namespace shop; it was put back, 1 times in all since generation 2" in said
    wait_for("put back", lambda: world.roots("shop") == 2)
    assert any("shop/istio-ca-root-cert was changed by kubectl-edit" in json.dumps(e) for e in wait_for("an Event", lambda: world.events("Restored")))


def test_a_plan_taken_away_opens_no_gate(world):  # noqa: F811
    """In the middle of a rotation, while nobody looks; and then the Secret with it."""
    world.plugin(gates={"stockWait": "1h", "mountWait": "0s"})
    d = world.run("--lease", "off")
    world.ready(1)
    world.mesh.set_all(world.sets["B1"])
    wait_for("widened, and held", lambda: world.generation() == 2 and world.is_condition("Held", "True", "Trust"))
    wait_for("everywhere", lambda: all(world.roots(ns) == 2 for ns in (NS, "shop")))
    d.stop()
    world.api.delete("ConfigMap", OWN, PLAN)
    d = world.run("--lease", "off")
    wait_for("held again", lambda: world.status()["generation"] == 3 and world.is_condition("Held", "True", "Trust"))
    assert world.holds("A1") and world.generation() == 3 and world.part("root-cert.pem").count("BEGIN CERT") == 2
    assert all(world.roots(ns) == 2 for ns in (NS, "shop"))
    d.stop()
    world.api.delete("ConfigMap", OWN, PLAN)
    world.api.delete("Secret", NS, "cacerts")
    world.run("--lease", "off")
    wait_for("from the vault again", lambda: world.holds("B1"))
    assert world.generation() == 4, "who holds generation 3 must not drop what comes"


def strangers_vault(tmp_path, host):
    """It sends whoever asks to itself for a token: the server, a spec.vault that names it and its roots, and what it was asked."""
    got = []

    def answer(method, path, headers, body):
        got.append((method, path, body))
        return 401, {"WWW-Authenticate": f'Bearer authorization="{url}/t", resource="{url}"'}, {}
    peer = HttpsPeer(tmp_path / "peer", answer)
    url = f"https://{host}:{peer.port}"
    return peer, {"url": url, "caBundle": peer.root.read_text(), "auth": {"clientSecret": {"name": "vault-sync"}}}, got


def test_credentials_go_only_to_the_vault_they_are_of(world, tmp_path):  # noqa: F811
    """Who may write a PluginCA and not read the Secret that it names points it at a server of their own, with roots that vouch for it."""
    peer, own, got = strangers_vault(tmp_path, "127.0.0.1")
    secret = world.api.get("Secret", NS, "vault-sync")
    world.api.edit("Secret", NS, "vault-sync", {"data": {"vault-ca.pem": base64.b64encode(world.ca.encode()).decode()}})
    world.plugin(vault=own)
    world.run("--lease", "off")
    wait_for("refused", lambda: world.is_condition("Synced", "False", "VaultRefused"))
    assert not got and base64.b64decode(secret["data"]["client_secret"]).decode() not in json.dumps(world.status())
    world.plugin()
    world.ready(1)
    peer.stop()


def test_credentials_go_to_no_host_but_those_of_who_runs_the_operator(world, tmp_path):  # noqa: F811
    """The Secret says of no vault that it is the right one (no vault-ca.pem); the challenge, whose host is a stranger's, would get it all."""
    peer, own, got = strangers_vault(tmp_path, "localhost")
    world.plugin(vault=own)
    d = world.run("--lease", "off")
    wait_for("refused", lambda: world.is_condition("Held", "True", "VaultHost"))
    said = world.condition("Held")["message"]
    assert "localhost" in said and "--vault-host" in said and "operator.vaultHosts" in said
    assert not got and world.secret() is None
    world.plugin()  # mended, without a restart
    world.ready(1)
    world.plugin(vault=own)  # and what is in force stays
    wait_for("refused", lambda: world.is_condition("Held", "True", "VaultHost"))
    assert not got and world.holds("A1")
    d.stop()
    world.run("--lease", "off", "--vault-host", "localhost")  # by the word of who runs it
    wait_for("it is asked", lambda: got)
    peer.stop()


@pytest.mark.parametrize("host", ["https://vault.azure.net", "vault.azure.net:443", ".vault.azure.net", "", "*.azure.net"])
def test_a_vault_host_is_a_host(world, host):  # noqa: F811
    r = meshroot("operator", "run", "--kubeconfig", world.api.kubeconfig(), "--lease", "off", "--vault-host", host, check=False)
    assert r.returncode == 2 and "--vault-host" in r.stderr and "is not a host" in r.stderr


def test_what_lay_there_while_nobody_looked_counts(world):  # noqa: F811
    """istiod put its own roots back while no operator ran: what was written before has not lain there since then."""
    world.plugin(gates={"stockWait": "1h", "mountWait": "0s"})
    d = world.run("--lease", "off")
    world.ready(1)
    wait_for("told", lambda: world.status().get("distribution", {}).get("since"))
    since = world.status()["distribution"]["since"]
    d.stop()
    wait_for("a second later", lambda: now(-1) > since)
    world.plugin(gates={"stockWait": "1h", "mountWait": "0s"}, pollInterval="2s")
    d = world.run("--lease", "off")
    wait_for("it has looked", lambda: (s := world.status())["observedGeneration"] == 2 and s["phase"] == "Ready")
    assert world.status()["distribution"]["since"] == since, "another leader alone changes nothing"
    d.stop()
    world.api.edit("ConfigMap", "shop", CM, {"data": {"root-cert.pem": (world.sets["B1"] / "root-cert.pem").read_text()}})
    world.run("--lease", "off")
    wait_for("it begins anew", lambda: world.status()["distribution"].get("since", since) > since and world.status()["distribution"]["generation"] == 1)
    assert world.part("root-cert.pem") == world.api.get("ConfigMap", "shop", CM)["data"]["root-cert.pem"]


def test_config_maps_of_the_mesh_s_namespace_say_nothing(world):  # noqa: F811
    """The plan lies where the operator does: who may write the ConfigMaps beside the PluginCA adds no root, and takes none away."""
    world.plugin()
    d = world.run("--lease", "off")
    world.ready(1)
    assert not [m for m in world.api.all("ConfigMap", NS) if m["metadata"]["name"] != CM]
    plan = json.loads(world.plan()["data"]["plan.json"])
    root = (world.sets["B1"] / "root-cert.pem").read_text()
    plan["roots"].append({"id": "0" * 64, "since": 1, "pem": root})
    d.stop()
    for name in ("default-plan", PLAN):
        world.api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NS}, "data": {"plan.json": json.dumps(plan)}})
    world.run("--lease", "off")
    world.mesh.set_all(world.sets["A2"])
    wait_for("the next step", lambda: world.holds("A2"))
    world.ready(2)
    assert world.roots("shop") == 1 and root.strip() not in world.api.get("ConfigMap", "shop", CM)["data"]["root-cert.pem"]
