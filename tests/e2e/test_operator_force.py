"""A held step that an operator forces on Kubernetes: `meshroot rotate force --namespace`, and kubectl's one line, the annotation of the PluginCA.

Source: docs/rotation.md "Force"; docs/kubernetes.md "Force a held step".
"""
import json
import re

import pytest

import docs

from conftest import meshroot, openssl_intermediate, wait_for
from test_ca import make_csr, pb  # noqa: F401
from test_operator import NS, PLAN, World, world  # noqa: F401
from test_operator_ca import start, world as world_with_ca  # noqa: F401

FORCE = "meshroot.io/force"


def force(world, *flags, token="own", check=True):  # noqa: F811
    return meshroot("rotate", "force", "--namespace", NS, "--kubeconfig", world.api.kubeconfig(token, f"force-{token}"), *flags, check=check)


def annotate(world, word):  # noqa: F811
    """As kubectl annotate does it."""
    world.api.edit("PluginCA", NS, "default", {"metadata": {"annotations": {FORCE: word}}}, manager="kubectl-annotate")


def annotation(world):  # noqa: F811
    return (world.api.get("PluginCA", NS, "default")["metadata"].get("annotations") or {}).get(FORCE)


def word(world):  # noqa: F811
    return (world.status().get("held") or {}).get("force") or ""


def notes(world, reason):  # noqa: F811
    return [e.get("note") or e.get("message") for e in world.events(reason)]


def answered(world, what):  # noqa: F811
    """`what`: the answer to the annotation; it is in the status before the annotation goes."""
    wait_for("the annotation is gone", lambda: annotation(world) is None)
    last = world.status()["lastForce"]
    assert last["answer"] == what, last
    return last


def at(o, path):
    """kubectl's jsonpath, of names only."""
    for name in path.strip("{}").strip(".").split("."):
        o = o[name]
    return o


@pytest.mark.parametrize("page", ("runbooks.md", "kubernetes.md"))
def test_kubectl_s_lines_of_the_pages_do_it(world, page):  # noqa: F811
    """Their annotation and paths, on what the API server has then."""
    text = (docs.HERE / "docs" / page).read_text().replace("\\\n", " ")
    key, path = re.search(r"kubectl annotate pluginca -n \S+ default --overwrite +(\S+)=\"\$\(kubectl get pluginca -n \S+ default -o jsonpath='(\{.*?\})'\)\"", text).groups()
    hold(world)
    o = world.api.get("PluginCA", NS, "default")
    assert at(o, ".status.held")["step"] == "move signer" and "stock sidecars" in at(o, ".status.waitsFor")[0]
    for p in re.findall(r"\{(\.status\.[A-Za-z.]+)\}", text):
        assert p.startswith(".status.lastForce.") or at(o, p), p
    world.api.edit("PluginCA", NS, "default", {"metadata": {"annotations": {key: at(o, path)}}})
    answered(world, "Forced")
    o = world.api.get("PluginCA", NS, "default")
    assert all(at(o, p) for p in re.findall(r"\{(\.status\.lastForce\.[A-Za-z.]+)\}", text))
    wait_for("the signer moved", lambda: world.holds("B1"))


def plans(world):  # noqa: F811
    """Generations of the plan, each time that it is written."""
    seen = []
    world.api.hooks.append(lambda kind, o: o["kind"] == "ConfigMap" and o["metadata"]["name"] == PLAN and "plan.json" in o["data"]
                           and seen.append(json.loads(o["data"]["plan.json"])["generation"]))
    return seen


def hold(world, token="own"):  # noqa: F811
    """Root B is to replace root A, and the sidecars, who say no word, hold the signer for an hour."""
    world.plugin(gates={"stockWait": "1h", "mountWait": "0s"})
    d = world.run("--lease", "off", token=token)
    world.ready(1)
    world.mesh.set_all(world.sets["B1"])
    wait_for("held", lambda: word(world).startswith("2/move-signer/") and world.is_condition("Held", "True", "Trust"))
    assert world.generation() == 2 and not world.holds("B1")
    return d


def test_a_held_step_is_forced_and_the_next_has_its_gate_again(world):  # noqa: F811
    hold(world)
    shown = force(world).stdout
    assert "held: move signer: " in shown and "stock sidecars" in shown and f"{FORCE}={word(world)}" in shown and "--force" in shown
    assert annotation(world) is None and world.generation() == 2, "looking changes nothing"
    forced = force(world, "--force", "--wait").stdout
    assert "stock sidecars" in forced and "these workloads may be cut off now" in forced
    wait_for("the signer moved", lambda: world.holds("B1") and world.generation() == 3)
    answered(world, "Forced")
    said = wait_for("an Event", lambda: notes(world, "Forced"))
    assert "move signer is taken without its gate; 1 were not ready: stock sidecars (" in said[0], said
    assert all(e["type"] == "Warning" for e in world.events("Forced")) and not world.events("ForceRefused")
    wait_for("narrow has its own gate", lambda: word(world).startswith("3/narrow/"))
    assert world.part("root-cert.pem").count("BEGIN CERT") == 2
    told = json.loads(force(world, "--force", "--wait", "--output", "json").stdout)
    assert told["answer"]["answer"] == "Forced" and told["held"]["step"] == "narrow" and told["waits_for"]
    world.ready(4)
    assert world.part("root-cert.pem").count("BEGIN CERT") == 1 and "Root A" not in world.status()["root"] and "held" not in world.status()
    none = force(world, "--force", check=False)
    assert none.returncode == 17 and "no step is held" in none.stderr


def test_by_kubectl_alone_and_never_twice(world):  # noqa: F811
    d = hold(world)
    seen, used = plans(world), word(world)
    annotate(world, used)
    assert answered(world, "Forced")["force"] == used
    wait_for("the signer moved", lambda: world.holds("B1") and word(world).startswith("3/narrow/"))
    for says in ("it was forced already, at 20", "another step is held, 3/narrow/"):  # put back, to this operator and to the next
        annotate(world, used)
        assert says in answered(world, "ForceRefused")["message"]
        wait_for("an Event", lambda says=says: any(says in n for n in notes(world, "ForceRefused")))
        d.stop()
        d = world.run("--lease", "off")
        wait_for("held as before", lambda: "narrow is held: " in d.text() and word(world).startswith("3/narrow/"))
    assert set(seen) == {3} and world.generation() == 3 and world.part("root-cert.pem").count("BEGIN CERT") == 2


def test_what_names_another_step_is_refused_and_nothing_moves(world):  # noqa: F811
    hold(world)
    seen, held = plans(world), word(world)
    end = held.rpartition("/")[2]
    for other in (f"1/move-signer/{end}", f"3/move-signer/{end}", f"2/narrow/{end}", "2/move-signer", f"{held}0", "yes", "x" * 300, "%s\u00e4\n", f"{held} "):
        annotate(world, other)
        last = answered(world, "ForceRefused")
        assert f"another step is held, {held}: " in last["message"], last
        assert last["force"] == (other if set(other) <= set("abcdefghijklmnopqrstuvwxyz0123456789/-") and len(other) < 64 else "what is no word of a step")
    assert all(held in x for x in wait_for("an Event", lambda: notes(world, "ForceRefused")))
    assert not seen and world.generation() == 2 and not world.events("Forced") and word(world) == held


def test_a_word_is_of_one_wish_of_the_vault_s(world):  # noqa: F811
    """The same generation and kind of step, but the vault has turned to another intermediate since somebody looked."""
    hold(world)
    seen, old = plans(world), word(world)
    world.sets["B2"] = openssl_intermediate(world.tmp / "B2", world.tmp / "rb", "Intermediate B2", "p256")
    world.mesh.set_all(world.sets["B2"])
    new = wait_for("another word", lambda: word(world) not in ("", old) and word(world))
    assert new.startswith("2/move-signer/")
    annotate(world, old)
    assert new in answered(world, "ForceRefused")["message"] and not seen
    annotate(world, new)
    answered(world, "Forced")
    wait_for("that one", lambda: world.holds("B2"))


def test_what_is_not_held_is_not_forced(world):  # noqa: F811
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    seen = plans(world)
    annotate(world, "1/move-signer/0123456789abcdef")
    assert "nothing is held" in answered(world, "ForceRefused")["message"]
    wait_for("an Event", lambda: notes(world, "ForceRefused"))
    out = force(world, "--force", "--wait", check=False)
    assert out.returncode == 17 and "no step is held" in out.stderr and not seen


def test_dry_runs_change_nothing(world):  # noqa: F811
    hold(world)
    wait_for("at rest", lambda: world.is_condition("Distributed", "True"))
    patched = lambda: [x for x in world.api.seen if x[0] == "PATCH" and x[1].startswith(f"/apis/meshroot.io/v1alpha1/namespaces/{NS}/pluginca/default?")]  # noqa: E731
    before = len(patched())
    shown = json.loads(force(world, "--dry-run", "client").stdout)
    assert shown["metadata"]["annotations"] == {FORCE: word(world)} and shown["metadata"]["resourceVersion"] and len(patched()) == before
    server = json.loads(force(world, "--force", "--dry-run", "server").stdout)
    assert server["metadata"]["annotations"][FORCE] == word(world) and all("dryRun=All" in x[1] for x in patched()[before:])
    assert annotation(world) is None and world.generation() == 2 and "lastForce" not in world.status()
    for flags, says in ((("--wait",), "add --force"), (("--force", "--wait", "--dry-run", "server"), "no --dry-run")):
        out = force(world, *flags, check=False)
        assert out.returncode == 2 and says in out.stderr
    for flag in (("--dry-run", "client"), ("--wait",), ("--name", "other")):  # none of them is a word for meshroot up
        out = meshroot("rotate", "force", *flag, check=False)
        assert out.returncode == 2 and "is for a mesh on Kubernetes" in out.stderr


def test_who_may_not_edit_a_pluginca_forces_nothing(world):  # noqa: F811
    """Who may read it, and even its status, cannot; who may patch it can. The operator needs no more of PluginCAs than the chart gave it."""
    us, tenant = "system:serviceaccount:meshroot-system:meshroot-operator", "system:serviceaccount:shop:tenant"
    world.api.accounts.update({"tenant": tenant, "us": us})
    allow = world.api.allow
    allow(us, ["list", "watch", "patch"], ["pluginca"], ns=NS, group="meshroot.io")
    allow(us, ["patch"], ["pluginca/status"], ns=NS, group="meshroot.io")
    allow(us, ["create", "patch"], ["events"], ns=NS)
    allow(us, ["get", "list", "watch", "create", "update", "patch"], ["namespaces", "configmaps", "secrets", "pods"])
    allow(tenant, ["get", "list", "watch"], ["pluginca"], ns=NS, group="meshroot.io")
    allow(tenant, ["patch", "update"], ["pluginca/status"], ns=NS, group="meshroot.io")
    hold(world, token="us")
    assert "held: move signer" in force(world, token="tenant").stdout
    out = force(world, "--force", token="tenant", check=False)
    assert out.returncode == 14 and "cannot patch" in out.stderr and "pluginca" in out.stderr
    assert annotation(world) is None and world.generation() == 2
    allow(tenant, ["patch"], ["pluginca"], ns=NS, group="meshroot.io")
    force(world, "--force", "--wait", token="tenant")
    wait_for("the signer moved", lambda: world.holds("B1"))
    wait_for("an Event", lambda: notes(world, "Forced"))


def test_without_an_operator_the_command_says_so_and_its_word_is_kept(world):  # noqa: F811
    d = hold(world)
    d.kill()
    seen = plans(world)
    out = force(world, "--force", "--wait", "--wait-timeout", "1s", check=False)
    assert out.returncode == 21 and "is meshroot operator run up?" in out.stderr and f"{FORCE}-" in out.stderr
    assert annotation(world) == word(world) and not seen
    world.run("--lease", "off")  # killed between annotation and step: the next one takes it, once
    assert answered(world, "Forced")
    wait_for("the signer moved", lambda: world.holds("B1") and word(world).startswith("3/narrow/"))
    wait_for("an Event", lambda: notes(world, "Forced"))
    assert seen == [3]


@pytest.mark.parametrize("at", ("plan", "status", "annotation"))
def test_killed_in_the_middle_it_is_forced_once(world, at):  # noqa: F811
    """When the plan is in the store and nobody was told; when the answer is in the status; when the annotation is taken away."""
    d, killed = hold(world), []
    seen = plans(world)

    def is_it(o):
        if at == "plan":
            return o["kind"] == "ConfigMap" and o["metadata"]["name"] == PLAN
        return o["kind"] == "PluginCA" and "lastForce" in o.get("status", {}) and (at == "status" or FORCE not in o["metadata"].get("annotations", {}))

    def kill(_, o):
        if is_it(o) and not killed:
            killed.append(at)
            d.kill()
    world.api.hooks.append(kill)
    annotate(world, word(world))
    wait_for("killed", lambda: killed and d.process.poll() is not None)
    world.run("--lease", "off")
    wait_for("the step is whole", lambda: world.holds("B1") and word(world).startswith("3/narrow/"))
    assert answered(world, "Forced")
    assert set(seen) == {3} and world.part("root-cert.pem").count("BEGIN CERT") == 2


def test_each_word_is_answered_once(world):  # noqa: F811
    d = hold(world)
    for i in range(3):
        annotate(world, f"9/narrow/{i}")
        answered(world, "ForceRefused")
    wait_for("Events", lambda: len(notes(world, "ForceRefused")) == 3)
    annotate(world, word(world))
    answered(world, "Forced")
    wait_for("the signer moved", lambda: world.holds("B1") and word(world).startswith("3/narrow/"))
    assert d.text().count("event=ForceRefused") == 3 and d.text().count("event=Forced\n") == 1


def test_a_store_that_refuses_is_told_and_the_word_stays_good(world):  # noqa: F811
    hold(world)
    used, seen = word(world), plans(world)
    world.api.fail(403, times=1, method="PUT", path=f"configmaps/{PLAN}")
    annotate(world, used)
    assert PLAN in answered(world, "ForceRefused")["message"] and not seen
    wait_for("held as before", lambda: word(world) == used)
    annotate(world, used)
    answered(world, "Forced")
    wait_for("the signer moved", lambda: world.holds("B1"))
    assert seen == [3]


def test_a_replica_that_nobody_can_reach_is_forced_past(world_with_ca, daemon, pb):  # noqa: F811
    """Our own CA: one pod is listed and dead, and a workload that is gone has a leaf of an hour under the root that is to go."""
    w = world_with_ca
    w.plugin(target="meshroot", ttl={"default": "1m"}, gates={"mountWait": "0s"})
    a, b = start(w, daemon, pb, ttl="1h")
    w.ready(1)
    _, csr = make_csr()
    assert a.call(csr, w.issuer.token())[0]
    b.daemon.kill()
    w.mesh.set_all(w.sets["B1"])
    wait_for("held", lambda: word(w).startswith("2/move-signer/") and w.is_condition("Held", "True", "Replicas"))
    force(w, "--force", "--wait")
    wait_for("moved", lambda: w.generation("meshroot-ca", NS.replace("istio", "meshroot")) == 3)
    assert "move signer is taken without its gate" in wait_for("an Event", lambda: notes(w, "Forced"))[0]
    wait_for("the root is held, by a leaf too", lambda: word(w).startswith("3/narrow/") and any("spiffe://" in x for x in w.status()["waitsFor"]))
