"""The procedure with a stock istiod fed through `cacerts`: the answers that an operator of the managed add-on knows, and what it costs, counted."""
import base64

from conftest import wait_for
from istiod import NAME, Istiod
from mesh import IMAGE, NS, SYSTEM, Mesh, both, signs, trusts
from pki import Pki
import mesh as names
import workload


FIVE = ["ca-cert.pem", "ca-crl.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"]


class Validator:
    """The pods that the CronJob makes by itself, every minute here."""

    SCHEDULE, RESTARTS = "* * * * *", "Root certificate update detected. Restarting deployment..."

    def __init__(self, cluster):
        self.cluster, self.read = cluster, set()

    def look(self):
        """(job, its lines, did it succeed) of the run that restarts, once it has ended; each is said once."""
        for job in self.cluster.get("jobs", "-n", SYSTEM)["items"]:
            name, status = job["metadata"]["name"], job["status"]
            assert job["metadata"]["ownerReferences"][0]["name"] == "meshroot-validator"
            if name in self.read or not (status.get("succeeded") or status.get("failed")):
                continue
            said = self.cluster.kubectl("logs", f"job/{name}", "-n", SYSTEM).strip()
            self.read.add(name)
            if self.RESTARTS in said:
                return name, said, status.get("succeeded") == 1
        return None

    def restarts(self):
        return wait_for("the validator's pod that restarts istiod", self.look, 400, 1)


def test_procedure(cluster, report, tmp_path):
    pki, mesh, istiod = Pki(tmp_path), Mesh(cluster, tmp_path), Istiod(cluster)
    pki.root("A")
    pki.root("B")
    report.heading("a stock istiod with cacerts")
    try:
        with report.step("`helm install meshroot`, profile aks; four secrets into the vault"):
            mesh.install(ca__enabled="false", validator__workloadPods="true", validator__schedule=Validator.SCHEDULE,
                         validator__extraArgs="{--clock-skew=0s}")
            mesh.secrets(pki.intermediate("A", "A1"))
            mesh.credentials()
        with report.step(f"`meshroot mesh enable --target istiod`; `kubectl get secret -n {NS}`") as seen:
            seen(mesh.enable("istiod"))
            mesh.patch(gates={"mountWait": "10s"})
            seen(cluster.kubectl("get", "secret", "-n", NS).strip())
            assert len(cluster.get("secret", "cacerts", "-n", NS)["data"]) == 4
        with report.step(f"istiod; `kubectl logs deploy/{NAME} -c discovery -n {NS} \\| grep x509`") as seen:
            istiod.start()
            lines = istiod.says("x509 cert", 3)
            seen("\n".join(lines))
            assert any("CN=Intermediate A1" in x for x in lines) and any('Subject: "CN=Root A' in x for x in lines), lines
        procedure(cluster, mesh, istiod, pki, report)
    finally:
        mesh.uninstall()


def why(failed, last):
    """What stands behind the figure."""
    if failed:
        return "Not ours to hide: the last of each client pod were " + "; ".join(last) + "."
    return ("None of them waits for istiod: a workload's handshake needs the leaf and the roots that it has, each of the two restarts by the validator is a "
            "new pod beside the old one, and each step comes when all workloads trust what it brings.")


def procedure(cluster, mesh, istiod, pki, report):
    with report.step("client and server pods, a new mTLS connection every 10 ms"):
        names.namespaces(cluster, workload.NAMESPACE)
        workload.start(cluster, IMAGE, f"{NAME}.{NS}.svc:15012")
    counter = workload.Counter(cluster)
    try:
        counter.more(100)
        intermediate(mesh, istiod, pki, counter, report)
        roots(cluster, mesh, istiod, pki, counter, report)
        lists(cluster, mesh, istiod, pki, counter, report)
        tried, failed, last = counter.counts()
    finally:
        counter.close()
    report.line(f"Stock istiod: {tried} handshakes tried, {failed} failed. {why(failed, last)}")
    assert tried >= 500


def intermediate(mesh, istiod, pki, counter, report):
    with report.step("intermediate rotation, no restart") as seen:
        mesh.secrets(pki.intermediate("A", "A2"))
        seen("\n".join(istiod.says("Istiod has detected the newly added intermediate CA", 1)[-1:]))
        seen("\n".join(istiod.says('Subject: "CN=Intermediate A2', 1)[-1:]))
        mesh.ready(both(signs("A2"), trusts("A")))
        _, failed, _ = counter.told(seen)
        assert failed == 0


def in_cacerts(cluster, n):
    """Until cacerts has n roots: istiod publishes the old ones until it is restarted, and so long the PluginCA is not Ready."""
    def look():
        return base64.b64decode(cluster.get("secret", "cacerts", "-n", NS)["data"]["root-cert.pem"]).count(b"BEGIN CERT") == n
    wait_for(f"{n} root(s) in cacerts", look)


def restarted_by_validator(cluster, validator, seen):
    job, text, worked = validator.restarts()
    seen(f"`kubectl logs job/{job}`, by the CronJob's own clock:")
    seen(text)
    assert worked and f"Deployment {NAME} restarted." in text, text
    seen(cluster.rolled_out(f"deployment/{NAME}", NS).strip().splitlines()[-1])


def lists(cluster, mesh, istiod, pki, counter, report):
    with report.step("a list of each CA in the vault: `cacerts` has five keys, and istiod hands them out") as seen:
        wanted = pki.lists("B", "B1")
        mesh.vault("secret", "set", "--vault-name", "meshroot-vault", "--name", "ca-crl", "--file", "/dev/stdin", stdin=wanted)
        mesh.patch(objectNames={"caCrl": "ca-crl"})
        wait_for("five keys", lambda: sorted(cluster.get("secret", "cacerts", "-n", NS)["data"]) == FIVE)
        seen(istiod.says("newly added CRL file", 1)[-1])
        published = wait_for("istio-ca-crl", lambda: (m := cluster.get("configmap", "istio-ca-crl", "-n", workload.NAMESPACE)["data"]["ca-crl.pem"]) and m)
        assert published.count("BEGIN X509 CRL") == 2
        mesh.ready(both(signs("B1"), trusts("B")))
    with report.step("istiod restarted with them; workloads restarted: it loads and signs") as seen:
        cluster.kubectl("rollout", "restart", f"deployment/{NAME}", "-n", NS)
        cluster.rolled_out(f"deployment/{NAME}", NS)
        seen(istiod.says("Detected CRL file", 1)[-1])
        workload.restart(cluster, seen)
        counter.told(seen)


def roots(cluster, mesh, istiod, pki, counter, report):
    validator = Validator(cluster)
    with report.step("root-cert = old + new; the validator's pod; `rollout status`") as seen:
        mesh.secrets({"root-cert": pki.roots("A", "B")})
        in_cacerts(cluster, 2)
        restarted_by_validator(cluster, validator, seen)
        seen("\n".join(istiod.says("Added 2 certs to trust domain", 1)[-1:]))
        mesh.ready(trusts("A", "B"))
        counter.told(seen)
    with report.step("workloads restarted: all trust both roots") as seen:
        workload.restart(cluster, seen)
        counter.told(seen)
    with report.step("intermediate under the new root") as seen:
        mesh.secrets(pki.intermediate("B", "B1", also="A"))
        seen("\n".join(istiod.says('Subject: "CN=Intermediate B1', 1)[-1:]))
        mesh.ready(both(signs("B1"), trusts("A", "B")))
        counter.told(seen)
    with report.step("workloads restarted: all leaves end in the new root") as seen:
        workload.restart(cluster, seen)
        counter.told(seen)
    with report.step("root-cert = new only; the validator's pod") as seen:
        mesh.secrets({"root-cert": pki.roots("B")})
        in_cacerts(cluster, 1)
        restarted_by_validator(cluster, validator, seen)
        seen("\n".join(istiod.says("Added 1 certs to trust domain", 1)[-1:]))
        mesh.ready(trusts("B"))
        counter.told(seen)
    with report.step("`kubectl rollout restart deployment` of the workloads") as seen:
        workload.restart(cluster, seen)
        counter.told(seen)
