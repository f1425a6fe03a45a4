"""Operator and validator under exactly the chart's rules (the committed manifests'): whatever they ask of the API server in their work is
granted. The scripted API server judges as RBAC does; that nothing more is granted is test_manifests.py."""
import manifests
from test_validate import api, lines, sets, validate, world  # noqa: F401


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
