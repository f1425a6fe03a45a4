"""The chart's alert rules and dashboard: every metric that they name is one that the processes have, with the labels they are asked
for; every alert has its section in the run book."""
import contextlib
import json
import re
import urllib.request

import grpc
import pytest
import yaml
from conftest import WITH_LISTS, Mesh, meshroot, openssl_intermediate, openssl_root, wait_for
from manifests import CHART, HERE
from test_ca import Ca, make_csr, pb, refused  # noqa: F401
from test_callers import bound
from test_watch_pods import kube  # noqa: F401

RULES = [r for g in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"] for r in g["rules"]]
DASHBOARD = json.loads((CHART / "files/dashboard.json").read_text())
OF_KUBERNETES = {"pod"}  # labels that Prometheus adds to what it scrapes in a cluster
WORDS = {"by", "and", "or", "time", "sum", "max", "min", "rate", "increase", "absent"}


def expressions():
    yield from (r["expr"] for r in RULES)
    yield from (t["expr"] for p in DASHBOARD["panels"] for t in p["targets"])


def metrics_of(expr):
    return set(re.findall(r"\b(?:meshroot|citadel|grpc)_[a-z_]+", expr)) - {"grpc_code"}


def labels_of(expr, text):
    """Label names that an expression groups or selects by, or that a text shows."""
    said = set(re.findall(r"\$labels\.([a-z_]+)|\{\{([a-z_]+)\}\}", text))
    by = {x.strip() for m in re.findall(r"by \(([^)]*)\)", expr) for x in m.split(",")}
    return {x for pair in said for x in pair if x} | by | set(re.findall(r"[{,]([a-z_]+)=", expr))


class Series:
    """What processes have on their /metrics, taken together: name -> label names."""

    def __init__(self):
        self.labels = {}

    def read(self, port):
        for m in re.finditer(r"^([a-z_]+)(?:\{(.*)\})? ", page(port), re.M):
            self.labels.setdefault(m.group(1), set()).update(re.findall(r'([a-z_]+)="', m.group(2) or ""))


@pytest.fixture
def series(tmp_path, daemon, pb, kube):  # noqa: F811
    """A CA in a cluster that is asked well and badly, and a mesh whose rotation waits for a workload that is away."""
    s = Series()
    meshroot("pki", "root", "--out", tmp_path / "root", "--subject", "CN=Root")
    meshroot("pki", "intermediate", "--root", tmp_path / "root", "--out", tmp_path / "cacerts", "--subject", "CN=I")  # may sign lists
    ca = Ca(tmp_path, daemon, pb, "--watch-pods", "--kube-server", kube.url, "--kube-ca-file", kube.root, "--kube-token-file",
            kube.kubeconfig().with_suffix(".token")).ready()
    _, csr = make_csr()
    wait_for("known", lambda: ca.status()["callers"]["pods"]["in_force"])
    cart = bound(ca.issuer, "shop", "cart", "cart-1")
    assert ca.call(csr, cart)[0]
    refused(grpc.StatusCode.UNAUTHENTICATED, "", lambda: ca.call(csr))
    refused(grpc.StatusCode.INVALID_ARGUMENT, "", lambda: ca.call("no CSR", cart))
    wait_for("a list", lambda: ca.metric("meshroot_crl_next_update_timestamp_seconds"))
    (ca.dir / "ca-cert.pem").write_text("no certificate\n")
    wait_for("refused", lambda: ca.metric("meshroot_ca_refused_total"))
    s.read(ca.ports["monitoring"])

    kube.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "meshroot-system"}})
    ports = tmp_path / "operator.ports"
    daemon("operator", "run", "--own-namespace", "meshroot-system", "--kubeconfig", kube.kubeconfig(), "--monitoring", "127.0.0.1:0",
           "--port-file", ports, port_file=ports).ports()
    port = json.loads(ports.read_text())["monitoring"]
    wait_for("a leader", lambda: re.search("^meshroot_kube_lease_held.* 1$", page(port), re.M))
    s.read(port)

    folder = tmp_path / "mesh"
    folder.mkdir()
    mesh = Mesh(folder, daemon)
    sets = [openssl_intermediate(folder / f"i{x}", openssl_root(folder / f"r{x}", f"Root {x}", "p256"), f"I {x}", "p256") for x in "ab"]
    mesh.set_all(sets[0])
    mesh.enable(flags=WITH_LISTS)
    mesh.put_lists("no list\n")
    agent = mesh.agent("web")
    wait_for("a workload", lambda: len(mesh.status()["fleet"]["agents"]) == 1)
    agent.kill()
    mesh.set_all(sets[1])
    wait_for("held", lambda: mesh.status()["rotation"]["held"])
    mesh.set_secret("ca-key", sets[0] / "ca-key.pem")
    for name in ("meshroot_sync_refused", "meshroot_sync_lists_refused"):
        wait_for("not taken", lambda n=name: n in page(mesh.ports["monitoring"]))
    named = set().union(*map(metrics_of, expressions()))

    def all_read():
        """Some come a moment after what was waited for; what never comes the test names."""
        for p in (ca.ports["monitoring"], port, mesh.ports["monitoring"]):
            s.read(p)
        return named <= set(s.labels)

    with contextlib.suppress(AssertionError):
        wait_for("every metric", all_read)
    return s


def page(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as r:
        return r.read().decode()


def test_every_metric_and_label_is_there(series):
    for expr in expressions():
        assert metrics_of(expr), expr
        assert metrics_of(expr) <= set(series.labels), expr
    texts = [(r["expr"], json.dumps(r["annotations"])) for r in RULES]
    texts += [(t["expr"], t["legendFormat"]) for p in DASHBOARD["panels"] for t in p["targets"]]
    for expr, text in texts:
        have = OF_KUBERNETES.union(*(series.labels[m] for m in metrics_of(expr)))
        assert labels_of(expr, text) <= have, expr


def test_expressions_are_whole():
    for expr in expressions():
        assert expr.count("(") == expr.count(")") and expr.count("{") == expr.count("}"), expr
        bare = re.sub(r'"[^"]*"|\[[0-9]+[smh]\]|by \([^)]*\)|\{[^}]*\}', "", expr)
        assert set(re.findall(r"[a-z_]+", bare)) - metrics_of(expr) <= WORDS, expr


def test_every_alert_has_a_run_book():
    book = (HERE / "docs/runbooks.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", book, re.M | re.S))
    assert list(sections) == [r["alert"] for r in RULES]  # each once, in order, and none left over
    for r in RULES:
        assert r["annotations"]["runbook_url"].endswith(f"docs/runbooks.md#{r['alert'].lower()}")
        assert r["annotations"]["summary"] and r["annotations"]["description"] and r["labels"]["severity"] in ("warning", "critical")
        assert "**What it means.**" in sections[r["alert"]] and "**What to do.**" in sections[r["alert"]]


def test_commands_of_the_run_book_exist():
    book = (HERE / "docs/runbooks.md").read_text()
    commands = {tuple(m.split()) for m in re.findall(r"meshroot ((?:[a-z]+ ?)+)", "\n".join(re.findall(r"`([^`]+)`", book)))}
    assert commands
    for words in commands:
        assert meshroot(*words, "--help").stdout.startswith(f"Usage: meshroot {' '.join(words)}"), words
