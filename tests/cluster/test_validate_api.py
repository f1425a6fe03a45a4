"""The root validator with a real API server and its deployment controller, as the service account of the committed manifests. There is no node:
what a kubelet and istiod would do (a new pod serves what the Secret has, istiod publishes its roots) is done here, with real TLS servers."""
import base64
import json
import socket
import subprocess
import threading

import pytest
import yaml

from conftest import MESHROOT, TOP, binary, wait_for
from test_validate import MEMORY, RESTARTED, Istiod, leaf_pem, lines, sets  # noqa: F401

NS, NAME = "istio-system", "istiod"


def grants():
    """The validator's account, role and binding, as they are committed."""
    return [o for o in yaml.safe_load_all((TOP / "deploy/manifests/meshroot.yaml").read_text())
            if o and o["metadata"]["name"] == "meshroot-validator" and o["kind"] in ("ServiceAccount", "Role", "RoleBinding")]


class Node(threading.Thread):
    """Gives istiod's pods an address, and a secure port on what the Secret has at that moment; publishes the newest one's roots."""

    def __init__(self, api, folder):
        super().__init__(daemon=True)
        self.api, self.folder, self.served, self.ended, self.broken, self.n = api, folder, {}, threading.Event(), False, 0
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]

    def run(self):
        while not self.ended.wait(0.5):
            try:
                self.turn()
            except AssertionError as e:
                print(f"node: {e}")  # the pod went, or somebody wrote first: the next turn looks again

    def turn(self):
        pods = {p["metadata"]["name"]: p for p in self.api.get("pods", "-n", NS, "-l", "app=istiod")["items"]}
        for name in set(self.served) - set(pods):
            self.end(name)
        for name in set(pods) - set(self.served):
            if not self.broken:
                self.begin(name)

    def begin(self, name):
        self.n += 1
        ip, folder = f"127.0.1.{self.n}", self.folder / f"pod-{name}"
        files = {f: base64.b64decode(v) for f, v in self.api.get("secret", "cacerts", "-n", NS)["data"].items()}
        folder.mkdir(exist_ok=True)
        with open(folder / "log", "wb") as log:
            self.served[name] = self.istiod(name, folder, ip, files, log)
        wait_for(f"{name} listens", lambda: self.listens(name, ip))
        self.api.kubectl("patch", "pod", name, "-n", NS, "--subresource=status", "--type=merge", "-p", json.dumps({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
                {"type": t, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"} for t in ("Ready", "ContainersReady")]}}))

    def listens(self, name, ip):
        assert self.served[name].poll() is None, (self.folder / f"pod-{name}" / "log").read_text()[-2000:]
        with socket.socket() as s:
            return s.connect_ex((ip, self.port)) == 0

    def istiod(self, name, folder, ip, files, log):
        """A server with istiod's face."""
        cert, key = leaf_pem(files, f"istiod.{NS}.svc", 0)
        for f, data in (("cert", cert), ("key", key), ("chain", files["cert-chain.pem"]), ("roots", files["root-cert.pem"])):
            (folder / f).write_bytes(data)
        self.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio-ca-root-cert", "namespace": NS},
                        "data": {"root-cert.pem": files["root-cert.pem"].decode()}})
        return subprocess.Popen(Istiod.serve(None, folder, f"{ip}:{self.port}"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)

    def end(self, name):
        p = self.served.pop(name)
        p.terminate()
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait(10)

    def stop(self):
        self.ended.set()
        self.join(60)
        for name in list(self.served):
            self.end(name)


class StockNode(Node):
    """With the real thing, which publishes its roots itself."""

    def istiod(self, name, folder, ip, files, log):
        (folder / "cacerts").mkdir(exist_ok=True)
        for f, data in files.items():
            (folder / "cacerts" / f).write_bytes(data)
        env = {"POD_NAME": name, "POD_NAMESPACE": NS, "PILOT_CERT_PROVIDER": "istiod", "CLUSTER_ID": "Kubernetes", "ROOT_CA_DIR": str(folder / "cacerts"),
               "INJECTION_WEBHOOK_CONFIG_NAME": "", "VALIDATION_WEBHOOK_CONFIG_NAME": "", "HOME": str(folder)}
        return subprocess.Popen([binary("pilot-discovery"), "discovery", "--kubeconfig", self.api.dir / "admin.conf", "--domain", "cluster.local",
                                 "--secureGRPCAddr", f"{ip}:{self.port}", "--httpAddr", f"{ip}:8080", "--httpsAddr", f"{ip}:15017", "--grpcAddr",
                                 f"{ip}:15010", "--monitoringAddr", f"{ip}:15014", "--ctrlz_port", "0"],
                                cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def secret(api, files):
    api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": NS},
               "data": {f: base64.b64encode(v).decode() for f, v in files.items()}})


@pytest.fixture
def node(request, api, tmp_path, sets):  # noqa: F811
    for ns in (NS, "meshroot-system"):
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}})
        wait_for("its service account", lambda ns=ns: api.kubectl("get", "serviceaccount", "default", "-n", ns))
    api.apply(*grants())
    secret(api, sets["A"])
    api.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "namespace": NS}, "spec": {
        "replicas": 2, "progressDeadlineSeconds": 15, "selector": {"matchLabels": {"app": "istiod"}}, "template": {
            "metadata": {"labels": {"app": "istiod"}}, "spec": {"containers": [{"name": "discovery", "image": "docker.io/istio/pilot:1.22.3"}]}}}})
    n = getattr(request, "param", Node)(api, tmp_path)
    n.start()
    yield n
    api.kubectl("delete", "deployment", NAME, "-n", NS, "--cascade=foreground", "--wait")
    n.stop()


@pytest.fixture
def validate(api, node, tmp_path):
    """validate(...) -> its exit status and what it says, as the account of the manifests."""
    admin = yaml.safe_load((api.dir / "admin.conf").read_text())
    (tmp_path / "token").write_text(api.kubectl("create", "token", "meshroot-validator", "-n", "meshroot-system"))
    cluster = admin["clusters"][0]["cluster"]
    (tmp_path / "ca.pem").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "clusters": [
        {"name": "c", "cluster": {"server": cluster["server"], "certificate-authority": "ca.pem"}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}]}))

    def run(*more):
        done = subprocess.run([MESHROOT, "mesh", "validate", "--kubeconfig", path, "--istiod-port", str(node.port), "--timeout", "90s", *more],
                              capture_output=True, text=True, timeout=200)
        print(done.stdout + done.stderr)
        return done.returncode, done.stdout + done.stderr

    return run


def test_with_a_real_deployment_controller(api, node, validate, sets):  # noqa: F811
    api.rolled_out(f"deployment/{NAME}", NS, 120)
    wait_for("the ConfigMap", lambda: api.get("configmap", "istio-ca-root-cert", "-n", NS)["data"])
    assert validate() == (0, "Root certificate update not detected.\n")

    secret(api, sets["AB a"])
    code, out = validate("--dry-run")
    assert code == 0 and "(server dry run)" in out
    assert RESTARTED not in json.dumps(api.get("deployment", NAME, "-n", NS)), "a dry run changes nothing"
    code, out = validate()
    assert code == 0 and [x for x in out.splitlines() if x in lines()] == lines(), out
    assert f'deployment "{NAME}" successfully rolled out' in out
    d = api.get("deployment", NAME, "-n", NS)
    assert json.loads(d["metadata"]["annotations"][MEMORY])["state"] == "done"
    assert RESTARTED in d["spec"]["template"]["metadata"]["annotations"]
    assert "RootRestarted" in api.kubectl("describe", "deployment", NAME, "-n", NS)
    assert validate() == (0, "Root certificate update not detected.\n")

    secret(api, sets["B"])
    code, out = validate()
    assert code == 17 and "do not trust: wait until" in out, out

    secret(api, {**sets["AB a"], "root-cert.pem": sets["AB a"]["root-cert.pem"] + b"\n"})
    node.broken = True  # new pods never come up
    code, out = validate()
    assert code == 17 and "exceeded its progress deadline" in out, out
    assert "RootRestartFailed" in api.kubectl("describe", "deployment", NAME, "-n", NS)
    code, out = validate()
    assert code == 17 and "is not repeated" in out, out
    node.broken = False
    wait_for("it comes right by itself", lambda: validate() == (0, "Root certificate update not detected.\n"))


@pytest.mark.parametrize("node", [StockNode], indirect=True)
def test_with_a_stock_istiod(api, node, validate, sets):  # noqa: F811
    api.rolled_out(f"deployment/{NAME}", NS, 240)
    wait_for("its ConfigMap", lambda: api.get("configmap", "istio-ca-root-cert", "-n", NS)["data"]["root-cert.pem"] ==
             sets["A"]["root-cert.pem"].decode())
    assert validate() == (0, "Root certificate update not detected.\n")
    secret(api, sets["AB a"])
    code, out = validate("--dry-run", "--output", "json")
    assert code == 0 and '"verdict": "restart"' in out and out.count('"stale": true') == 2, out
    code, out = validate()
    assert code == 0 and [x for x in out.splitlines() if x in lines()] == lines(), out
    assert validate() == (0, "Root certificate update not detected.\n")
    wait_for("the old pods' end", lambda: len(node.served) == 2)
    logs = [(node.folder / f"pod-{name}" / "log").read_text() for name in node.served]
    assert all("Added 2 certs to trust domain cluster.local in peer cert verifier" in x for x in logs)
    secret(api, sets["B"])
    code, out = validate()
    assert code == 17 and "do not trust: wait until" in out, out


def test_what_the_account_may_not(api, node, validate):
    api.kubectl("delete", "role", "meshroot-validator", "-n", NS)
    code, out = validate()
    assert code == 14 and f'cannot get resource "deployments" in API group "apps" in the namespace "{NS}"' in out, out
