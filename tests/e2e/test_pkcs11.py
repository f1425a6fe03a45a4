"""meshroot ca serve --signer pkcs11:...: the intermediate's key is in a SoftHSM 2 token, made there by pkcs11-tool, and no file
holds it. The hierarchy is plain openssl's, over the token's public key."""
import os
import pathlib
import re
import subprocess
import threading
import urllib.parse

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conftest import BINARY, meshroot, openssl, openssl_intermediate, openssl_root, put_file, wait_for
from key_hunt import forms_of, memory_has
from test_agent import Echo, pair, talk
from test_ca import Ca, make_csr, pb, refused  # noqa: F401 (a fixture)
from test_jwt_svid import sign, verify
from test_revoke import leaf, lists, revoke, serial_of
from test_signer import Load, kill_signer, leaf_is_right, replace_signer, signer, works

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "918273"
CURVES = {"EC:prime256v1": ec.SECP256R1(), "EC:secp384r1": ec.SECP384R1()}


class Token:
    """A SoftHSM 2 token of its own folder, label "mesh"."""

    def __init__(self, tmp):
        self.tmp, self.dir = tmp, tmp / "tokens"
        self.dir.mkdir()
        (tmp / "softhsm2.conf").write_text(f"directories.tokendir = {self.dir}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.env = {"SOFTHSM2_CONF": str(tmp / "softhsm2.conf")}
        self.pin_file = tmp / "pin"
        self.pin_file.write_text(PIN + "\n")
        self.pin_file.chmod(0o600)
        self.run("softhsm2-util", "--init-token", "--free", "--label", "mesh", "--so-pin", "0000", "--pin", PIN)

    def run(self, *args):
        return subprocess.run(list(map(str, args)), check=True, capture_output=True, timeout=60, env={**os.environ, **self.env})

    def tool(self, *args):
        return self.run("pkcs11-tool", "--module", MODULE, "--token-label", "mesh", "--login", "--pin", PIN, *args)

    def keypair(self, label, kind, ident):
        """Makes a key in the token; its public half as PEM."""
        self.tool("--keypairgen", "--key-type", kind, "--label", label, "--id", ident)
        if kind.startswith("EC"):  # pkcs11-tool 0.23 cannot export P-384, but shows the point: an OCTET STRING
            shown = self.tool("--list-objects", "--type", "pubkey", "--id", ident).stdout.decode()
            point = bytes.fromhex(re.search(r"EC_POINT: +04..([0-9a-f]+)", shown)[1])
            public = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[kind], point)
        else:
            der = self.tmp / f"{label}.der"
            self.tool("--read-object", "--type", "pubkey", "--id", ident, "--output-file", der)
            public = serialization.load_der_public_key(der.read_bytes())
        pem = self.tmp / f"{label}.pub"
        pem.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
        return pem

    def take_away(self):
        """The token is pulled out: SoftHSM's files of it are gone from where they were."""
        self.away = self.tmp / "away"
        self.away.mkdir()
        for f in self.dir.iterdir():
            f.rename(self.away / f.name)

    def put_back(self):
        for f in self.away.iterdir():
            f.rename(self.dir / f.name)

    def uri(self, path="token=mesh", **query):
        q = {"module-path": MODULE, "pin-source": f"file:{self.pin_file}", **query}
        return "pkcs11:" + path + "?" + "&".join(f"{k}={urllib.parse.quote(v)}" for k, v in q.items())

    def flags(self):
        return ("--signer", self.uri(), "--signer-reads", str(self.dir))


def intermediate_over(folder, root, name, public_key):
    """An intermediate whose private key nobody here has: openssl puts the token's public key in (-force_pubkey)."""
    folder.mkdir(parents=True, exist_ok=True)
    ext = folder.parent / f"{folder.name}.ext"
    ext.write_text("subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nbasicConstraints=critical,CA:true,pathlen:0\n"
                   "keyUsage=critical,digitalSignature,keyCertSign,cRLSign\n")
    scratch = folder.parent / f"{folder.name}.scratch"
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{scratch}.key", "-subj",
            f"/O=Istio/CN={name}", "-out", f"{scratch}.csr")
    openssl("x509", "-req", "-in", f"{scratch}.csr", "-CA", root / "root-cert.pem", "-CAkey", root / "root-key.pem", "-CAcreateserial",
            "-days", "730", "-sha256", "-extfile", ext, "-force_pubkey", public_key, "-out", folder / "ca-cert.pem")
    (folder / "cert-chain.pem").write_text((folder / "ca-cert.pem").read_text() + (root / "root-cert.pem").read_text())
    (folder / "root-cert.pem").write_text((root / "root-cert.pem").read_text())
    assert not (folder / "ca-key.pem").exists()
    return folder


def swap(source, folder):
    for name in ("root-cert.pem", "ca-cert.pem", "cert-chain.pem"):
        (folder / f".{name}").write_bytes((source / name).read_bytes())
        (folder / f".{name}").rename(folder / name)


def serve(tmp, daemon, pb, token, *flags):  # noqa: F811
    return Ca(tmp, lambda *a, **k: daemon(*a, env=token.env, **k), pb, *token.flags(), *flags)


@pytest.fixture
def token(tmp_path):
    return Token(tmp_path)


def openssl_verifies(tmp, chain):
    (tmp / "leaf.pem").write_text(chain[0])
    (tmp / "mid.pem").write_text("".join(chain[1:-1]))
    (tmp / "roots.pem").write_text(chain[-1])
    lived = int(x509.load_pem_x509_certificate(chain[0].encode()).not_valid_after_utc.timestamp()) - 1  # it may be over by now
    openssl("verify", "-x509_strict", "-attime", lived, "-CAfile", tmp / "roots.pem", "-untrusted", tmp / "mid.pem", tmp / "leaf.pem")


@pytest.mark.parametrize("kind", ["EC:prime256v1", "EC:secp384r1", "rsa:2048"])
def test_leaves_by_each_kind_of_key(tmp_path, daemon, pb, token, kind):  # noqa: F811
    root = openssl_root(tmp_path / "root", "Root A", "p256")
    token.keypair("other", kind, "07")  # the key is found by the certificate, not by its place
    intermediate_over(tmp_path / "cacerts", root, "Token A1", token.keypair("a1", kind, "01"))
    ca = serve(tmp_path, daemon, pb, token).ready()
    key, csr = make_csr()
    chain, _ = ca.call(csr, ca.issuer.token())
    leaf_is_right(chain, key)
    openssl_verifies(tmp_path, chain)
    assert verify(ca, sign(ca, ["a"]))["aud"] == ["a"]  # and JWT-SVIDs
    status = signer(ca)
    assert status["kind"] == "pkcs11" and status["token"].startswith("mesh (SoftHSM project SoftHSM v2, serial ") and status["up"]
    assert ca.metric('meshroot_signer_info{kind="pkcs11",token="mesh (SoftHSM')
    assert PIN not in ca.daemon.text() and "in the PKCS#11 token mesh" in ca.daemon.text()
    for pid in (ca.daemon.process.pid, status["pid"]):
        assert PIN.encode() not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        assert PIN.encode() not in pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    for task in pathlib.Path(f"/proc/{status['pid']}/task").iterdir():
        assert "Seccomp:\t2" in (task / "status").read_text()

@pytest.mark.parametrize("kind", ["EC:prime256v1", "EC:secp384r1", "rsa:2048"])
def test_the_token_signs_revocation_lists(tmp_path, daemon, pb, token, kind):  # noqa: F811
    root = openssl_root(tmp_path / "root", "Root A", "p256")
    intermediate_over(tmp_path / "cacerts", root, "Token A1", token.keypair("a1", kind, "01"))
    ca = serve(tmp_path, daemon, pb, token).ready()
    issuer = x509.load_pem_x509_certificate((tmp_path / "cacerts/ca-cert.pem").read_bytes())
    key, chain, cert = leaf(ca)
    (before,) = lists(ca)
    assert before.is_signature_valid(issuer.public_key()) and len(list(before)) == 0
    assert revoke(ca, "--serial", serial_of(cert), "--reason", "keyCompromise")["lists"][0]["signed"] is True
    (crl,) = lists(ca)
    assert crl.is_signature_valid(issuer.public_key()) and crl.get_revoked_certificate_by_serial_number(cert.serial_number)
    (tmp_path / "crl.pem").write_text(ca.get("/ca-crl.pem")[1])
    said = subprocess.run(["openssl", "crl", "-in", tmp_path / "crl.pem", "-noout", "-verify", "-CAfile", tmp_path / "cacerts/ca-cert.pem"],
                          capture_output=True, text=True, check=True)
    assert "verify OK" in said.stderr
    with ca.channel(key, chain.encode()) as c:
        refused(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure", lambda: ca.call(make_csr()[1], channel=c))
    # the child is another one: it logs in anew, and signs the next list
    kill_signer(ca)
    wait_for("another signer", lambda: works(ca))
    again = leaf(ca)[2]
    assert revoke(ca, "--serial", serial_of(again))["lists"][0]["signed"] is True
    (crl,) = lists(ca)
    assert crl.is_signature_valid(issuer.public_key()) and len(list(crl)) == 2 and ca.metric("meshroot_crl_unsigned 0")


@pytest.fixture
def first(tmp_path, token):
    """Root A and an intermediate over the token's key a1."""
    root = openssl_root(tmp_path / "root", "Root A", "p256")
    return root, intermediate_over(tmp_path / "cacerts", root, "Token A1", token.keypair("a1", "EC:prime256v1", "01"))


def issuer_of(agent):
    return agent.status()["leaf"]["issuer"]


def test_a_mesh_and_its_rotation_to_another_key_in_the_token(tmp_path, daemon, pb, token, first):  # noqa: F811
    """Two workloads speak mTLS over new connections all the time, leaves live for a minute, callers ask for more; then
    another certificate comes, whose key was made in the same token meanwhile."""
    ca = serve(tmp_path, daemon, pb, token, "--default-workload-ttl", "1m").ready()  # who is away for half of it has a leaf that ends
    echo = Echo()
    web, db = pair(tmp_path, daemon, ca, echo)
    said, failed, stop = [0], [0], threading.Event()

    def speak():
        while not stop.is_set():
            good = talk(web.ports["outbound"][0]) == b"hello\n"
            (said if good else failed)[0] += 1

    speaker = threading.Thread(target=speak)
    speaker.start()
    with Load(ca, 4) as load:
        load.more(20)
        a2 = intermediate_over(tmp_path / "a2", first[0], "Token A2", token.keypair("a2", "EC:prime256v1", "02"))
        swap(a2, ca.dir)
        wait_for("A2 signs", lambda: "Token A2" in ca.status()["intermediate"]["subject"])
        load.more(20)
        wait_for("both workloads have leaves of A2", lambda: all("Token A2" in issuer_of(a) for a in (web, db)), 120)
    before = said[0]
    wait_for("they speak on", lambda: said[0] > before + 10)
    stop.set()
    speaker.join(60)
    echo.listener.close()
    assert failed == [0] and said[0] > 20
    assert set(load.codes) == {"OK"}
    serials = [leaf_is_right(chain, key) for chain, key in load.leaves]
    assert len(set(serials)) == len(serials)
    by_issuer = {x509.load_pem_x509_certificate(chain[0].encode()).issuer.rfc4514_string(): chain for chain, _ in load.leaves}
    assert by_issuer.keys() == {"CN=Token A1,O=Istio", "CN=Token A2,O=Istio"}
    for chain in by_issuer.values():
        openssl_verifies(tmp_path, chain)
    assert not list(ca.dir.glob("ca-key*"))
    meshroot("ledger", "verify", "--state-dir", ca.state)


def test_a_token_that_is_pulled_out_and_put_back(tmp_path, daemon, pb, token, first):  # noqa: F811
    ca = serve(tmp_path, daemon, pb, token).ready()
    assert works(ca)
    token.take_away()
    wait_for("UNAVAILABLE", lambda: works(ca) is None)  # works() takes no other refusal
    wait_for("/readyz to say so", lambda: ca.get("/readyz")[0] == 503)
    wait_for("its reason", lambda: "token" in signer(ca)["trouble"])
    assert "PKCS#11 token" in ca.daemon.text() and ca.metric("meshroot_signer_up 0")
    with pytest.raises(grpc.RpcError) as e:
        ca.call(make_csr()[1], ca.issuer.token())
    assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    token.put_back()
    wait_for("leaves again: it has logged in anew", lambda: works(ca))
    wait_for("ready", lambda: ca.get("/readyz")[0] == 200)
    assert ca.metric("meshroot_signer_up 1") and signer(ca)["restarts"] >= 1


def test_the_signer_dies_and_logs_in_again(tmp_path, daemon, pb, token, first):  # noqa: F811
    ca = serve(tmp_path, daemon, pb, token).ready()
    with Load(ca, 8) as load:
        for _ in range(3):
            load.more(8)
            replace_signer(ca)
        load.more(8)
    assert set(load.codes) <= {"OK", "UNAVAILABLE"}
    for chain, key in load.leaves:
        leaf_is_right(chain, key)


def test_a_key_that_is_not_in_the_token_yet(tmp_path, daemon, pb, token, first):  # noqa: F811
    """The certificate came first: refused, the last good one signs on; then a file's certificate: never a key of a file."""
    ca = serve(tmp_path, daemon, pb, token).ready()
    elsewhere = openssl_intermediate(tmp_path / "a3", first[0], "Intermediate A3", "p256")
    swap(elsewhere, ca.dir)
    wait_for("refused", lambda: "has no private key of ca-cert.pem's (1 looked at, p256)" in (ca.status()["refused"] or ""))
    assert works(ca) and ca.metric("meshroot_ca_loaded_is_present 0")
    put_file(ca.dir / "ca-key.pem", (elsewhere / "ca-key.pem").read_text())
    wait_for("the warning", lambda: "ca-key.pem is there and not read" in ca.daemon.text())
    assert "has no private key" in ca.status()["refused"], "a key in a file does not count"
    token.run("softhsm2-util", "--import", pkcs8(elsewhere / "ca-key.pem"), "--token", "mesh", "--pin", PIN, "--label", "a3", "--id",
              "03")
    (ca.dir / "ca-key.pem").unlink()
    wait_for("A3", lambda: "A3" in ca.status()["intermediate"]["subject"])
    # SoftHSM computes in the process that loaded it: the signer's
    forms = forms_of((elsewhere / "ca-key.pem").read_bytes())
    with Load(ca) as load:
        load.more(20)
        assert not memory_has(ca.daemon.process.pid, forms)


def pkcs8(path):
    out = path.with_suffix(".p8")
    openssl("pkcs8", "-topk8", "-nocrypt", "-in", path, "-out", out)
    return out


def test_a_wrong_pin_is_tried_once(tmp_path, daemon, pb, token, first):  # noqa: F811
    token.pin_file.write_text("4711\n")
    done = run_to_its_end(tmp_path, token, *token.flags())
    assert done.returncode == 13 and "CKR_PIN_INCORRECT" in done.stderr and "is not tried again" in done.stderr
    assert "4711" not in done.stdout + done.stderr
    token.pin_file.write_text(PIN)
    ca = serve(tmp_path, daemon, pb, token).ready()
    token.pin_file.write_text("4711\n")
    kill_signer(ca)
    wait_for("the refusal", lambda: "CKR_PIN_INCORRECT" in signer(ca)["trouble"])
    tries = signer(ca)["restarts"]
    assert ca.get("/readyz")[0] == 503 and "refuses the PIN" in ca.get("/readyz")[1]
    with pytest.raises(AssertionError):  # longer than any pause between two starts
        wait_for("another try", lambda: signer(ca)["restarts"] > tries, 6)


def run_to_its_end(tmp, token, *flags):
    return subprocess.run([BINARY, "ca", "serve", "--ca-dir", tmp / "cacerts", "--state-dir", tmp / "state", "--listen", "127.0.0.1:0",
                           "--monitoring", "off", *flags], capture_output=True, text=True, timeout=120, env={**os.environ, **token.env})


def test_flags_that_do_not_fit(tmp_path, token, first):
    rows = [((*token.flags(), "--self-signed"), 2, "not with keys in a token"),
            (("--signer", token.uri("token=other")), 3, "no token that is present matches"),
            (("--signer", token.uri() + "&pin-value=1"), 2, "pin-value shows the PIN"),
            (("--signer", "pkcs11:token=mesh"), 2, "module-path"),
            (("--signer", "/etc/key"), 2, "not a PKCS#11 URI"),
            (("--signer-reads", "/tmp"), 2, "--signer-reads is for"),
            (("--signer", token.uri(**{"module-path": "/nowhere.so"})), 3, "/nowhere.so cannot be loaded"),
            (("--signer", token.uri(**{"module-path": "/usr/lib/x86_64-linux-gnu/libz.so.1"})), 3, "cannot be loaded"),
            (("--signer", token.uri(**{"pin-source": "file:/nowhere"})), 11, "pin-source /nowhere: No such file")]
    for flags, code, words in rows:
        done = run_to_its_end(tmp_path, token, *flags)
        assert done.returncode == code and words in done.stderr, (flags, done.returncode, done.stdout, done.stderr)


def test_a_module_whose_files_are_barred_fails_closed(tmp_path, daemon, pb, token, first):  # noqa: F811
    """Without --signer-reads SoftHSM cannot read its objects once the doors are shut: no leaf, and the remedy is named."""
    ca = Ca(tmp_path, lambda *a, **k: daemon(*a, env=token.env, **k), pb, "--signer", token.uri())
    wait_for("the refusal", lambda: "--signer-reads" in ca.get("/readyz")[1] + ca.daemon.text())
    assert ca.get("/readyz")[0] == 503
    with pytest.raises(AssertionError):
        wait_for("a leaf", lambda: works_or_closed(ca), 2)


def works_or_closed(ca):
    try:
        return ca.call(make_csr()[1], ca.issuer.token())[0]
    except (grpc.RpcError, OSError):
        return None
