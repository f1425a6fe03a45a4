"""The procedure with meshroot's CA: chart, vault, operator, CA; three rotations, every handshake of the workloads counted.

Two replicas from the start, behind one Service: a leaf is one's and the word about it often the other's, and no root waits for leaves to
expire. At the end they are restarted one after the other, and pods are deleted: ledgers and the vault's secrets lie on volumes.

In the same mesh, by hand: a held step is forced (docs/kubernetes.md "Force a held step"), then an identity is revoked (docs/revocation.md "An
identity, on all replicas"). In this order: who stole a key has leaves of it, and no root goes before they end.
"""
import json
import subprocess
import time

import pytest

from hands import Files, Person, Thief, certificates, is_listed, pod, process, stopped
from mesh import CA_ADDRESS, IMAGE, NS, SYSTEM, Mesh, both, signs, trusts
from pki import Pki
from conftest import wait_for
from test_ca import pb  # noqa: F401
import mesh as names
import volumes
import workload

CA = "statefulset/meshroot-ca"
FORCE = "meshroot.io/force"


def settle(mesh, counter, seen, values, holds):
    """New secrets in the vault, until all of the mesh has what they say; then handshakes under it."""
    mesh.secrets(values)
    mesh.ready(holds)
    seen(mesh.row())
    counter.told(seen)


def ca_says(cluster, word, least):
    """The last lines of the CA's log with `word`, without their time, once there are so many."""
    def look():
        found = [x.split("\t", 1)[-1].replace("\t", " ") for x in cluster.kubectl("logs", CA, "-c", "ca", "-n", SYSTEM).splitlines() if word in x]
        return found[-least:] if len(found) >= least else None
    return wait_for(f"the CA's {least} lines with {word!r}", look)


@pytest.fixture(scope="module")
def ours(cluster, report, tmp_path_factory):
    """The mesh, enabled: what the tests of this file are about, one after the other."""
    tmp = tmp_path_factory.mktemp("ours")
    pki, mesh = Pki(tmp), Mesh(cluster, tmp)
    pki.root("A")
    pki.root("B")
    report.heading("meshroot's CA")
    try:
        with report.step("`helm install meshroot`, profile aks, from the image archive"):
            mesh.install(validator__enabled="false", **volumes.make(cluster, 3))
        with report.step("four secrets into the vault; its credentials as a Secret"):
            mesh.secrets(pki.intermediate("A", "A1"))
            mesh.credentials()
        with report.step("`meshroot mesh enable --target both --wait`: for our CA, and `cacerts` beside it") as seen:
            seen(mesh.enable("both"))
            mesh.patch(ttl={"renewWindow": "5s"}, gates={"mountWait": "5s"})  # 5m and 3m in the field
            cluster.rolled_out(CA, SYSTEM)
        yield mesh, pki
    finally:
        mesh.uninstall()
        volumes.remove(cluster)


@pytest.fixture(scope="module")
def counter(cluster, ours, report):
    with report.step("client and server pods, a new mTLS connection every 10 ms"):
        names.namespaces(cluster, workload.NAMESPACE)
        workload.start(cluster, IMAGE, CA_ADDRESS)
    c = workload.Counter(cluster)
    try:
        c.more(100)
        yield c
    finally:
        c.close()


def pods_of_ca(cluster):
    """{name: (UID, how often its containers were started anew)}"""
    pods = cluster.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=ca")["items"]
    return {p["metadata"]["name"]: (p["metadata"]["uid"], [c["restartCount"] for c in p["status"]["containerStatuses"]]) for p in pods}


def deleted(cluster, mesh, counter, seen):
    replica, before = next((p, told) for p in ("meshroot-ca-0", "meshroot-ca-1") if (told := ledger(cluster, mesh, p))["rows"])  # one may have given none
    assert before["id"], before
    secret = mesh.vault("secret", "get", "--vault-name", "meshroot-vault", "--name", "root-cert")
    for name, of in ((replica, CA), ("meshroot-vault-0", "statefulset/meshroot-vault")):
        cluster.kubectl("delete", "pod", name, "-n", SYSTEM)
        cluster.rolled_out(of, SYSTEM)
    counter.more(100)
    after = wait_for("the operator has seen it again", lambda: (x := ledger(cluster, mesh, replica))["id"] and x["seen"] and x)
    assert after["id"] == before["id"] and set(before["rows"]) <= set(after["rows"]) and not after["lost"], (before, after)
    assert mesh.vault("secret", "get", "--vault-name", "meshroot-vault", "--name", "root-cert") == secret
    seen(f"{replica} came back with ledger {after['id']}: {len(before['rows'])} rows of before, and {len(after['rows']) - len(before['rows'])} more")


def ledger(cluster, mesh, replica):
    """The serials in it; what the operator knows of it."""
    said = cluster.kubectl("exec", "-n", SYSTEM, replica, "-c", "ca", "--", "meshroot", "ledger", "list", "--limit", "0", "--output", "json")
    status = mesh.status()
    told = next((r for r in status.get("replicas", []) if r["name"] == replica), {})
    return {"rows": [r["serial"] for r in json.loads(said)], "id": told.get("ledger"), "lost": told.get("lostLeavesEnd"), "seen": status.get("phase") == "Ready"}


def test_procedure(cluster, ours, counter, report):
    mesh, pki = ours
    with report.step(f"`kubectl get secret -n {NS}`; what our CA mounts, in {SYSTEM}") as seen:
        seen(cluster.kubectl("get", "secret", "-n", NS).strip())
        seen(cluster.kubectl("get", "secret", "meshroot-ca", "-n", SYSTEM).strip())
        assert len(cluster.get("secret", "cacerts", "-n", NS)["data"]) == 4
        assert sorted(cluster.get("secret", "meshroot-ca", "-n", SYSTEM)["data"]) == ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "manifest.json", "root-cert.pem"]
    with report.step(f"`kubectl logs {CA} -n {SYSTEM} \\| grep x509`") as seen:
        lines = ca_says(cluster, "x509 cert", 3)
        seen("\n".join(lines))
        assert any('Subject: "CN=Intermediate A1' in x for x in lines) and any('Subject: "CN=Root A' in x for x in lines), lines
    rotations(cluster, mesh, pki, counter, report)


def rotations(cluster, mesh, pki, counter, report):
    with report.step("intermediate rotation, no restart") as seen:
        restarts = pods_of_ca(cluster)
        settle(mesh, counter, seen, pki.intermediate("A", "A2"), both(signs("A2"), trusts("A")))
        seen("\n".join(ca_says(cluster, "Istiod has detected the newly added intermediate CA", 1)))
        assert pods_of_ca(cluster) == restarts
    with report.step("root-cert = old + new") as seen:
        settle(mesh, counter, seen, {"root-cert": pki.roots("A", "B")}, both(signs("A2"), trusts("A", "B")))
        seen("\n".join(ca_says(cluster, "Added 2 certs to trust domain", 1)))
    with report.step("intermediate under the new root") as seen:
        settle(mesh, counter, seen, pki.intermediate("B", "B1", also="A"), both(signs("B1"), trusts("A", "B")))
    with report.step("root-cert = new only") as seen:
        settle(mesh, counter, seen, {"root-cert": pki.roots("B")}, both(signs("B1"), trusts("B")))
        assert pods_of_ca(cluster) == restarts  # all three rotations without a restart
    with report.step("`kubectl rollout restart deployment` of the workloads") as seen:
        workload.restart(cluster, seen)
        counter.told(seen)
    with report.step(f"`kubectl rollout restart {CA}`") as seen:
        cluster.kubectl("rollout", "restart", CA, "-n", SYSTEM)
        seen(cluster.rolled_out(CA, SYSTEM).strip().splitlines()[-1])
        tried, failed, last = counter.told(seen)
        seen(f"Events of the PluginCA in {NS}: {', '.join(mesh.event_reasons())}")
    with report.step("a pod of the CA and the vault's deleted: ledger and secrets are on their volumes") as seen:
        deleted(cluster, mesh, counter, seen)
        tried, failed, last = counter.told(seen)
    report.line(f"meshroot's CA: {tried} handshakes tried, {failed} failed.")
    assert tried >= 500 and failed == 0, (tried, failed, last)


# -- by hand, in the mesh as it is by now


def word(status):
    return status.get("held", {}).get("force") or ""


def held(mesh, step, account):
    """Until `step` is held, and for that workload alone; the status then."""
    def look():
        s = mesh.status()
        return f"/{step}/" in word(s) and s["held"]["waitsForTotal"] == 1 and workload.identity(account) in s["waitsFor"][0] and s
    try:
        return wait_for(f"{step} is held for {account}", look)
    except AssertionError as e:
        raise AssertionError(f"{e}\n{mesh.describe()}") from None


def answered(mesh, what):
    """Until the operator has given that answer, and taken the annotation away."""
    def look():
        o = mesh.cluster.get("pluginca", "default", "-n", NS)
        last = o["status"].get("lastForce", {})
        return FORCE not in o["metadata"].get("annotations", {}) and last.get("answer") == what and last
    return wait_for(f"the answer {what}", look)


def forbidden(done):
    assert done.returncode != 0 and "forbidden" in done.stderr.lower(), (done.stdout, done.stderr)
    return done.stderr.strip()


def forced(person, *flags):
    """What came of it while a step was held: none is for a moment when another operator begins to lead."""
    return wait_for("a step to force", lambda: "no step is held" not in (done := person.force(*flags)).stderr and done)


def refused_to(editor, mesh, used):
    """Who may edit all else in the namespace sees what is held, and forces nothing."""
    looked = forced(editor)
    assert looked.returncode == 0 and f"{FORCE}={used}" in looked.stdout, looked.stderr
    said = forbidden(forced(editor, "--force"))
    forbidden(editor.annotate(used))
    o = mesh.cluster.get("pluginca", "default", "-n", NS)
    assert FORCE not in o["metadata"].get("annotations", {}) and "lastForce" not in o["status"], o
    assert word(held(mesh, "move-signer", "silent")) == used
    return said


def status_is_the_operators(owner, mesh):
    """Who may force may not say that it was done; nor does the schema take another answer than the two."""
    def patch(answer):
        return "patch", "pluginca", "default", "--subresource=status", "--type=merge", "--dry-run=server", "-p", json.dumps({"status": {"lastForce": {"answer": answer}}})
    forbidden(owner.kubectl(*patch("Forced")))
    done = subprocess.run(mesh.cluster.kubectl_command(*patch("Perhaps"), "-n", NS), capture_output=True, text=True, timeout=200)
    assert done.returncode != 0 and 'Unsupported value: "Perhaps"' in done.stderr, (done.stdout, done.stderr)
    mesh.cluster.kubectl(*patch("Forced"), "-n", NS)


def subject_of(root):
    return f"CN=Root {root},O=Istio"


def events(mesh, reason):
    found = mesh.cluster.get("events.events.k8s.io", "-n", NS)["items"]
    return [e["note"] for e in found if e["reason"] == reason and e["regarding"]["kind"] == "PluginCA"]


def test_a_held_step_is_forced(cluster, ours, counter, report):
    """A root is replaced, and an agent that hangs holds it up: who may forces that one step, once, and the next has its gate again."""
    mesh, pki = ours
    (root,) = mesh.ready(lambda s: len(s["roots"]) == 1)["roots"]
    old, new = ("A", "B") if root["subject"] == subject_of("A") else ("B", "A")
    signer = f"{new}9"
    report.heading("meshroot's CA: a held step is forced")
    with report.step("a third workload; people with the cluster's roles `admin` and `edit` in the mesh's namespace"):
        workload.add(cluster, "silent", IMAGE, CA_ADDRESS)
        owner, editor = Person(mesh, "owner", "admin", may="patch"), Person(mesh, "editor", "edit", may="get")
        assert not editor.may("patch")
    hanging, failed = process(cluster, "silent"), counter.counts()[1]
    with stopped(hanging):
        with report.step(f"its agent hangs; root {new} instead of {old} in the vault: the signer's move is held") as seen:
            mesh.secrets(pki.intermediate(new, signer))
            before = held(mesh, "move-signer", "silent")
            used = word(before)
            seen(f"{used}: {before['waitsFor'][0]}")
        with report.step("`edit` may look, and not force; `meshroot rotate force --force`, `kubectl annotate`") as seen:
            seen(refused_to(editor, mesh, used))
            status_is_the_operators(owner, mesh)
        with report.step("`admin`: `meshroot rotate force --force --wait`") as seen:
            dry = forced(owner, "--dry-run=server")
            assert dry.returncode == 0 and json.loads(dry.stdout)["metadata"]["annotations"][FORCE] == used, dry.stderr
            done = forced(owner, "--force", "--wait")
            assert done.returncode == 0 and workload.identity("silent") in done.stdout, done.stderr
            seen(done.stdout.strip())
            last = answered(mesh, "Forced")
            assert last["force"] == used and workload.identity("silent") in last["message"] and last["time"] and last["resourceVersion"], last
            assert wait_for("the Event", lambda: events(mesh, "Forced")) == [last["message"]]
        with report.step("the others have leaves of the new intermediate; the next step is held again, and the word is used up") as seen:
            for account in ("client", "server"):
                wait_for(f"{account}'s leaf", lambda a=account: f"CN=Intermediate {signer}" in Files(process(cluster, a)).signer())
            assert Files(hanging).trusts() == [subject_of(old)] and f"CN=Intermediate {signer}" not in Files(hanging).signer()
            after = held(mesh, "narrow", "silent")
            assert word(after).startswith(f"{int(used.split('/')[0]) + 1}/narrow/") and len(after["roots"]) == 2, after
            # An operator that began to lead just now takes the word for one that was answered before, and away.
            wait_for("a refusal", lambda: owner.annotate(used).returncode == 0 and mesh.status()["lastForce"]["answer"] == "ForceRefused")
            last = answered(mesh, "ForceRefused")
            assert last["force"] == used, last
            seen(last["message"])
            assert word(held(mesh, "narrow", "silent")) == word(after)
    with report.step("its agent goes on: it catches up, and the old root goes without anybody's hand") as seen:
        mesh.ready(both(signs(signer), trusts(new)))
        wait_for("silent has leaf and root", lambda: f"CN=Intermediate {signer}" in (f := Files(hanging)).signer() and f.trusts() == [subject_of(new)])
        assert len(events(mesh, "Forced")) == 1
        cluster.kubectl("delete", "deployment", "silent", "-n", workload.NAMESPACE)  # the CA is told that its leaf is gone
        _, now, why = counter.told(seen)
        assert now == failed, why


def on_replica(cluster, replica, *args):
    return cluster.kubectl("exec", "-n", SYSTEM, replica, "-c", "ca", "--", "meshroot", "ca", *args)


def list_of(cluster, replica):
    return cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{replica}:15014/proxy/ca-crl.pem")


def has_done(cluster, replica):
    return [r["identity"] for r in json.loads(on_replica(cluster, replica, "revoked", "--output", "json"))["identities"]] == [workload.identity("client")]


def time_of_issue(stolen):
    """Of the last of them; leaves are dated back by two minutes."""
    return max(certificates(chain)[0].not_valid_before_utc.timestamp() for _, chain, _ in stolen.values()) + 120


def codes(came):
    return {code for code, _ in came.values()}


def accepted(thief, replicas, server, shown):
    """By both replicas and the server; what was shown."""
    return codes(thief.leaves(replicas, shown)) == {"OK"} and set(thief.calls(server, shown).values()) == {"OK"} and shown


def test_an_identity_is_revoked(cluster, ours, counter, report, pb):  # noqa: F811
    """A thief has the client's key, and leaves that both replicas gave for it; the server's serves for what stays as it is."""
    report.heading("meshroot's CA: an identity is revoked")
    thief = Thief(cluster, pb)
    replicas = {p["metadata"]["name"]: p["status"]["podIP"] for p in cluster.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=ca")["items"]}
    assert sorted(replicas) == ["meshroot-ca-0", "meshroot-ca-1"]
    server = f"{pod(cluster, 'server')['status']['podIP']}:8443"
    other = {"server's": Files(process(cluster, "server")).shown}
    stolen = {"client's": Files(process(cluster, "client")).shown}
    with report.step("client's key and leaf, stolen on the node, are good for more leaves at both replicas, and for the server") as seen:
        came = thief.leaves(replicas, {**stolen, **other})
        assert codes(came) == {"OK"} and len(came) == 4, came
        stolen |= {f"had from {replica}": came["client's", replica][1] for replica in replicas}
        assert set(thief.calls(server, stolen).values()) == {"OK"}
        seen(f"{len(stolen)} leaves")
        # Until its serial number has come, another replica's leaf of the very second of the act passes (ca/revoked_identity.h).
        wait_for("the next second", lambda: time.time() > 1 + time_of_issue(stolen))
    with report.step("`kubectl exec meshroot-ca-0 -- meshroot ca revoke --identity`") as seen:
        seen(on_replica(cluster, "meshroot-ca-0", "revoke", "--identity", workload.identity("client"), "--reason", "keyCompromise", "--yes").strip())
        at_once = thief.leaves({"meshroot-ca-0": replicas["meshroot-ca-0"]}, stolen)
        assert codes(at_once) == {"UNAUTHENTICATED"}, at_once
    with report.step("both replicas have done it, refuse and list all of them") as seen:
        for replica in replicas:
            wait_for(f"{replica} has done it", lambda r=replica: has_done(cluster, r))
            wait_for(f"the list of {replica}", lambda r=replica: (pem := list_of(cluster, r)) and all(is_listed(pem, chain) for _, chain, _ in stolen.values()))
        came = wait_for("both refuse all", lambda: codes(c := thief.leaves(replicas, stolen)) == {"UNAUTHENTICATED"} and c)
        assert len(came) == 6, came
        seen("\n".join(f"{name} at {replica}: {code}" for (name, replica), (code, _) in came.items()))
    with report.step("the list is with the agents, and the server's refuses them") as seen:
        for account in ("client", "server"):
            wait_for(f"the list with {account}'s agent", lambda a=account: (pem := Files(process(cluster, a)).crl) and
                     all(is_listed(pem, chain) for _, chain, _ in stolen.values()))
        said = wait_for("the server refuses all", lambda: "OK" not in (came := thief.calls(server, stolen)).values() and came)
        seen("\n".join(f"{name}: {code}" for name, code in said.items()))
    with report.step("the client goes on with a leaf of its own; the server's is as good as before") as seen:
        new = wait_for("the client's new leaf", lambda: accepted(thief, replicas, server, {"new": Files(process(cluster, "client")).shown}))
        said = thief.calls(server, {**stolen, **new})
        assert [name for name, code in said.items() if code == "OK"] == ["new"], said
        assert codes(thief.leaves(replicas, other)) == {"OK"}
        assert not any(is_listed(pem, other["server's"][1]) for pem in (Files(process(cluster, "server")).crl, *(list_of(cluster, r) for r in replicas)))
        least = counter.worked() + 100
        wait_for("a hundred handshakes of the client", lambda: counter.worked() >= least)
        seen("{} handshakes tried, {} failed: until it had its new leaf".format(*counter.counts()))
