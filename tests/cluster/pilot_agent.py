"""The real pilot-agent (Go module istio.io/istio), with a folder for its container's root: its relative paths are there."""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from conftest import TOP, binary, wait_for

sys.path.append(str(TOP / "tests" / "interop"))
import envoy_peer  # noqa: E402

DOMAIN = "cluster.local"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Envoy(envoy_peer.Envoy):
    """The one that an agent has started: its admin port was given to it."""

    def __init__(self, agent, port):
        self.process, self.log, self.admin_file = agent.process, agent.log, agent.dir / "admin"
        self.admin_file.write_text(f"127.0.0.1:{port}")


class PilotAgent:
    """One agent without istiod. With `config`, a function of its SDS socket, it runs an Envoy with that configuration; without, it writes
    key and certificates into `out`. Ended by its pid."""

    def __init__(self, name, ca_addr, roots, token=None, config=None, namespace="test", **env):
        self.name = name
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pa-"))  # short: a socket's path has 108 bytes
        self.root_file = self.dir / "var/run/secrets/istio/root-cert.pem"
        self.token_file = self.dir / "var/run/secrets/tokens/istio-token"
        self.out, self.log = self.dir / "out", self.dir / "log"
        for folder in (self.root_file.parent, self.token_file.parent, self.out):
            folder.mkdir(parents=True)
        self.root_file.write_bytes(roots)
        if token:
            self.show(token)
        proxy = {"discoveryAddress": "localhost:1", "statusPort": free_port(), "terminationDrainDuration": "1s"}
        given = {"PATH": os.environ["PATH"], "CA_ADDR": ca_addr, "ISTIO_META_CLUSTER_ID": "Kubernetes", "POD_NAME": f"{name}-1", "POD_NAMESPACE": namespace,
                 "SERVICE_ACCOUNT": name, "TRUST_DOMAIN": DOMAIN, **env}
        if config:
            proxy.update(self.bootstrap(config(self.dir / "var/run/secrets/workload-spiffe-uds/socket")))
        else:
            given.update(DISABLE_ENVOY="true", OUTPUT_CERTS=str(self.out))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([binary("pilot-agent"), "proxy", "sidecar", "--log_output_level=default:info,ca:debug,cache:debug,sds:debug"],
                                            cwd=self.dir, env={**given, "PROXY_CONFIG": json.dumps(proxy)}, stdout=log, stderr=subprocess.STDOUT,
                                            start_new_session=True)
        self.envoy = Envoy(self, proxy["proxyAdminPort"]) if config else None

    def bootstrap(self, config):
        port, path = free_port(), self.dir / "envoy.json"
        config["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
        config["node"] = {"id": f"sidecar~127.0.0.1~{self.name}-1.test~test.svc.cluster.local", "cluster": self.name}
        path.write_text(json.dumps(config))
        return {"binaryPath": str(envoy_peer.BINARY), "customConfigFile": str(path), "proxyAdminPort": port, "concurrency": 1}

    def show(self, token):
        """The token from now on: it is read for each call."""
        self.token_file.write_text(token + "\n")

    def text(self):
        return self.log.read_text(errors="replace")

    def says(self, words, count=1):
        wait_for(f"{count} lines of {self.name} with {words!r}: {self.text()[-2000:]}", lambda: self.text().count(words) >= count)

    def has_files(self):
        """OUTPUT_CERTS has key, chain and root: the first answer of the CA."""
        names = ("key.pem", "cert-chain.pem", "root-cert.pem")
        wait_for(f"the files of {self.name}", lambda: all((self.out / n).exists() for n in names))
        return self.out

    def stop(self):
        """The agent ends its Envoy; what it has left in their session is ended with it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)
