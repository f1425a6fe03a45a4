"""The chart's NetworkPolicies where something enforces them (kube-router's firewall): all that the product does goes on, kubelet's probes pass,
and what the policies are for is held off. That it is they who do it: without them each of those connections is opened."""
import base64

import pytest

from conftest import wait_for
from istiod import NAME as ISTIOD, Istiod
from mesh import CA_ADDRESS, CHART, IMAGE, NS, SYSTEM, Mesh, both, helm, signs, trusts
from pki import Pki
from reach import PORT, Matrix, inside, pod
import mesh as names
import workload

MONITORING, STRANGER = "monitoring", "stranger"  # the namespace of values.yaml's metricsFrom; one that no policy names
API, KUBELET = "10.96.0.1", "10.96.0.2"  # tools/cluster.sh
PARTS = ("operator", "ca", "vault")

# (from, to, port, does a policy let it through)
OURS = [
    *((MONITORING, part, 15014, True) for part in PARTS),
    *((STRANGER, part, 15014, False) for part in PARTS),
    *((MONITORING, part, PORT, False) for part in PARTS),
    (STRANGER, "ca", 15012, True),
    (STRANGER, "vault", 8443, True),
    (STRANGER, MONITORING, PORT, True),
    ("operator", API, 443, True),
    ("operator", "ca", 15012, True),
    ("operator", "vault", 8443, True),
    ("operator", STRANGER, PORT, False),
    ("operator", KUBELET, 10250, False),
    ("ca", API, 443, True),
    ("ca", "vault", 8443, False),
    ("ca", STRANGER, PORT, False),
    ("vault", API, 443, False),
    ("vault", "ca", 15012, False),
    ("vault", STRANGER, PORT, False),
]
VALIDATOR = [
    ("validator", API, 443, True),
    ("validator", "istiod", 15012, True),
    ("validator", "istiod", 8080, False),
    ("validator", "vault", 8443, False),
    ("validator", STRANGER, PORT, False),
    (STRANGER, "validator", PORT, False),
    (STRANGER, "istiod", 8080, True),
]


@pytest.fixture(scope="module")
def enforced(cluster, report):
    """The cluster with kube-router at work; {name: Place} of the two that stand outside."""
    report.heading("NetworkPolicies, enforced by kube-router")
    try:
        with report.step("kube-router's firewall"):
            cluster.sh(f"cluster_enforce {cluster.dir}")
        names.namespaces(cluster, MONITORING, STRANGER)
        yield {n: pod(cluster, n, n) for n in (MONITORING, STRANGER)}
    finally:
        cluster.sh(f"cluster_unenforce {cluster.dir}")
        cluster.kubectl("delete", "namespace", MONITORING, STRANGER, "--ignore-not-found", "--timeout=300s", timeout=330)


def switch(cluster, on):
    """The chart's own switch."""
    helm(cluster, "upgrade", "meshroot", CHART, "-n", SYSTEM, "--reuse-values", "--set", f"networkPolicy.enabled={'true' if on else 'false'}")


def told_with_and_without(cluster, matrix, report):
    with report.step("with the policies: who reaches whom") as seen:
        seen(matrix.told(matrix.enforced()))
    with report.step("`helm upgrade --set networkPolicy.enabled=false`: nothing holds them off") as seen:
        switch(cluster, False)
        came = matrix.unhindered()
        seen(f"{len(came)} of {len(matrix.rows)} reached")
    with report.step("`networkPolicy.enabled=true` again") as seen:
        switch(cluster, True)
        came = matrix.enforced()
        seen(f"{sum(r[3] for r in came)} reached, {sum(not r[3] for r in came)} held off")


def probes_pass(cluster):
    """No container of the chart was started anew, all are ready, and a new pod of each part becomes ready: by kubelet's HTTP probes, all."""
    for what in ("deployment/meshroot-operator", "statefulset/meshroot-ca", "statefulset/meshroot-vault"):
        cluster.rolled_out(what, SYSTEM)
    pods = [p for p in cluster.get("pods", "-n", SYSTEM)["items"] if p["status"]["phase"] == "Running"]
    states = [(p["metadata"]["name"], c) for p in pods for c in p["status"]["containerStatuses"]]
    assert [n for n, c in states if c["restartCount"]] == [], states
    probed = sum("livenessProbe" in c and "readinessProbe" in c for p in pods for c in p["spec"]["containers"])
    assert probed == len(states), states
    return f"{probed} containers with liveness and readiness probes, none started anew"


def test_our_ca(cluster, enforced, report, tmp_path):
    pki, mesh = Pki(tmp_path), Mesh(cluster, tmp_path)
    pki.root("A")
    try:
        with report.step("`helm install meshroot` with its policies; four secrets; `mesh enable --target meshroot`") as seen:
            mesh.install(validator__enabled="false")
            policies = sorted(p["metadata"]["name"] for p in cluster.get("networkpolicy", "-n", SYSTEM)["items"])
            assert policies == [f"meshroot-{p}" for p in sorted(PARTS)], policies
            mesh.secrets(pki.intermediate("A", "A1"))
            mesh.credentials()
            seen(mesh.enable("meshroot"))
            mesh.patch(ttl={"renewWindow": "5s"}, gates={"mountWait": "5s"})
            cluster.rolled_out("statefulset/meshroot-ca", SYSTEM)
        with report.step("workloads get leaves, and shake hands; an intermediate rotation") as seen:
            flow(cluster, mesh, pki, seen)
        places = {**enforced, **{part: inside(cluster, SYSTEM, part) for part in PARTS}}
        with report.step(f"a scrape from the namespace {MONITORING}") as seen:
            for part in PARTS:
                text = scraped(places[MONITORING], places[part].ip)
                seen(f"{part}: {sum(line.startswith('meshroot_') for line in text.splitlines())} series of ours")
        told_with_and_without(cluster, Matrix(places, OURS), report)
        with report.step("kubelet's probes") as seen:
            cluster.kubectl("rollout", "restart", "deployment/meshroot-operator", "statefulset/meshroot-vault", "-n", SYSTEM)
            seen(probes_pass(cluster))
    finally:
        mesh.uninstall()


def flow(cluster, mesh, pki, seen):
    names.namespaces(cluster, workload.NAMESPACE)
    workload.start(cluster, IMAGE, CA_ADDRESS)
    counter = workload.Counter(cluster)
    try:
        counter.more(100)
        mesh.secrets(pki.intermediate("A", "A2"))
        mesh.ready(both(signs("A2"), trusts("A")))
        seen(mesh.row())
        least = counter.worked() + 100
        wait_for("a hundred handshakes after the rotation", lambda: counter.worked() >= least)
        counter.told(seen)  # that none fails is test_ours.py's to say, where nothing rewrites the node's rules
    finally:
        counter.close()


def scraped(source, ip):
    def look():
        text = source.load("get", f"http://{ip}:15014/metrics")
        return text if "\nmeshroot_" in text else None
    return wait_for(f"the metrics of {ip}", look)


def test_the_validator(cluster, enforced, report, tmp_path):
    pki, mesh, istiod = Pki(tmp_path), Mesh(cluster, tmp_path), Istiod(cluster)
    pki.root("A")
    pki.root("B")
    try:
        with report.step("`helm install meshroot`; `mesh enable --target istiod`; a stock istiod"):
            mesh.install(ca__enabled="false", validator__schedule="0 0 1 1 *")  # by hand below
            mesh.secrets(pki.intermediate("A", "A1"))
            mesh.credentials()
            mesh.enable("istiod")
            istiod.start()
        with report.step("a second root; the CronJob's job restarts istiod and proves it by a handshake with its port 15012") as seen:
            mesh.secrets({"root-cert": pki.roots("A", "B")})
            wait_for("two roots in cacerts", lambda: roots_in_cacerts(cluster) == 2)
            seen(run_job(cluster))
            mesh.ready(trusts("A", "B"))
        places = {**enforced, "istiod": Address(cluster), "vault": inside(cluster, SYSTEM, "vault"),
                  "validator": pod(cluster, SYSTEM, "as-validator", {"app.kubernetes.io/name": "meshroot", "app.kubernetes.io/component": "validator"})}
        told_with_and_without(cluster, Matrix(places, VALIDATOR), report)
    finally:
        mesh.uninstall()


class Address:
    """Of istiod's pod that stays: nobody is put into it."""

    def __init__(self, cluster):
        pods = cluster.get("pods", "-n", NS, "-l", "app=istiod")["items"]
        self.ip = next(p["status"]["podIP"] for p in pods if "deletionTimestamp" not in p["metadata"] and p["status"].get("podIP"))


def roots_in_cacerts(cluster):
    return base64.b64decode(cluster.get("secret", "cacerts", "-n", NS)["data"]["root-cert.pem"]).count(b"BEGIN CERT")


def run_job(cluster):
    """What the CronJob's job says, once it has worked."""
    cluster.kubectl("create", "job", "--from=cronjob/meshroot-validator", "by-hand", "-n", SYSTEM)

    def ended():
        status = cluster.get("job", "by-hand", "-n", SYSTEM)["status"]
        return status if status.get("succeeded") or status.get("failed") else None
    status = wait_for("the validator's job", ended, 400, 1)
    said = cluster.kubectl("logs", "job/by-hand", "-n", SYSTEM).strip()
    assert status.get("succeeded") == 1 and f"Deployment {ISTIOD} restarted." in said, said
    return said
