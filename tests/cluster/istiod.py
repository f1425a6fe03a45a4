"""A stock istiod (Go module, tests/cluster/istio) under the managed add-on's names: deployment istiod-asm-1-17, container discovery."""
from conftest import wait_for

NS = "aks-istio-system"
NAME = "istiod-asm-1-17"
IMAGE = "meshroot.test/istiod:1"

OBJECTS_YAML = f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {NAME}, namespace: {NS}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: cluster-test-istiod}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: {NAME}, namespace: {NS}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {NAME}, namespace: {NS}}}
spec: {{selector: {{app: istiod}}, ports: [{{port: 15012}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {NAME}, namespace: {NS}, labels: {{app: istiod}}}}
spec:
  selector: {{matchLabels: {{app: istiod}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: istiod}}}}
    spec:
      serviceAccountName: {NAME}
      securityContext: {{runAsNonRoot: true, runAsUser: 1337, runAsGroup: 1337, fsGroup: 1337}}
      containers:
        - name: discovery
          image: {IMAGE}
          imagePullPolicy: Never
          args: [discovery, "--monitoringAddr=:15014", "--log_output_level=default:info,spiffe:info", --domain, cluster.local, --keepaliveMaxServerConnectionAge, 30m]
          env:
            - {{name: REVISION, value: asm-1-17}}
            - {{name: PILOT_CERT_PROVIDER, value: istiod}}
            - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
            - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
            - {{name: SERVICE_ACCOUNT, value: {NAME}}}
            - {{name: CLUSTER_ID, value: Kubernetes}}
            - {{name: INJECTION_WEBHOOK_CONFIG_NAME, value: ""}}
            - {{name: VALIDATION_WEBHOOK_CONFIG_NAME, value: ""}}
            - {{name: ISTIOD_CUSTOM_HOST, value: {NAME}.{NS}.svc}}
          readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}
          securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
          volumeMounts:
            - {{name: cacerts, mountPath: /etc/cacerts, readOnly: true}}
            - {{name: local, mountPath: /var/run/secrets/istio-dns}}
            - {{name: tmp, mountPath: /tmp}}
            - {{name: token, mountPath: /var/run/secrets/tokens, readOnly: true}}
      volumes:
        - {{name: cacerts, secret: {{secretName: cacerts, optional: true}}}}
        - {{name: local, emptyDir: {{medium: Memory}}}}
        - {{name: tmp, emptyDir: {{}}}}
        - name: token
          projected: {{sources: [{{serviceAccountToken: {{audience: istio-ca, expirationSeconds: 43200, path: istio-token}}}}]}}
"""


class Istiod:
    def __init__(self, cluster):
        self.cluster = cluster

    def start(self):
        self.cluster.apply(OBJECTS_YAML)
        self.cluster.rolled_out(f"deployment/{NAME}", NS)

    def logs(self):
        return self.cluster.kubectl("logs", f"deploy/{NAME}", "-c", "discovery", "-n", NS)

    def lines(self, *words):
        """Log lines with one of `words`, without their time."""
        return [x.split("\t", 1)[-1].replace("\t", " ") for x in self.logs().splitlines() if any(w in x for w in words)]

    def says(self, word, count, seconds=180):
        return wait_for(f"istiod's {count} lines with {word!r}", lambda: (found := self.lines(word)) and len(found) >= count and found, seconds)
