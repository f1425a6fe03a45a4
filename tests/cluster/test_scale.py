"""Must show 4 of issue 5: 500 namespaces on a real API server; a widened root is in all of them soon, and the operator stays small."""
import base64
import contextlib
import http.client
import json
import ssl
import threading
import time
import urllib.request

import pytest

import manifests
from conftest import TOP, Mesh, openssl_intermediate, openssl_root, wait_for
from manifests import SYSTEM
from test_chart import rendered

NS, CM, MANY = "many-mesh", "istio-ca-root-cert", 500
CREDENTIALS = "meshroot-vault-credentials"  # the chart lets the operator read this one


class Eyes:
    """Our namespaces' root ConfigMaps as one watch tells of them: listing them again and again would be load of the test's own."""

    def __init__(self, api):
        self.server = (api.dir / "server").read_text().strip()
        self.tls = ssl.create_default_context(cafile=api.dir / "pki/ca.crt")
        self.tls.load_cert_chain(api.dir / "pki/admin.crt", api.dir / "pki/admin.key")
        self.ended = False
        self.held = {}  # namespace: {how many roots: when that was first seen}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        """From what is there on. The server ends a watch that it finds slow: a new one tells of everything that is there, as of now."""
        query = f"/api/v1/configmaps?fieldSelector=metadata.name%3D{CM}&watch=true&timeoutSeconds=3000"
        while not self.ended:
            with contextlib.suppress(OSError, http.client.HTTPException):
                with urllib.request.urlopen(self.server + query, context=self.tls, timeout=600) as stream:
                    for line in stream:
                        self._take(json.loads(line))
            time.sleep(0.1)

    def _take(self, event):
        told = event["object"]
        if event["type"] not in ("ADDED", "MODIFIED") or not told["metadata"]["namespace"].startswith("many-") or told["metadata"]["namespace"] == NS:
            return
        n = told.get("data", {}).get("root-cert.pem", "").count("BEGIN CERT")
        self.held.setdefault(told["metadata"]["namespace"], {}).setdefault(n, time.monotonic())

    def everywhere(self, roots):
        """When each of our namespaces had so many roots, first to last, once all have."""
        def look():
            moments = self.moments(roots)
            assert len(moments) == MANY, f"{len(moments)} of {MANY}"
            return moments
        return wait_for(f"{roots} root(s) everywhere", look, 400)

    def moments(self, roots):
        """When each of our namespaces had so many roots: [seconds], as far as they have."""
        return sorted(seen[roots] for seen in list(self.held.values()) if roots in seen)


@pytest.fixture
def account(api, many, tmp_path):
    """A kubeconfig of the chart's own account for the operator, with the chart's own roles for it."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
    parts = manifests.documents(rendered("--set", f"mesh.namespace={NS}"))
    api.apply(*(d for d in parts if d["metadata"]["name"].startswith("meshroot-operator") and ("Role" in d["kind"] or d["kind"] == "ServiceAccount")))
    return api.config_of("meshroot-operator", SYSTEM, tmp_path)


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


def test_a_widened_root_in_500_namespaces(api, account, report, tmp_path, daemon):
    roots = [openssl_root(tmp_path / n, f"Root {n}", "p256") for n in ("A", "B")]
    a1 = openssl_intermediate(tmp_path / "a1", roots[0], "Intermediate A1", "p256")
    openssl_intermediate(tmp_path / "b1", roots[1], "Intermediate B1", "p256")
    vault = Mesh(tmp_path, daemon)
    vault.set_all(a1)
    who = json.loads((vault.state / "credentials/sync.json").read_text())
    api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CREDENTIALS, "namespace": NS},
               "data": {k: base64.b64encode(who[k].encode()).decode() for k in ("tenant", "client_id", "client_secret")}},
              {"apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "metadata": {"name": "default", "namespace": NS}, "spec": {
                  "vault": {"url": (vault.state / "vault.url").read_text().strip(), "caBundle": (vault.state / "vault-ca.pem").read_text(),
                            "auth": {"clientSecret": {"name": CREDENTIALS}}}, "pollInterval": "1s"}})
    operator = daemon("operator", "run", "--namespace", NS, "--own-namespace", SYSTEM, "--kubeconfig", account, "--lease", "off",
                      "--vault-host", "127.0.0.1")
    eyes = Eyes(api)
    eyes.everywhere(1)
    wide = tmp_path / "wide.pem"
    wide.write_text("".join((tmp_path / x / "root-cert.pem").read_text() for x in ("a1", "b1")))
    begun = time.monotonic()
    vault.set_secret("root-cert", wide)
    moments = eyes.everywhere(2)
    eyes.ended = True
    now, most = memory(operator.process.pid)
    report.line(f"{MANY} namespaces: a widened root was in all ConfigMaps {moments[-1] - begun:.2f} s after it went into the vault (polled every second), "
                f"{moments[-1] - moments[0]:.2f} s after it was in the first. The operator's memory: {now:.1f} MiB, at most {most:.1f} MiB.")
    assert most < 24, most
