"""Who reaches whom: connections opened from inside pods. A Place is a container with the program `load` in it: a pod of ours, or one that is
put into a running pod of the chart as an ephemeral container, so that it has that pod's own address and network."""
import json

from conftest import wait_for

IMAGE, PORT = "meshroot.test/load:1", 7777  # a port that no policy of the chart lists
SERVE = ["serve", f"0.0.0.0:{PORT}"]
REACHED = "reached"  # load's word for it
HARDENED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class Place:
    """Serves PORT too: whatever its pod is, there is something behind a port that is not listed."""

    def __init__(self, cluster, namespace, pod, container):
        self.cluster, self.namespace, self.pod, self.container = cluster, namespace, pod, container
        self.ip = wait_for(f"the address of {pod}", self._serving)

    def _serving(self):
        status = self.cluster.get("pod", self.pod, "-n", self.namespace)["status"]
        there = status.get("containerStatuses", []) + status.get("ephemeralContainerStatuses", [])
        running = any(c["name"] == self.container and "running" in c["state"] for c in there)
        return running and status.get("podIP")

    def load(self, *args):
        return self.cluster.kubectl("exec", "-n", self.namespace, self.pod, "-c", self.container, "--", "/load", *args)

    def tries(self, addresses):
        """{address: "reached", or why not}"""
        return json.loads(self.load("try", *addresses))


def pod(cluster, namespace, name, labels=None):
    """A pod of ours, with those labels."""
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels or {"app": name}}, "spec": {
        "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "app", "image": IMAGE, "imagePullPolicy": "Never", "args": SERVE, "securityContext": HARDENED}]}})
    return Place(cluster, namespace, name, "app")


def inside(cluster, namespace, component):
    """In the first ready pod of that part of the chart."""
    pods = cluster.get("pods", "-n", namespace, "-l", f"app.kubernetes.io/component={component}")["items"]
    name = min(p["metadata"]["name"] for p in pods if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"]["conditions"]))
    cluster.kubectl("debug", name, "-n", namespace, f"--image={IMAGE}", "--image-pull-policy=Never", "--profile=restricted", "--container=reach",
                    "--quiet", "--", "/load", *SERVE)
    return Place(cluster, namespace, name, "reach")


class Matrix:
    """Rows (from, to, port, does a policy let it through). `to` is a Place's name, or an address."""

    def __init__(self, places, rows):
        self.places, self.rows = places, rows

    def _address(self, row):
        _, to, port, _ = row
        return f"{self.places[to].ip if to in self.places else to}:{port}"

    def read(self):
        """{row: "reached", or why not}"""
        came = {}
        for source in dict.fromkeys(row[0] for row in self.rows):
            rows = [r for r in self.rows if r[0] == source]
            said = self.places[source].tries([self._address(r) for r in rows])
            came |= {r: said[self._address(r)] for r in rows}
        return came

    def until(self, expected):
        """Until each row is as expected(row) says: an enforcer follows a little later. What came at last."""
        def look():
            came = self.read()
            wrong = [f"{f} -> {t}:{p}: {came[r]}" for r in self.rows for f, t, p, _ in [r] if (came[r] == REACHED) != expected(r)]
            assert not wrong, "; ".join(wrong)
            return came
        return wait_for("who reaches whom", look, step=1)

    def enforced(self):
        return self.until(lambda row: row[3])

    def unhindered(self):
        return self.until(lambda row: True)

    def told(self, came):
        """For the report: one line for each."""
        return "\n".join(f"{f} to {t}:{p}: {'reached' if came[r] == REACHED else 'held off (' + came[r].rsplit(': ', 1)[-1] + ')'}"
                         for r in self.rows for f, t, p, _ in [r])
