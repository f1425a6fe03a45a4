"""The procedure with meshroot's CA: chart, vault, operator, CA; three rotations, every handshake of the workloads counted.

Two replicas from the start, behind one Service: a leaf is one's and the word about it often the other's, and no root waits for leaves to
expire. At the end they are restarted one after the other, and pods are deleted: ledgers and the vault's secrets lie on volumes.
"""
import json

from mesh import IMAGE, NS, SYSTEM, Mesh, both, signs, trusts
from pki import Pki
from conftest import wait_for
import mesh as names
import volumes
import workload

CA = "statefulset/meshroot-ca"


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


def test_procedure(cluster, report, tmp_path):
    pki, mesh = Pki(tmp_path), Mesh(cluster, tmp_path)
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
        with report.step(f"`kubectl get secret -n {NS}`; what our CA mounts, in {SYSTEM}") as seen:
            seen(cluster.kubectl("get", "secret", "-n", NS).strip())
            seen(cluster.kubectl("get", "secret", "meshroot-ca", "-n", SYSTEM).strip())
            assert len(cluster.get("secret", "cacerts", "-n", NS)["data"]) == 4
            assert sorted(cluster.get("secret", "meshroot-ca", "-n", SYSTEM)["data"]) == ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "manifest.json", "root-cert.pem"]
        with report.step(f"`kubectl logs {CA} -n {SYSTEM} \\| grep x509`") as seen:
            lines = ca_says(cluster, "x509 cert", 3)
            seen("\n".join(lines))
            assert any('Subject: "CN=Intermediate A1' in x for x in lines) and any('Subject: "CN=Root A' in x for x in lines), lines
        procedure(cluster, mesh, pki, report)
    finally:
        mesh.uninstall()
        volumes.remove(cluster)


def pods_of_ca(cluster):
    """{name: (UID, how often its containers were started anew)}"""
    pods = cluster.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=ca")["items"]
    return {p["metadata"]["name"]: (p["metadata"]["uid"], [c["restartCount"] for c in p["status"]["containerStatuses"]]) for p in pods}


def procedure(cluster, mesh, pki, report):
    with report.step("client and server pods, a new mTLS connection every 10 ms"):
        names.namespaces(cluster, workload.NAMESPACE)
        workload.start(cluster, IMAGE, f"meshroot-ca.{SYSTEM}.svc:15012")
    counter = workload.Counter(cluster)
    try:
        counter.more(100)
        rotations(cluster, mesh, pki, counter, report)
    finally:
        counter.close()


def deleted(cluster, mesh, counter, seen):
    pod, before = "meshroot-ca-0", ledger(cluster, mesh)
    assert before["rows"] and before["id"], before
    secret = mesh.vault("secret", "get", "--vault-name", "meshroot-vault", "--name", "root-cert")
    for name, of in ((pod, CA), ("meshroot-vault-0", "statefulset/meshroot-vault")):
        cluster.kubectl("delete", "pod", name, "-n", SYSTEM)
        cluster.rolled_out(of, SYSTEM)
    counter.more(100)
    after = wait_for("the operator has seen it again", lambda: (x := ledger(cluster, mesh))["id"] and x["seen"] and x)
    assert after["id"] == before["id"] and set(before["rows"]) <= set(after["rows"]) and not after["lost"], (before, after)
    assert mesh.vault("secret", "get", "--vault-name", "meshroot-vault", "--name", "root-cert") == secret
    seen(f"{pod} came back with ledger {after['id']}: {len(before['rows'])} rows of before, and {len(after['rows']) - len(before['rows'])} more")


def ledger(cluster, mesh):
    """Of the first replica: the serials in it; what the operator knows of it."""
    said = cluster.kubectl("exec", "-n", SYSTEM, "meshroot-ca-0", "-c", "ca", "--", "meshroot", "ledger", "list", "--limit", "0", "--output", "json")
    status = mesh.status()
    told = next((r for r in status.get("replicas", []) if r["name"] == "meshroot-ca-0"), {})
    return {"rows": [r["serial"] for r in json.loads(said)], "id": told.get("ledger"), "lost": told.get("lostLeavesEnd"), "seen": status.get("phase") == "Ready"}


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
