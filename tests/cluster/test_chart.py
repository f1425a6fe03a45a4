"""The chart before a real API server: everything it renders is taken as it is, in a namespace that enforces Pod Security
"restricted", and each account may do what tests/e2e/manifests.py says, and nothing of what it says is denied.

Needs a running cluster: CLUSTER_KUBECTL (a program) and KUBECONFIG of its administrator; `./dev cluster-test` has them."""
import concurrent.futures
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE / "tests/e2e")]

import manifests  # noqa: E402
from manifests import DENIED, GRANTED, MESH, SYSTEM  # noqa: E402

HELM = os.environ.get("HELM", str(pathlib.Path.home() / ".cache/meshroot-cluster/helm-v3.22.0/helm"))
KUBECTL = os.environ.get("CLUSTER_KUBECTL", "kubectl")
ON = "vault.enabled=true,operator.enabled=true,validator.enabled=true"


def kubectl(*args, check=True, **kw):
    done = subprocess.run([KUBECTL, *map(str, args)], capture_output=True, text=True, timeout=60, **kw)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def rendered(*flags):
    done = subprocess.run([HELM, "template", "meshroot", manifests.CHART, "--namespace", SYSTEM, "--kube-version", "1.30.0", "--set", ON,
                           *map(str, flags)], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def spaces():
    """The namespaces and the accounts with their roles, for real; what was not there before is taken away again."""
    there = {line for line in kubectl("get", "namespaces", "-o", "name").stdout.split()}
    made = [n for n in (SYSTEM, MESH, "aks-istio-system") if f"namespace/{n}" not in there]
    for n in made:
        kubectl("create", "namespace", n)
    kubectl("label", "--overwrite", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted",
            "pod-security.kubernetes.io/warn=restricted")
    roles = [d for d in manifests.documents(rendered()) if "Role" in d["kind"] or d["kind"] == "ServiceAccount"]
    text = "---\n".join(manifests.yaml.safe_dump(d) for d in roles)
    kubectl("apply", "-f", "-", input=text)
    yield
    kubectl("delete", "--ignore-not-found", "-f", "-", input=text)
    for n in made:
        kubectl("delete", "namespace", n, "--wait=false")


@pytest.mark.parametrize("flags", [(), ("-f", manifests.CHART / "values-aks.yaml"), ("--set", "ca.tokenReview=true")],
                         ids=["default", "aks", "token-review"])
def test_the_server_takes_what_helm_renders(spaces, flags):
    done = kubectl("apply", "--dry-run=server", "-f", "-", input=rendered(*flags))
    assert "Warning" not in done.stderr and "violate" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == len(manifests.documents(rendered(*flags)))


@pytest.mark.parametrize("profile", ["meshroot", "meshroot-aks"])
def test_the_server_takes_the_committed_manifests(spaces, profile):
    done = kubectl("apply", "--dry-run=server", "-f", HERE / f"deploy/manifests/{profile}.yaml")
    assert "Warning" not in done.stderr, done.stderr


def can(account, verb, what, name, space):
    group, kind = ("", what) if what.startswith("/") else manifests.split(what)
    kind, sub = (kind, "") if what.startswith("/") else (kind.split("/") + [""])[:2]
    kind, more = f"{kind}.{group}" if group else kind, [f"--subresource={sub}"] if sub else []
    where = ["-n", space] if space else [] if what.startswith("/") else ["-A"]
    done = kubectl("auth", "can-i", verb, f"{kind}/{name}" if name else kind, *more, *where, "--as",
                   f"system:serviceaccount:{SYSTEM}:{account}", check=False)
    answer = done.stdout.strip().splitlines()[-1:]
    assert answer in (["yes"], ["no"]), done.stdout + done.stderr
    return answer == ["yes"]


def many(rows):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(zip(rows, pool.map(lambda r: can(*r), rows)))


def test_granted(spaces):
    rows = [(a, v, what, name, space) for a, verbs, what, name, space in sorted(GRANTED, key=str) for v in verbs.split(",")]
    assert [r for r, yes in many(rows) if not yes] == []


def test_denied(spaces):
    rows = DENIED + [(a, v, what, None, space) for a, v, what, name, space in DENIED if name]
    assert [r for r, yes in many(rows) if yes] == []
