"""meshroot's CA as the CA of a stock mesh: istiod by Istio's chart with its own CA off, workloads with the sidecars that it injects.

The sidecars say no word to our CA: each gate opens by its ledger, when no leaf from before the step is alive. A new leaf brings the new roots.
"""
from istiod import Istiod
from mesh import NS, Mesh, both, signs, trusts
from pki import Pki
from sidecars import RELEASE, Sidecars
import workload


def settle(mesh, sidecars, counter, seen, values, signer, roots):
    """New secrets in the vault, until PluginCA is there and every Envoy has its leaf and roots of it; traffic goes on."""
    mesh.secrets(values)
    mesh.ready(both(signs(signer), trusts(*roots)))
    for pod, (issuer, trusted) in sidecars.settled(signer, roots).items():
        seen(f"Envoy of {pod}: leaf by {issuer}, trusts {' and '.join(trusted)}")
    counter.told(seen, "connections")


def test_procedure(cluster, report, tmp_path):
    pki, mesh, istiod, sidecars = Pki(tmp_path), Mesh(cluster, tmp_path), Istiod(cluster), Sidecars(cluster, tmp_path)
    pki.root("A")
    pki.root("B")
    report.heading("stock istiod without a CA, stock sidecars, meshroot's CA")
    try:
        with report.step("`helm install meshroot`, profile aks, `mesh.externalCA`; four secrets into the vault"):
            mesh.install(validator__enabled="false", mesh__externalCA="true")
            mesh.secrets(pki.intermediate("A", "A1"))
            mesh.credentials()
        with report.step("`meshroot mesh enable --target meshroot --wait`: `istiod-tls` and the root ConfigMap are there before istiod") as seen:
            seen(mesh.enable("meshroot"))
            mesh.patch(gates={"mountWait": "10s"})
            tls = cluster.get("secret", "istiod-tls", "-n", NS)
            assert tls["type"] == "kubernetes.io/tls" and sorted(tls["data"]) == ["ca.crt", "tls.crt", "tls.key"], sorted(tls["data"])
            assert "BEGIN CERTIFICATE" in cluster.get("configmap", "istio-ca-root-cert", "-n", NS)["data"]["root-cert.pem"]
        with report.step(f"`helm install {RELEASE}`, Istio's chart: `global.caAddress`, `ENABLE_CA_SERVER=false`") as seen:
            sidecars.install_istiod()
            lines = istiod.says("x509 cert", 2)
            seen("\n".join(lines))
            assert any("CN=Intermediate A1" in x for x in lines) and "creating CA" not in istiod.logs()
        procedure(cluster, mesh, istiod, sidecars, pki, report)
    finally:
        sidecars.uninstall()
        mesh.uninstall()


def procedure(cluster, mesh, istiod, sidecars, pki, report):
    with report.step("client and server with injected sidecars, STRICT mTLS, a new connection every 10 ms") as seen:
        sidecars.start_workloads()
        for pod, (issuer, trusted) in sidecars.settled("A1", ["A"]).items():
            seen(f"Envoy of {pod}: leaf by {issuer}, trusts {' and '.join(trusted)}")
    counter = workload.Counter(cluster)
    try:
        counter.more(100)
        rotations(cluster, mesh, istiod, sidecars, pki, counter, report)
    finally:
        counter.close()


def rotations(cluster, mesh, istiod, sidecars, pki, counter, report):
    with report.step("intermediate rotation, no restart") as seen:
        settle(mesh, sidecars, counter, seen, pki.intermediate("A", "A2"), "A2", ["A"])
        seen("\n".join(istiod.says("CN=Intermediate A2", 1)[-1:]))
    with report.step("root-cert = old + new") as seen:
        settle(mesh, sidecars, counter, seen, {"root-cert": pki.roots("A", "B")}, "A2", ["A", "B"])
    with report.step("intermediate under the new root") as seen:
        settle(mesh, sidecars, counter, seen, pki.intermediate("B", "B1", also="A"), "B1", ["A", "B"])
        seen("\n".join(istiod.says("CN=Intermediate B1", 1)[-1:]))
    with report.step("root-cert = new only") as seen:
        settle(mesh, sidecars, counter, seen, {"root-cert": pki.roots("B")}, "B1", ["B"])
    with report.step("what the server's Envoy has counted") as seen:
        tried = counter.counts()[0]
        made, resumed, refused = sidecars.handshakes()
        seen(f"{made} handshakes, {resumed} of them resumed, {refused} refused; {tried} connections of the client till then")
        assert made >= tried and resumed == 0 and refused == 0, (made, resumed, refused, tried)
    with report.step("`kubectl rollout restart deployment` of the workloads, then of istiod") as seen:
        workload.restart(cluster, seen)
        cluster.kubectl("rollout", "restart", f"deployment/{RELEASE}", "-n", NS)
        seen(sidecars.rolled_out(RELEASE, NS))
        counter.told(seen, "connections")
    tried, failed, last = counter.counts()
    report.line(f"Stock istiod and sidecars, meshroot's CA: {tried} connections tried, {failed} failed.")
    assert tried >= 500 and failed == 0, (tried, failed, last)
