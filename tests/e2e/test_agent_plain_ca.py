"""meshroot agent run against a CA that speaks only Istio's CreateCertificate, with the answers that istiod gives."""
import concurrent.futures
import datetime
import json
import os
import threading
import urllib.request

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from conftest import lasting_port, wait_for
from test_ca import pb  # noqa: F401  (a fixture)

ID = "spiffe://cluster.local/ns/shop/sa/web"
CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


def pem(cert):
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def now():
    return datetime.datetime.now(datetime.timezone.utc)


class Node:
    """A root, an intermediate, or a leaf under `issuer`."""

    def __init__(self, name, issuer=None, san=None, public=None, life=datetime.timedelta(days=1)):
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        signer = issuer or self
        b = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.cert.subject if issuer else subject)
             .public_key(public or self.key.public_key()).serial_number(x509.random_serial_number())
             .not_valid_before(now() - datetime.timedelta(minutes=2)).not_valid_after(now() + life)
             .add_extension(x509.BasicConstraints(san is None, None), True))
        if san is None:
            b = b.add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
        else:
            b = b.add_extension(x509.KeyUsage(True, False, True, False, False, False, False, False, False), True)
            b = b.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            b = b.add_extension(x509.SubjectAlternativeName([san]), True)
        self.cert = b.sign(signer.key, hashes.SHA256())


class PlainCa:
    """istiod's side of the one call; everything else is UNIMPLEMENTED, as grpc-go says it."""

    def __init__(self, pb, tmp):  # noqa: F811
        self.pb, self.tmp, self.root, self.port = pb[0], tmp, Node("Root A"), lasting_port()
        self.mid = Node("Intermediate A", self.root)
        self.roots, self.life, self.shape, self.codes = [self.root], datetime.timedelta(days=1), "flat", []
        self.calls, self.seen, self.lock = [], [], threading.Lock()
        self.start()

    def start(self):
        serving = Node(None, self.mid, x509.DNSName("istiod.istio-system.svc"))
        key = serving.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((self,))
        chain = (pem(serving.cert) + pem(self.mid.cert)).encode()
        self.server.add_secure_port(f"127.0.0.1:{self.port}", grpc.ssl_server_credentials([(key, chain)]))
        self.server.start()
        return self

    def service(self, details):
        with self.lock:
            self.calls.append(details.method)
        if details.method != CREATE:
            return None
        return grpc.unary_unary_rpc_method_handler(self.create, self.pb.IstioCertificateRequest.FromString,
                                                   self.pb.IstioCertificateResponse.SerializeToString)

    def create(self, q, context):
        with self.lock:
            self.seen.append((q, dict(context.invocation_metadata())))
            code = self.codes.pop(0) if self.codes else None
        if code:
            context.abort(code, f"CSR signing error ({code.name.lower()})")
        csr = x509.load_pem_x509_csr(q.csr.encode())
        leaf = pem(Node(None, self.mid, x509.UniformResourceIdentifier(ID), csr.public_key(), self.life).cert)
        mid, root, bundle = pem(self.mid.cert), pem(self.root.cert), "".join(pem(r.cert) for r in self.roots)
        chains = {"flat": [leaf, mid, root, bundle],          # since 1.25.1: one certificate each, the root twice
                  "one element": [leaf, mid + root, bundle],  # before: the whole chain file
                  "no chain file": [leaf, bundle],
                  "leaf only": [leaf],
                  "bundle twice": [leaf, mid, root, bundle + bundle],
                  "no newline": [leaf, mid, root, bundle.rstrip("\n")]}
        return self.pb.IstioCertificateResponse(cert_chain=chains[self.shape])

    def count(self, method):
        with self.lock:
            return sum(c.endswith("/" + method) for c in self.calls)


class Web:
    """The agent, with roots in a ConfigMap's folder as kubelet mounts it."""

    def __init__(self, tmp, daemon, ca, *flags):
        self.tmp, self.daemon, self.ca, self.flags, self.mount, self.turn = tmp, daemon, ca, flags, tmp / "mount", 0
        self.mount.mkdir()
        self.write_roots(pem(ca.root.cert))
        (self.mount / "root-cert.pem").symlink_to("..data/root-cert.pem")
        (tmp / "token").write_text("head.body.signature\n")
        self.start()

    def write_roots(self, text):
        self.turn += 1
        (self.mount / f"..v{self.turn}").mkdir()
        (self.mount / f"..v{self.turn}/root-cert.pem").write_text(text)
        (self.mount / "..data_tmp").symlink_to(f"..v{self.turn}")
        os.replace(self.mount / "..data_tmp", self.mount / "..data")

    def start(self):
        ports = self.tmp / "web.ports"
        self.run = self.daemon("agent", "run", "--dir", self.tmp / "web", "--identity", ID, "--ca-addr", f"127.0.0.1:{self.ca.port}",
                               "--ca-name", "istiod.istio-system.svc", "--ca-root-cert", self.mount / "root-cert.pem",
                               "--token-file", self.tmp / "token", "--monitoring", "127.0.0.1:0", "--port-file", ports,
                               *self.flags, port_file=ports)
        self.ports = self.run.ports()
        return self

    def status(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['monitoring']}/status", timeout=30) as r:
            return json.load(r)

    def ready(self):
        return wait_for("ready", lambda: (s := self.status())["ready"] and s)


@pytest.fixture
def plain(pb, tmp_path):  # noqa: F811
    ca = PlainCa(pb, tmp_path)
    yield ca
    ca.server.stop(0).wait(5)


def test_only_the_one_call_is_needed(tmp_path, daemon, plain):
    web = Web(tmp_path, daemon, plain, "--cluster-id", "Kubernetes", "--cert-signer", "clusterissuers.x/y")
    s = web.ready()
    assert [r["subject"] for r in s["roots"]] == ["CN=Root A"] and s["leaf"]["issuer"] == "CN=Intermediate A"
    q, headers = plain.seen[0]
    assert headers["authorization"] == "Bearer head.body.signature" and headers["clusterid"] == "Kubernetes"
    assert q.metadata.fields["CertSigner"].string_value == "clusterissuers.x/y"
    s = wait_for("it is known", lambda: (s := web.status())["ca"]["trust_stream"] == "has no trust stream" and s)
    assert s["last_error"] is None and s["word_waits_for"] is None and s["acknowledged_generation"] == 0
    assert plain.count("Watch") == 1 and plain.count("Acknowledge") <= 1 and plain.count("CreateCertificate") == 1
    assert "has no trust stream: the trust set comes with each certificate" in web.run.text()
    chain = (tmp_path / "web/cert-chain.pem").read_text()
    assert chain.count("BEGIN") == 2, "what is self-signed is not presented"
    assert web.run.stop() == 0


@pytest.mark.parametrize("shape,roots", [("flat", 1), ("flat", 12), ("one element", 2), ("bundle twice", 2), ("no newline", 2)])
def test_shapes_of_the_answer(tmp_path, daemon, plain, shape, roots):
    plain.shape, plain.roots = shape, [plain.root] + [Node(f"Root {i}") for i in range(1, roots)]
    s = Web(tmp_path, daemon, plain).ready()
    assert len(s["roots"]) == roots and s["leaf"]["trusted"]
    assert (tmp_path / "web/root-cert.pem").read_text().count("BEGIN") == roots
    assert (tmp_path / "web/cert-chain.pem").read_text().count("BEGIN") == 2


@pytest.mark.parametrize("shape,part", [("leaf only", "has 1 certificates"), ("no chain file", "unknown authority")])
def test_answers_that_nobody_could_verify_are_refused(tmp_path, daemon, plain, shape, part):
    plain.shape = shape
    web = Web(tmp_path, daemon, plain)
    wait_for("refused", lambda: part in (web.status()["last_error"] or ""))
    assert not web.status()["ready"]
    plain.shape = "flat"
    web.ready()


@pytest.mark.parametrize("code", ["INTERNAL", "UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "INVALID_ARGUMENT"])
def test_refusals_are_named_and_tried_again(tmp_path, daemon, plain, code):
    plain.codes = [grpc.StatusCode[code]] * 2
    web = Web(tmp_path, daemon, plain)
    web.ready()
    assert f"code = {code} desc = CSR signing error" in web.run.text()
    with plain.lock:
        csrs = [q.csr for q, _ in plain.seen]
    assert len(csrs) >= 3  # an answer that comes late is one more
    assert len(set(csrs)) == len(csrs), "a new key each time"


def test_the_trust_set_follows_with_each_renewal(tmp_path, daemon, plain):
    plain.life = datetime.timedelta(seconds=6)
    web = Web(tmp_path, daemon, plain)
    first = web.ready()
    b = Node("Root B")
    plain.roots = [plain.root, b]
    wait_for("wider", lambda: len(web.status()["roots"]) == 2)
    plain.root, plain.mid = b, Node("Intermediate B", b)
    s = wait_for("moved", lambda: (s := web.status())["leaf"]["issuer"] == "CN=Intermediate B" and s)
    assert s["leaf"]["trusted"] and s["leaf"]["serial"] != first["leaf"]["serial"]
    plain.roots = [b]
    wait_for("narrower", lambda: [r["subject"] for r in web.status()["roots"]] == ["CN=Root B"])


def test_a_changed_configmap_asks_for_a_leaf_within_a_minute(tmp_path, daemon, plain):
    web = Web(tmp_path, daemon, plain)
    web.ready()
    before = wait_for("it is known", lambda: (s := web.status())["ca"]["trust_stream"] == "has no trust stream" and s)
    b = Node("Root B")
    web.write_roots(pem(plain.root.cert) + pem(b.cert))
    latest = now() + datetime.timedelta(seconds=61)
    assert latest < datetime.datetime.fromisoformat(before["next_renewal"])
    after = wait_for("sooner", lambda: (s := web.status())["next_renewal"] != before["next_renewal"] and s)
    is_done = after["leaf"]["serial"] != before["leaf"]["serial"]  # at once: the time is drawn
    assert is_done or datetime.datetime.fromisoformat(after["next_renewal"]) <= now() + datetime.timedelta(seconds=61)
    assert "the CA's roots have changed" in web.run.text()


def test_roots_that_come_late_are_used_at_once(tmp_path, daemon, plain):
    """Tries have gone wrong for a while; the ConfigMap comes, and nobody waits for the next one."""
    web = Web(tmp_path, daemon, plain)
    web.ready()
    web.run.kill()
    other = Node("Stranger")
    web.tmp = tmp_path / "second"
    web.tmp.mkdir()
    (web.tmp / "token").write_text("t.t.t\n")
    web.write_roots(pem(other.cert))
    web.start()
    wait_for("some tries", lambda: web.status()["failures"] >= 3)
    web.write_roots(pem(plain.root.cert))
    web.ready()


def test_a_kept_leaf_serves_while_the_ca_is_away(tmp_path, daemon, plain):
    socket = tmp_path / "web.sock"
    web = Web(tmp_path, daemon, plain, "--workload-socket", socket, "--sds")
    serial = web.ready()["leaf"]["serial"]
    web.run.kill()
    plain.server.stop(0).wait(5)
    web.start()
    s = web.status()
    assert s["ready"] and s["leaf"]["serial"] == serial
    from grpc_tools import protoc
    import pathlib
    import sys
    out = tmp_path / "pb"
    out.mkdir()
    proto = pathlib.Path(__file__).resolve().parents[2] / "proto"
    assert protoc.main(["protoc", f"-I{proto}", f"--python_out={out}", str(proto / "workload.proto")]) == 0
    sys.path.insert(0, str(out))
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        call = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")(b"", metadata=[("workload.spiffe.io", "true")], timeout=30)
        assert ID.encode() in next(iter(call)), "the Workload API answers at once"
        fetch = channel.stream_stream("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")
        name = b"\x12\x03\x0a\x01n" + b"\x1a\x07default" + b"\x22\x44" + \
            b"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
        assert b"BEGIN PRIVATE KEY" in next(iter(fetch(iter([name]), timeout=30))), "and so does SDS"
    wait_for("it goes on asking", lambda: web.status()["last_error"])
    plain.start()
    wait_for("and finds it again", lambda: web.status()["ca"]["trust_stream"] == "has no trust stream", 150)
