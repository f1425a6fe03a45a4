"""meshroot operator run against the scripted API server, with our vault: what lies in Secrets and ConfigMaps, and what PluginCA says.

Source: issue 5 "Targets"; specs/istio-ca.md 5.1, 6.1.
"""
import base64
import json
import random
import time

import pytest

from conftest import Mesh, meshroot, openssl_intermediate, openssl_root, wait_for
from kube_api import KubeApi

NS, CM, OWN, PLAN = "istio-system", "istio-ca-root-cert", "meshroot-system", "istio-system.default-plan"
FOUR = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"]


class World:
    def __init__(self, tmp, daemon):
        self.tmp, self.daemon, self.api = tmp, daemon, KubeApi(tmp)
        ra, rb = openssl_root(tmp / "ra", "Root A", "p256"), openssl_root(tmp / "rb", "Root B", "p256")
        self.sets = {n: openssl_intermediate(tmp / n, r, f"Intermediate {n}", "p256") for n, r in (("A1", ra), ("A2", ra), ("B1", rb))}
        self.mesh = Mesh(tmp, daemon)
        self.mesh.set_all(self.sets["A1"])
        who = json.loads((self.mesh.state / "credentials/sync.json").read_text())
        self.url = (self.mesh.state / "vault.url").read_text().strip()
        self.ca = (self.mesh.state / "vault-ca.pem").read_text()
        for ns in (NS, OWN, "shop", "kube-public"):
            self.namespace(ns)
        self.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vault-sync", "namespace": NS},
                      "data": {k: base64.b64encode(who[k].encode()).decode() for k in ("tenant", "client_id", "client_secret")}})

    def namespace(self, name, **labels):
        self.api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def plugin(self, name="default", **spec):
        self.api.put({"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "metadata": {"name": name, "namespace": NS}, "spec": {
            "vault": {"url": self.url, "caBundle": self.ca, "auth": {"clientSecret": {"name": "vault-sync"}}}, "pollInterval": "1s",
            "gates": {"stockWait": "0s", "mountWait": "0s"}, **spec}})

    def run(self, *flags, token="own"):
        return self.daemon("operator", "run", "--namespace", NS, "--own-namespace", OWN, "--kubeconfig",
                           self.api.kubeconfig(token, f"config-{token}"), *(() if "--vault-host" in flags else ("--vault-host", "127.0.0.1")), *flags)

    def both(self, a="A1", b="B1"):
        path = self.tmp / "both.pem"
        path.write_text("".join((self.sets[x] / "root-cert.pem").read_text() for x in (a, b)))
        return path

    def secret(self, name="cacerts", ns=NS):
        return self.api.get("Secret", ns, name)

    def part(self, key, **where):
        s = self.secret(**where)
        return base64.b64decode(s["data"][key]).decode() if s and key in s.get("data", {}) else ""

    def holds(self, name):
        """cacerts is that set, whole."""
        want = (self.sets[name] / "ca-cert.pem").read_text().strip()
        return want in self.part("ca-cert.pem")

    def plan(self):
        return self.api.get("ConfigMap", OWN, PLAN)

    def generation(self, name="cacerts", ns=NS):
        s = self.secret(name, ns)
        return int((s or {"metadata": {}})["metadata"].get("annotations", {}).get("meshroot.io/generation", 0))

    def roots(self, ns):
        m = self.api.get("ConfigMap", ns, CM)
        return m["data"].get("root-cert.pem", "").count("BEGIN CERT") if m else 0

    def status(self, name="default"):
        return (self.api.get("PluginCA", NS, name) or {}).get("status", {})

    def condition(self, kind, name="default"):
        return next((c for c in self.status(name).get("conditions", []) if c["type"] == kind), {"status": "", "reason": "", "message": ""})

    def is_condition(self, kind, status, reason=None):
        c = self.condition(kind)
        return c["status"] == status and reason in (None, c["reason"])

    def events(self, reason):
        return [e for e in self.api.all("Event") if e.get("reason") == reason]

    def ready(self, generation=None):
        wait_for("ready", lambda: (s := self.status()).get("phase") == "Ready" and generation in (None, s["generation"]))
        return self

    def is_at_rest(self, name="cacerts", ns=NS):
        """Ready, and said of what lies in the plan and in the Secret now: a status is written after both, and may be of before."""
        s, plan = self.status(), self.plan()
        return bool(s.get("phase") == "Ready" and plan and
                    s["generation"] == self.generation(name, ns) == json.loads(plan["data"]["plan.json"])["generation"])


@pytest.fixture
def world(tmp_path, daemon):
    w = World(tmp_path, daemon)
    yield w
    w.api.stop()


def test_a_set_goes_to_cacerts_and_to_every_namespace(world):
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    s = world.secret()
    assert s["type"] == "Opaque" and sorted(s["data"]) == FOUR and world.holds("A1")
    notes = s["metadata"]["annotations"]
    assert notes["meshroot.io/owner"] == f"{NS}/default" and set(json.loads(notes["meshroot.io/versions"])) == {"root-cert", "ca-cert", "ca-key", "cert-chain"}
    folder = world.tmp / "out"
    folder.mkdir()
    for k in FOUR:
        (folder / k).write_text(world.part(k))
    assert meshroot("pki", "verify", folder, check=False).returncode == 0
    for ns in (NS, "shop", "default", "kube-system"):
        m = world.api.get("ConfigMap", ns, CM)
        assert m["data"]["root-cert.pem"] == world.part("root-cert.pem") and m["metadata"]["labels"]["istio.io/config"] == "true"
    assert world.api.get("ConfigMap", "kube-public", CM) is None
    st = world.status()
    assert "Root A" in st["root"] and "Intermediate A1" in st["intermediate"]["subject"] and st["mode"] == "plugged-in" and st["expires"]
    for kind, status in (("Synced", "True"), ("Loaded", "True"), ("Distributed", "True"), ("Held", "False")):
        assert world.is_condition(kind, status), world.condition(kind)
    wait_for("an Event", lambda: world.events("Rotated"))  # they are sent beside the status
    assert json.loads(world.plan()["data"]["plan.json"])["generation"] == 1
    world.namespace("late")  # within a second
    wait_for("a new namespace", lambda: world.roots("late") == 1)


def test_rotations_go_through_their_gates(world):
    world.plugin(gates={"stockWait": "1h", "mountWait": "1s"})
    world.run("--lease", "off")
    world.ready(1)
    world.mesh.set_all(world.sets["A2"])
    wait_for("the intermediate", lambda: world.holds("A2") and world.is_at_rest())
    assert world.generation() == 2
    steps = []

    def watch(kind, o):  # each write, however short it lasted
        if o["kind"] == "Secret" and o["metadata"]["name"] == "cacerts":
            text = {k: base64.b64decode(v).decode() for k, v in o["data"].items()}
            signer = next(n for n in world.sets if (world.sets[n] / "ca-cert.pem").read_text().strip() in text["ca-cert.pem"])
            step = (signer, text["root-cert.pem"].count("BEGIN CERT"))
            if [s[0] for s in steps[-1:]] != [step]:
                steps.append((step, [world.roots(ns) for ns in (NS, "shop", "default")]))
    world.api.hooks.append(watch)
    world.mesh.set_all(world.sets["B1"])  # a root replaced straight is staged
    wait_for("held, and said so", lambda: world.is_condition("Held", "True", "Trust") and world.generation() == 3)
    world.api.edit("PluginCA", NS, "default", {"spec": {"gates": {"stockWait": "1s"}}})
    world.ready(5)
    assert [s[0] for s in steps] == [("A2", 2), ("B1", 2), ("B1", 1)], "widened, moved, narrowed"
    assert steps[1][1] == [2, 2, 2], "the signer moves when all trust both"
    assert "Root B" in world.status()["root"]
    wait_for("narrow everywhere", lambda: all(world.roots(ns) == 1 for ns in (NS, "shop")))
    wait_for("Events", lambda: len(world.events("Rotated")) >= 5 and world.events("Held"))


def test_a_hand_s_edit_is_put_back_with_an_event(world):
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    for edit in ({"data": {"ca-key.pem": base64.b64encode(b"mine").decode()}}, {"data": {"extra": "eA=="}}, {"data": {"root-cert.pem": None}}):
        world.api.edit("Secret", NS, "cacerts", edit)
        wait_for(f"put back {edit}", lambda: sorted(world.secret()["data"]) == FOUR and "PRIVATE" in world.part("ca-key.pem")
                 and "CERT" in world.part("root-cert.pem"))
    world.api.delete("Secret", NS, "cacerts")
    wait_for("made anew", lambda: world.secret() is not None and world.holds("A1"))
    world.api.edit("ConfigMap", "shop", CM, {"data": {"root-cert.pem": "junk", "theirs": "kept"}, "metadata": {"labels": {"a": "b"}}})
    wait_for("the ConfigMap", lambda: world.roots("shop") == 1)
    m = world.api.get("ConfigMap", "shop", CM)
    assert m["data"]["theirs"] == "kept" and m["metadata"]["labels"]["a"] == "b"
    world.api.delete("ConfigMap", "shop", CM)
    wait_for("the ConfigMap again", lambda: world.roots("shop") == 1)
    wait_for("Events", lambda: sum(e["count"] for e in world.events("Restored")) >= 6)  # the same words are one
    world.ready(1)


@pytest.mark.parametrize("is_listed", (False, True))
@pytest.mark.parametrize("kind, ns, name, verb", (("Secret", NS, "cacerts", "PUT"), ("ConfigMap", "shop", CM, "PATCH")))
def test_what_is_deleted_before_our_write_is_answered_is_made_anew(world, kind, ns, name, verb, is_listed):
    """The watch tells of it first; or a list, when the watch was too old."""
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    whole, deleted = world.api.get(kind, ns, name)["data"], []
    lists = lambda: sum(m == "GET" and f"{kind.lower()}s?" in p and "watch=" not in p for m, p, _, _ in list(world.api.seen))  # noqa: E731

    def somebody(what, o):
        is_it = (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) == (kind, ns, name)
        if is_it and what != "DELETED" and o["data"] == whole and not deleted:
            before = lists()
            with world.api.changed:
                world.api.delete(kind, ns, name)
                if is_listed:
                    world.api.compact()
                deleted.append(o)
            if is_listed:
                wait_for("a list", lambda: lists() > before)
            time.sleep(0.5)  # the operator reads what it was told
    before = world.api.count(verb, f"/{name}")
    world.api.hooks.append(somebody)
    world.api.edit(kind, ns, name, {"data": {"root-cert.pem": base64.b64encode(b"junk").decode()}})
    wait_for("made anew", lambda: deleted and (world.api.get(kind, ns, name) or {}).get("data") == whole)
    assert world.api.count(verb, f"/{name}") > before, "it was put back before it was deleted"


def test_a_foreign_secret_is_not_touched_until_adopted(world):
    world.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": NS, "labels": {"app": "theirs"}}, "data": {"x": "eA=="}})
    world.plugin()
    world.run("--lease", "off")
    wait_for("held", lambda: world.is_condition("Loaded", "False", "NotOwned"))
    assert "--adopt" in world.condition("Loaded")["message"] and world.secret()["data"] == {"x": "eA=="}
    world.api.edit("PluginCA", NS, "default", {"spec": {"adopt": True}})
    world.ready(1)
    assert sorted(world.secret()["data"]) == FOUR and world.secret()["metadata"]["labels"]["app"] == "theirs"


@pytest.mark.parametrize("late", (0, 0.05))
def test_a_shared_field_is_not_fought_over(world, late):
    """`late`: the answer to our write comes after the watch has told what became of it."""
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    theirs, ours = (world.sets["B1"] / "root-cert.pem").read_text(), []  # when ours was there

    def istiod(kind, o):  # its controller writes what it has loaded
        if o["kind"] == "ConfigMap" and o["metadata"]["name"] == CM and o["metadata"]["namespace"] == "shop" and o["data"]["root-cert.pem"] != theirs:
            ours.append(time.monotonic())
            world.api.edit("ConfigMap", "shop", CM, {"data": {"root-cert.pem": theirs}}, manager="pilot-discovery")
            time.sleep(late)
    world.api.hooks.append(istiod)
    world.api.edit("ConfigMap", "shop", CM, {"data": {"root-cert.pem": theirs}})
    wait_for("named", lambda: world.is_condition("Distributed", "False", "SharedField"))
    assert "last pilot-discovery, in shop" in world.condition("Distributed")["message"]
    wait_for("put back four times", lambda: len(ours) >= 4)
    pauses = [b - a for a, b in zip(ours, ours[1:])]
    assert all(p > least for p, least in zip(pauses, (0.49, 0.99, 1.99))), pauses  # half of 1 s, doubled; a slow machine makes them longer
    world.api.hooks.remove(istiod)


def test_what_is_refused_is_named(world):
    world.api.put({"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "metadata": {"name": "default", "namespace": NS}, "spec": {"vault": {}}})
    world.run("--lease", "off")
    wait_for("the spec", lambda: world.is_condition("Held", "True", "InvalidSpec"))
    assert "spec.vault: exactly one" in world.condition("Held")["message"] and world.secret() is None
    world.plugin()
    world.ready(1)
    world.api.edit("PluginCA", NS, "default", {"spec": {"pollInterval": "often"}})
    wait_for("another one", lambda: "spec.pollInterval" in world.condition("Held")["message"])
    world.api.edit("Secret", NS, "cacerts", {"data": {"extra": "eA=="}})
    wait_for("the good one stays in force", lambda: sorted(world.secret()["data"]) == FOUR)
    world.plugin()
    world.ready(1)
    world.mesh.set_secret("ca-key", world.sets["B1"] / "ca-key.pem")
    wait_for("the vault", lambda: world.is_condition("Synced", "False", "VaultRefused"))
    assert "ca-key" in world.condition("Synced")["message"] and world.holds("A1")
    world.plugin(name="second")
    wait_for("a second one", lambda: world.condition("Held", "second")["reason"] == "AnotherPluginCA")


def test_a_self_signed_mesh_is_not_switched_in_place(world):
    root = (world.sets["B1"] / "root-cert.pem").read_text()
    world.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "istio-ca-secret", "namespace": NS}, "type": "istio.io/ca-root",
                   "data": {"ca-cert.pem": base64.b64encode(root.encode()).decode()}})
    world.api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CM, "namespace": NS}, "data": {"root-cert.pem": root}})
    world.plugin()
    world.run("--lease", "off")
    wait_for("held", lambda: world.is_condition("Held", "True", "SelfSignedInUse"))
    assert "kubectl delete secret -n istio-system istio-ca-secret" in world.condition("Held")["message"]
    assert world.secret() is None and world.roots("shop") == 0
    world.api.delete("Secret", NS, "istio-ca-secret")
    wait_for("the procedure was followed", lambda: world.status().get("phase") == "Ready")


def test_deleting_it_takes_away_what_is_ours(world):
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    world.api.delete("PluginCA", NS, "default")
    wait_for("gone", lambda: world.api.get("PluginCA", NS, "default") is None)
    assert world.secret() is None and world.roots("shop") == 1
    plan = world.plan()["data"]
    assert plan == {"generation": "1"}
    world.plugin()
    world.ready(2)  # workloads may hold generation 1


def test_of_two_operators_one_leads_and_the_other_follows(world):
    world.plugin()
    a, b = world.run("--lease-duration", "30s"), world.run("--lease-duration", "30s")  # a leader that is slow for two seconds loses one of 2 s
    world.ready(1)
    leads = lambda d: "leads" in d.text()  # noqa: E731
    assert leads(a) != leads(b)
    first, second = (a, b) if leads(a) else (b, a)
    assert first.stop() == 0
    wait_for("the other one", lambda: leads(second))
    world.mesh.set_all(world.sets["A2"])
    wait_for("it works on", lambda: world.holds("A2"))


def test_a_leader_is_killed_at_random_and_nothing_is_half_done(world):
    world.plugin(gates={"stockWait": "1s", "mountWait": "0s"})
    lease = ("--lease-duration", "6s" if world.api.late_s else "2s")  # one of 2 s gives up what takes 0.7 s
    rnd, first = random.Random(5), world.run("--lease", "off")
    world.ready(1)
    assert first.stop() == 0
    seen, order = set(), ["B1", "A1", "B1", "A2"]

    def whole(kind, o):
        if o["kind"] == "Secret" and o["metadata"]["name"] == "cacerts" and kind != "DELETED":
            seen.add((len(o["data"]), int(o["metadata"]["annotations"]["meshroot.io/generation"])))
    world.api.hooks.append(whole)
    for name in order:
        d = world.run(*lease)
        world.mesh.set_all(world.sets[name])
        time.sleep(rnd.uniform(0.2, 3))  # anywhere in the rotation
        d.kill()
    world.run("--lease-duration", "30s")  # one of 2 s is lost again and again where all is slow
    wait_for("it comes to rest", lambda: world.holds("A2") and world.is_at_rest() and world.part("root-cert.pem").count("BEGIN CERT") == 1, 120)
    assert {n for n, _ in seen} == {4}


def test_rights_that_are_missing_are_named(world):
    user = "system:serviceaccount:meshroot-system:meshroot-operator"
    world.api.accounts["sa"] = user
    allow = world.api.allow
    allow(user, ["get", "list", "watch", "patch"], ["pluginca", "pluginca/status"], ns=NS, group="meshroot.io")
    allow(user, ["get", "list", "watch"], ["namespaces"])
    allow(user, ["get", "list", "watch"], ["configmaps"], names=[CM])
    allow(user, ["get", "list", "watch", "update", "create"], ["configmaps"], ns=NS)
    allow(user, ["get", "update", "create"], ["configmaps"], ns=OWN)
    allow(user, ["get", "list", "watch"], ["secrets"], ns=NS, names=["cacerts", "vault-sync", "istio-ca-secret"])
    allow(user, ["create"], ["events"], ns=NS, group="events.k8s.io")
    world.plugin()
    world.run("--lease", "off", token="sa")
    wait_for("no Secret", lambda: world.is_condition("Loaded", "False", "Forbidden"))
    assert 'cannot create resource "secrets"' in world.condition("Loaded")["message"] and f'namespace "{NS}"' in world.condition("Loaded")["message"]
    wait_for("no ConfigMap", lambda: world.is_condition("Distributed", "False", "Forbidden"))
    allow(user, ["create"], ["configmaps"])
    allow(user, ["create"], ["secrets"], ns=NS)
    allow(user, ["update"], ["secrets"], ns=NS, names=["cacerts"])
    wait_for("granted", lambda: world.status().get("phase") == "Ready", 120)  # SPREAD_RETRY_MAX_MS


def test_a_bad_api_server_is_a_delay(world):
    world.plugin()
    world.api.watch_s = 1  # watches closed every second
    world.run("--lease", "off")
    world.ready(1)
    world.api.fail(500, times=5, method="PUT")
    world.api.fail(429, times=10, retry_after=1)
    world.api.lose("PUT", f"configmaps/{PLAN}")
    world.api.lose("PUT", "secrets/cacerts")
    world.mesh.set_all(world.sets["A2"])
    wait_for("through all of it", lambda: world.holds("A2") and world.is_at_rest(), 120)
    world.api.compact()  # 410
    world.namespace("late")
    wait_for("after 410", lambda: world.roots("late") == 1)
    world.api.stop()
    world.mesh.set_all(world.sets["A1"])
    time.sleep(3)  # away
    world.api.start()
    wait_for("back", lambda: world.holds("A1"), 90)


def test_a_terminating_namespace_is_passed_over(world):
    world.api.hold_namespaces = True
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    world.api.delete("Namespace", None, "shop")
    world.mesh.set_secret("root-cert", world.both())
    wait_for("the others", lambda: world.roots("default") == 2)
    world.ready(2)
    wait_for("counted", lambda: world.status()["distribution"]["namespaces"] == 4)  # istio-system, meshroot-system, default, kube-system


def test_only_selected_namespaces(world):
    world.namespace("in", mesh="yes")
    world.plugin(namespaceSelector={"matchLabels": {"mesh": "yes"}})
    world.run("--lease", "off")
    world.ready(1)
    assert world.roots("in") == 1 and world.roots("shop") == 0
    world.namespace("shop", mesh="yes")
    wait_for("selected now", lambda: world.roots("shop") == 1)


# -- mesh enable, disable, status --------------------------------------------------------------------------------------------------------

def on_kube(world, *args, check=True):
    return meshroot("mesh", *args, "--namespace", NS, "--kubeconfig", world.api.kubeconfig(), check=check)


def enable_flags(world):
    ca = world.tmp / "vault-ca.pem"
    ca.write_text(world.ca)
    return ["--key-vault-id", world.url, "--root-cert-object-name", "root-cert", "--ca-cert-object-name", "ca-cert", "--ca-key-object-name", "ca-key",
            "--cert-chain-object-name", "cert-chain", "--rotation-poll-interval", "1s", "--vault-ca-file", ca, "--credential-secret", "vault-sync"]


def test_enable_status_disable_with_the_add_on_s_flags(world):
    flags = enable_flags(world)
    shown = json.loads(on_kube(world, "enable", *flags, "--dry-run", "client").stdout)
    assert shown["kind"] == "PluginCA" and shown["spec"]["vault"]["auth"] == {"clientSecret": {"name": "vault-sync"}}
    assert json.loads(on_kube(world, "enable", *flags, "--dry-run", "server").stdout)["metadata"]["namespace"] == NS
    assert world.api.get("PluginCA", NS, "default") is None
    off = on_kube(world, "status", check=False)
    assert off.returncode == 1 and "disabled" in off.stdout
    world.run("--lease", "off")
    done = on_kube(world, "enable", *flags, "--wait")
    assert "mesh enabled" in done.stdout and "5 of 5 namespaces, Ready" in done.stderr and world.holds("A1")
    table = on_kube(world, "status").stdout
    for word in ("plugged-in", "Ready", "Root A", "Intermediate A1", "5 of 5", "Distributed    True"):
        assert word in table
    assert json.loads(on_kube(world, "status", "--output", "json").stdout)["status"]["generation"] == 1
    assert "would be deleted" in on_kube(world, "disable", "--dry-run", "server").stdout and world.secret()
    gone = on_kube(world, "disable", "--wait")
    assert "kubectl rollout restart" in gone.stdout and world.secret() is None and world.api.get("PluginCA", NS, "default") is None
    assert on_kube(world, "disable", check=False).returncode == 3


def test_enable_refuses_what_cannot_work(world):
    flags = enable_flags(world)
    root = (world.sets["B1"] / "root-cert.pem").read_text()
    for cut, says in ((["--credential-secret", "vault-sync"], "who asks the vault?"), (["--key-vault-id", world.url], "--key-vault-id is needed")):
        left = [f for f in flags if f not in cut]
        out = on_kube(world, "enable", *left, check=False)
        assert out.returncode == 2 and says in out.stderr
    world.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "istio-ca-secret", "namespace": NS}, "type": "istio.io/ca-root",
                   "data": {"ca-cert.pem": base64.b64encode(root.encode()).decode()}})
    world.api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CM, "namespace": NS}, "data": {"root-cert.pem": root}})
    refused = on_kube(world, "enable", *flags, check=False)
    assert refused.returncode == 17 and "kubectl delete secret -n istio-system istio-ca-secret" in refused.stderr
    assert world.api.get("PluginCA", NS, "default") is None
    world.api.delete("Secret", NS, "istio-ca-secret")
    late = on_kube(world, "enable", *flags, "--wait", "--wait-timeout", "1s", check=False)
    assert late.returncode == 21 and "is meshroot operator run up?" in late.stderr
    world.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": NS}, "data": {"x": "eA=="}})
    world.run("--lease", "off")
    theirs = on_kube(world, "enable", *flags, "--wait", check=False)
    assert theirs.returncode == 14 and "--adopt" in theirs.stderr
    on_kube(world, "enable", *flags, "--adopt", "--wait")
    assert world.holds("A1")


def test_a_plan_that_is_deleted_is_made_anew_by_the_next_step(world):
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    world.api.delete("ConfigMap", OWN, PLAN)
    world.mesh.set_all(world.sets["A2"])
    wait_for("the next step", lambda: world.holds("A2") and world.generation() == 2)
    assert json.loads(world.plan()["data"]["plan.json"])["generation"] == 2


def test_a_crd_of_an_older_version(world):
    """It prunes what it does not know: fields of the spec, and of the status."""
    def prune(o):
        for k in ("gates", "ttl", "target"):
            o["spec"].pop(k, None)
        for k in ("distribution", "waitsFor", "replicas"):
            (o.get("status") or {}).pop(k, None)
    world.api.checks["PluginCA"] = prune
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    assert world.holds("A1") and "distribution" not in world.status()
    before = world.api.count("PATCH", "/status")
    world.mesh.set_all(world.sets["A2"])
    world.ready(2)
    assert world.api.count("PATCH", "/status") - before < 12, "what is pruned is not written again and again"
