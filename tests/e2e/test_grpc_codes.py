"""Every row of specs/istio-ca.md 1.5 that can happen here: code, words, metric; and that Istio's agents try again what time can mend (1.7)."""
import os
import signal
import subprocess

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from conftest import put_file, wait_for
from test_ca import Ca, make_csr, pb, plugged  # noqa: F401
from test_callers import asks

C = grpc.StatusCode
RETRIED = {C.RESOURCE_EXHAUSTED, C.ABORTED, C.INTERNAL, C.UNAVAILABLE}  # 1.7, pilot-agent


@pytest.fixture
def ca(tmp_path, daemon, pb, plugged):  # noqa: F811
    return Ca(tmp_path, daemon, pb).ready()


def outcome(call):
    try:
        call()
    except grpc.RpcError as e:
        return e.code(), e.details()
    return C.OK, ""


def broken(csr):
    """The same request with one bit of its signature turned."""
    import base64
    der = bytearray(base64.b64decode("".join(csr.splitlines()[1:-1])))
    der[-1] ^= 1
    return "-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(der)).decode() + "-----END CERTIFICATE REQUEST-----\n"


def test_table_1_5(ca):
    _, csr = make_csr()
    t, no = ca.issuer.token(), "request authenticate failure"
    junk = "-----BEGIN CERTIFICATE REQUEST-----\naGVsbG8=\n-----END CERTIFICATE REQUEST-----\n"
    rsa_csr = make_csr(rsa.generate_private_key(65537, 2048))[1]
    signer = lambda q: q.metadata.fields["CertSigner"].__setattr__("string_value", "other")  # noqa: E731
    error = 'citadel_server_csr_sign_err_count{error="%s"}'
    failures = "citadel_server_authentication_failure_count"
    table = [  # what, call, code, words, metric that grows, is it retried inside one call
        ("no token", lambda: ca.call(csr), C.UNAUTHENTICATED, no, failures),
        ("a bad token", lambda: ca.call(csr, "x.y.z"), C.UNAUTHENTICATED, no, failures),
        ("an expired token", lambda: ca.call(csr, ca.issuer.token(exp=1000)), C.UNAUTHENTICATED, no, failures),
        ("impersonation, not configured", lambda: ca.call(csr, t, message=asks("spiffe://cluster.local/ns/a/sa/b")), C.UNAUTHENTICATED,
         "request impersonation authentication failure", failures),
        ("a CSR that is no PEM", lambda: ca.call("hello", t), C.INVALID_ARGUMENT,
         "CSR signing error (certificate signing request is not properly encoded", error % "CSR_ERROR"),
        ("a CSR that is no PKCS#10", lambda: ca.call(junk, t), C.INVALID_ARGUMENT,
         "CSR signing error (failed to parse X.509 certificate signing request", error % "CSR_ERROR"),
        ("an EC signature that is wrong", lambda: ca.call(broken(csr), t), C.INVALID_ARGUMENT,
         "CSR signing error (x509: ECDSA verification failure)", error % "CSR_ERROR"),
        ("an RSA signature that is wrong", lambda: ca.call(broken(rsa_csr), t), C.INVALID_ARGUMENT,
         "CSR signing error (crypto/rsa: verification error)", error % "CSR_ERROR"),
        ("a lifetime above the maximum", lambda: ca.call(csr, t, validity=2184 * 3600), C.INVALID_ARGUMENT,
         "CSR signing error (requested TTL 2184h0m0s is greater than the max allowed TTL 2160h0m0s)", error % "TTL_ERROR"),
        ("a signer that is not ours", lambda: ca.call(csr, t, message=signer), C.INVALID_ARGUMENT, 'CertSigner "other" is not known here', None),
        ("another service", lambda: ca.call(csr, t, path="/istio.v1.auth.Other/CreateCertificate"), C.UNIMPLEMENTED,
         "unknown service istio.v1.auth.Other", None),
        ("a message that is too long", lambda: ca.call("x" * 70000, t), C.RESOURCE_EXHAUSTED, "", None),
    ]

    def value(metric):
        return sum(float(x.split()[-1]) for x in ca.get("/metrics")[1].splitlines() if metric and x.startswith(metric))

    for what, call, code, words, metric in table:
        before = value(metric)
        got, details = outcome(call)
        assert got == code and words in details, (what, got, details)
        assert metric is None or value(metric) == before + 1, what
        assert got not in RETRIED or what == "a message that is too long", what
    assert outcome(lambda: ca.call(csr, t))[0] == C.OK


def test_what_time_mends_is_tried_again(ca, tmp_path, daemon, pb):  # noqa: F811
    """No keys yet, no signer process: a code that agents try again, and then an answer."""
    _, csr = make_csr()
    keys = tmp_path / "late.json"
    late = "https://late.test"
    second = tmp_path / "second"
    second.mkdir()
    other = Ca(second, daemon, pb, "--issuer", f"{late}={keys}", folder=ca.dir).ready()
    code, words = outcome(lambda: other.call(csr, other.issuer.token(iss=late)))
    assert code in RETRIED and "keys are not known yet" in words
    put_file(keys, other.issuer.jwks())
    wait_for("keys", lambda: outcome(lambda: other.call(csr, other.issuer.token(iss=late)))[0] == C.OK)
    # the signer process, a child of the CA, is killed: what comes until the next one stands may be tried again
    child = int(subprocess.run(["pgrep", "-P", str(ca.daemon.process.pid)], capture_output=True, text=True, check=True).stdout.split()[0])
    os.kill(child, signal.SIGKILL)
    seen = set()

    def answered():
        seen.add(outcome(lambda: ca.call(csr, ca.issuer.token()))[0])
        return C.OK in seen and ca.status()["signer"]["restarts"] >= 1
    wait_for("an answer", answered)
    assert seen - {C.OK} <= RETRIED
