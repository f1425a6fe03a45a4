"""The chart before a real API server: everything it renders is taken as it is, in a namespace that enforces Pod Security
"restricted", and each account may do what tests/e2e/manifests.py says, and nothing of what it says is denied.

`./dev cluster-test` runs it on a cluster of its own; alone it wants CLUSTER_KUBECTL (a program) and KUBECONFIG (an administrator's)."""
import json
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


def kubectl(*args, check=True, timeout=120, **kw):
    done = subprocess.run([KUBECTL, *map(str, args)], capture_output=True, text=True, timeout=timeout, **kw)
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
        kubectl("create", "--save-config", "namespace", n)
    kubectl("label", "--overwrite", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted",
            "pod-security.kubernetes.io/warn=restricted")
    roles = [d for d in manifests.documents(rendered()) if "Role" in d["kind"] or d["kind"] == "ServiceAccount"]
    text = "---\n".join(manifests.yaml.safe_dump(d) for d in roles)
    is_installed = kubectl("get", "serviceaccount", "meshroot-ca", "-n", SYSTEM, check=False).returncode == 0
    if is_installed:  # its own roles are asked about, and stay
        yield
        return
    kubectl("apply", "-f", "-", input=text)
    yield
    kubectl("delete", "--ignore-not-found", "-f", "-", input=text)
    if made:  # until they are gone: the next file may want the same
        kubectl("delete", "namespace", *made, timeout=300)


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


def test_the_schema_takes_a_name_for_revocation_lists(spaces):
    """objectNames.caCrl has no default, and is no name of the four (a CEL rule); what was named stays."""
    kubectl("apply", "-f", HERE / "deploy/helm/meshroot/crds")
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/pluginca.meshroot.io")

    def dry(names):
        return kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", check=False, input=json.dumps({
            "apiVersion": "meshroot.io/v1alpha1", "kind": "PluginCA", "metadata": {"name": "named", "namespace": SYSTEM}, "spec": {
                "vault": {"url": "https://vault.test", "auth": {"clientSecret": {"name": "v"}}}, "objectNames": names}}))

    for names, has in (({}, None), ({"caCrl": "lists"}, "lists"), ({"caCert": "c"}, None)):
        done = dry(names)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["spec"]["objectNames"].get("caCrl") == has
    for names, words in (({"caCrl": "ca-key"}, "the revocation lists are a secret of their own"), ({"caCrl": "no_name"}, "caCrl")):
        done = dry(names)
        assert done.returncode != 0 and words in done.stderr, done.stderr


def asked(account, verb, what, name, space):
    """What `kubectl auth can-i ... --as` asks."""
    spec = {"user": f"system:serviceaccount:{SYSTEM}:{account}", "groups": ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}",
                                                                           "system:authenticated"]}
    if what.startswith("/"):
        spec["nonResourceAttributes"] = {"verb": verb, "path": what}
    else:
        group, resource = manifests.split(what)
        resource, _, sub = resource.partition("/")
        spec["resourceAttributes"] = {"verb": verb, "group": group, "resource": resource, "subresource": sub, "name": name or "",
                                      "namespace": space or ""}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def answers(rows):
    """(row, allowed): all in one call, for there are hundreds."""
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": [asked(*r) for r in rows]})
    said = kubectl("create", "-f", "-", "-o", "json", input=body).stdout  # one object after the other
    done = json.loads("[" + said.replace("\n}\n{", "\n},\n{") + "]")
    assert len(done) == len(rows)
    return [(r, o["status"]["allowed"]) for r, o in zip(rows, done)]


def test_granted(spaces):
    rows = [(a, v, what, name, space) for a, verbs, what, name, space in sorted(GRANTED, key=str) for v in verbs.split(",")]
    assert [r for r, yes in answers(rows) if not yes] == []


def test_denied(spaces):
    rows = DENIED + [(a, v, what, None, space) for a, v, what, name, space in DENIED if name]
    assert [r for r, yes in answers(rows) if yes] == []


def test_kubectl_says_so_too(spaces):
    """One of each by the command itself."""
    as_operator = ("--as", f"system:serviceaccount:{SYSTEM}:meshroot-operator", "-n", MESH)
    assert kubectl("auth", "can-i", "update", "secrets/cacerts", *as_operator).stdout == "yes\n"
    assert kubectl("auth", "can-i", "get", "secrets/another", *as_operator, check=False).stdout == "no\n"
