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
}

# What a thief of a part's token would like to have. None of it is granted.
DENIED = [
    # the CA speaks to every workload: no Secret, not even its own set, and nothing that changes anything
    *[(CA, verb, "secrets", "meshroot-ca", SYSTEM) for verb in ("get", "list", "watch", "create", "update", "patch", "delete")],
    *[(CA, verb, "secrets", "cacerts", MESH) for verb in ("get", "list", "watch", "update")],
    *[(CA, verb, "pods", None, SYSTEM) for verb in ("get", "create", "update", "patch", "delete")],
    *[(CA, verb, "serviceaccounts", None, SYSTEM) for verb in ("get", "create", "update", "patch", "delete")],
    (CA, "create", "serviceaccounts/token", None, SYSTEM),
    (CA, "create", "authentication.k8s.io/tokenreviews", None, None),
    *[(CA, verb, "configmaps", "istio-ca-root-cert", MESH) for verb in ("get", "list", "update", "patch")],
    (CA, "get", "nodes", None, None),
    *[(CA, verb, "meshroot.io/pluginca", None, MESH) for verb in ("get", "list", "update")],
    # the vault asks the API nothing
    *[(VAULT, verb, what, None, ns) for verb in ("get", "list", "create") for what in ("secrets", "pods", "configmaps")
      for ns in (SYSTEM, MESH)],
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


def is_allowed(docs, account, verb, what, name=None, space=None):
    """As the RBAC authorizer: a rule with resourceNames does not match a request without a name."""
    group, resource = what.rsplit("/", 1) if re.match(r"[a-z0-9.]+\.[a-z0-9.]+/", what) and what.count("/") == 1 else ("", what)
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
