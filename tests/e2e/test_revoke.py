"""meshroot ca revoke: in the list, in force at the CA and at the agents, over restarts and rotations; openssl and cryptography
read the lists."""
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from conftest import meshroot, openssl_intermediate, openssl_root, verify_files, wait_for
from test_agent import Agent, echo, pair, talk  # noqa: F401  (echo is a fixture)
from test_ca import Ca, make_csr, pb, refused  # noqa: F401  (pb is a fixture)


def pki(tmp, name):
    """Root and intermediate of our own making: with cRLSign, unlike what istio's tools make."""
    if not (tmp / "root").exists():
        meshroot("pki", "root", "--out", tmp / "root", "--subject", "O=Istio,CN=Root")
    meshroot("pki", "intermediate", "--root", tmp / "root", "--out", tmp / name, "--subject", f"O=Istio,CN={name}")
    return tmp / name


def plug(folder, into):
    """The files of a set, the certificate last: what is half there is refused and looked at again."""
    into.mkdir(exist_ok=True)
    for f in ("root-cert.pem", "ca-key.pem", "cert-chain.pem", "ca-cert.pem"):
        shutil.copy(folder / f, into / f".{f}")
        (into / f".{f}").rename(into / f)


@pytest.fixture
def ca(tmp_path, daemon, pb):
    plug(pki(tmp_path, "a1"), tmp_path / "cacerts")
    return Ca(tmp_path, daemon, pb).ready()


def leaf(ca, name="cart", **kw):
    key, csr = make_csr()
    chain, _ = ca.call(csr, ca.issuer.token(sub=f"system:serviceaccount:shop:{name}"), **kw)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, "".join(chain[:-1]), x509.load_pem_x509_certificate(chain[0].encode())


def serial_of(cert):
    return format(cert.serial_number, "x")


def revoke(ca, *flags, check=True):
    done = meshroot("ca", "revoke", *flags, "--state-dir", ca.state, "--output", "json", check=check)
    return json.loads(done.stdout) if done.returncode == 0 else done


def revoked(ca):
    return json.loads(meshroot("ca", "revoked", "--state-dir", ca.state, "--output", "json").stdout)


def lists(ca):
    status, text = ca.get("/ca-crl.pem")
    assert status == 200, text
    parts = [p + "-----END X509 CRL-----\n" for p in text.split("-----END X509 CRL-----\n") if p.strip()]
    return [x509.load_pem_x509_crl(p.encode()) for p in parts]


def test_openssl_and_cryptography_read_the_list(ca, tmp_path):
    good, bad = leaf(ca)[2], leaf(ca, "web")[2]
    before = lists(ca)[0]
    assert len(list(before)) == 0, "a list is there from before the first leaf on"
    done = revoke(ca, "--serial", serial_of(bad).upper(), "--reason", "keyCompromise")
    assert (done["revoked"], done["already"], done["in_force"]) == (1, 0, 1)
    crl = lists(ca)[0]
    issuer = x509.load_pem_x509_certificate((tmp_path / "a1/ca-cert.pem").read_bytes())
    assert crl.is_signature_valid(issuer.public_key()) and crl.issuer == issuer.subject
    entry = crl.get_revoked_certificate_by_serial_number(bad.serial_number)
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason == x509.ReasonFlags.key_compromise
    assert crl.get_revoked_certificate_by_serial_number(good.serial_number) is None
    number = [c.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for c in (before, crl)]
    assert number[0] < number[1]
    aki = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert aki == issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert crl.next_update_utc > bad.not_valid_after_utc
    (tmp_path / "crl.pem").write_text(ca.get("/ca-crl.pem")[1])
    text = subprocess.run(["openssl", "crl", "-in", tmp_path / "crl.pem", "-noout", "-verify", "-CAfile", tmp_path / "a1/ca-cert.pem"],
                          capture_output=True, text=True, check=True)
    assert "verify OK" in text.stderr
    for cert, status in ((good, 0), (bad, 2)):
        (tmp_path / "leaf.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        said = subprocess.run(["openssl", "verify", "-crl_check", "-CRLfile", tmp_path / "crl.pem", "-CAfile", tmp_path /
                               "root/root-cert.pem", "-untrusted", tmp_path / "a1/ca-cert.pem", tmp_path / "leaf.pem"],
                              capture_output=True, text=True)
        assert said.returncode == status and ("certificate revoked" in said.stderr) == (status != 0), said.stderr
    with urllib.request.urlopen(f"http://127.0.0.1:{ca.ports['monitoring']}/crl", timeout=30) as r:
        assert r.headers["Content-Type"] == "application/pkix-crl" and "max-age" in r.headers["Cache-Control"]
        assert x509.load_der_x509_crl(r.read()).fingerprint(crl.signature_hash_algorithm) == crl.fingerprint(crl.signature_hash_algorithm)
        tag = r.headers["ETag"]
    again = urllib.request.Request(f"http://127.0.0.1:{ca.ports['monitoring']}/crl", headers={"If-None-Match": tag})
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(again, timeout=30)
    assert e.value.code == 304
    assert ca.metric("meshroot_revoked_leaves 1") and ca.metric("meshroot_crl_unsigned 0")


def test_the_ca_refuses_a_revoked_client_certificate(ca):
    key, chain, cert = leaf(ca)
    with ca.channel(key, chain.encode()) as open_channel:
        assert ca.call(make_csr()[1], channel=open_channel)[0]
        revoke(ca, "--serial", serial_of(cert))
        refused(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure", lambda: ca.call(make_csr()[1], channel=open_channel))
    assert ca.metric('meshroot_authentication_failure_reason_total{reason="cert_revoked"} 1') or \
        'reason="cert_revoked"' in ca.get("/metrics")[1]
    with ca.channel(key, chain.encode()) as c:
        assert ca.call(make_csr()[1], ca.issuer.token(), channel=c)[0], "its token is as good as before"


def test_words(ca, tmp_path):
    cert = leaf(ca)[2]
    for flags, status, words in (
            ((), 2, "want one of --serial HEX and --identity"),
            (("--serial", "1", "--identity", "spiffe://a/ns/b/sa/c"), 2, "want one of"),
            (("--serial", "xyz"), 2, "is no serial number"),
            (("--serial", "4711"), 3, "no leaf with serial number 4711 is in the ledger and not expired"),
            (("--identity", "cart"), 12, ""),
            (("--identity", "spiffe://cluster.local/ns/shop/sa/nobody"), 3, "no leaf of spiffe://cluster.local/ns/shop/sa/nobody"),
            (("--serial", serial_of(cert), "--reason", "because"), 2, "keyCompromise")):
        done = revoke(ca, *flags, check=False)
        assert done.returncode == status and words in done.stderr, (flags, done.returncode, done.stderr)
    assert revoked(ca)["revoked"] == []
    done = meshroot("ca", "revoke", "--serial", "11", "--state-dir", tmp_path / "nowhere", check=False)
    assert done.returncode == 3 and "no meshroot runs" in done.stderr
    for _ in range(2):
        text = meshroot("ca", "revoke", "--serial", serial_of(cert), "--state-dir", ca.state).stdout
    assert "revoked: 0, revoked before: 1" in text
    table = meshroot("ca", "revoked", "--state-dir", ca.state).stdout
    assert serial_of(cert) in table and "list of CN=a1,O=Istio: 1 entries" in table


def test_many_leaves_want_a_yes(ca):
    certs = [leaf(ca)[2] for _ in range(17)]
    other = leaf(ca, "web")[2]
    done = revoke(ca, "--identity", "spiffe://cluster.local/ns/shop/sa/cart", check=False)
    assert done.returncode == 14 and "revokes 17 leaves" in done.stderr and "--yes" in done.stderr
    assert revoked(ca)["revoked"] == [] and len(list(lists(ca)[0])) == 0
    assert revoke(ca, "--identity", "spiffe://cluster.local/ns/shop/sa/cart", "--yes")["revoked"] == 17
    crl = lists(ca)[0]
    assert {r.serial_number for r in crl} == {c.serial_number for c in certs}
    assert crl.get_revoked_certificate_by_serial_number(other.serial_number) is None


def test_kill_and_restart_forget_nothing(ca, tmp_path, daemon, pb):
    certs = [leaf(ca)[2] for _ in range(3)]
    revoke(ca, "--serial", serial_of(certs[0]))
    number = lists(ca)[0].extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    for serial in (certs[1], certs[2]):
        ca.daemon.kill()
        ca = Ca(tmp_path, daemon, pb).ready()
        assert lists(ca)[0].get_revoked_certificate_by_serial_number(certs[0].serial_number) is not None
        revoke(ca, "--serial", serial_of(serial))
        now = lists(ca)[0].extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        assert now > number
        number = now
    assert len(list(lists(ca)[0])) == 3


def test_both_signers_have_a_list_after_a_rotation(ca, tmp_path, daemon, pb):
    first = [leaf(ca)[2] for _ in range(4)]
    revoke(ca, "--serial", serial_of(first[0]))
    plug(pki(tmp_path, "a2"), tmp_path / "cacerts")
    wait_for("a2 signs", lambda: ca.status()["intermediate"]["subject"] == "CN=a2,O=Istio")
    second = leaf(ca)[2]
    revoke(ca, "--serial", serial_of(second))
    revoke(ca, "--serial", serial_of(first[1]))  # the key of a1 is kept for that
    by_issuer = {c.issuer.rfc4514_string(): c for c in lists(ca)}
    assert len(by_issuer) == 2
    for cert in first[:2] + [second]:
        assert by_issuer[cert.issuer.rfc4514_string()].get_revoked_certificate_by_serial_number(cert.serial_number)
    for name in ("a1", "a2"):
        issuer = x509.load_pem_x509_certificate((tmp_path / name / "ca-cert.pem").read_bytes())
        crl = by_issuer[issuer.subject.rfc4514_string()]
        assert crl.is_signature_valid(issuer.public_key())
        assert crl.next_update_utc > max(c.not_valid_after_utc for c in first + [second])
    # a new process has the key of a2 alone: what a1 has signed stands, and a1's leaves are refused all the same
    ca.daemon.kill()
    ca = Ca(tmp_path, daemon, pb).ready()
    assert len(lists(ca)) == 2
    done = revoke(ca, "--serial", serial_of(first[2]))
    state = {x["signer"]: x for x in done["lists"]}
    assert state["CN=a1,O=Istio"]["key_held"] is False and state["CN=a1,O=Istio"]["signed"] is False
    assert state["CN=a1,O=Istio"]["entries"] == 3 and state["CN=a2,O=Istio"]["signed"]
    assert ca.metric("meshroot_crl_unsigned 1")


def test_an_issuer_without_crl_sign_signs_no_list(tmp_path, daemon, pb):
    """RFC 5280 4.2.1.3; istio's tools make such intermediates: only ours are told, and that is said."""
    root = openssl_root(tmp_path / "root-a", "Root A", "p256")
    openssl_intermediate(tmp_path / "cacerts", root, "Intermediate A1", "p256")
    ca = Ca(tmp_path, daemon, pb).ready()
    key, chain, cert = leaf(ca)
    assert ca.get("/ca-crl.pem")[0] == ca.get("/crl")[0] == 404
    text = meshroot("ca", "revoke", "--serial", serial_of(cert), "--state-dir", ca.state).stdout
    assert "The list is not signed" in text
    with ca.channel(key, chain.encode()) as c:
        refused(grpc.StatusCode.UNAUTHENTICATED, "", lambda: ca.call(make_csr()[1], channel=c))


def test_revoked_and_unexpired_means_in_the_list(ca, tmp_path):
    """CVE-2021-29653 (HCSEC-2021-09): whatever rotates, expires and is revoked meanwhile."""
    stop, gone, failed = threading.Event(), [], []

    def rotate():
        try:
            for n in range(8):
                plug(pki(tmp_path, f"r{n}"), tmp_path / "cacerts")
                wait_for("it signs", lambda: stop.is_set() or ca.status()["intermediate"]["subject"] == f"CN=r{n},O=Istio")
                stop.wait(0.6)
        except Exception as e:  # noqa: BLE001
            failed.append(e)

    def issue_and_revoke():
        try:
            while not stop.is_set():
                short, long = leaf(ca, validity=2)[2], leaf(ca)[2]
                done = revoke(ca, "--serial", serial_of(short), check=False)
                assert isinstance(done, dict) or done.returncode == 3, done  # 3: it is over by now
                revoke(ca, "--serial", serial_of(long))
                gone.append(long)
        except Exception as e:  # noqa: BLE001
            failed.append(e)

    threads = [threading.Thread(target=f) for f in (rotate, issue_and_revoke, issue_and_revoke)]
    for t in threads:
        t.start()
    began, by_issuer = time.monotonic(), {}
    try:
        while not failed and (time.monotonic() < began + 6 or len(gone) <= 5 or len(by_issuer) <= 3):
            assert time.monotonic() < began + 300, f"{len(gone)} leaves, {len(by_issuer)} lists"
            known, by_issuer = list(gone), {c.issuer.rfc4514_string(): c for c in lists(ca)}
            for cert in known:
                crl = by_issuer.get(cert.issuer.rfc4514_string())
                assert crl is not None and crl.get_revoked_certificate_by_serial_number(cert.serial_number), cert
    finally:
        stop.set()
        for t in threads:
            t.join(60)
    assert not failed, failed[0]


def test_the_roots_list_is_made_offline(tmp_path):
    pki(tmp_path, "a1"), pki(tmp_path, "a2")
    out = tmp_path / "root-crl.pem"
    first = json.loads(meshroot("pki", "crl", "--root", tmp_path / "root", "--out", out, "--revoke", tmp_path / "a1/ca-cert.pem",
                                "--reason", "cACompromise", "--output", "json").stdout)
    assert first["entries"] == 1
    text = subprocess.run(["openssl", "crl", "-in", out, "-noout", "-verify", "-CAfile", tmp_path / "root/root-cert.pem"],
                          capture_output=True, text=True, check=True).stderr
    assert "verify OK" in text
    for name, status in (("a1", 2), ("a2", 0)):
        done = subprocess.run(["openssl", "verify", "-crl_check", "-CRLfile", out, "-CAfile", tmp_path / "root/root-cert.pem",
                               tmp_path / name / "ca-cert.pem"], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
    again = json.loads(meshroot("pki", "crl", "--root", tmp_path / "root", "--out", out, "--revoke", "4711", "--days", "7",
                                "--output", "json").stdout)
    assert again["entries"] == 2 and again["number"] > first["number"]
    crl = x509.load_pem_x509_crl(out.read_bytes())
    a1 = x509.load_pem_x509_certificate((tmp_path / "a1/ca-cert.pem").read_bytes())
    kept = crl.get_revoked_certificate_by_serial_number(a1.serial_number)
    assert kept.extensions.get_extension_for_class(x509.CRLReason).value.reason == x509.ReasonFlags.ca_compromise
    meshroot("pki", "root", "--out", tmp_path / "other", "--subject", "CN=Other")
    before = out.read_bytes()
    for flags, status, words in (
            (("--root", tmp_path / "other", "--out", out), 14, "not one list of this root"),
            (("--root", tmp_path / "root", "--out", out, "--revoke", "no-such-file"), 2, "neither a file nor a serial number"),
            (("--root", tmp_path / "root", "--out", out, "--revoke", tmp_path / "other/root-cert.pem"), 14, "not signed by this root"),
            (("--root", tmp_path / "nowhere", "--out", out), 3, "root-cert.pem")):
        done = meshroot("pki", "crl", *flags, check=False)
        assert done.returncode == status and words in done.stderr, (flags, done.returncode, done.stderr)
    assert out.read_bytes() == before


# -- agents --


def test_open_and_new_connections_of_a_revoked_peer_are_cut(tmp_path, daemon, ca, echo):
    web, db = pair(tmp_path, daemon, ca, echo)
    assert not (db.dir / "ca-crl.pem").exists(), "nothing is revoked: no list, and no file"
    port = web.ports["outbound"][0]
    with socket.create_connection(("127.0.0.1", port), 60) as s:
        s.settimeout(60)
        s.sendall(b"one")
        assert s.recv(100) == b"one"
        serial = web.serial()
        revoke(ca, "--serial", serial)
        try:
            ended = s.recv(100)
        except ConnectionError:
            ended = b""
        assert ended == b""
    # web is told too, gets another leaf with its token, and is welcome again
    wait_for("web has a new leaf", lambda: web.serial() != serial)
    wait_for("and is served", lambda: talk(port) == b"hello\n")
    assert "its own leaf" not in db.run.text() and "our own leaf" in web.run.text()
    assert "meshroot_agent_connections_cut_total{direction=\"inbound\"} 1" in db.get("/metrics")[1]
    # the list is beside the agent's files, and openssl holds the new leaf against it
    wait_for("the CA's own", lambda: (db.dir / "ca-crl.pem").read_text() == ca.get("/ca-crl.pem")[1])
    wait_for("beside web's, too", lambda: (web.dir / "ca-crl.pem").exists())
    for agent in (web, db):
        verify_files(agent.dir, "-crl_check", lists=True)


def test_a_revoked_peer_is_refused_while_it_has_no_other_leaf(tmp_path, daemon, ca, echo):
    """Its token is gone: it says so in its status, and nobody talks to it; also after a restart of the other side, from the file."""
    web, db = pair(tmp_path, daemon, ca, echo)
    (tmp_path / "web.token").unlink()
    revoke(ca, "--identity", "spiffe://cluster.local/ns/shop/sa/web")
    wait_for("web knows", lambda: web.status()["leaf"]["revoked"])
    wait_for("db refuses", lambda: talk(web.ports["outbound"][0]) == b"")
    ca.daemon.kill()
    db.run.kill()
    db.flags = ("--inbound", f"127.0.0.1:{db.ports['inbound']}=127.0.0.1:{echo.port}", "--allow", "spiffe://cluster.local/ns/shop/sa/web")
    db.start().ready()
    assert talk(web.ports["outbound"][0]) == b"", "from the file, without the CA"
    assert 'is revoked' in wait_for("said why", lambda: db.run.text() if "is revoked" in db.run.text() else "")


def test_bare_lists_reach_agents_and_no_file(tmp_path, daemon, pb, echo):
    root = openssl_root(tmp_path / "root-a", "Root A", "p256")
    openssl_intermediate(tmp_path / "cacerts", root, "Intermediate A1", "p256")
    ca = Ca(tmp_path, daemon, pb).ready()
    web, db = pair(tmp_path, daemon, ca, echo)
    (tmp_path / "web.token").unlink()
    revoke(ca, "--identity", "spiffe://cluster.local/ns/shop/sa/web")
    wait_for("db refuses", lambda: talk(web.ports["outbound"][0]) == b"")
    assert not (db.dir / "ca-crl.pem").exists(), "others would refuse every peer"


def test_the_workload_api_and_sds_carry_the_lists(tmp_path, daemon, ca, pb):
    web = Agent(tmp_path, daemon, ca, "web", "--workload-socket", tmp_path / "w.sock").ready()
    _, _, bad = leaf(ca)
    revoke(ca, "--serial", serial_of(bad))
    wait_for("the file", lambda: (web.dir / "ca-crl.pem").exists())
    with grpc.insecure_channel(f"unix:{tmp_path}/w.sock") as channel:
        for method, field in (("FetchX509SVID", 2), ("FetchX509Bundles", 1)):
            call = channel.unary_stream(f"/SpiffeWorkloadAPI/{method}", request_serializer=lambda x: x, response_deserializer=lambda x: x)
            raw = next(iter(call(b"", metadata=[("workload.spiffe.io", "true")], timeout=30)))
            found = [v for f, v in fields(raw) if f == field]
            assert len(found) == 1
            assert x509.load_der_x509_crl(found[0]).get_revoked_certificate_by_serial_number(bad.serial_number)


def fields(raw):
    """The length-delimited fields of one protobuf message."""
    at = 0

    def varint():
        nonlocal at
        v = shift = 0
        while True:
            b = raw[at]
            at += 1
            v |= (b & 127) << shift
            shift += 7
            if b < 128:
                return v

    while at < len(raw):
        tag = varint()
        assert tag & 7 == 2
        n = varint()
        yield tag >> 3, raw[at:at + n]
        at += n
