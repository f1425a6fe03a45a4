"""The mesh under the managed add-on's names: the chart from the image archive, a vault in the cluster, PluginCA by `meshroot mesh enable`."""
import base64
import json
import os
import subprocess

from conftest import CACHE, MESHROOT, TOP, wait_for
from pki import OBJECTS

NS = "aks-istio-system"
SYSTEM = "meshroot-system"
VAULT = f"https://meshroot-vault.{SYSTEM}.svc:8443"
CA_HOST, CA_PORT = f"meshroot-ca.{SYSTEM}.svc", 15012
CA_ADDRESS = f"{CA_HOST}:{CA_PORT}"
CREDENTIALS = "meshroot-vault-credentials"
IMAGE = "meshroot.io/meshroot:" + (TOP / "VERSION").read_text().strip()
CHART = TOP / "deploy" / "helm" / "meshroot"
# No storage class here, so no volumes (test_ours.py makes some: volumes.py); probes, replicas, security contexts and RBAC are the chart's own.
SETTINGS = {"image.pullPolicy": "Never", "vault.enabled": "true", "vault.persistence.enabled": "false", "ca.persistence.enabled": "false",
            "operator.hurryIstiod": "true"}


def helm(cluster, *args, check=True):
    program = os.environ.get("HELM") or next(CACHE.glob("helm-*/helm"))
    done = subprocess.run(cluster.command(program, *args, "--kubeconfig", cluster.dir / "admin.conf"), capture_output=True, text=True, timeout=240)
    assert not check or done.returncode == 0, done.stderr


def namespaces(cluster, *names):
    cluster.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}} for n in names))


class Mesh:
    def __init__(self, cluster, tmp):
        self.cluster, self.tmp = cluster, tmp

    def install(self, **settings):
        """helm install, as docs/install-kubernetes.md has it."""
        namespaces(self.cluster, NS, SYSTEM)
        self.cluster.kubectl("label", "--overwrite", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
        sets = [x for k, v in {**SETTINGS, **{k.replace("__", "."): v for k, v in settings.items()}}.items() for x in ("--set", f"{k}={v}")]
        helm(self.cluster, "install", "meshroot", CHART, "-n", SYSTEM, "-f", CHART / "values-aks.yaml", *sets)
        self.cluster.rolled_out("statefulset/meshroot-vault", SYSTEM)

    def uninstall(self):
        """The PluginCA first: its operator must still be there to let go of what it owns."""
        self.cluster.kubectl("delete", "pluginca", "--all", "-n", NS, "--timeout=60s", check=False)
        helm(self.cluster, "uninstall", "meshroot", "-n", SYSTEM, check=False)
        self.cluster.kubectl("delete", "namespace", NS, SYSTEM, "shop", "--ignore-not-found", "--timeout=300s", timeout=330)

    def vault(self, *args, stdin=None):
        return self.cluster.kubectl("exec", *(["-i"] if stdin else []), "-n", SYSTEM, "meshroot-vault-0", "--", "meshroot", "vault", *args, stdin=stdin)

    def secrets(self, values):
        for name in OBJECTS:
            if name in values:
                self.vault("secret", "set", "--vault-name", "meshroot-vault", "--name", name, "--file", "/dev/stdin", stdin=values[name])

    def credentials(self):
        """The operator's way into the vault, as a Secret; the roots that vouch for the vault, in a file of ours."""
        self.cluster.kubectl("apply", "-n", NS, "-f", "-", stdin=self.vault("credentials", "sync", "--output", "secret"))
        data = self.cluster.get("secret", CREDENTIALS, "-n", NS)["data"]
        roots = next(base64.b64decode(v) for v in data.values() if b"BEGIN CERTIFICATE" in base64.b64decode(v))
        (self.tmp / "vault-ca.pem").write_bytes(roots)

    def meshroot(self, *args, timeout=400):
        done = subprocess.run(self.cluster.command(MESHROOT, *args, "--namespace", NS, "--kubeconfig", self.cluster.dir / "admin.conf"),
                              capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"meshroot {' '.join(args)}: {done.stderr}{done.stdout}\n{self.describe()}"
        return done.stdout

    def enable(self, target):
        return self.meshroot("mesh", "enable", "--key-vault-id", VAULT, "--credential-secret", CREDENTIALS, "--vault-ca-file", str(self.tmp / "vault-ca.pem"),
                             "--target", target, "--rotation-poll-interval", "1s", "--stock-wait", "5s", "--wait", "--wait-timeout", "5m").strip()

    def patch(self, **spec):
        self.cluster.kubectl("patch", "pluginca", "default", "-n", NS, "--type=merge", "-p", json.dumps({"spec": spec}))

    def status(self):
        return self.cluster.get("pluginca", "default", "-n", NS).get("status", {})

    def ready(self, holds, seconds=300):
        """Until PluginCA says Ready and holds(status)."""
        def look():
            s = self.status()
            return s if s.get("phase") == "Ready" and holds(s) else None
        try:
            return wait_for("PluginCA Ready", look, seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.describe()}") from None

    def describe(self):
        logs = self.cluster.kubectl("logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--tail=15", check=False)
        status = self.cluster.kubectl("get", "pluginca", "-n", NS, "-o", "jsonpath={.items[*].status}", check=False)
        return f"{self.cluster.kubectl('get', 'pods', '-A', check=False)}\n{status}\n{logs}"

    def row(self):
        return self.cluster.kubectl("get", "pluginca", "-n", NS).strip()

    def event_reasons(self):
        events = json.loads(self.cluster.kubectl("get", "events.events.k8s.io", "-n", NS, "-o", "json"))["items"]
        return sorted({e["reason"] for e in events if e.get("regarding", {}).get("kind") == "PluginCA"})


def signs(name):
    return lambda s: f"CN=Intermediate {name}," in s["intermediate"]["subject"]


def trusts(*names):
    return lambda s: sorted(r["subject"] for r in s["roots"]) == sorted(f"CN=Root {n},O=Istio" for n in names)


def both(*conditions):
    return lambda s: all(c(s) for c in conditions)
