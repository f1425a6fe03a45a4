"""ca-crl.pem, the fifth part of a set: the root's list over its intermediates, from the vault to everyone who meets a leaf.

Source: issue 5 "Targets", specs/istio-ca.md 5.1, 5.3 (check 7), 7.8, 13.3; lists are made by openssl ca and by cryptography.
"""
import datetime
import json
import shutil
import subprocess

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from conftest import VAULT, WITH_LISTS, Mesh, meshroot, openssl, put_file, verify_files, wait_for
from test_agent import echo, talk  # noqa: F401  (echo is a fixture)
from test_ca import Ca, make_csr, pb, refused  # noqa: F401  (pb is a fixture)
from test_revoke import leaf, pki, plug

ID = "spiffe://cluster.local/ns/test/sa/"


def load(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def crl(folder, *revoked, number=1, days=30, start=0, key="root-key.pem", cert="root-cert.pem"):
    """A list by the CA whose files these are, as PEM; what is revoked are certificates, number None is a list without one."""
    issuer = load(folder / cert)
    signer = serialization.load_pem_private_key((folder / key).read_bytes(), None)
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=start)
    b = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject).last_update(now - datetime.timedelta(minutes=5))
    b = b.next_update(now + datetime.timedelta(days=days))
    b = b.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    if number is not None:
        b = b.add_extension(x509.CRLNumber(number), False)
    for c in revoked:
        b = b.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(c.serial_number).revocation_date(now - datetime.timedelta(minutes=6))
                                      .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), False).build())
    return b.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def openssl_crl(tmp, root, *revoked):
    """The same with openssl ca -gencrl, as an operator makes it."""
    d = tmp / "openssl-ca"
    d.mkdir()
    (d / "index.txt").write_text("")
    (d / "crlnumber").write_text("07\n")
    (d / "ca.conf").write_text(f"[ca]\ndefault_ca=own\n[own]\ndatabase={d}/index.txt\ncrlnumber={d}/crlnumber\ndefault_md=sha256\n"
                               "default_crl_days=30\ncrl_extensions=ext\n[ext]\nauthorityKeyIdentifier=keyid:always\n")
    own = ("-config", d / "ca.conf", "-cert", root / "root-cert.pem", "-keyfile", root / "root-key.pem")
    for c in revoked:
        openssl("ca", *own, "-revoke", c, "-crl_reason", "keyCompromise")
    openssl("ca", *own, "-gencrl", "-out", d / "crl.pem")
    return (d / "crl.pem").read_text()


class Place(Mesh):
    """meshroot up, and what it says of the lists."""

    def lists(self):
        """What rotation has in force; {} without."""
        return self.status()["rotation"]["lists"] or {}

    def sync_lists(self):
        return self.status()["sync"]["lists"]

    def signs(self, name):
        return (self.state / "bundle/ca-cert.pem").read_text().strip() in (self.tmp / name / "ca-cert.pem").read_text()

    def settled(self):
        wait_for("settled", lambda: self.status()["rotation"]["settled"])
        return self


@pytest.fixture
def place(tmp_path, daemon):
    for name in ("a1", "a2"):
        pki(tmp_path, name)
    m = Place(tmp_path, daemon)
    m.set_all(tmp_path / "a1")
    return m


def mesh_pair(m, echo):  # noqa: F811
    db = m.agent("db", "--inbound", f"127.0.0.1:0=127.0.0.1:{echo.port}", "--allow", ID + "web")
    web = m.agent("web", "--outbound", f"127.0.0.1:0=127.0.0.1:{db.ports()['inbound']}={ID}db")
    wait_for("they talk", lambda: talk(web.ports()["outbound"][0]) == b"hello\n")
    return web, db, web.ports()["outbound"][0]


def issuer_of(folder):
    return x509.load_pem_x509_certificates((folder / "cert-chain.pem").read_bytes())[1].subject.rfc4514_string()


def test_a_revoked_intermediate_is_refused_everywhere_once_another_signs(place, echo, tmp_path):  # noqa: F811
    m = place
    m.enable(flags=WITH_LISTS)
    assert m.sync_lists() == {"state": "none", "error": None} and m.lists() == {}
    web, db, port = mesh_pair(m, echo)
    thief = tmp_path / "thief"
    shutil.copytree((tmp_path / "web/..data").resolve(strict=True), thief)  # a leaf under A1 with its key, for later
    # the list comes while A1 still signs: the set is refused, with the remedy, and nothing changes
    m.put_lists(openssl_crl(tmp_path, tmp_path / "root", tmp_path / "a1/ca-cert.pem"))
    said = wait_for("refused", lambda: (x := m.status()["sync"]["last_error"]) and "set another intermediate" in x and x)
    assert "ca-crl" in said and "CN=a1" in said and "keyCompromise" in said
    assert m.lists() == {} and m.signs("a1") and talk(port) == b"hello\n" and not (m.state / "bundle/ca-crl.pem").exists()
    # A2 is the remedy: signer and list go together
    m.set_all(tmp_path / "a2")
    wait_for("in force", lambda: m.lists().get("entries") == 1)
    assert m.signs("a2") and m.lists()["held"] is None and m.sync_lists()["state"] == "used"
    held = x509.load_pem_x509_crl((m.state / "bundle/ca-crl.pem").read_bytes())
    assert held.get_revoked_certificate_by_serial_number(load(tmp_path / "a1/ca-cert.pem").serial_number)
    assert json.loads((m.state / "bundle/manifest.json").read_text())["versions"]["ca-crl"] == m.lists()["version"]
    for name in ("web", "db"):
        wait_for("renewed", lambda: "a2" in issuer_of(tmp_path / name))
        wait_for("the list is there", lambda: (tmp_path / name / "ca-crl.pem").exists())
    wait_for("they talk under A2", lambda: talk(port) == b"hello\n")
    # the files say it to others, over the whole path
    lists, root = tmp_path / "web/ca-crl.pem", tmp_path / "root/root-cert.pem"
    wait_for("A2's own list is there, too", lambda: lists.read_text().count("BEGIN X509 CRL") >= 3)
    verify_files(tmp_path / "web", "-crl_check_all", roots=root, lists=True)
    said = subprocess.run(["openssl", "verify", "-crl_check_all", "-CRLfile", lists, "-CAfile", root, "-untrusted", thief / "cert-chain.pem",
                           thief / "cert-chain.pem"], capture_output=True, text=True)
    assert "certificate revoked" in said.stderr
    # who shows a leaf under A1 is refused by a peer and by the CA
    ports = db.ports()["inbound"]
    got = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{ports}", "-cert", thief / "cert-chain.pem", "-cert_chain",
                          thief / "cert-chain.pem", "-key", thief / "key.pem", "-quiet", "-no_ign_eof"], input="hello\n", capture_output=True, text=True, timeout=60)
    assert "hello" not in got.stdout
    wait_for("said why", lambda: "or its intermediate, is revoked" in db.text())
    # over a restart, from the folder, before the vault is asked
    m.up.kill()
    m.start()
    wait_for("still in force", lambda: m.lists().get("entries") == 1)
    wait_for("they talk", lambda: talk(port) == b"hello\n")


def test_a_list_put_into_the_folder_by_hand_does_not_stay(place):
    """While none is in force: what reads the folder would stumble over it."""
    m = place
    m.enable(flags=WITH_LISTS)
    m.settled()
    generation, stray = m.status()["rotation"]["generation"], m.state / "bundle/..data/ca-crl.pem"
    stray.write_text("no list\n")
    wait_for("gone", lambda: not stray.exists())
    assert "is written anew: ca-crl.pem: " in m.up.text() and m.status()["rotation"]["generation"] == generation
    assert m.lists() == {} and m.signs("a1")


def test_what_is_no_list_for_this_set_blocks_no_key(place, tmp_path):
    """Each bad list by its reason; the list in force stays, and the four go on."""
    m, root = place, tmp_path / "root"
    meshroot("pki", "root", "--out", tmp_path / "other", "--subject", "O=Istio,CN=Other")
    m.put_lists(crl(root, number=5))
    m.enable(flags=WITH_LISTS)
    wait_for("in force", lambda: m.lists().get("lists") == 1)
    good = m.lists()["version"]
    for text, words in ((crl(tmp_path / "other"), 'a list of "CN=Other,O=Istio", which is no certificate of root-cert.pem or cert-chain.pem'),
                        ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "not a revocation list"),
                        ((root / "root-cert.pem").read_text(), "want X509 CRL"),
                        (crl(root, number=6, start=-60, days=30), "expired at"),
                        (crl(root, number=6, start=5), "of a time to come"),
                        (crl(root, number=6) + crl(root, number=7), "two lists of")):
        m.put_lists(text)
        wait_for(words, lambda: words in ((s := m.status()["sync"])["lists"]["error"] or "") and s["last_error"] is None)
        assert m.lists()["version"] == good
    m.set_all(tmp_path / "a2")  # beside the bad list
    wait_for("the key went on", lambda: m.signs("a2"))
    assert m.lists()["version"] == good and (m.state / "bundle/ca-crl.pem").exists()
    m.put_lists(crl(root, number=4))  # an older one, good in itself
    wait_for("goes back", lambda: "goes back: its number is 4, the one in force has 5" in (m.lists()["held"] or ""))
    assert m.lists()["version"] == good
    m.put_lists(crl(root, load(tmp_path / "a1/ca-cert.pem"), number=6))
    wait_for("a newer one", lambda: m.lists().get("entries") == 1 and m.lists()["held"] is None)
    m.settled()
    m.put_lists("\n")  # no list any more
    wait_for("said aloud", lambda: "revocation lists of the CAs are gone from the vault" in m.up.text())
    wait_for("and gone", lambda: not (m.state / "bundle/ca-crl.pem").exists())
    wait_for("in the status too", lambda: m.lists() == {})


def test_a_ca_refuses_a_set_whose_list_revokes_its_signer(tmp_path, daemon, pb):  # noqa: F811
    a1, a2 = pki(tmp_path, "a1"), pki(tmp_path, "a2")
    plug(a1, tmp_path / "cacerts")
    (tmp_path / "cacerts/ca-crl.pem").write_text(crl(tmp_path / "root", load(a1 / "ca-cert.pem")))
    ca = Ca(tmp_path, daemon, pb)
    wait_for("refused", lambda: "set another intermediate" in ca.daemon.text())
    assert ca.get("/readyz")[0] == 503
    plug(a2, tmp_path / "cacerts")  # the remedy
    ca.ready()
    assert ca.status()["ca_lists"]["entries"] == 1


def test_a_ca_keeps_its_lists_beside_bad_ones(tmp_path, daemon, pb):  # noqa: F811
    """Over a restart too; and a list that goes back is put aside."""
    a1, a2 = pki(tmp_path, "a1"), pki(tmp_path, "a2")
    plug(a1, tmp_path / "cacerts")
    ca = Ca(tmp_path, daemon, pb).ready()
    key, chain, _ = leaf(ca)
    with ca.channel(key, chain.encode()) as c:
        assert ca.call(make_csr()[1], channel=c)[0]
    file = tmp_path / "cacerts/ca-crl.pem"
    plug(a2, tmp_path / "cacerts")
    wait_for("A2", lambda: "CN=a2" in json.dumps(ca.status()["chain"]))
    put_file(file, crl(tmp_path / "root", load(a1 / "ca-cert.pem"), number=9))
    wait_for("in force", lambda: ca.status()["ca_lists"]["entries"] == 1)
    with ca.channel(key, chain.encode()) as c:
        refused(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure", lambda: ca.call(make_csr()[1], channel=c))
    assert 'reason="cert_revoked"' in ca.get("/metrics")[1]
    page = ca.get("/ca-crl.pem")[1]
    assert page.count("BEGIN X509 CRL") == 3, "A2's, A1's, the root's"
    for text, words in (("hello", "no revocation list"), ("", "it is empty"), (crl(tmp_path / "root", number=8), "goes back: its number is 8")):
        put_file(file, text)
        wait_for(words, lambda: words in (ca.status()["ca_lists"]["refused"] or ""))
        assert ca.status()["ca_lists"]["entries"] == 1 and ca.get("/readyz")[0] == 200
        assert ca.metric("meshroot_ca_lists_refused 1")
    ca.daemon.kill()
    ca = Ca(tmp_path, daemon, pb).ready()
    assert ca.status()["ca_lists"]["entries"] == 1, "from the last run"
    file.unlink()
    wait_for("gone, and said", lambda: "what they revoked is accepted again" in ca.daemon.text())
    assert ca.status()["ca_lists"]["lists"] == 0 and ca.metric("meshroot_ca_lists_refused 0")


def test_bad_lists_come_and_go(tmp_path, daemon, pb):  # noqa: F811
    """A file that is no list is said also where there was none; when it goes, the lists in force go with it."""
    a1, a2 = pki(tmp_path, "a1"), pki(tmp_path, "a2")
    plug(a2, tmp_path / "cacerts")
    ca = Ca(tmp_path, daemon, pb).ready()
    file = tmp_path / "cacerts/ca-crl.pem"
    put_file(file, "hello")
    wait_for("said", lambda: "no revocation list" in (ca.status()["ca_lists"]["refused"] or ""))
    put_file(file, crl(tmp_path / "root", load(a1 / "ca-cert.pem"), number=9))
    wait_for("in force", lambda: ca.status()["ca_lists"]["entries"] == 1)
    put_file(file, "hello")
    wait_for("said again", lambda: "no revocation list" in (ca.status()["ca_lists"]["refused"] or ""))
    assert ca.status()["ca_lists"]["entries"] == 1
    file.unlink()
    wait_for("gone", lambda: "what they revoked is accepted again" in ca.daemon.text())
    assert ca.status()["ca_lists"]["lists"] == 0 and ca.metric("meshroot_ca_lists_refused 0")


def test_a_list_of_the_signers_own_is_in_ours(tmp_path, daemon, pb):  # noqa: F811
    """A list that the intermediate made elsewhere, about its leaves: verifiers look at one list of a name, so ours has both."""
    a1 = pki(tmp_path, "a1")
    plug(a1, tmp_path / "cacerts")
    ca = Ca(tmp_path, daemon, pb).ready()
    key, chain, bad = leaf(ca)
    put_file(tmp_path / "cacerts/ca-crl.pem", crl(tmp_path / "root") + crl(a1, bad, key="ca-key.pem", cert="ca-cert.pem"))
    wait_for("in force", lambda: ca.status()["ca_lists"]["lists"] == 2)
    text = ca.get("/ca-crl.pem")[1]
    assert text.count("BEGIN X509 CRL") == 2
    ours = x509.load_pem_x509_crl(text.encode())
    assert ours.get_revoked_certificate_by_serial_number(bad.serial_number)
    with ca.channel(key, chain.encode()) as c:
        refused(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure", lambda: ca.call(make_csr()[1], channel=c))


def test_sync_run_writes_the_fifth_file(place, tmp_path):
    m, folder = place, tmp_path / "out"
    flags = ["--state-dir", m.state, "--vault-name", "meshroot", "--credential-file", m.state / "credentials/sync.json", "--target-dir", folder,
             *WITH_LISTS, "--once"]
    meshroot("sync", "run", *flags)
    assert not (folder / "ca-crl.pem").exists()
    m.put_lists(crl(tmp_path / "root", number=3))
    meshroot("sync", "run", *flags)
    before = (folder / "ca-crl.pem").read_text()
    assert len(x509.load_pem_x509_crl(before.encode())) == 0 and json.loads((folder / "manifest.json").read_text())["generation"] == 2
    m.put_lists(crl(tmp_path / "root", number=2))
    assert "goes back" in meshroot("sync", "run", *flags).stdout
    assert (folder / "ca-crl.pem").read_text() == before
    m.put_lists(crl(tmp_path / "root", load(tmp_path / "a1/ca-cert.pem"), number=4))
    done = meshroot("sync", "run", *flags, check=False)
    assert done.returncode == 14 and "set another intermediate" in done.stderr
    m.set_all(tmp_path / "a2")
    meshroot("sync", "run", *flags)
    assert meshroot("pki", "verify", folder, check=False).returncode == 0 and (folder / "ca-crl.pem").read_text() != before


def test_pki_verify_looks_at_the_fifth_file(tmp_path):
    a1, root = pki(tmp_path, "a1"), tmp_path / "root"
    assert "ca-crl.pem" not in meshroot("pki", "verify", a1).stdout
    for text, status, words in ((crl(root), 0, "1 list with 0 entries, good until"), ("x", 1, "no revocation list"),
                                ("", 1, "it is empty"), (crl(root, load(a1 / "ca-cert.pem")), 1, "set another intermediate"), (crl(root, start=-60), 1, "expired at")):
        (a1 / "ca-crl.pem").write_text(text)
        done = meshroot("pki", "verify", a1, check=False)
        assert done.returncode == status and words in done.stdout + done.stderr
        assert ("ca-crl.pem      ok" if status == 0 else "ca-crl.pem      FAILED") in done.stdout


def test_names(place):
    done = place.run("mesh", "enable", "--key-vault-id", VAULT, "--ca-crl-object-name", "ca-key", check=False)
    assert done.returncode == 2 and "name the same secret" in done.stderr
    done = place.run("mesh", "enable", *WITH_LISTS, check=False)
    assert done.returncode == 2 and "object names need --key-vault-id" in done.stderr
