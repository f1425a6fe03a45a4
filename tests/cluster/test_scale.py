"""Must show 4 of issue 5: 500 namespaces on a real API server; a widened root is in all of them soon, and the operator stays small."""
import base64
import json
import ssl
import time
import urllib.request

import pytest

from conftest import TOP, Mesh, openssl_intermediate, openssl_root, wait_for

NS, CM, MANY = "many-mesh", "istio-ca-root-cert", 500


class Eyes:
    """All root ConfigMaps in one request, without a kubectl's start."""

    def __init__(self, api):
        self.url = (api.dir / "server").read_text().strip() + f"/api/v1/configmaps?fieldSelector=metadata.name%3D{CM}"
        self.tls = ssl.create_default_context(cafile=api.dir / "pki/ca.crt")
        self.tls.load_cert_chain(api.dir / "pki/admin.crt", api.dir / "pki/admin.key")

    def roots(self):
        """How many roots each of ours has."""
        with urllib.request.urlopen(self.url, context=self.tls, timeout=20) as answer:
            items = json.load(answer)["items"]
        return [m["data"].get("root-cert.pem", "").count("BEGIN CERT") for m in items if m["metadata"]["namespace"].startswith("many-") and m["metadata"]["namespace"] != NS]


@pytest.fixture
def many(api):
    names = [NS, *(f"many-{i}" for i in range(MANY))]
    api.kubectl("create", "-f", "-", stdin="\n---\n".join(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}}) for n in names), timeout=300)
    api.kubectl("apply", "-f", TOP / "deploy/helm/meshroot/crds")
    yield names
    api.kubectl("delete", "namespace", "--wait=false", *names, timeout=300)


def memory(pid):
    """(now, most) in MiB"""
    lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
    return tuple(int(lines[k].split()[0]) / 1024 for k in ("VmRSS", "VmHWM"))


def test_a_widened_root_in_500_namespaces(api, many, report, tmp_path, daemon):
    roots = [openssl_root(tmp_path / n, f"Root {n}", "p256") for n in ("A", "B")]
    a1 = openssl_intermediate(tmp_path / "a1", roots[0], "Intermediate A1", "p256")
    openssl_intermediate(tmp_path / "b1", roots[1], "Intermediate B1", "p256")
    vault = Mesh(tmp_path, daemon)
    vault.set_all(a1)
    who = json.loads((vault.state / "credentials/sync.json").read_text())
    api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vault-sync", "namespace": NS},
               "data": {k: base64.b64encode(who[k].encode()).decode() for k in ("tenant", "client_id", "client_secret")}},
              {"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "metadata": {"name": "default", "namespace": NS}, "spec": {
                  "vault": {"url": (vault.state / "vault.url").read_text().strip(), "caBundle": (vault.state / "vault-ca.pem").read_text(),
                            "auth": {"clientSecret": {"name": "vault-sync"}}}, "pollInterval": "1s"}})
    operator = daemon("operator", "run", "--namespace", NS, "--kubeconfig", api.dir / "admin.conf", "--lease", "off")
    eyes = Eyes(api)
    wait_for("the first root everywhere", lambda: eyes.roots() == [1] * MANY, 120)
    wide = tmp_path / "wide.pem"
    wide.write_text("".join((tmp_path / x / "root-cert.pem").read_text() for x in ("a1", "b1")))
    begun = time.monotonic()
    vault.set_secret("root-cert", wide)
    first = wait_for("the first ConfigMap", lambda: 2 in eyes.roots() and time.monotonic(), 60, 0.01)
    wait_for("both roots everywhere", lambda: eyes.roots() == [2] * MANY, 60, 0.01)
    now, most = memory(operator.process.pid)
    report.line(f"\n{MANY} namespaces: a widened root was in all ConfigMaps {time.monotonic() - begun:.2f} s after it was in the vault (polled every second), "
                f"{time.monotonic() - first:.2f} s after it was in the first. The operator's memory: {now:.1f} MiB, at most {most:.1f} MiB.")
    assert most < 24, most
