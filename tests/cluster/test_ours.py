"""The procedure with meshroot's CA: chart, vault, operator, CA; three rotations, every handshake of the workloads counted.

Two replicas from the start, behind one Service: a leaf is one's and the word about it often the other's, and no root waits for leaves to
expire. At the end they are restarted one after the other.
"""
from mesh import IMAGE, NS, SYSTEM, Mesh, both, signs, trusts
from pki import Pki
import mesh as names
import workload


def settle(mesh, counter, seen, values, holds):
    """New secrets in the vault, until all of the mesh has what they say; then handshakes under it."""
    mesh.secrets(values)
    mesh.ready(holds)
    tried, failed, last = counter.more(100)
    seen(mesh.row())
    seen(f"{tried} handshakes tried, {failed} failed {last or ''}")


def test_procedure(cluster, report, tmp_path):
    pki, mesh = Pki(tmp_path), Mesh(cluster, tmp_path)
    pki.root("A")
    pki.root("B")
    report.heading("meshroot's CA")
    try:
        with report.step("`helm install meshroot`, profile aks, from the image archive"):
            mesh.install(validator__enabled="false")
        with report.step("four secrets into the vault; its credentials as a Secret"):
            mesh.secrets(pki.intermediate("A", "A1"))
            mesh.credentials()
        with report.step("`meshroot mesh enable --target meshroot --wait`") as seen:
            seen(mesh.enable("meshroot"))
            mesh.patch(ttl={"renewWindow": "5s"})  # 5m in the field
            cluster.rolled_out("statefulset/meshroot-ca", SYSTEM)
            seen(cluster.kubectl("get", "secret", "-n", SYSTEM).strip())
            assert sorted(cluster.get("secret", "meshroot-ca", "-n", SYSTEM)["data"]) == ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "manifest.json", "root-cert.pem"]
        procedure(cluster, mesh, pki, report)
    finally:
        mesh.uninstall()


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


def rotations(cluster, mesh, pki, counter, report):
    with report.step("intermediate rotation, no restart") as seen:
        settle(mesh, counter, seen, pki.intermediate("A", "A2"), both(signs("A2"), trusts("A")))
    with report.step("root-cert = old + new") as seen:
        settle(mesh, counter, seen, {"root-cert": pki.roots("A", "B")}, both(signs("A2"), trusts("A", "B")))
    with report.step("intermediate under the new root") as seen:
        settle(mesh, counter, seen, pki.intermediate("B", "B1", also="A"), both(signs("B1"), trusts("A", "B")))
    with report.step("root-cert = new only") as seen:
        settle(mesh, counter, seen, {"root-cert": pki.roots("B")}, both(signs("B1"), trusts("B")))
    with report.step("`kubectl rollout restart deployment` of the workloads") as seen:
        workload.restart(cluster, seen)
        tried, failed, last = counter.more(100)
        seen(f"{tried} handshakes tried, {failed} failed {last or ''}")
    with report.step("`kubectl rollout restart statefulset/meshroot-ca`") as seen:
        cluster.kubectl("rollout", "restart", "statefulset/meshroot-ca", "-n", SYSTEM)
        seen(cluster.rolled_out("statefulset/meshroot-ca", SYSTEM, 120).strip().splitlines()[-1])
        tried, failed, last = counter.more(100)
        seen(f"{tried} handshakes tried, {failed} failed {last or ''}")
        seen(f"Events of the PluginCA in {NS}: {', '.join(mesh.event_reasons())}")
    report.line(f"\nmeshroot's CA: {tried} handshakes tried, {failed} failed.")
    assert tried >= 500 and failed == 0, (tried, failed, last)
