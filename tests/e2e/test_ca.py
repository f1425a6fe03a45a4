"""meshroot ca serve with a real gRPC client (grpcio), real CSRs (cryptography) and openssl verify."""
import base64
import datetime
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from conftest import openssl, openssl_intermediate, openssl_root, put_file, wait_for

ISSUER = "https://issuer.test"
IDENTITY = "spiffe://cluster.local/ns/shop/sa/cart"
CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


@pytest.fixture(scope="session")
def pb(tmp_path_factory):
    """The messages of proto/istio_ca.proto, compiled by grpcio-tools."""
    out = tmp_path_factory.mktemp("pb")
    proto = os.path.join(os.path.dirname(__file__), "..", "..", "proto")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}", f"--python_out={out}", "google_struct.proto",
                    "istio_ca.proto", "meshroot.proto"], check=True, timeout=60)
    sys.path.insert(0, str(out))
    import istio_ca_pb2
    import meshroot_pb2
    sys.path.pop(0)
    return istio_ca_pb2, meshroot_pb2


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An issuer of service-account tokens."""

    def __init__(self):
        self.key = rsa.generate_private_key(65537, 2048)

    def jwks(self):
        n = self.key.public_key().public_numbers()
        return json.dumps({"keys": [{"kty": "RSA", "kid": "k1", "use": "sig", "alg": "RS256",
                                     "n": b64(n.n.to_bytes(256, "big")), "e": b64(n.e.to_bytes(3, "big"))}]})

    def token(self, header=None, sign=None, **claims):
        now = int(time.time())
        head = {"alg": "RS256", "typ": "JWT", "kid": "k1", **(header or {})}
        body = {"iss": ISSUER, "aud": ["istio-ca"], "iat": now, "exp": now + 600, "sub": "system:serviceaccount:shop:cart",
                **claims}
        text = b64(json.dumps(head).encode()) + "." + b64(json.dumps({k: v for k, v in body.items() if v is not None}).encode())
        if head["alg"] == "none":
            return text + "."
        return text + "." + b64((sign or self.key).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))


def make_csr(key=None, cn=None, ca=False, sans=()):
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else [])
    b = x509.CertificateSigningRequestBuilder().subject_name(name)
    if sans:
        b = b.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(s) for s in sans]), True)
    if ca:
        b = b.add_extension(x509.BasicConstraints(True, None), True)
    return key, b.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


class Ca:
    ip = "127.0.0.1"

    def __init__(self, tmp, daemon, pb, *flags, folder=None, state=None):
        self.tmp, self.pb, self.issuer = tmp, pb, Issuer()
        self.state, self.dir = state or tmp / "state", folder or tmp / "cacerts"
        (tmp / "jwks.json").write_text(self.issuer.jwks())
        ports = tmp / "ca.ports"
        self.daemon = daemon("ca", "serve", "--ca-dir", self.dir, "--state-dir", self.state, "--listen", "127.0.0.1:0",
                             "--monitoring", "127.0.0.1:0", "--issuer", f"{ISSUER}={tmp}/jwks.json", "--reread-interval",
                             "100ms", "--port-file", ports, *flags, port_file=ports)
        self.ports = self.daemon.ports()

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['monitoring']}{path}", timeout=30) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def ready(self):
        wait_for("ready", lambda: self.get("/readyz")[0] == 200)
        return self

    def status(self):
        return json.loads(self.get("/status")[1])

    def roots(self):
        return (self.state / "trust/root-cert.pem").read_bytes()

    def channel(self, key=None, chain=None):
        cred = grpc.ssl_channel_credentials(self.roots(), key, chain)
        return grpc.secure_channel(f"{self.ip}:{self.ports['ca']}", cred,
                                   (("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)))

    def call(self, csr, token=None, validity=0, metadata=(), channel=None, path=CREATE, message=None):
        """One call; (chain, trailers), or grpc.RpcError."""
        ca_pb = self.pb[0]
        q = ca_pb.IstioCertificateRequest(csr=csr, validity_duration=validity)
        if message:
            message(q)
        meta = [("authorization", f"Bearer {token}")] if token is not None else []
        own = channel or self.channel()
        try:
            stub = own.unary_unary(path, request_serializer=lambda m: m.SerializeToString(),
                                   response_deserializer=ca_pb.IstioCertificateResponse.FromString)
            answer, call = stub.with_call(q, metadata=meta + list(metadata), timeout=60)
            return list(answer.cert_chain), dict(call.trailing_metadata())
        finally:
            if channel is None:
                own.close()

    def metric(self, line):
        return any(x.startswith(line) for x in self.get("/metrics")[1].splitlines())

    def is_ready(self):
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def issued(self):
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith("citadel_server_success_cert_issuance_count "):
                return int(line.split()[1])
        return 0


@pytest.fixture
def plugged(tmp_path):
    root = openssl_root(tmp_path / "root-a", "Root A", "p256")
    return root, openssl_intermediate(tmp_path / "cacerts", root, "Intermediate A1", "p256")


@pytest.fixture
def ca(tmp_path, daemon, pb, plugged):
    return Ca(tmp_path, daemon, pb).ready()


def refused(code, words, call):
    with pytest.raises(grpc.RpcError) as e:
        call()
    assert e.value.code() == code, e.value.details()
    assert words in e.value.details()


def test_leaf_chain_and_openssl_verify(ca, tmp_path):
    key, csr = make_csr(sans=["spiffe://cluster.local/ns/other/sa/else"], cn="else")
    chain, trailers = ca.call(csr, ca.issuer.token())
    assert trailers["meshroot-generation"] == str(ca.status()["generation"])
    assert all(p.endswith("-----END CERTIFICATE-----\n") for p in chain)
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical and san.value.get_values_for_type(x509.UniformResourceIdentifier) == [IDENTITY]
    assert len(list(san.value)) == 1 and len(leaf.subject) == 0
    assert leaf.public_key().public_numbers() == key.public_key().public_numbers()
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == datetime.timedelta(days=1, seconds=120)
    (tmp_path / "leaf.pem").write_text(chain[0])
    (tmp_path / "mid.pem").write_text("".join(chain[1:-1]))
    (tmp_path / "roots.pem").write_text(chain[-1])
    for purpose in ("sslserver", "sslclient"):
        openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", tmp_path / "roots.pem", "-untrusted",
                tmp_path / "mid.pem", tmp_path / "leaf.pem")
    assert chain[-1].encode() == ca.roots()
    assert ca.metric("citadel_server_success_cert_issuance_count 1")
    for kind in ("root", "chain", "server"):
        assert ca.metric(f'meshroot_cert_expiry_timestamp_seconds{{kind="{kind}",subject="'), kind
    for line in ("citadel_server_root_cert_expiry_timestamp ", "citadel_server_cert_chain_expiry_seconds ", "meshroot_ca_generation 1",
                 "meshroot_ca_loaded_is_present 1", 'grpc_server_handled_total{grpc_service="istio.v1.auth.IstioCertificateService"'):
        assert ca.metric(line), line


def test_openssl_rsa4096_bundle(tmp_path, daemon, pb):
    root = openssl_root(tmp_path / "root-r", "Root R", "rsa4096")
    openssl_intermediate(tmp_path / "cacerts", root, "Intermediate R1", "rsa4096")
    ca = Ca(tmp_path, daemon, pb).ready()
    _, csr = make_csr(rsa.generate_private_key(65537, 2048))
    chain, _ = ca.call(csr, ca.issuer.token())
    (tmp_path / "leaf.pem").write_text(chain[0])
    (tmp_path / "mid.pem").write_text("".join(chain[1:-1]))
    (tmp_path / "roots.pem").write_text(chain[-1])
    openssl("verify", "-CAfile", tmp_path / "roots.pem", "-untrusted", tmp_path / "mid.pem", tmp_path / "leaf.pem")


BAD_TOKENS = {
    "none given": lambda i: None,
    "one letter": lambda i: "x",
    "expired": lambda i: i.token(exp=int(time.time()) - 3600),
    "no expiry": lambda i: i.token(exp=None),
    "not yet valid": lambda i: i.token(nbf=int(time.time()) + 3600),
    "wrong audience": lambda i: i.token(aud=["vault"]),
    "wrong issuer": lambda i: i.token(iss="https://evil.test"),
    "alg none": lambda i: i.token({"alg": "none"}),
    "unknown kid": lambda i: i.token({"kid": "k2"}),
    "other key": lambda i: i.token(sign=rsa.generate_private_key(65537, 2048)),
    "not a service account": lambda i: i.token(sub="alice"),
    "sub too short": lambda i: i.token(sub="system:serviceaccount:shop"),
    "sub with a slash": lambda i: i.token(sub="system:serviceaccount:shop:a/ns/b"),
    "garbage": lambda i: "a.b.c",
    "17 KB": lambda i: "a" * 17000,
}


def test_tokens_that_are_not_good(ca):
    _, csr = make_csr()
    for name, make in BAD_TOKENS.items():
        with pytest.raises(grpc.RpcError) as e:
            ca.call(csr, make(ca.issuer))
        assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED, (name, e.value.details())
        assert e.value.details() == "request authenticate failure", name
    for reason in ("expired", "audience", "issuer", "alg", "kid", "signature", "none"):
        assert ca.metric(f'meshroot_ca_auth_failures_total{{reason="{reason}"}}'), reason
    for header in (f"bearer {ca.issuer.token()}", f"Bearer  {ca.issuer.token()}", ca.issuer.token()):
        refused(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure",
                lambda: ca.call(csr, metadata=[("authorization", header)]))


def test_csrs_that_are_not_good(ca):
    token, (key, csr) = ca.issuer.token(), make_csr()
    der = bytearray(base64.b64decode("".join(csr.splitlines()[1:-1])))
    der[-1] ^= 1

    def pem(data):
        return "-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(data)).decode() + "-----END CERTIFICATE REQUEST-----\n"

    rows = [("", "not properly encoded"), ("hello", "not properly encoded"),
            (pem(b"hello"), "failed to parse X.509 certificate signing request"),
            (pem(der), "verification"), (pem(bytes(der) + b"x"), "trailing bytes"),
            (make_csr(rsa.generate_private_key(65537, 1024))[1], "1024 bits"), (make_csr(ca=True)[1], "CA:TRUE")]
    for text, words in rows:
        refused(grpc.StatusCode.INVALID_ARGUMENT, words, lambda: ca.call(text, token))
    assert ca.metric(f'citadel_server_csr_sign_err_count{{error="CSR_ERROR"}} {len(rows)}')


def test_lifetimes(ca):
    token, (_, csr) = ca.issuer.token(), make_csr()
    refused(grpc.StatusCode.INVALID_ARGUMENT,
            "CSR signing error (requested TTL 2184h0m0s is greater than the max allowed TTL 2160h0m0s)",
            lambda: ca.call(csr, token, validity=2184 * 3600))
    for asked, lasts in ((3600, 3600), (-5, 86400), (2160 * 3600, 2160 * 3600)):
        leaf = x509.load_pem_x509_certificate(ca.call(csr, token, validity=asked)[0][0].encode())
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == datetime.timedelta(seconds=lasts + 120)


def test_impersonation_is_refused(ca):
    def as_other(q):
        q.metadata.fields["ImpersonatedIdentity"].string_value = "spiffe://cluster.local/ns/a/sa/b"

    def signer(name):
        def set_fields(q):
            q.metadata.fields["CertSigner"].string_value = name
            q.metadata.fields["other"].list_value.values.add().bool_value = True
        return set_fields

    _, csr = make_csr()
    refused(grpc.StatusCode.UNAUTHENTICATED, "request impersonation authentication failure",
            lambda: ca.call(csr, ca.issuer.token(), message=as_other))
    for name in ("", "meshroot"):
        assert ca.call(csr, ca.issuer.token(), message=signer(name))[0]
    for name in ("x", "Meshroot", "meshroot\n", "m" * 300, "a, b"):
        refused(grpc.StatusCode.INVALID_ARGUMENT, "is not known here; leave it empty, or: meshroot",
                lambda: ca.call(csr, ca.issuer.token(), message=signer(name)))
    refused(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure",
            lambda: ca.call(csr, metadata=[("x-forwarded-client-cert", f"URI={IDENTITY}")]))


def test_message_over_64_kb(ca):
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "", lambda: ca.call("x" * (65 * 1024), ca.issuer.token()))


def test_paths_that_only_look_right(ca):
    """specs/peers.md 5a 19: nothing but the exact path reaches a handler. (grpcio insists on the first slash: see below.)"""
    _, csr = make_csr()
    for path in ("/" + CREATE, CREATE + "/", CREATE + ".", CREATE.lower(), CREATE.replace("/C", "%2FC"), "/x"):
        refused(grpc.StatusCode.UNIMPLEMENTED, "", lambda: ca.call(csr, ca.issuer.token(), path=path))
    assert ca.metric("citadel_server_csr_count 0")


def frame(kind, flags, stream, data):
    return len(data).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + data


def literal(name, value):
    """HPACK, literal without indexing, no Huffman: bytes as they are."""
    out = b"\x00"
    for text in (name.encode(), value.encode()):
        n = len(text)
        out += (bytes([n]) if n < 127 else b"\x7f" + bytes([(n - 127) & 127 | 128, (n - 127) >> 7])) + text
    return out


def raw_call(ca, path, method="POST", token=""):
    """One request by hand; the types of the frames that answer stream 1."""
    context = ssl.create_default_context(cadata=ca.roots().decode())
    context.set_alpn_protocols(["h2"])
    head = b"".join(literal(k, v) for k, v in ((":method", method), (":scheme", "https"), (":path", path),
                                               (":authority", "localhost"), ("content-type", "application/grpc"),
                                               ("te", "trailers"), ("authorization", "Bearer " + token)))
    ca_pb = ca.pb[0]
    message = ca_pb.IstioCertificateRequest(csr=make_csr()[1]).SerializeToString()
    with context.wrap_socket(socket.create_connection(("127.0.0.1", ca.ports["ca"]), 60), server_hostname="localhost") as s:
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, head) +
                  frame(0, 1, 1, b"\0" + len(message).to_bytes(4, "big") + message))
        data, seen = b"", []
        while True:
            got = s.recv(65536)
            if not got:
                return seen
            data += got
            while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
                kind, flags, stream = data[3], data[4], int.from_bytes(data[5:9], "big")
                data = data[9 + int.from_bytes(data[:3], "big"):]
                if stream == 1:
                    seen.append(kind)
                    if kind == 3 or flags & 1:
                        return seen
                if kind == 7:
                    return seen


def test_raw_paths_never_reach_a_handler(ca):
    token = ca.issuer.token()
    for path, method in ((CREATE[1:], "POST"), ("*", "POST"), ("", "POST"), (CREATE, "GET"), (CREATE, "post"),
                         (CREATE.replace("/C", "/./C"), "POST")):
        raw_call(ca, path, method, token)
        assert ca.metric("citadel_server_csr_count 0"), path
    assert 0 in raw_call(ca, CREATE, "POST", token)  # the same by the right name is answered with DATA
    assert ca.metric("citadel_server_success_cert_issuance_count 1")


def test_renewal_by_client_certificate(ca):
    key, csr = make_csr()
    chain, _ = ca.call(csr, ca.issuer.token())
    pem_key = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with ca.channel(pem_key, "".join(chain[:-1]).encode()) as channel:
        again, _ = ca.call(make_csr()[1], channel=channel)
    leaf = x509.load_pem_x509_certificate(again[0].encode())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == [IDENTITY]


def test_instance_must_be_sound(ca):
    _, csr = make_csr()
    refused(grpc.StatusCode.INVALID_ARGUMENT, "32 lower-case hex",
            lambda: ca.call(csr, ca.issuer.token(), metadata=[("meshroot-instance", "me")]))
    assert ca.call(csr, ca.issuer.token(), metadata=[("meshroot-instance", "ab" * 16)])[0]


def test_a_hundred_idle_connections(ca):
    context = ssl.create_default_context(cadata=ca.roots().decode())
    context.set_alpn_protocols(["h2"])
    idle = []
    try:
        for i in range(100):
            raw = socket.create_connection(("127.0.0.1", ca.ports["ca"]), 60)
            idle.append(context.wrap_socket(raw, server_hostname="localhost") if i % 2 == 0 else raw)
        assert ca.call(make_csr()[1], ca.issuer.token())[0]
    finally:
        for s in idle:
            s.close()


def copy_set(src, dst, names=("root-cert.pem", "ca-cert.pem", "ca-key.pem", "cert-chain.pem")):
    for n in names:
        put_file(dst / n, (src / n).read_text())


def test_reload_and_a_bad_set(ca, plugged, tmp_path):
    root, _ = plugged
    _, csr = make_csr()
    with ca.channel() as channel:
        first, trailers = ca.call(csr, ca.issuer.token(), channel=channel)
        # a bad set: the key of another intermediate
        a2 = openssl_intermediate(tmp_path / "a2", root, "Intermediate A2", "p256")
        copy_set(a2, ca.dir, ("ca-key.pem",))
        wait_for("refused", lambda: ca.status()["refused"])
        wait_for("for its key", lambda: ca.metric('meshroot_ca_refused_total{reason="inconsistent"}'))  # it may have been seen half written
        assert "ca-key.pem" in ca.status()["refused"] and ca.metric("meshroot_ca_loaded_is_present 0")
        same, _ = ca.call(csr, ca.issuer.token(), channel=channel)
        assert same[1:] == first[1:]
        # made whole: loaded, no restart, the open connection stays
        copy_set(a2, ca.dir)
        wait_for("A2", lambda: "A2" in ca.status()["intermediate"]["subject"])
        second, after = ca.call(csr, ca.issuer.token(), channel=channel)
        assert second[1] == (a2 / "ca-cert.pem").read_text() and int(after["meshroot-generation"]) > int(trailers["meshroot-generation"])
    assert ca.metric("meshroot_ca_loaded_is_present 1") and ca.status()["refused"] is None
    log = ca.daemon.text()
    for line in ("Update Istiod cacerts", "update root cert and generate new dns certs", "x509 cert - Issuer: \"CN=Intermediate A2",
                 "Istiod certificates are reloaded", "spiffe\tAdded 1 certs to trust domain cluster.local in peer cert verifier",
                 "Istiod has detected the newly added intermediate CA and updated its key and certs accordingly"):
        assert line in log, line


def test_roots_are_widened_and_streamed(ca, plugged, tmp_path):
    watch = ca.pb[1]
    other = openssl_root(tmp_path / "root-b", "Root B", "p256")
    with ca.channel() as channel:
        stub = channel.unary_stream("/meshroot.v1.Trust/Watch", request_serializer=lambda m: m.SerializeToString(),
                                    response_deserializer=watch.TrustSet.FromString)
        sets = stub(watch.WatchRequest(instance="ab" * 16), metadata=[("authorization", f"Bearer {ca.issuer.token()}")], timeout=120)
        first = next(sets)
        assert len(first.roots) == 1
        both = (ca.dir / "root-cert.pem").read_text() + (other / "root-cert.pem").read_text()
        put_file(ca.dir / "root-cert.pem", both)
        second = next(sets)
        assert len(second.roots) == 2 and second.generation > first.generation and second.signer_id == first.signer_id
        assert ca.status()["agents_connected"] == 1
        sets.cancel()
    wait_for("the stream is gone", lambda: ca.status()["agents_connected"] == 0)
    assert "Updating new ROOT-CA" in ca.daemon.text()
    assert ca.call(make_csr()[1], ca.issuer.token())[0][-1].count("BEGIN CERTIFICATE") == 2


def test_a_root_that_go_clients_refuse_is_named(tmp_path, daemon, pb):
    """CA:TRUE as 0x01 is no DER (X.690 11.1): OpenSSL reads it, an Istio agent does not. It is served, and said."""
    root = openssl_root(tmp_path / "root", "Root Z", "p256")
    key = serialization.load_pem_private_key((root / "root-key.pem").read_bytes(), None)
    cert = x509.load_pem_x509_certificate((root / "root-cert.pem").read_bytes())
    tbs = cert.tbs_certificate_bytes.replace(bytes.fromhex("30030101ff"), bytes.fromhex("3003010101"))
    assert tbs != cert.tbs_certificate_bytes

    def seq(tag, data):
        return bytes([tag]) + (bytes([len(data)]) if len(data) < 128 else b"\x82" + len(data).to_bytes(2, "big")) + data

    der = seq(0x30, tbs + bytes.fromhex("300a06082a8648ce3d040302") + seq(3, b"\0" + key.sign(tbs, ec.ECDSA(hashes.SHA256()))))
    (root / "root-cert.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    openssl_intermediate(tmp_path / "cacerts", root, "Intermediate Z1", "p256")
    ca = Ca(tmp_path, daemon, pb).ready()
    assert ca.call(make_csr()[1], ca.issuer.token())[0]
    assert '"CN=Root Z,O=Istio" is not DER' in ca.daemon.text() and '"CN=Intermediate Z1' not in ca.daemon.text().split("is not DER")[1]


def test_self_signed_then_plugged_in_is_refused(tmp_path, daemon, pb):
    (tmp_path / "cacerts").mkdir()
    ca = Ca(tmp_path, daemon, pb, "--self-signed").ready()
    assert ca.status()["mode"] == "self-signed"
    chain, _ = ca.call(make_csr()[1], ca.issuer.token())
    assert len(chain) == 2
    root = openssl_root(tmp_path / "root-a", "Root A", "p256")
    copy_set(openssl_intermediate(tmp_path / "a1", root, "A1", "p256"), ca.dir)
    wait_for("refused", lambda: "disable, then enable" in (ca.status()["refused"] or ""))
    assert ca.call(make_csr()[1], ca.issuer.token())[0][1:] == chain[1:]


def test_restart_keeps_the_root_and_sigterm_drains(tmp_path, daemon, pb):
    (tmp_path / "cacerts").mkdir()
    ca = Ca(tmp_path, daemon, pb, "--self-signed").ready()
    before = ca.roots()
    assert ca.daemon.stop() == 0
    assert Ca(tmp_path, daemon, pb, "--self-signed").ready().roots() == before


def test_a_signal_during_the_start_is_heard(tmp_path, daemon):
    """It waits for the store, which somebody else holds. The first process of a container is not ended by a signal that it does not know."""
    state, folder = tmp_path / "state", tmp_path / "cacerts"
    for d in (state, folder):
        d.mkdir(mode=0o700)
    held = sqlite3.connect(state / "meshroot.db", isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    d = daemon("ca", "serve", "--ca-dir", folder, "--state-dir", state, "--listen", "127.0.0.1:0", "--monitoring", "off", "--self-signed")

    def has_it_open():
        fds = f"/proc/{d.process.pid}/fd"
        return d.process.poll() is not None or any(os.path.realpath(f"{fds}/{x}") == str(state / "meshroot.db") for x in os.listdir(fds))
    wait_for("the store", has_it_open)
    d.process.send_signal(signal.SIGTERM)
    held.execute("ROLLBACK")
    held.close()
    assert d.process.wait(120) >= 0, "ended by the signal"


def test_two_processes_on_one_state_folder(ca, tmp_path, daemon):
    second = daemon("ca", "serve", "--ca-dir", ca.dir, "--state-dir", ca.state, "--listen", "127.0.0.1:0", "--monitoring", "off")
    assert second.process.wait(60) == 17
    assert str(ca.daemon.process.pid) in second.text()


def test_kill_9_and_the_ledger_goes_on(tmp_path, daemon, pb, plugged):
    ca = Ca(tmp_path, daemon, pb).ready()
    assert ca.call(make_csr()[1], ca.issuer.token())[0]
    generation = ca.status()["generation"]
    ca.daemon.kill()
    again = Ca(tmp_path, daemon, pb).ready()
    assert again.call(make_csr()[1], again.issuer.token())[0]
    assert again.status()["generation"] == generation
