"""A cluster leaves nothing behind: no process, mount, namespace, cgroup or file, however its run ends."""
import contextlib
import glob
import os
import pathlib
import signal
import subprocess

import pytest

from conftest import TOP, wait_for

# Where a node writes outside its own folder.
PLACES = ("/run/netns", "/run/containerd", "/run/containerd/s", "/run/containerd/runc/k8s.io", "/var/lib/kubelet", "/var/lib/cni/results", "/var/log/containers",
          "/var/log/pods", "/opt/containerd")
# A pod is running when it says so; then the run waits for its end, which comes from outside.
RUN = """
. tools/cluster.sh
cluster_start "$CLUSTER_RUN/one"
cluster_kubectl "$CLUSTER_RUN/one" create -f - >&2 <<'TXT'
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"automountServiceAccountToken": false,
 "containers": [{"name": "c", "image": "meshroot.test/pause:1", "imagePullPolicy": "Never"}],
 "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}}
TXT
cluster_kubectl "$CLUSTER_RUN/one" wait --for=condition=Ready pod/p --timeout=240s >&2
echo ready
sleep 600
"""


def processes(folder):
    """{pid: command} of everything with the folder in its arguments."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = pathlib.Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if folder in line:
            found[int(pid)] = line
    return found


def traces():
    """What there is of clusters: files, cgroups of containers, mounts."""
    files = {f"{p}/{n}" for p in PLACES if os.path.isdir(p) for n in os.listdir(p)}
    groups = {d for hierarchy in ("/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*")) for d in glob.glob(f"{hierarchy}/k8s.io/*/")}
    mounts = {x.split()[1] for x in open("/proc/mounts")}
    return files | groups | mounts


class Session:
    def __init__(self):
        self.before = traces()
        self.process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", '. tools/cluster.sh; cluster_session bash -euo pipefail -c "$1"', "session", RUN],
                                        cwd=TOP, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.run = f"/tmp/meshroot-cluster.{self.process.pid}."

    def ready(self):
        assert self.process.stdout.readline() == "ready\n"
        there = traces() - self.before
        assert processes(self.run) and any("/k8s.io/" in t for t in there) and any(t.startswith("/run/netns/") for t in there), there

    def is_gone(self):
        return not processes(self.run) and not glob.glob(self.run + "*") and not traces() - self.before


@pytest.fixture
def session():
    s = Session()
    yield s
    with contextlib.suppress(ProcessLookupError):
        os.killpg(s.process.pid, signal.SIGKILL)
    s.process.wait()
    subprocess.run(["bash", "-c", ". tools/cluster.sh; cluster_sweep"], cwd=TOP, timeout=300, check=True)


def test_ended_in_the_middle(session):
    session.ready()
    session.process.send_signal(signal.SIGTERM)
    assert session.process.wait(300) == 143
    wait_for("nothing of it", session.is_gone)


def test_killed_in_the_middle(session):
    """No trap runs: the next session sweeps first."""
    session.ready()
    os.killpg(session.process.pid, signal.SIGKILL)
    session.process.wait()
    assert processes(session.run)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", ". tools/cluster.sh; cluster_session true"], cwd=TOP, timeout=300)
    assert done.returncode == 0
    wait_for("nothing of it", session.is_gone)
