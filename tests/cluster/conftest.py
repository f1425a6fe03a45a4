"""A real cluster for tests: `api` is etcd, API server and controllers; `cluster` is a whole node. Both by tools/cluster.sh, both gone at the end."""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = TOP / "build"
MESHROOT = os.environ.get("MESHROOT", str(BUILD / "meshroot"))

sys.path.insert(0, str(TOP / "tests"))
import borrow  # noqa: E402

borrow.e2e(globals())


class Cluster:
    def __init__(self, folder):
        self.dir = folder

    def sh(self, call, timeout=900):
        done = subprocess.run(["bash", "-c", f". tools/cluster.sh; {call}"], cwd=TOP, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{call}\n{done.stdout}{done.stderr}{self.tails()}"
        return done.stdout

    def tails(self):
        return "".join(f"\n== {f.name}\n" + "\n".join(f.read_text(errors="replace").splitlines()[-8:]) for f in sorted((self.dir / "log").glob("*.log")))

    def command(self, *args):
        """`args` where the cluster is."""
        netns = self.dir / "netns"
        return (["nsenter", f"--net=/run/netns/{netns.read_text().strip()}", "--"] if netns.exists() else []) + [str(a) for a in args]

    def kubectl_command(self, *args):
        return self.command(binary("kubectl"), f"--kubeconfig={self.dir}/admin.conf", *args)

    def kubectl(self, *args, stdin=None, check=True, timeout=200):
        done = subprocess.run(self.kubectl_command(*args), input=stdin, capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"kubectl {' '.join(map(str, args))}: {done.stderr or done.stdout}"
        return done.stdout

    def apply(self, *objects):
        return self.kubectl("apply", "-f", "-", stdin="\n---\n".join(o if isinstance(o, str) else json.dumps(o) for o in objects))

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def config_of(self, account, namespace, folder):
        """A kubeconfig with a token of that service account."""
        path, token = folder / f"{account}.conf", self.kubectl("create", "token", account, "-n", namespace).strip()
        path.write_text(json.dumps({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                                    "clusters": [{"name": "c", "cluster": {"server": (self.dir / "server").read_text().strip(),
                                                                           "certificate-authority": str(self.dir / "pki/ca.crt")}}],
                                    "users": [{"name": "u", "user": {"token": token}}]}))
        return path

    def rolled_out(self, what, namespace, timeout=240):
        return self.kubectl("rollout", "status", what, "-n", namespace, f"--timeout={timeout}s", timeout=timeout + 10)


def kube_version():
    line = next(x for x in (TOP / "tools" / "cluster.sh").read_text().splitlines() if x.startswith("kube_version="))
    return line.split("=")[1]


CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))) / "meshroot-cluster"


def binary(name):
    """One of those that `cluster_build` makes."""
    return str(CACHE / kube_version() / name)


def wait_for(what, condition, seconds=180, step=0.1):
    """Until condition() is true; says `what` when it never is. An assertion that fails on the way (kubectl's) is tried again."""
    ends, last = time.monotonic() + seconds, None
    while time.monotonic() < ends:
        try:
            if answer := condition():
                return answer
        except AssertionError as e:
            last = e
        time.sleep(step)
    raise AssertionError(f"waited {seconds} s for {what}{f': {last}' if last else ''}")


@contextlib.contextmanager
def started(verb):
    with tempfile.TemporaryDirectory(prefix="cluster-", dir=os.environ.get("CLUSTER_RUN")) as folder:
        c = Cluster(pathlib.Path(folder))
        try:
            c.sh(f"{verb} {folder}")
            yield c
        finally:
            c.sh(f"CLUSTER_KEEP=1 cluster_stop {folder}")


@pytest.fixture(scope="session")
def api():
    with started("cluster_api_start") as c:
        yield c


@pytest.fixture(scope="module", autouse=True)
def kubeconfig(request):
    """test_chart.py speaks to whatever KUBECONFIG names, so that it can be run against any cluster."""
    if request.module.__name__ == "test_chart":
        os.environ["KUBECONFIG"] = str(request.getfixturevalue("api").dir / "admin.conf")


@pytest.fixture(scope="session")
def cluster(report):
    begun = time.monotonic()
    with started("cluster_start") as c:
        report.line(f"A node is ready {time.monotonic() - begun:.1f} s after the start of etcd.")
        for archive in (BUILD / "meshroot-image.tar", *sorted((BUILD / "cluster").glob("*.tar"))):
            c.sh(f"cluster_image {c.dir} {archive}")
        yield c


class Report:
    """build/cluster-report.md: what was done, how long it took, what was read."""

    def __init__(self):
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=TOP, capture_output=True, text=True).stdout.strip()
        self.text = ["# Report of ./dev cluster-test", "",
                     f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, commit {commit or 'unknown'}, Kubernetes {kube_version()}, "
                     f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start."]

    def line(self, text=""):
        self.text += ["", text]

    def heading(self, text):
        self.text += ["", f"## {text}", "", "| step | seconds | seen |", "| --- | --- | --- |"]

    @contextlib.contextmanager
    def step(self, name):
        seen, begun = [], time.monotonic()
        try:
            yield seen.append
        except BaseException:
            seen.append("**FAILED**")
            raise
        finally:
            said = "<br>".join(str(s).replace("|", "\\|").replace("\n", "<br>") for s in seen)
            self.text.append(f"| {name} | {time.monotonic() - begun:.1f} | {said} |")
            print(f"{time.monotonic() - begun:6.1f} s  {name}", flush=True)
            self.write()  # as far as it is: a run that is killed leaves that

    def write(self):
        BUILD.mkdir(exist_ok=True)
        (BUILD / "cluster-report.md").write_text("\n".join(self.text) + "\n")


@pytest.fixture(scope="session")
def report():
    r = Report()
    yield r
    r.write()
