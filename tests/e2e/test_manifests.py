"""The committed manifests (deploy/manifests, which `./dev manifests --check` holds against the chart): least privilege, Pod Security
"restricted", flags that exist."""
import manifests
import pytest
from manifests import DENIED, GRANTED, committed, kinds

PROFILES = ("meshroot", "meshroot-aks")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("check", ("check_rbac", "check_restricted", "check_flags", "check_ports"))
def test_manifests(profile, check):
    getattr(manifests, check)(committed(profile))


def of_parts(docs):
    """GRANTED, as far as the parts are switched on."""
    accounts = {d["metadata"]["name"] for d in kinds(docs, "ServiceAccount")}
    return {row for row in GRANTED if row[0] in accounts}


def test_exactly_what_is_needed_is_granted():
    assert manifests.granted(committed("meshroot")) == of_parts(committed("meshroot"))


@pytest.mark.parametrize("account,verb,what,name,space", DENIED, ids=lambda v: str(v or "any").replace("/", "."))
def test_not_granted(account, verb, what, name, space):
    assert not manifests.is_allowed(committed("meshroot"), account, verb, what, name, space)
    assert not manifests.is_allowed(committed("meshroot"), account, verb, what, None, space)


def test_the_judge_of_rbac_says_yes_to_what_is_granted():
    """Otherwise test_not_granted could not fail."""
    for account, verbs, what, name, space in of_parts(committed("meshroot")):
        for verb in verbs.split(","):
            assert manifests.is_allowed(committed("meshroot"), account, verb, what, name, space), (account, verb, what)
            assert not manifests.is_allowed(committed("meshroot"), "default", verb, what, name, space)
            if name:
                assert not manifests.is_allowed(committed("meshroot"), account, verb, what, "another", space) or verb == "create"


def test_a_part_is_lost_without_harm():
    """Two of each that serves, spread, never both taken down by a drain, each with a disk of its own."""
    docs = committed("meshroot")
    (ca,) = [d for d in kinds(docs, "StatefulSet") if d["metadata"]["name"] == "meshroot-ca"]
    assert ca["spec"]["replicas"] == 2 and ca["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "state"
    spec = ca["spec"]["template"]["spec"]
    assert {t["topologyKey"] for t in spec["topologySpreadConstraints"]} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    args = dict(a[2:].split("=") for a in spec["containers"][0]["args"] if a.startswith("--drain-"))
    drain_s = sum(int(v.removesuffix("s")) for v in args.values())
    assert len(args) == 2 and drain_s + 10 < spec["terminationGracePeriodSeconds"]
    (budget,) = [d for d in kinds(docs, "PodDisruptionBudget") if d["metadata"]["name"] == "meshroot-ca"]
    assert budget["spec"]["maxUnavailable"] == 1
    (service,) = [d for d in kinds(docs, "Service") if d["metadata"]["name"] == "meshroot-ca"]
    assert service["spec"]["ports"][0]["port"] == 15012


def test_the_profile_aks_has_the_add_ons_names():
    text = str(committed("meshroot-aks"))
    assert "istio-system'" not in text.replace("aks-istio-system'", "")
    renamed = {"istiod": "istiod-asm-1-17", "istio-system.default-plan": "aks-istio-system.default-plan"}
    assert manifests.granted(committed("meshroot-aks")) == {
        (who, verbs, what, renamed.get(name, name), "aks-istio-system" if space == "istio-system" else space)
        for who, verbs, what, name, space in of_parts(committed("meshroot"))}
