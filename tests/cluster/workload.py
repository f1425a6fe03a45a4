"""Workload pods: a client that opens new mTLS connections all the time and a server, each with meshroot's agent as its native sidecar."""
import json
import os
import subprocess
import tempfile
import threading

from conftest import wait_for

NAMESPACE = "shop"
DOMAIN = "cluster.local"


def identity(account):
    return f"spiffe://{DOMAIN}/ns/{NAMESPACE}/sa/{account}"


def sidecar(account, image, ca_addr, *more):
    return {"name": "istio-proxy", "image": image, "imagePullPolicy": "Never", "restartPolicy": "Always",
            "args": ["agent", "run", "--dir=/run/mesh/certs", f"--identity={identity(account)}", f"--ca-addr={ca_addr}",
                     "--ca-root-cert=/var/run/secrets/istio/root-cert.pem", "--token-file=/var/run/secrets/tokens/istio-token",
                     "--monitoring=0.0.0.0:15020", "--ephemeral", *more],
            "startupProbe": {"httpGet": {"path": "/readyz", "port": 15020}, "periodSeconds": 1, "failureThreshold": 300},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 15020}, "periodSeconds": 1},
            "volumeMounts": [{"name": "run", "mountPath": "/run/mesh"}, {"name": "root", "mountPath": "/var/run/secrets/istio"},
                             {"name": "token", "mountPath": "/var/run/secrets/tokens"}]}


def deployment(account, agent, app_args, drain=None):
    app = {"name": "app", "image": "meshroot.test/load:1", "imagePullPolicy": "Never", "args": app_args}
    if drain:  # a Service goes on sending for a moment after a pod has begun to end
        app["lifecycle"] = {"preStop": {"sleep": {"seconds": drain}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": account, "namespace": NAMESPACE},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": account}}, "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                     "template": {"metadata": {"labels": {"app": account}}, "spec": {
                         "serviceAccountName": account, "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 40,
                         "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "runAsNonRoot": True},
                         "initContainers": [agent], "containers": [app],
                         "volumes": [{"name": "run", "emptyDir": {"medium": "Memory"}},
                                     {"name": "root", "configMap": {"name": "istio-ca-root-cert"}},
                                     {"name": "token", "projected": {"sources": [{"serviceAccountToken": {
                                         "audience": "istio-ca", "expirationSeconds": 3600, "path": "istio-token"}}]}}]}}}}


def start(cluster, image, ca_addr):
    server = sidecar("server", image, ca_addr, "--inbound=0.0.0.0:8443=127.0.0.1:8080", f"--allow={identity('client')}")
    client = sidecar("client", image, ca_addr, f"--outbound=127.0.0.1:9001=server.{NAMESPACE}.svc.cluster.local:8443={identity('server')}")
    cluster.apply(*({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": a, "namespace": NAMESPACE}} for a in ("client", "server")),
                  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": NAMESPACE},
                   "spec": {"selector": {"app": "server"}, "ports": [{"port": 8443}]}},
                  deployment("server", server, ["serve", "127.0.0.1:8080"], drain=10),
                  deployment("client", client, ["call", "127.0.0.1:9001"]))
    for account in ("server", "client"):
        cluster.rolled_out(f"deployment/{account}", NAMESPACE)


def add(cluster, account, image, ca_addr):
    """One more, whom nobody calls."""
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": NAMESPACE}},
                  deployment(account, sidecar(account, image, ca_addr), ["serve", "127.0.0.1:8080"]))
    cluster.rolled_out(f"deployment/{account}", NAMESPACE)


class Counter:
    """Follows every client pod's log to its end: what the client counted itself, over all pods that there were."""

    def __init__(self, cluster):
        self.cluster, self.logs, self.stopped = cluster, {}, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        while not self.stopped.wait(0.5):
            self._look()

    def _look(self):
        pods = json.loads(self.cluster.kubectl("get", "pods", "-n", NAMESPACE, "-l", "app=client", "-o", "json", check=False) or '{"items": []}')["items"]
        for name in (p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"):
            if name not in self.logs or self.logs[name][1].poll():  # it may end where its connection does: from the start, then
                out = tempfile.TemporaryFile("w+")
                self.logs[name] = (out, subprocess.Popen(self.cluster.kubectl_command("logs", "-f", "-n", NAMESPACE, name, "-c", "app"), stdout=out))

    def counts(self):
        """(tried, failed, the last failures)"""
        tried, failed, last = 0, 0, []
        for out, _ in list(self.logs.values()):
            said = os.pread(out.fileno(), os.fstat(out.fileno()).st_size, 0).decode()  # where kubectl writes stays where it is
            lines = [x for x in said.splitlines() if x.startswith("{") and x.endswith("}")]
            if lines:
                c = json.loads(lines[-1])
                tried, failed = tried + c["tried"], failed + c["failed"]
                last += [c["last_failure"]] if c["last_failure"] else []
        return tried, failed, last

    def worked(self):
        tried, failed, _ = self.counts()
        return tried - failed

    def more(self, n, seconds=240):
        """Until n further handshakes have been tried."""
        least = self.counts()[0] + n
        wait_for(f"{n} handshakes more", lambda: self.counts()[0] >= least, seconds)
        return self.counts()

    def told(self, seen, what="handshakes"):
        """A hundred further ones, said with what came of all; (tried, failed, the last failures)"""
        tried, failed, last = self.more(100)
        seen(f"{tried} {what} tried, {failed} failed {last or ''}")
        return tried, failed, last

    def close(self):
        self.stopped.set()
        self.thread.join()
        for out, process in self.logs.values():
            process.terminate()
            process.wait()
            out.close()


def restart(cluster, seen):
    cluster.kubectl("rollout", "restart", "deployment", "-n", NAMESPACE)
    for account in ("server", "client"):
        seen(cluster.rolled_out(f"deployment/{account}", NAMESPACE).strip().splitlines()[-1])
    wait_for("the end of the old pods", lambda: len(cluster.get("pods", "-n", NAMESPACE)["items"]) == 2)
