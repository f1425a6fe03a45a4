"""The Helm chart through the real helm: lint, what the values make of it, and the committed manifests as what it renders."""
import json
import os
import pathlib
import re
import shutil
import subprocess

import manifests
import promql_parser
import pytest
import yaml
from manifests import CHART, HERE, documents, kinds

HELM = os.environ.get("HELM", str(pathlib.Path.home() / ".cache/meshroot-cluster/helm-v3.22.0/helm"))
EVERYTHING = ("--set", "vault.enabled=true,ca.tokenReview=true,ca.trustedNodeAccounts={a/b},validator.workloadPods=true,operator.hurryIstiod=true,mesh.externalCA=true,"
              "monitoring.serviceMonitor.enabled=true,monitoring.rules.enabled=true,monitoring.dashboard.enabled=true")


def helm(*args, check=True):
    done = subprocess.run([HELM, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr
    return done


def template(*flags, check=True):
    return helm("template", "meshroot", CHART, "--namespace", manifests.SYSTEM, "--kube-version", "1.30.0", *flags, check=check)


@pytest.mark.parametrize("flags", [(), ("-f", CHART / "values-aks.yaml"), EVERYTHING], ids=["default", "aks", "everything"])
def test_lint(flags):
    text = helm("lint", "--strict", CHART, *flags).stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in text and "[WARNING]" not in text


def test_the_committed_manifests_are_what_it_renders():
    done = subprocess.run([HERE / "dev", "manifests", "--check"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("check", ("check_rbac", "check_restricted", "check_flags", "check_ports"))
def test_everything_on(check):
    getattr(manifests, check)(documents(template(*EVERYTHING).stdout))


def test_exactly_what_is_needed_is_granted():
    docs = documents(template("--set", "vault.enabled=true").stdout)
    assert manifests.granted(docs) == manifests.GRANTED
    for account, verb, what, name, space in manifests.DENIED:
        assert not manifests.is_allowed(docs, account, verb, what, name, space), (account, verb, what, name, space)
        assert not manifests.is_allowed(docs, account, verb, what, None, space), (account, verb, what, space)


def test_token_review_is_granted_only_when_it_is_used():
    for on in (True, False):
        docs = documents(template("--set", f"ca.tokenReview={str(on).lower()}").stdout)
        assert manifests.is_allowed(docs, manifests.CA, "create", "authentication.k8s.io/tokenreviews") is on
        (ca,) = [t for name, t in manifests.pods(docs) if name == "meshroot-ca"]
        assert ("--token-review" in ca["spec"]["containers"][0]["args"]) is on


def test_rules_and_dashboard_reach_the_cluster_as_they_are():
    docs = documents(template(*EVERYTHING).stdout)
    (rule,) = kinds(docs, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    (board,) = [d for d in kinds(docs, "ConfigMap") if "meshroot.json" in d["data"]]
    assert json.loads(board["data"]["meshroot.json"]) == json.loads((CHART / "files/dashboard.json").read_text())
    (monitor,) = kinds(docs, "ServiceMonitor")
    with_port = {d["metadata"]["name"] for d in kinds(docs, "Service") if any(p["name"] == "monitoring" for p in d["spec"]["ports"])}
    assert with_port == {"meshroot-ca-replicas", "meshroot-operator", "meshroot-vault"}
    assert all(monitor["spec"]["selector"]["matchLabels"].items() <= d["metadata"]["labels"].items() for d in kinds(docs, "Service"))


def test_each_part_can_be_left_out():
    parts = ("operator", "ca", "validator", "vault")
    off = {p: documents(template(*EVERYTHING, "--set", f"{p}.enabled=false").stdout) for p in parts}
    for part in parts:
        assert not any(name == f"meshroot-{part}" for name, _ in manifests.pods(off[part])), part
        assert not any(d["metadata"]["name"] == f"meshroot-{part}" for d in kinds(off[part], "ServiceAccount", "NetworkPolicy")), part
        assert not any(who == f"meshroot-{part}" for who, _, _ in manifests.grants(off[part])), part


def notes(folder, *flags):
    """helm shows the notes only when it installs: here as a template like the others, of a copy of the chart."""
    copy = folder / "meshroot"
    if not copy.exists():
        shutil.copytree(CHART, copy)
        lines = (CHART / "templates/NOTES.txt").read_text().splitlines()
        (copy / "templates/notes.yaml").write_text("text: |\n" + "".join(f"  {line}\n" for line in lines))
    return helm("template", "meshroot", copy, "--kube-version", "1.30.0", "--show-only", "templates/notes.yaml", *flags).stdout


def test_an_emptydir_is_said_loudly(tmp_path):
    for value, loud in (("true", False), ("false", True)):
        flags = ("--set", f"ca.persistence.enabled={value}")
        assert ("THE LEDGER IS NOT KEPT" in notes(tmp_path, *flags)) is loud
        (ca,) = [d for d in kinds(documents(template(*flags).stdout), "StatefulSet") if d["metadata"]["name"] == "meshroot-ca"]
        volumes = {v["name"]: v for v in ca["spec"]["template"]["spec"]["volumes"]}
        assert ("state" in volumes) is loud and ("volumeClaimTemplates" not in ca["spec"]) is loud


@pytest.mark.parametrize("value,word", [("ca.replicas=0", "replicas"), ("ca.relicas=2", "relicas"), ("ca.issuer=http://x", "issuer"),
                                        ("image.digest=sha256:1", "digest"), ("ca.workers=65", "workers"),
                                        ("vault.names={a,b,c,d}", "names"), ("logFormat=xml", "logFormat"),
                                        ("monitoringPort=80", "monitoringPort"), ("ca.persistence.size=lots", "size"),
                                        ("mesh.trustDomain=a b", "trustDomain"), ("ca.trustedNodeAccounts={ztunnel}", "trustedNodeAccounts")])
def test_a_wrong_value_is_named(value, word):
    done = template("--set", value, check=False)
    assert done.returncode != 0 and word in done.stderr and "schema" in done.stderr


def leaves(value, path=""):
    """Paths of all settings: maps that are not empty go on, everything else is one."""
    if isinstance(value, dict) and value:
        for k, v in value.items():
            yield from leaves(v, f"{path}.{k}" if path else k)
    else:
        yield path


def test_every_value_has_a_schema_and_a_line_in_the_docs():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    table = (HERE / "docs/install-kubernetes.md").read_text()
    named = set(re.findall(r"`([a-zA-Z.]+)`", table))
    for path in leaves(values):
        at = schema
        for step in path.split("."):
            if "properties" not in at:
                break  # a free map: resources, labels, ...
            assert step in at["properties"], path
            at = at["properties"][step]
        short = re.sub(r"^(operator|ca|validator|vault)\.", "PART.", path)
        assert any(p in named for p in (path, short)) or any(path.startswith(f"{p}.") or short.startswith(f"{p}.") for p in named), path


def test_expressions_are_promql():
    """By the parser that is Prometheus's own grammar in Rust."""
    rules = [r["expr"] for g in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"] for r in g["rules"]]
    panels = json.loads((CHART / "files/dashboard.json").read_text())["panels"]
    for expr in rules + [t["expr"] for p in panels for t in p["targets"]]:
        assert promql_parser.parse(expr) is not None, expr
    with pytest.raises(ValueError):
        promql_parser.parse("sum by (pod) (rate(a[5m])")
