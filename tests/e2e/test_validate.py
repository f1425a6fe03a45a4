"""The root validator against a scripted API server, with istiods that are real TLS servers on certificates of the Secret they started with.
Source: specs/istio-ca.md 2.1, 2.3, 5.7, 10.2; kubectl's rollout restart and rollout status."""
import base64
import datetime
import json
import socket
import subprocess
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conftest import BINARY, lasting_port, meshroot, wait_for
from kube_api import KubeApi

FILES = ("root-cert.pem", "ca-cert.pem", "ca-key.pem", "cert-chain.pem")
LINES = ("Root certificate update detected. Restarting deployment...", "deployment.apps/{} restarted", "Deployment {} restarted.")
MEMORY, RESTARTED = "meshroot.io/validate", "kubectl.kubernetes.io/restartedAt"
DAY = 86400


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """"A": root A and an intermediate under it; "AB a": both roots, A's intermediate; "AB b": both roots, B's; ..."""
    top = tmp_path_factory.mktemp("pki")
    for x in "AB":
        meshroot("pki", "root", "--out", top / x, "--subject", f"O=Istio,CN=Root {x}")
    made = {}
    for name, root, also in (("A", "A", None), ("B", "B", None), ("AB a", "A", "B"), ("AB b", "B", "A")):
        out = top / name.replace(" ", "-")
        more = ("--also-trust", top / also / "root-cert.pem") if also else ()
        meshroot("pki", "intermediate", "--root", top / root, "--out", out / "set", "--subject", f"O=Istio,CN=Intermediate {root}1", *more)
        made[name] = {f: (out / "set" / f).read_bytes() for f in FILES}
    return made


def leaf_pem(files, name, age):
    """istiod's own certificate: ten years, dated back by two minutes."""
    ca, key = x509.load_pem_x509_certificate(files["ca-cert.pem"]), ec.generate_private_key(ec.SECP256R1())
    ca_key = serialization.load_pem_private_key(files["ca-key.pem"], None)
    made = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=age + 120)
    cert = (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(ca.subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(made).not_valid_after(made + datetime.timedelta(days=3650))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .sign(ca_key, hashes.SHA256()))
    return cert.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Istiod:
    """Deployment controller, kubelet and istiod in one: what a restart of the Deployment brings about."""

    def __init__(self, api, folder, ns="istio-system", name="istiod", replicas=1):
        self.api, self.folder, self.ns, self.name, self.replicas, self.pods, self.n = api, folder, ns, name, replicas, {}, 0
        self.how, self.threads, self.restarts, self.seen, self.at = "good", [], 0, 0, None
        self.port = lasting_port()  # on each pod's address
        api.hooks.append(self.hook)

    def secret(self, files, **more):
        data = {f: base64.b64encode(v).decode() for f, v in files.items() if v is not None}
        self.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": self.ns}, "data": data, **more})
        return self

    def publish(self, text):
        self.api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio-ca-root-cert", "namespace": self.ns},
                      "data": {"root-cert.pem": text.decode()}})

    def start(self, files, env=(), image="docker.io/istio/pilot:1.22.3", age=0, publish=True):
        """As it runs: its Deployment, its pods, and what it publishes."""
        self.api.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name, "namespace": self.ns}, "spec": {
            "replicas": self.replicas, "selector": {"matchLabels": {"app": "istiod"}}, "template": {"metadata": {"labels": {"app": "istiod"}}, "spec": {
                "containers": [{"name": "discovery", "image": image, "env": [{"name": k, "value": v} for k, v in env]}]}}}})
        self.status(self.replicas, self.replicas, self.replicas)
        for _ in range(self.replicas):
            self.pod(files, age)
        if publish:
            self.publish(files["root-cert.pem"])
        return self

    def status(self, replicas, updated, available, conditions=()):
        d = self.api.get("Deployment", self.ns, self.name)
        self.api.edit("Deployment", self.ns, self.name, {"status": {
            "observedGeneration": d["metadata"]["generation"], "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available,
            "conditions": list(conditions)}}, sub="status")

    def serve(self, folder, address):
        """The command that is a pod's secure port; it names `roots` to its clients, as Go's does."""
        return ["openssl", "s_server", "-quiet", "-accept", address, "-cert", folder / "cert", "-key", folder / "key", "-cert_chain",
                folder / "chain", "-CAfile", folder / "roots", "-verify", "3", "-alpn", "h2"]

    def pod(self, files, age=0, roots=None, labels=None):
        """A new pod with an address of its own, serving by what is in `files`."""
        self.n += 1
        name, ip = f"{self.name}-{self.n}", f"127.0.0.{self.n + 10}"
        folder = self.folder / f"pod-{self.name}-{self.n}"
        folder.mkdir()
        cert, key = leaf_pem(files, f"istiod.{self.ns}.svc", age)
        for f, data in (("cert", cert), ("key", key), ("chain", files["cert-chain.pem"]), ("roots", roots or files["root-cert.pem"])):
            (folder / f).write_bytes(data)
        p = subprocess.Popen(self.serve(folder, f"{ip}:{self.port}"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                             stderr=open(folder / "log", "wb"))
        self.pods[name] = p

        def answers():
            assert p.poll() is None, (folder / "log").read_text()
            with socket.socket() as s:
                return s.connect_ex((ip, self.port)) == 0
        wait_for(f"{name} listens", answers)
        self.api.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.ns, "labels": labels or {"app": "istiod"}},
                      "spec": {"containers": [{"name": "discovery"}]}, "status": {"phase": "Running", "podIP": ip}})
        return name

    def end_pod(self, name):
        p = self.pods.pop(name)
        p.kill()
        p.wait(60)
        if self.api.get("Pod", self.ns, name):
            self.api.delete("Pod", self.ns, name)

    def mounted(self):
        return {f: base64.b64decode(v) for f, v in self.api.get("Secret", self.ns, "cacerts")["data"].items()}

    def hook(self, kind, o):
        if kind != "MODIFIED" or o["kind"] != "Deployment" or o["metadata"]["name"] != self.name:
            return
        at = o["spec"]["template"]["metadata"].get("annotations", {}).get(RESTARTED)
        with self.api.changed:
            if o["metadata"]["generation"] < self.seen or at == self.at:
                return  # a later one was told first; or nothing is to be restarted
            self.seen, self.at = o["metadata"]["generation"], at
            t = threading.Thread(target=getattr(self, "roll_" + self.how), daemon=True)
            self.threads.append(t)
            self.restarts += 1
        t.start()

    def roll_good(self, files=None):
        old = list(self.pods)
        self.status(self.replicas + 1, 1, self.replicas)
        for _ in range(self.replicas):
            self.pod(files or self.mounted(), roots=self.more_roots)
        self.status(2 * self.replicas, self.replicas, self.replicas)
        for name in old:
            self.end_pod(name)
        self.status(self.replicas, self.replicas, self.replicas)
        if self.publishes:
            self.publish((files or self.mounted())["root-cert.pem"])

    publishes, more_roots = True, None

    def roll_slow(self):
        self.status(self.replicas + 1, 1, self.replicas)
        assert self.go.wait(120)
        self.roll_good()

    def roll_stuck(self):
        self.status(self.replicas + 1, 1, self.replicas)
        self.status(self.replicas + 1, 1, self.replicas, [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}])

    def roll_never(self):
        self.status(self.replicas + 1, 1, self.replicas)

    def roll_deaf(self):
        self.roll_good(self.other)

    def next_second(self):
        """So that restartedAt is another one, which the stand-in goes by."""
        wait_for("another second", lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) != self.at)

    def memory(self):
        return json.loads(self.api.get("Deployment", self.ns, self.name)["metadata"].get("annotations", {}).get(MEMORY, "{}"))

    def events(self):
        with self.api.changed:
            return [o["reason"] for k, o in self.api.objects.items() if k[:3] == ("", "events", self.ns)]

    def stop(self):
        for t in self.threads:
            t.join(120)
        for name in list(self.pods):
            self.end_pod(name)


@pytest.fixture
def api(tmp_path):
    a = KubeApi(tmp_path)
    yield a
    a.stop()


@pytest.fixture
def world(tmp_path, api):
    """istiod(...) -> Istiod, and validate(...) that runs the command on it."""
    made = []

    def istiod(**kw):
        made.append(Istiod(api, tmp_path, **kw))
        return made[-1]

    yield istiod
    for i in made:
        i.stop()


def args(i, *more, token=None):
    a = i.api
    return ["mesh", "validate", "--kubeconfig", a.kubeconfig(*((token, token) if token else ())), "--namespace", i.ns, "--deployment", i.name,
            "--istiod-port", i.port, *(() if "--timeout" in more else ("--timeout", "100s")), *more]


def validate(i, *more, code=0, token=None):
    done = meshroot(*args(i, *more, token=token), check=False)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    said = done.stdout + done.stderr
    assert "BEGIN" not in said
    return "".join(x for x in said.splitlines(True) if not x.startswith("Waiting for the Kubernetes API"))  # where an answer takes 2 s


def lines(name="istiod"):
    return [x.format(name) for x in LINES]


def patches(i):
    return i.api.count("PATCH", f"/deployments/{i.name}")


def test_nothing_to_do(world, sets):
    i = world(replicas=2).secret(sets["A"]).start(sets["A"])
    assert validate(i) == "Root certificate update not detected.\n"
    assert patches(i) == 0 and i.events() == [] and i.restarts == 0


def test_a_wider_set_restarts_once(world, sets):
    i = world(replicas=2).secret(sets["AB a"]).start(sets["A"])
    out = validate(i)
    told = [x for x in out.splitlines() if x in lines()]
    assert told == lines()
    assert 'deployment "istiod" successfully rolled out' in out
    d = i.api.get("Deployment", i.ns, i.name)
    at = d["spec"]["template"]["metadata"]["annotations"][RESTARTED]
    datetime.datetime.strptime(at, "%Y-%m-%dT%H:%M:%SZ")
    assert i.memory()["state"] == "done" and i.restarts == 1 and i.events() == ["RootRestarted"]
    assert validate(i) == "Root certificate update not detected.\n" and i.restarts == 1


def test_names_of_the_managed_add_on(world, sets):
    i = world(ns="aks-istio-system", name="istiod-asm-1-17").secret(sets["AB a"]).start(sets["A"])
    done = meshroot("mesh", "validate", "--profile", "aks", "--kubeconfig", i.api.kubeconfig(), "--istiod-port", i.port)
    assert [x for x in done.stdout.splitlines() if x in lines(i.name)] == lines(i.name)


def test_one_text_or_another(world, sets):
    """The same roots in another form: a stock istiod compares bytes, and would take no new intermediate any more."""
    other = {**sets["A"], "root-cert.pem": sets["A"]["root-cert.pem"] + b"\n"}
    i = world().secret(other).start(sets["A"])
    validate(i)
    assert i.restarts == 1


def test_a_pod_that_has_not_loaded_what_another_publishes(world, sets):
    i = world(replicas=2).secret(sets["AB a"]).start(sets["A"])
    i.publish(sets["AB a"]["root-cert.pem"])
    assert "istiod-1" in json.dumps(json.loads(meshroot(*args(i, "--dry-run", "--output", "json")).stdout)["pods"])
    validate(i)
    assert i.restarts == 1


def test_a_pod_that_has_a_root_which_is_gone_elsewhere(world, sets):
    """The operator has narrowed the ConfigMap; istiod still takes client certificates of the old root."""
    i = world().secret(sets["B"]).start(sets["AB b"])
    i.publish(sets["B"]["root-cert.pem"])
    assert "istiod-1 started with other roots" in meshroot(*args(i, "--dry-run", "--output", "json")).stdout
    validate(i)
    assert i.restarts == 1 and validate(i) == "Root certificate update not detected.\n"


def test_a_federated_root_is_no_reason_twice(world, sets):
    i = world().secret(sets["A"]).start(sets["A"])
    i.end_pod("istiod-1")
    i.pod(sets["A"], roots=sets["AB a"]["root-cert.pem"])
    i.more_roots = sets["AB a"]["root-cert.pem"]
    validate(i)
    assert i.restarts == 1
    assert validate(i) == "Root certificate update not detected.\n" and i.restarts == 1


def test_replaced_in_one_step_is_held(world, sets):
    i = world().secret(sets["B"]).start(sets["A"])
    out = validate(i, code=17)
    assert "no workload trusts yet" in out and "first write" in out
    assert patches(i) == 0 and i.events() == ["RootRestartHeld"]
    out = validate(i, "--force")
    assert "Forced, at a risk: the Secret's intermediate is under root" in out and i.restarts == 1


def test_what_is_held_run_after_run_is_one_event(world, sets):
    i = world().secret(sets["B"]).start(sets["A"])
    for n in (1, 2, 3):
        validate(i, code=17)
        (event,) = i.api.all("Event", i.ns)
        assert event["count"] == n and event["reason"] == "RootRestartHeld" and event["involvedObject"]["name"] == i.name
        assert event["firstTimestamp"] <= event["lastTimestamp"] and event["type"] == "Warning"
    i.publish(sets["AB a"]["root-cert.pem"])  # another reason is another Event
    validate(i, code=17)
    events = i.api.all("Event", i.ns)
    assert sorted(e["count"] for e in events) == [1, 3] and len({e["message"] for e in events}) == 2


def test_a_new_intermediate_with_a_fresh_root_is_held(world, sets):
    i = world().secret(sets["AB b"]).start(sets["A"])
    i.publish(sets["AB a"]["root-cert.pem"] + b"\n")
    assert "do not trust: wait until" in validate(i, code=17)
    assert i.restarts == 0
    wait_for("another second", lambda: "restarted." in meshroot(*args(i, "--leaf-life", "1s", "--clock-skew", "0s"), check=False).stdout)
    assert i.restarts == 1


@pytest.mark.parametrize("age, code", [(60, 17), (2 * DAY, 0)])
def test_an_old_root_goes_when_its_leaves_have_ended(world, sets, age, code):
    i = world().secret(sets["B"]).start(sets["AB b"], age=age)
    out = validate(i, code=code)
    assert i.restarts == (0 if code else 1)
    assert ("may be in use until" in out) == bool(code)


def test_an_old_root_that_still_signs_stays(world, sets):
    i = world(replicas=2).secret(sets["B"]).start(sets["AB b"], age=2 * DAY)
    i.end_pod("istiod-1")
    i.pod(sets["AB a"], age=2 * DAY)
    short = ("--leaf-life", "1s", "--clock-skew", "0s")  # so that the ConfigMap is old enough
    assert "do not trust" in validate(i, code=17)
    wait_for("the map is old", lambda: "do not trust" not in meshroot(*args(i, *short), check=False).stderr)
    assert "istiod-3 still signs under root" in validate(i, *short, code=17)
    i.end_pod("istiod-3")
    i.api.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "istiod-9", "namespace": i.ns, "labels": {"app": "istiod"}},
               "spec": {"containers": [{"name": "discovery"}]}, "status": {"phase": "Pending"}})
    assert "istiod-9: it has no address yet" in validate(i, *short, code=17)
    assert i.restarts == 0


def test_workloads_that_are_younger_are_evidence(world, sets, api):
    i = world().secret(sets["B"]).start(sets["AB b"], age=60)
    for name, container in (("old", "istio-proxy"), ("new", "istio-proxy"), ("no-mesh", "app")):
        api.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
                 "spec": {"containers": [{"name": "app"}, {"name": container}]}, "status": {"phase": "Running"}})
    with api.changed:
        for name in ("old", "no-mesh"):
            api.objects[("", "pods", "shop", name)]["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    skew = ("--clock-skew", "5s")
    assert "may be in use" in validate(i, *skew, code=17)
    assert "may be in use" in validate(i, "--workload-pods", *skew, code=17)
    api.delete("Pod", "shop", "old")
    assert "may be in use" in validate(i, *skew, code=17)
    assert "may be in use" in validate(i, "--workload-pods", code=17), "within what clocks may differ"
    validate(i, "--workload-pods", *skew)
    assert i.restarts == 1


@pytest.mark.parametrize("image, restarts", [("pilot:1.22.3", 0), ("r.example:5000/pilot:1.30.1-distroless@sha256:00", 0), ("pilot:1.19.0", 1)])
def test_istiod_that_takes_roots_by_itself(world, sets, image, restarts):
    i = world().secret(sets["AB a"])
    wider = sets["AB a"]["root-cert.pem"]
    first = sets["A"]["root-cert.pem"]
    assert first in wider, "or 1.22 would not"
    i.start(sets["A"], env=[("ISTIO_MULTIROOT_MESH", "true")], image=image)
    out = validate(i)
    assert i.restarts == restarts and ("without a restart" in out) == (restarts == 0)
    if restarts == 0:
        validate(i, "--hot-wait", "0s")
        assert i.restarts == 1, "left to it for long enough"


def test_a_failed_rollout_is_not_repeated(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    i.how = "stuck"
    out = validate(i, code=17)
    assert "exceeded its progress deadline" in out and lines()[2] not in out
    assert i.memory()["state"] == "failed" and "progress deadline" in i.memory()["why"] and i.events() == ["RootRestartFailed"]
    n = patches(i)
    for _ in range(2):
        assert "has failed before and is not repeated" in validate(i, code=17)
    assert patches(i) == n and i.restarts == 1
    i.how = "good"
    i.api.edit("Deployment", i.ns, i.name, {"spec": {"paused": True}})
    assert "paused" in validate(i, "--force", code=17)
    i.api.edit("Deployment", i.ns, i.name, {"spec": {"paused": None}})
    i.next_second()
    validate(i, "--force")
    assert i.restarts == 2 and i.memory()["state"] == "done"


def test_another_secret_is_another_try(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    i.how = "stuck"
    validate(i, code=17)
    i.how = "good"
    i.secret({**sets["AB a"], "root-cert.pem": sets["AB a"]["root-cert.pem"] + b"\n"})
    i.next_second()
    validate(i)
    assert i.restarts == 2


def test_a_rollout_without_an_end(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    i.how = "never"
    out = validate(i, "--timeout", "10s", code=21)
    assert "no end in time: Waiting for deployment" in out and i.memory()["state"] == "failed"


def test_new_pods_that_serve_something_else(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    i.how, i.other = "deaf", sets["A"]
    assert "it was rolled out, but pod istiod-2 has not loaded the Secret's roots" in validate(i, "--timeout", "20s", code=17)
    assert i.memory()["state"] == "failed" and i.events() == ["RootRestartFailed"]


def test_a_map_that_is_not_published(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    i.publishes = False
    assert "the ConfigMap does not have" in validate(i, "--timeout", "20s", code=17)


def begin(i):
    """A validator that waits for a rollout, which goes on at i.go."""
    i.how, i.go = "slow", threading.Event()
    p = subprocess.Popen([BINARY, *map(str, args(i))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for("the restart", lambda: i.restarts == 1)
    return p


def again(i, files):
    """The Secret has these once more: they are a new try."""
    i.secret(files)
    i.how = "good"
    i.next_second()
    validate(i)
    assert i.restarts == 2 and i.memory()["state"] == "done"


def test_two_at_once_restart_once(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    i.how, i.go = "slow", threading.Event()
    two = [subprocess.Popen([BINARY, *map(str, args(i))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    wait_for("both wait", lambda: i.api.count("GET", "/deployments/istiod") > 6)
    i.go.set()
    out = [p.communicate(timeout=120)[0] for p in two]
    assert [p.returncode for p in two] == [0, 0], out
    assert i.restarts == 1 and sum(lines()[0] in o for o in out) == 1
    assert i.memory()["state"] == "done"


def test_a_killed_validator_is_gone_on_for(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    p = begin(i)
    p.kill()
    p.communicate(timeout=60)
    assert i.memory()["state"] == "open"
    i.go.set()
    assert "Deployment istiod restarted." in validate(i)
    assert i.restarts == 1 and i.memory()["state"] == "done"


def test_a_secret_that_changes_under_a_restart_is_no_failure_of_it(world, sets):
    """The new pods have the newer roots, which nobody can prove the older ones by; and these are tried again when they come back."""
    i = world().secret(sets["AB a"]).start(sets["A"])
    p = begin(i)
    i.secret({**sets["AB a"], "root-cert.pem": sets["AB a"]["root-cert.pem"] + b"\n"})
    i.go.set()
    out = p.communicate(timeout=300)[0]
    assert p.returncode == 0 and out.endswith("Root certificate update not detected.\n"), out
    assert i.restarts == 1 and i.memory()["state"] == "none" and "RootRestartFailed" not in i.events()
    again(i, sets["AB a"])


def test_a_failed_rollout_of_roots_that_are_gone_is_not_held_against_the_next(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    p = begin(i)
    wait_for("new pods", lambda: i.api.get("Deployment", i.ns, i.name)["status"]["updatedReplicas"] == 1 and i.api.get("Deployment", i.ns, i.name)["status"]["replicas"] == 2)
    i.secret({**sets["AB a"], "root-cert.pem": sets["AB a"]["root-cert.pem"] + b"\n"})
    i.next_second()
    i.how = "good"
    i.status(2, 1, 1, [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}])
    out = p.communicate(timeout=300)[0]
    assert p.returncode == 0 and out.count(lines()[0]) == 2 and out.count(lines()[2]) == 1, out
    assert i.restarts == 2 and i.memory()["state"] == "done" and i.events() == ["RootRestarted"]
    i.go.set()


def test_a_new_intermediate_under_a_restart_is_what_the_pods_must_serve(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    p = begin(i)
    i.secret(sets["AB b"])
    i.go.set()
    out = p.communicate(timeout=300)[0]
    assert p.returncode == 0 and lines()[2] in out and i.memory()["state"] == "done", out


def test_how_it_ended_is_said_of_no_other_try(world, sets):
    """Another validator's, for other roots, which has begun since: what this one sees is no word on that."""
    i = world().secret(sets["AB a"]).start(sets["A"])
    p = begin(i)
    other = {**i.memory(), "roots": "00" * 32, "run": "feedfeedfeedfeed"}
    i.api.edit("Deployment", i.ns, i.name, {"metadata": {"annotations": {MEMORY: json.dumps(other)}}})
    out = p.communicate(timeout=300)[0]
    assert p.returncode == 0 and "a rollout of the deployment is under way" in out and lines()[2] not in out, out
    assert i.memory()["roots"] == "00" * 32 and i.memory()["state"] == "none" and i.events() == []
    i.go.set()
    i.threads[0].join(120)


def test_a_try_that_was_left_open_ends_with_its_secret(world, sets):
    """Killed, and then the Secret is another one: the try does not come back with the Secret."""
    i = world().secret(sets["AB a"]).start(sets["A"])
    p = begin(i)
    p.kill()
    p.communicate(timeout=60)
    i.secret(sets["A"])
    i.go.set()
    i.threads[0].join(120)
    assert validate(i) == "Root certificate update not detected.\n" and i.memory()["state"] == "none"
    again(i, sets["AB a"])


def test_somebody_elses_rollout_is_waited_for(world, sets):
    i = world(replicas=2).secret(sets["AB a"]).start(sets["A"])
    i.status(3, 1, 2)
    assert "a rollout of the deployment is under way" in validate(i)
    assert patches(i) == 0


def test_dry_run(world, sets):
    i = world().secret(sets["AB a"]).start(sets["A"])
    before = i.api.get("Deployment", i.ns, i.name)
    done = meshroot(*args(i, "--dry-run", "--output", "json"))
    told = json.loads(done.stdout)
    assert told["verdict"] == "restart" and told["dry_run"] and len(told["roots"]["secret"]) == 2 and len(told["roots"]["config_map"]) == 1
    assert told["istiod"] == {"version": "1.22.3", "multiroot": False} and told["pods"][0]["seen"] and told["pods"][0]["stale"]
    assert "(server dry run)" in done.stderr
    assert i.api.get("Deployment", i.ns, i.name) == before and i.events() == [] and patches(i) == 1


# -- bad input ---------------------------------------------------------------------------------------------------------------------------


ROWS = [("get", "deployments", "apps"), ("patch", "deployments", "apps"), ("get", "secrets", ""), ("get", "configmaps", ""), ("list", "pods", ""),
        ("get", "events", ""), ("create", "events", "")]


@pytest.mark.parametrize("missing", range(len(ROWS)))
def test_rbac_names_what_is_missing(world, sets, missing):
    i = world().secret(sets["AB a"]).start(sets["A"])
    user = "system:serviceaccount:meshroot-system:meshroot-validator"
    i.api.accounts["val"] = user
    for n, (verb, resource, group) in enumerate(ROWS):
        if n != missing:
            i.api.allow(user, [verb], [resource], ns=i.ns, group=group)
    verb, resource, _ = ROWS[missing]
    is_event = resource == "events"
    out = validate(i, token="val", code=0 if is_event else 14)
    assert f'cannot {verb} resource "{resource}"' in out and f'in the namespace "{i.ns}"' in out and user in out
    assert i.restarts == (1 if is_event else 0)


def test_pods_of_the_cluster_may_not_be_listed(world, sets):
    i = world().secret(sets["B"]).start(sets["AB b"], age=60)
    user = "system:serviceaccount:meshroot-system:meshroot-validator"
    i.api.accounts["val"] = user
    for verb, resource, group in ROWS:
        i.api.allow(user, [verb], [resource], ns=i.ns, group=group)
    assert 'cannot list resource "pods" in API group "" at the cluster scope' in validate(i, "--workload-pods", token="val", code=14)


def secret_without(name):
    return lambda files: {**files, name: None}


def secret_with(**parts):
    return lambda files: {**files, **{k.replace("_", "-") + ".pem": v for k, v in parts.items()}}


@pytest.mark.parametrize("change, code, words", [
    *[(secret_without(f), 17, f'"{f}" is missing or empty') for f in FILES],
    (secret_with(root_cert=b""), 17, '"root-cert.pem" is missing or empty'),
    (secret_with(root_cert=b"no certificate\n"), 12, "root-cert.pem"),
    (lambda f: {**f, "root-cert.pem": f["root-cert.pem"] + b"trailing words\n"}, 12, "root-cert.pem"),
    (lambda f: {**f, "root-cert.pem": f["root-cert.pem"][:200]}, 12, "root-cert.pem"),
    (lambda f: {**f, "cert-chain.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, 12, "cert-chain.pem"),
    (lambda f: {"tls.crt": f["ca-cert.pem"], "tls.key": f["ca-key.pem"], "ca.crt": f["root-cert.pem"]}, 17, "tls.crt"),
])
def test_a_secret_that_istiod_would_not_start_with(world, sets, change, code, words):
    i = world().secret(change(sets["AB a"])).start(sets["A"])
    out = validate(i, code=code)
    assert words in out and "Secret cacerts in namespace istio-system" in out
    assert patches(i) == 0


def test_parts_of_two_sets(world, sets):
    i = world().secret({**sets["AB a"], "ca-cert.pem": sets["B"]["ca-cert.pem"]}).start(sets["A"])
    assert "Secret cacerts in namespace istio-system" in validate(i, code=14)
    assert patches(i) == 0


def test_what_is_not_there(world, sets):
    i = world().start(sets["A"], publish=False)
    assert "Secret cacerts in namespace istio-system" in validate(i, code=3)
    i.secret(sets["A"])
    assert "istiod has not published its roots: ConfigMap istio-ca-root-cert in namespace istio-system" in validate(i, code=3)
    i.publish(b"garbage\n")
    assert "ConfigMap istio-ca-root-cert in namespace istio-system" in validate(i, code=12)
    assert "Deployment other in namespace istio-system" in validate(i, "--deployment", "other", code=3)
    assert "no name of an object" in validate(i, "--deployment", "../x", code=2)


def test_a_deployment_that_is_no_istiod(world, sets, api):
    i = world().secret(sets["A"]).start(sets["A"])
    d = api.get("Deployment", i.ns, i.name)
    d["spec"]["template"]["spec"]["containers"] = [{"name": "web", "image": "x"}, {"name": "db", "image": "x"}]
    api.put(d)
    assert 'has no container "discovery"' in validate(i, code=12)


def test_the_api_server_has_its_moments(world, sets, api):
    i = world().secret(sets["AB a"]).start(sets["A"])
    for method, path in (("GET", "/secrets/"), ("GET", "/pods"), ("GET", "/deployments/"), ("PATCH", "/deployments/")):
        api.fail(500, method=method, path=path)
        api.fail(429, method=method, path=path, retry_after=1)
    api.fail(409, method="PATCH", path="/deployments/")
    validate(i)
    assert i.restarts == 1 and i.memory()["state"] == "done"


def test_etcd_is_slow(world, sets, api):
    i = world().secret(sets["AB a"]).start(sets["A"])
    for method, path in (("GET", "/secrets/"), ("GET", "/deployments/"), ("PATCH", "/deployments/")):
        api.delay(2, method=method, path=path)
    validate(i)
    assert i.restarts == 1 and i.memory()["state"] == "done"


def test_what_is_being_deleted_is_left_alone(world, sets, api):
    i = world().secret(sets["AB a"]).start(sets["A"])
    api.edit("Deployment", i.ns, i.name, {"metadata": {"finalizers": ["foregroundDeletion"]}})
    api.delete("Deployment", i.ns, i.name)
    n = patches(i)
    assert "is being deleted" in validate(i, "--force", code=17)
    assert patches(i) == n and i.restarts == 0


def test_an_answer_that_is_lost(world, sets, api):
    """The patch is done, nobody hears so, and the second try is a conflict with the first."""
    i = world().secret(sets["AB a"]).start(sets["A"])
    api.lose("PATCH", "/deployments/")
    assert lines()[1] in validate(i)
    assert i.restarts == 1 and i.memory()["state"] == "done"


def test_who_waits_for_the_api_server_is_told_at_once(world, sets, api):
    """It is away when validate starts: the line comes while it is, not when the time is over; then it is back, and the run goes on."""
    i = world().secret(sets["A"]).start(sets["A"])
    api.stop()
    done = subprocess.Popen([BINARY, *map(str, args(i))], stdout=subprocess.PIPE, text=True)
    try:
        line = done.stdout.readline()
        assert f"Waiting for the Kubernetes API at {api.url} until 20" in line and ("connect to server" in line or "no answer yet" in line), line
        api.start()
        rest = done.stdout.read()
        assert done.wait(60) == 0 and "Root certificate update not detected." in rest
    finally:
        done.kill()


def test_an_api_server_that_says_nothing_is_named(tmp_path):
    """The connection is there, and no answer comes on it."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        config = tmp_path / "config"
        url = f"https://127.0.0.1:{s.getsockname()[1]}"
        config.write_text(json.dumps({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                                      "clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {"token": "t"}}]}))
        for command in (("mesh", "status"), ("mesh", "validate", "--timeout", "4s")):
            done = meshroot(*command, "--namespace", "istio-system", "--kubeconfig", config, check=False)
            said = done.stdout + done.stderr
            assert done.returncode == 21 and said.count(f"Waiting for the Kubernetes API at {url} until 20") == 1 and "no answer yet" in said, said


def test_the_api_server_goes_away_in_the_middle(world, sets, api):
    i = world().secret(sets["AB a"]).start(sets["A"])
    p = begin(i)
    api.stop()
    i.go.set()
    i.threads[0].join(120)
    api.start()
    out = p.communicate(timeout=120)[0]
    assert p.returncode == 0, out
    assert i.memory()["state"] == "done"


def test_no_api_server(world, sets, api):
    i = world().secret(sets["A"]).start(sets["A"])
    api.stop()
    assert "127.0.0.1" in validate(i, "--timeout", "8s", code=19)
    api.start()
