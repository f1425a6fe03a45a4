"""Operator and validator under exactly the chart's rules (the committed manifests'): whatever they ask of the API server in their work is
granted. The scripted API server judges as RBAC does; that nothing more is granted is test_manifests.py."""
import base64
import json

import manifests
import test_operator
from conftest import wait_for
from test_operator import NS
from test_validate import api, lines, sets, validate, world  # noqa: F401


operator_world = test_operator.world  # a fixture, as the validator's of the same name
CREDENTIALS = "meshroot-vault-credentials"


def bind(api, account, token="chart"):  # noqa: F811
    """The account, with what the manifests give it; its token."""
    user = f"system:serviceaccount:{manifests.SYSTEM}:{account}"
    api.accounts[token], api.rules[user] = user, []
    for who, space, rule in manifests.grants(manifests.committed("meshroot")):
        if who == account:
            for group in rule["apiGroups"]:
                api.allow(user, rule["verbs"], rule["resources"], space, rule.get("resourceNames"), group)
    return token


def refusals(api):  # noqa: F811
    return [(method, path) for method, path, _, status in list(api.seen) if status == 403]


def test_the_validator_restarts_istiod(world, sets):  # noqa: F811
    i = world().secret(sets["AB a"]).start(sets["A"])
    said = validate(i, token=bind(i.api, manifests.VALIDATOR))
    assert all(line in said for line in lines()) and i.restarts == 1 and i.events()
    assert refusals(i.api) == []


def test_the_operator_takes_a_mesh_through_its_life(operator_world):
    w = operator_world
    who = json.loads((w.mesh.state / "credentials/sync.json").read_text())
    w.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CREDENTIALS, "namespace": NS},
               "data": {k: base64.b64encode(who[k].encode()).decode() for k in ("tenant", "client_id", "client_secret")}})
    w.namespace("meshroot-system")
    w.plugin(target="both", vault={"url": w.url, "caBundle": w.ca, "auth": {"clientSecret": {"name": CREDENTIALS}}})
    w.run(token=bind(w.api, manifests.OPERATOR))
    wait_for("both Secrets", lambda: w.holds("A1") and w.secret("meshroot-ca", "meshroot-system"))
    wait_for("a status", lambda: w.status().get("generation") == 1)
    w.namespace("late")
    wait_for("a new namespace", lambda: w.roots("late") == 1)
    w.api.edit("Secret", NS, "cacerts", {"data": {"extra": "eA=="}})
    wait_for("put back", lambda: "extra" not in w.secret()["data"])
    w.mesh.set_all(w.sets["A2"])
    wait_for("the next generation", lambda: w.generation() >= 2 or w.condition("Held")["status"] == "True")
    w.api.delete("PluginCA", NS, "default")
    wait_for("its Secrets go", lambda: w.secret() is None and w.api.get("PluginCA", NS, "default") is None)
    # istiod's pods are annotated only where operator.hurryIstiod grants it; without, the kubelet takes its time
    assert [r for r in refusals(w.api) if not r[1].startswith(f"/api/v1/namespaces/{NS}/pods?")] == []
