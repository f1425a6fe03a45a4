"""What is done by hand in a running mesh: people with roles of the cluster, a workload that says no word, and a thief of keys."""
import base64
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

from conftest import MESHROOT, binary, wait_for
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mesh import CA_HOST, CA_PORT, NS
from test_ca import make_csr
import workload


class Person:
    """A service account with one of the cluster's own roles in the mesh's namespace."""

    def __init__(self, mesh, name, role, may):
        self.cluster, self.user = mesh.cluster, f"system:serviceaccount:{NS}:{name}"
        in_mesh = {"name": name, "namespace": NS}
        self.cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": in_mesh},
                           {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": in_mesh,
                            "subjects": [{"kind": "ServiceAccount", **in_mesh}],
                            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
        self.conf = self.cluster.config_of(name, NS, mesh.tmp)
        wait_for(f"the chart's rule in {role}", lambda: self.may(may))  # a controller puts it in

    def may(self, verb):
        return self.cluster.kubectl("auth", "can-i", verb, "pluginca.meshroot.io", "-n", NS, f"--as={self.user}", check=False).strip() == "yes"

    def _run(self, program, *args):
        return subprocess.run(self.cluster.command(program, *args, f"--kubeconfig={self.conf}"), capture_output=True, text=True, timeout=400)

    def force(self, *flags):
        return self._run(MESHROOT, "rotate", "force", f"--namespace={NS}", *flags)

    def kubectl(self, *args):
        return self._run(binary("kubectl"), *args, f"--namespace={NS}")

    def annotate(self, word):
        return self.kubectl("annotate", "pluginca", "default", "--overwrite", f"meshroot.io/force={word}")


def pod(cluster, account):
    """The workload's pod that runs and stays."""
    def look():
        pods = cluster.get("pods", "-n", workload.NAMESPACE, "-l", f"app={account}")["items"]
        return [p for p in pods if p["status"].get("phase") == "Running" and "deletionTimestamp" not in p["metadata"]]
    (one,) = wait_for(f"one pod of {account}", lambda: (found := look()) and len(found) == 1 and found)
    return one


def process(cluster, account):
    """Its agent's process, as the node knows it."""
    (status,) = [c for c in pod(cluster, account)["status"]["initContainerStatuses"] if c["name"] == "istio-proxy"]
    name = status["containerID"].rpartition("/")[2]

    def is_of(path):
        with contextlib.suppress(OSError):
            return name in (path / "cgroup").read_text()
        return False
    return wait_for(f"the process of {account}'s agent", lambda: min((int(p.name) for p in pathlib.Path("/proc").glob("[0-9]*") if is_of(p)), default=None))


@contextlib.contextmanager
def stopped(pid):
    """A process that does nothing: its connections stand, and it says no word."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Files:
    """What the agent of that process has in its folder: all of one swap, so that they belong together."""

    def __init__(self, pid):
        folder = pathlib.Path(f"/proc/{pid}/root/run/mesh/certs")

        def look():
            with contextlib.suppress(FileNotFoundError):  # swapped meanwhile
                return {f.name: f.read_text() for f in (folder / os.readlink(folder / "..data")).iterdir() if f.suffix == ".pem"}
        found = wait_for("the agent's files", look)
        self.shown = found["key.pem"], found["cert-chain.pem"], found["root-cert.pem"]
        self.crl = found.get("ca-crl.pem", "")

    def signer(self):
        return certificates(self.shown[1])[0].issuer.rfc4514_string()

    def trusts(self):
        return sorted(c.subject.rfc4514_string() for c in certificates(self.shown[2]))


def certificates(pem):
    return x509.load_pem_x509_certificates(pem.encode())


def crls(pem):
    mark = "-----END X509 CRL-----\n"
    return [x509.load_pem_x509_crl((part + mark).encode()) for part in pem.split(mark) if part.strip()]


def is_listed(pem, chain):
    """The chain's leaf, in a list that its issuer has signed."""
    leaf, issuer = certificates(chain)[:2]
    return any(x.issuer == issuer.subject and x.is_signature_valid(issuer.public_key()) and
               x.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None for x in crls(pem))


class Thief:
    """Has keys, and asks from the node."""

    def __init__(self, cluster, pb):
        self.cluster, self.pb = cluster, pb

    def _ask(self, questions):
        script = pathlib.Path(__file__).with_name("ask.py")
        done = subprocess.run(self.cluster.command(sys.executable, script), input=json.dumps(questions), capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def leaves(self, replicas, shown):
        """Each of `shown`, {name: (key, chain, roots)}, as a client certificate at each replica, {name: IP}: {(name, replica): (code, a new such)}."""
        asked, keys = {}, {}
        for name, (key, chain, roots) in shown.items():
            for replica, ip in replicas.items():
                at = f"{name} at {replica}"
                own, csr = make_csr()
                keys[at] = (name, replica, own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
                request = self.pb[0].IstioCertificateRequest(csr=csr).SerializeToString()
                asked[at] = {"address": f"{ip}:{CA_PORT}", "host": CA_HOST, "roots": roots, "key": key, "chain": chain,
                             "request": base64.b64encode(request).decode()}
        came = {}
        for at, (code, answer) in self._ask(asked).items():
            name, replica, key = keys[at]
            chain = self.pb[0].IstioCertificateResponse.FromString(base64.b64decode(answer)).cert_chain if code == "OK" else []
            came[name, replica] = (code, chain and (key.decode(), "".join(chain[:-1]), chain[-1]))
        return came

    def calls(self, address, shown):
        """Each of `shown` to a sidecar's port: {name: what came of it}."""
        asked = {n: {"address": address, "roots": roots, "key": key, "chain": chain, "line": "hands up"} for n, (key, chain, roots) in shown.items()}
        return {n: code for n, (code, _) in self._ask(asked).items()}
