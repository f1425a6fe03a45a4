"""A stock istiod by its own chart, with no CA in it, and workloads with the sidecars that it injects: pilot-agent and Envoy."""
import base64
import json

from conftest import binary, wait_for
from cryptography import x509
from mesh import CA_ADDRESS, NS, helm, namespaces

REVISION = "asm-1-17"
RELEASE = f"istiod-{REVISION}"
SHOP = "shop"
TTL = "60s"  # 24h in the field: a leaf is renewed at half of it
# What an operator sets (docs/istiod.md); for a test's patience; for this machine; and for an Envoy without Istio's own extensions.
VALUES = {
    "revision": REVISION,
    "global": {"caAddress": CA_ADDRESS, "istioNamespace": NS, "imagePullPolicy": "Never",
               "proxy": {"image": "meshroot.test/proxyv2:1", "resources": {"requests": {"cpu": "10m", "memory": "40Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}}},
    "env": {"ENABLE_CA_SERVER": "false", "PILOT_ENABLE_METADATA_EXCHANGE": "false"},
    "meshConfig": {"defaultConfig": {"proxyMetadata": {"SECRET_TTL": TTL}}},
    "image": "meshroot.test/istiod:1",
    "resources": {"requests": {"cpu": "10m", "memory": "100Mi"}},
    "autoscaleEnabled": False,
    "telemetry": {"enabled": False},
}


class Sidecars:
    def __init__(self, cluster, tmp):
        self.cluster, self.tmp, self.charts = cluster, tmp, binary("istio-charts")

    def install_istiod(self):
        """The CRDs and istiod, as Istio's own charts have them."""
        self.cluster.kubectl("apply", "--server-side", "-f", f"{self.charts}/base/files/crd-all.gen.yaml")
        values = self.tmp / "istiod-values.json"
        values.write_text(json.dumps(VALUES))
        helm(self.cluster, "install", RELEASE, f"{self.charts}/istio-control/istio-discovery", "-n", NS, "-f", values)
        self.rolled_out(RELEASE, NS)

    def rolled_out(self, name, namespace):
        try:
            return self.cluster.rolled_out(f"deployment/{name}", namespace).strip().splitlines()[-1]
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.describe(namespace)}") from None

    def describe(self, namespace):
        words = self.cluster.kubectl("get", "pods,events", "-n", namespace, "-o", "wide", check=False)
        return words + self.cluster.kubectl("logs", "-n", namespace, "-l", "app", "--all-containers", "--prefix", "--tail=25", check=False)

    def uninstall(self):
        helm(self.cluster, "uninstall", RELEASE, "-n", NS, check=False)
        # Its webhooks are of the cluster; nobody answers them any more.
        self.cluster.kubectl("delete", "mutatingwebhookconfiguration,validatingwebhookconfiguration", "-l", f"istio.io/rev={REVISION}", "--ignore-not-found", check=False)
        self.cluster.kubectl("delete", "-f", f"{self.charts}/base/files/crd-all.gen.yaml", "--ignore-not-found", "--wait=false", check=False)

    def start_workloads(self):
        namespaces(self.cluster, SHOP)
        self.cluster.kubectl("label", "--overwrite", "namespace", SHOP, f"istio.io/rev={REVISION}")
        self.cluster.apply(OBJECTS_YAML)
        for account in ("server", "client"):
            self.rolled_out(account, SHOP)

    def pods(self, account):
        """Those that run and are not ending."""
        pods = self.cluster.get("pods", "-n", SHOP, "-l", f"app={account}")["items"]
        return [p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running" and "deletionTimestamp" not in p["metadata"]]

    def secrets(self, pod):
        """What Envoy itself says that it uses: {"default": [certificate...], "ROOTCA": [certificate...]}."""
        text = self.cluster.kubectl("exec", "-n", SHOP, pod, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "config_dump?resource=dynamic_active_secrets")
        found = {}
        # Above Envoy's answer the agent's log has a line.
        for one in (c["secret"] for c in json.loads(text[text.index("{\n"):]).get("configs", []) if "secret" in c):
            pem = one.get("tls_certificate", {}).get("certificate_chain") or one.get("validation_context", {}).get("trusted_ca") or {}
            found[one["name"]] = x509.load_pem_x509_certificates(base64.b64decode(pem["inline_bytes"])) if pem else []
        return found

    def handshakes(self):
        """Of the server's Envoy since it started: (made, resumed, refused)."""
        text = self.cluster.kubectl("exec", "-n", SHOP, self.pods("server")[0], "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "stats?filter=ssl")
        of = dict(line.rsplit(": ", 1) for line in text.splitlines() if line.startswith("listener.0.0.0.0_8443.ssl."))
        return tuple(int(of.get(f"listener.0.0.0.0_8443.ssl.{what}", 0)) for what in ("handshake", "session_reused", "fail_verify_error"))

    def settled(self, signer, roots):
        """Every sidecar has a leaf of `signer` and trusts `roots`; what was seen."""
        def look():
            seen = {p: self.secrets(p) for a in ("client", "server") for p in self.pods(a)}
            if not all(s.get("default") and s.get("ROOTCA") for s in seen.values()):
                return None
            said = {p: (s["default"][0].issuer.rfc4514_string(), sorted({c.subject.rfc4514_string() for c in s["ROOTCA"]})) for p, s in seen.items()}
            good = all(f"CN=Intermediate {signer}" in i and len(r) == len(roots) and all(any(f"CN=Root {n}" in x for x in r) for n in roots) for i, r in said.values())
            return said if len(said) == 2 and good else None
        return wait_for(f"sidecars with {signer} and {roots}", look, step=1)


def workload(account, args):
    return f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {account}, namespace: {SHOP}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {account}, namespace: {SHOP}}}
spec:
  selector: {{matchLabels: {{app: {account}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata:
      labels: {{app: {account}}}
      annotations:
        sidecar.istio.io/interceptionMode: NONE
        proxy.istio.io/config: '{{"proxyStatsMatcher": {{"inclusionRegexps": [".*ssl.*"]}}}}'
    spec:
      serviceAccountName: {account}
      terminationGracePeriodSeconds: 20
      securityContext: {{runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, runAsNonRoot: true}}
      containers:
        - name: app
          image: meshroot.test/load:1
          imagePullPolicy: Never
          args: {json.dumps(args)}
          lifecycle: {{preStop: {{sleep: {{seconds: 5}}}}}}
"""


# Without interception (NONE) an application calls its sidecar by a port of the pod's loopback, and is called by it. A resumed session would
# not be verified again: the server gives no tickets.
OBJECTS_YAML = f"""{workload("server", ["serve", "127.0.0.1:8080"])}
---{workload("client", ["call", "127.0.0.1:8443"])}
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: {SHOP}}}
spec: {{selector: {{app: server}}, ports: [{{name: tcp, port: 8443}}]}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: {SHOP}}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: whole-handshakes, namespace: {SHOP}}}
spec:
  workloadSelector: {{labels: {{app: server}}}}
  configPatches:
    - applyTo: FILTER_CHAIN
      match: {{context: SIDECAR_INBOUND, listener: {{portNumber: 8443}}}}
      patch:
        operation: MERGE
        value:
          transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              disable_stateless_session_resumption: true
              disable_stateful_session_resumption: true
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: server, namespace: {SHOP}}}
spec:
  workloadSelector: {{labels: {{app: server}}}}
  ingress: [{{port: {{number: 8443, protocol: TCP, name: tcp}}, bind: 0.0.0.0, captureMode: NONE, defaultEndpoint: "127.0.0.1:8080"}}]
  egress: [{{hosts: ["~/*"]}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: client, namespace: {SHOP}}}
spec:
  workloadSelector: {{labels: {{app: client}}}}
  egress: [{{port: {{number: 8443, protocol: TCP, name: tcp}}, bind: 127.0.0.1, captureMode: NONE, hosts: ["./server.{SHOP}.svc.cluster.local"]}}]
"""
