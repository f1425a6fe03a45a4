"""What is asked of the manifests, wherever they come from: the committed ones (test_manifests.py) and what helm renders from other
values (tests/interop/test_chart.py). The table of verbs is checked against a real API server too (tests/cluster)."""
import functools
import itertools
import pathlib
import re

import yaml
from conftest import meshroot

HERE = pathlib.Path(__file__).resolve().parents[2]
CHART = HERE / "deploy/helm/meshroot"
SYSTEM, MESH = "meshroot-system", "istio-system"
OPERATOR, CA, VALIDATOR, VAULT = (f"meshroot-{p}" for p in ("operator", "ca", "validator", "vault"))

# account, verb, group/resource, name or None, namespace or None (the cluster): what a part may do. Nothing else may be granted.
GRANTED = {
    (CA, "list,watch", "pods", None, None),
    (CA, "list,watch", "serviceaccounts", None, None),
    (CA, "get", "/openid/v1/jwks", None, None),
    (CA, "get", "/.well-known/openid-configuration", None, None),
    # the roots in every namespace
    (OPERATOR, "list,watch", "namespaces", None, None),
    (OPERATOR, "list,watch,patch", "configmaps", "istio-ca-root-cert", None),
    (OPERATOR, "create", "configmaps", None, None),
    # the mesh's namespace
    (OPERATOR, "list,watch,patch", "meshroot.io/pluginca", None, MESH),
    (OPERATOR, "patch", "meshroot.io/pluginca/status", None, MESH),
    (OPERATOR, "list,watch,update,delete", "secrets", "cacerts", MESH),
    (OPERATOR, "get", "secrets", "istio-ca-secret", MESH),
    (OPERATOR, "get", "secrets", "meshroot-vault-credentials", MESH),
    (OPERATOR, "create", "secrets", None, MESH),
    (OPERATOR, "create,patch", "events", None, MESH),
    # its own
    (OPERATOR, "get,update", "configmaps", f"{MESH}.default-plan", SYSTEM),
    (OPERATOR, "list,watch,update,delete", "secrets", "meshroot-ca", SYSTEM),
    (OPERATOR, "create", "secrets", None, SYSTEM),
    (OPERATOR, "list", "pods", None, SYSTEM),
    (OPERATOR, "patch", "pods", "meshroot-ca-0", SYSTEM),
    (OPERATOR, "patch", "pods", "meshroot-ca-1", SYSTEM),
    (OPERATOR, "get,update", "coordination.k8s.io/leases", "meshroot-operator", SYSTEM),
    (OPERATOR, "create", "coordination.k8s.io/leases", None, SYSTEM),
    # the mesh's namespace, and one Deployment in it
    (VALIDATOR, "get", "secrets", "cacerts", MESH),
    (VALIDATOR, "get", "configmaps", "istio-ca-root-cert", MESH),
    (VALIDATOR, "list", "pods", None, MESH),
    (VALIDATOR, "get,patch", "apps/deployments", "istiod", MESH),
    (VALIDATOR, "get,create,patch", "events", None, MESH),
}

ALL = ("get", "list", "watch", "create", "update", "patch", "delete")
CHANGES = ("create", "update", "patch", "delete")


def rows(account, verbs, what, name, *spaces):
    return [(account, verb, what, name, space) for verb in verbs for space in spaces]


# What a thief of a part's token would like to have: account, verb, what, name, namespace. None of it is granted.
DENIED = [
    # the CA speaks to every workload: no Secret, not even its own set, and nothing that changes anything
    *rows(CA, ALL, "secrets", "meshroot-ca", SYSTEM, MESH),
    *rows(CA, ALL, "secrets", "cacerts", MESH),
    *rows(CA, ("get", *CHANGES), "pods", None, SYSTEM, MESH),
    *rows(CA, ("get", *CHANGES), "serviceaccounts", None, SYSTEM, MESH),
    *rows(CA, ("create",), "serviceaccounts/token", None, SYSTEM, MESH),
    *rows(CA, ("create",), "authentication.k8s.io/tokenreviews", None, None),
    *rows(CA, ALL, "configmaps", "istio-ca-root-cert", MESH),
    *rows(CA, ALL, "meshroot.io/pluginca", None, MESH),
    *rows(CA, ("get", "list"), "nodes", None, None),
    # the operator writes the sets: those, by name, and no other Secret; no pod, no account, no role
    *rows(OPERATOR, ("get", "list", "watch", "update", "patch", "delete"), "secrets", "another", MESH, SYSTEM, "kube-system", "default"),
    *rows(OPERATOR, ("create",), "secrets", None, "kube-system", "default"),
    *rows(OPERATOR, ("list", "watch", "update", "patch", "delete"), "secrets", "istio-ca-secret", MESH),
    *rows(OPERATOR, ("list", "watch", "update", "patch", "delete"), "secrets", "meshroot-vault-credentials", MESH),
    *rows(OPERATOR, ("get", "list", "watch", "update", "patch", "delete"), "configmaps", "another", MESH, SYSTEM, "default"),
    *rows(OPERATOR, ("update", "delete"), "configmaps", "istio-ca-root-cert", MESH, "default"),
    *rows(OPERATOR, ("get", "update", "delete"), "configmaps", f"{MESH}.default-plan", "default", MESH),
    *rows(OPERATOR, ("create", "update", "delete"), "meshroot.io/pluginca", None, MESH, SYSTEM),
    *rows(OPERATOR, ("list", "patch"), "meshroot.io/pluginca", None, SYSTEM, "default"),
    *rows(OPERATOR, CHANGES, "pods", "meshroot-operator-0", SYSTEM, MESH),
    *rows(OPERATOR, ("list", *CHANGES), "pods", None, MESH, "default"),
    *rows(OPERATOR, ("create",), "pods/exec", None, SYSTEM, MESH),
    *rows(OPERATOR, ALL, "apps/deployments", "istiod", MESH),
    *rows(OPERATOR, CHANGES, "apps/statefulsets", "meshroot-ca", SYSTEM),
    *rows(OPERATOR, ("get", *CHANGES), "namespaces", "default", None),
    *rows(OPERATOR, ("list", *CHANGES), "serviceaccounts", None, SYSTEM, MESH),
    *rows(OPERATOR, ("create",), "serviceaccounts/token", None, SYSTEM, MESH),
    *rows(OPERATOR, ("update", "delete"), "coordination.k8s.io/leases", "another", SYSTEM),
    *rows(OPERATOR, ALL, "rbac.authorization.k8s.io/roles", None, SYSTEM, MESH),
    *rows(OPERATOR, ALL, "rbac.authorization.k8s.io/clusterroles", None, None),
    # the validator restarts one Deployment and looks; a key that it sees it cannot change
    *rows(VALIDATOR, ("list", "watch", *CHANGES), "secrets", "cacerts", MESH),
    *rows(VALIDATOR, ALL, "secrets", "meshroot-ca", SYSTEM),
    *rows(VALIDATOR, ALL, "secrets", "istio-ca-secret", MESH),
    *rows(VALIDATOR, CHANGES, "configmaps", "istio-ca-root-cert", MESH),
    *rows(VALIDATOR, ("create", "update", "delete"), "apps/deployments", "istiod", MESH),
    *rows(VALIDATOR, ALL, "apps/deployments", "another", MESH),
    *rows(VALIDATOR, ALL, "apps/deployments", None, SYSTEM, "default"),
    *rows(VALIDATOR, CHANGES, "pods", None, MESH, SYSTEM),
    *rows(VALIDATOR, ("list",), "pods", None, SYSTEM, "default"),
    *rows(VALIDATOR, ("create",), "pods/exec", None, MESH),
    *rows(VALIDATOR, ALL, "meshroot.io/pluginca", None, MESH),
    *rows(VALIDATOR, ("create",), "serviceaccounts/token", None, SYSTEM, MESH),
    # the vault asks the API nothing
    *[row for what in ("secrets", "pods", "configmaps", "serviceaccounts") for row in rows(VAULT, ALL, what, None, SYSTEM, MESH)],
]


def documents(text):
    return [d for d in yaml.safe_load_all(text) if d]


@functools.cache
def committed(name):
    return documents((HERE / f"deploy/manifests/{name}.yaml").read_text())


def kinds(docs, *names):
    return [d for d in docs if d["kind"] in names]


def pods(docs):
    """(name, pod template) of everything that makes pods."""
    for d in docs:
        if d["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            yield d["metadata"]["name"], d["spec"]["template"]
        elif d["kind"] == "CronJob":
            yield d["metadata"]["name"], d["spec"]["jobTemplate"]["spec"]["template"]


# -- who may do what: RBAC as the API server reads it -------------------------------------------------------------------


def grants(docs):
    """(account, namespace or None, rule): every rule that a binding gives to an account of ours."""
    roles = {(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d["rules"] for d in kinds(docs, "Role", "ClusterRole")}
    for b in kinds(docs, "RoleBinding", "ClusterRoleBinding"):
        space = b["metadata"].get("namespace")
        role = (b["roleRef"]["kind"], space if b["roleRef"]["kind"] == "Role" else None, b["roleRef"]["name"])
        for s in b["subjects"]:
            assert s["kind"] == "ServiceAccount" and s["namespace"] == SYSTEM, b  # never a group: accounts are named one by one
            for rule in roles[role]:
                yield s["name"], space, rule


def split(what):
    """"group/resource[/subresource]", the core group without its name -> (group, resource[/subresource])."""
    first, _, rest = what.partition("/")
    return (first, rest) if "." in first or first in ("apps", "batch") else ("", what)


def is_allowed(docs, account, verb, what, name=None, space=None):
    """As the RBAC authorizer: a rule with resourceNames does not match a request without a name."""
    group, resource = split(what)
    for who, where, rule in grants(docs):
        if who != account or (where is not None and where != space) or verb not in rule["verbs"]:
            continue
        if what.startswith("/"):
            if what in rule.get("nonResourceURLs", []):
                return True
        elif group in rule.get("apiGroups", []) and resource in rule.get("resources", []):
            if "resourceNames" not in rule or name in rule["resourceNames"]:
                return True
    return False


def granted(docs):
    """GRANTED's form of what the documents grant."""
    all_of = set()
    for who, where, rule in grants(docs):
        verbs = ",".join(rule["verbs"])
        for url in rule.get("nonResourceURLs", []):
            all_of.add((who, verbs, url, None, where))
        for group, resource in itertools.product(rule.get("apiGroups", []), rule.get("resources", [])):
            for name in rule.get("resourceNames", [None]):
                all_of.add((who, verbs, f"{group}/{resource}" if group else resource, name, where))
    return all_of


def check_rbac(docs):
    for d in kinds(docs, "Role", "ClusterRole"):
        for rule in d["rules"]:
            said = [rule["verbs"], *(rule.get(k, []) for k in ("apiGroups", "resources", "nonResourceURLs", "resourceNames"))]
            assert not any("*" in word for words in said for word in words), d
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"]), d
            assert "secrets" not in rule.get("resources", []) or d["kind"] == "Role", d  # no Secret of the whole cluster
            if "secrets" in rule.get("resources", []):  # by name; only creating cannot be bound to one
                assert rule.get("resourceNames") or rule["verbs"] == ["create"], d
        assert "aggregationRule" not in d
    for d in kinds(docs, "ServiceAccount"):
        assert d["automountServiceAccountToken"] is False


# -- pods ---------------------------------------------------------------------------------------------------------------


def check_restricted(docs):
    """Pod Security "restricted" (v1.30), and a root that cannot be written, and no volume of the node."""
    seen = 0
    for name, template in pods(docs):
        spec, of_pod = template["spec"], template["spec"]["securityContext"]
        assert of_pod["runAsNonRoot"] is True and of_pod["runAsUser"] > 0, name
        assert spec["enableServiceLinks"] is False, name  # MESHROOT_CA_PORT would be a flag
        assert of_pod["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(spec), name
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"secret", "emptyDir", "projected", "configMap"}, name
        for c in spec["containers"] + spec.get("initContainers", []):
            s = c["securityContext"]
            assert s == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, name
            assert not any("hostPort" in p for p in c.get("ports", [])), name
            assert c["resources"]["requests"] and c["resources"]["limits"]["memory"], name
            seen += 1
    assert seen > 0


@functools.cache
def flags_of(command):
    """The flags that the binary's help of a command names."""
    return set(re.findall(r"^  (--[a-z0-9-]+)", meshroot(*command, "--help").stdout, re.M))


def check_flags(docs):
    """Every argument of every container is a flag that the command has."""
    for name, template in pods(docs):
        for c in template["spec"]["containers"]:
            command = tuple(itertools.takewhile(lambda a: not a.startswith("-"), c["args"]))
            for arg in c["args"][len(command):]:
                flag = re.sub("^--no-", "--", arg.split("=")[0])
                assert flag in flags_of(command), f"{name}: {' '.join(command)} has no {arg}"


def check_ports(docs):
    """Probes, Services and policies name ports that the containers have, and every Service has pods."""
    for name, template in pods(docs):
        for c in template["spec"]["containers"]:
            ports = {p["name"] for p in c.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert probe not in c or c[probe]["httpGet"]["port"] in ports, name
    chosen = [(d, d["spec"]["selector"], [p["targetPort"] for p in d["spec"]["ports"]]) for d in kinds(docs, "Service")]
    chosen += [(d, d["spec"]["podSelector"]["matchLabels"], [p["port"] for rule in d["spec"]["ingress"] for p in rule["ports"]])
               for d in kinds(docs, "NetworkPolicy")]
    chosen += [(d, d["spec"]["selector"]["matchLabels"], []) for d in kinds(docs, "PodDisruptionBudget")]
    for d, labels, ports in chosen:
        found = [t for _, t in pods(docs) if labels.items() <= t["metadata"]["labels"].items()]
        assert len(found) == 1, d["metadata"]["name"]
        have = {p["name"] for c in found[0]["spec"]["containers"] for p in c.get("ports", [])}
        assert set(ports) <= have, d["metadata"]["name"]
