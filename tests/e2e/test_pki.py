"""meshroot pki against plain openssl commands, in both directions. Nothing here uses a network."""
import json
import os
import shutil
import stat
import subprocess

import pytest

MESHROOT = os.environ["MESHROOT"]
FILES = ("root-cert.pem", "ca-cert.pem", "ca-key.pem", "cert-chain.pem")


def meshroot(*args, rc=0):
    r = subprocess.run([MESHROOT, "pki", *map(str, args)], capture_output=True, text=True, timeout=300)
    assert r.returncode == rc, f"{args}: {r.returncode}\n{r.stdout}\n{r.stderr}"
    return r


def openssl(*args, cwd=None, rc=0):
    r = subprocess.run(["openssl", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert r.returncode == rc, f"openssl {args}: {r.stderr}"
    return r.stdout


# -- hierarchies by plain openssl recipes --------------------------------------------------------

# As Istio's tools/certs make them (specs/istio-ca.md 5.11): RSA-4096, SAN on the intermediate.
ISTIO_ROOT = """
[req]
prompt = no
distinguished_name = dn
x509_extensions = ext
[dn]
O = Istio
CN = Root CA
[ext]
subjectKeyIdentifier = hash
basicConstraints = critical, CA:true
keyUsage = critical, digitalSignature, nonRepudiation, keyEncipherment, keyCertSign
"""
ISTIO_INTERMEDIATE = """
[req]
prompt = no
distinguished_name = dn
req_extensions = ext
[dn]
O = Istio
CN = Intermediate CA
L = cluster1
[ext]
subjectKeyIdentifier = hash
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, digitalSignature, nonRepudiation, keyEncipherment, keyCertSign
subjectAltName = DNS:istiod.istio-system.svc
"""


def hierarchy(d, new_key):
    """root-cert, root-key, ca-cert, ca-key, cert-chain in folder d; new_key(name) makes a key file."""
    (d / "root.conf").write_text(ISTIO_ROOT)
    (d / "int.conf").write_text(ISTIO_INTERMEDIATE)
    new_key("root-key.pem")
    new_key("ca-key.pem")
    openssl("req", "-x509", "-sha256", "-days", "3650", "-key", "root-key.pem", "-config", "root.conf", "-out", "root-cert.pem", cwd=d)
    openssl("req", "-new", "-sha256", "-key", "ca-key.pem", "-config", "int.conf", "-out", "ca.csr", cwd=d)
    openssl("x509", "-req", "-sha256", "-days", "730", "-in", "ca.csr", "-CA", "root-cert.pem", "-CAkey", "root-key.pem",
            "-CAcreateserial", "-extfile", "int.conf", "-extensions", "ext", "-out", "ca-cert.pem", cwd=d)
    (d / "cert-chain.pem").write_text((d / "ca-cert.pem").read_text() + (d / "root-cert.pem").read_text())
    return d


@pytest.fixture(scope="module")
def rsa4096(tmp_path_factory):
    d = tmp_path_factory.mktemp("rsa4096")
    return hierarchy(d, lambda name: openssl("genrsa", "-out", name, "4096", cwd=d))


@pytest.fixture(scope="module")
def p256(tmp_path_factory):
    d = tmp_path_factory.mktemp("p256")
    return hierarchy(d, lambda name: openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", name, cwd=d))


@pytest.fixture
def copy(p256, tmp_path):
    """A bundle to break."""
    for name in FILES:
        shutil.copy(p256 / name, tmp_path / name)
    return tmp_path


# -- bundles of other tools ----------------------------------------------------------------------

def test_rsa4096_by_openssl_is_a_bundle(rsa4096):
    out = meshroot("verify", rsa4096).stdout
    assert "ok: one bundle" in out
    j = json.loads(meshroot("verify", rsa4096, "--output", "json").stdout)
    assert j["ok"] is True
    assert j["signer"]["key"] == "rsa4096" and j["signer"]["path_len"] == 0
    assert j["signer"]["subject"] == "CN=Intermediate CA,O=Istio,L=cluster1"
    assert j["signer"]["names"] == ["DNS:istiod.istio-system.svc"]
    assert j["signer_root"]["subject"] == "CN=Root CA,O=Istio"
    assert len(j["chain"]) == 1 and len(j["roots"]) == 1


def test_p256_by_openssl_is_a_bundle(p256):
    assert "p256, matches ca-cert.pem" in meshroot("verify", p256).stdout


def test_facts_agree_with_openssl(rsa4096):
    j = json.loads(meshroot("inspect", rsa4096 / "ca-cert.pem", "--output", "json").stdout)
    c = j["files"][0]["holds"][0]
    theirs = openssl("x509", "-in", rsa4096 / "ca-cert.pem", "-noout", "-serial", "-fingerprint", "-sha256", "-ext", "subjectKeyIdentifier")
    assert f"serial={c['serial'].upper()}" in theirs.replace("serial=0", "serial=")
    assert c["sha256"].upper() in theirs.replace(":", "")
    assert c["key_id"].upper() in theirs.replace(":", "")


@pytest.mark.parametrize("form", ["pkcs1", "sec1", "sec1 with parameters", "pkcs8"])
def test_key_forms(form, rsa4096, p256, tmp_path):
    source = rsa4096 if form == "pkcs1" else p256
    for name in FILES:
        shutil.copy(source / name, tmp_path / name)
    key = tmp_path / "ca-key.pem"
    if form == "pkcs1":
        openssl("rsa", "-traditional", "-in", source / "ca-key.pem", "-out", key)
        head = "RSA PRIVATE KEY"
    elif form == "pkcs8":
        openssl("pkcs8", "-topk8", "-nocrypt", "-in", source / "ca-key.pem", "-out", key)
        head = "PRIVATE KEY"
    else:
        text = openssl("ec", "-in", source / "ca-key.pem")
        if form != "sec1":
            text = openssl("ecparam", "-name", "prime256v1") + text
        key.write_text(text)
        head = "EC PRIVATE KEY" if form == "sec1" else "EC PARAMETERS"
    assert key.read_text().startswith(f"-----BEGIN {head}-----")
    meshroot("verify", tmp_path)


def test_chain_without_the_root(copy):
    shutil.copy(copy / "ca-cert.pem", copy / "cert-chain.pem")
    meshroot("verify", copy)


def test_several_roots(copy, rsa4096):
    (copy / "root-cert.pem").write_text((rsa4096 / "root-cert.pem").read_text() + (copy / "root-cert.pem").read_text())
    j = json.loads(meshroot("verify", copy, "--output", "json").stdout)
    assert len(j["roots"]) == 2 and j["signer_root"]["key"] == "p256"


def test_crlf_and_bom_and_text_before(copy):
    for name in FILES:
        text = (copy / name).read_text()
        (copy / name).write_bytes(b"\xef\xbb\xbf" + b"made by hand\r\n" + text.replace("\n", "\r\n").encode())
    meshroot("verify", copy)


def test_openssl_text_form(copy):
    text = openssl("x509", "-in", copy / "ca-cert.pem", "-text")
    (copy / "ca-cert.pem").write_text(text)
    meshroot("verify", copy)


def test_istios_mounted_secret_layout(copy, tmp_path_factory):
    d = tmp_path_factory.mktemp("mounted")
    (d / "..2026").mkdir()
    for name in FILES:
        shutil.copy(copy / name, d / "..2026" / name)
        (d / name).symlink_to(f"..data/{name}")
    (d / "..data").symlink_to("..2026")
    meshroot("verify", d)


# -- what is wrong, and where --------------------------------------------------------------------

def read(d, name):
    return (d / name).read_text()


BROKEN = {
    "another key": (lambda d, o: {"ca-key.pem": read(o, "ca-key.pem")}, "ca-key.pem", "does not match the certificate in ca-cert.pem, \"CN=Intermediate CA"),
    "another root": (lambda d, o: {"root-cert.pem": read(o, "root-cert.pem")}, "cert-chain.pem", "is not in root-cert.pem"),
    "another chain": (lambda d, o: {"cert-chain.pem": read(o, "cert-chain.pem")}, "cert-chain.pem", "one of the two files is older"),
    "chain reversed": (lambda d, o: {"cert-chain.pem": read(d, "root-cert.pem") + read(d, "ca-cert.pem")}, "cert-chain.pem", "out of order"),
    "chain is the root only": (lambda d, o: {"cert-chain.pem": read(d, "root-cert.pem")}, "cert-chain.pem", "starts with \"CN=Root CA"),
    "chain empty": (lambda d, o: {"cert-chain.pem": ""}, "cert-chain.pem", "empty"),
    "root twice": (lambda d, o: {"root-cert.pem": 2 * read(d, "root-cert.pem")}, "root-cert.pem", "block 2 is the same certificate as block 1"),
    "no root": (lambda d, o: {"root-cert.pem": "\n"}, "root-cert.pem", "no certificate: empty"),
    "not a root": (lambda d, o: {"root-cert.pem": read(d, "root-cert.pem") + read(d, "ca-cert.pem")}, "root-cert.pem", "is not self-signed"),
    "garbage after a root": (lambda d, o: {"root-cert.pem": read(d, "root-cert.pem") + "garbage\n"}, "root-cert.pem", "text after block 1"),
    "bad block after a root": (lambda d, o: {"root-cert.pem": read(d, "root-cert.pem") + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "root-cert.pem", "block 2"),
    "text between": (lambda d, o: {"cert-chain.pem": read(d, "ca-cert.pem") + "root:\n" + read(d, "root-cert.pem")}, "cert-chain.pem", "text after block 1"),
    "glued": (lambda d, o: {"cert-chain.pem": read(d, "ca-cert.pem").strip() + read(d, "root-cert.pem")}, "cert-chain.pem", "a line break is missing"),
    "line breaks lost": (lambda d, o: {"ca-cert.pem": read(d, "ca-cert.pem").replace("\n", " ")}, "ca-cert.pem", "are the line breaks lost"),
    "cut short": (lambda d, o: {"ca-cert.pem": read(d, "ca-cert.pem")[:300]}, "ca-cert.pem", "cut short"),
    "26 KB of nothing": (lambda d, o: {"ca-cert.pem": "x" * 26 * 1024}, "ca-cert.pem", "no PEM block"),
    "key is a certificate": (lambda d, o: {"ca-key.pem": read(d, "ca-cert.pem")}, "ca-key.pem", "CERTIFICATE is not a private key"),
    "certificate is a key": (lambda d, o: {"ca-cert.pem": read(d, "ca-key.pem")}, "ca-cert.pem", "EC PRIVATE KEY, want CERTIFICATE"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case, copy, rsa4096):
    change, name, why = BROKEN[case]
    for f, text in change(copy, rsa4096).items():
        (copy / f).write_text(text)
    r = meshroot("verify", copy, rc=1)
    assert f"{copy}/{name}: " in r.stderr and why in r.stderr, r.stderr
    assert [line.split()[0] for line in r.stdout.splitlines() if "FAILED" in line] == [name]
    j = json.loads(meshroot("verify", copy, "--output", "json", rc=1).stdout)
    assert j["ok"] is False and j["file"] == name and why in j["reason"]


def test_encrypted_key(copy):
    openssl("pkcs8", "-topk8", "-in", copy / "ca-key.pem", "-passout", "pass:x", "-out", copy / "k")
    os.replace(copy / "k", copy / "ca-key.pem")
    assert "the key is encrypted" in meshroot("verify", copy, rc=1).stderr


def test_expired_and_not_yet_valid(p256, copy):
    for start, end, why in (("20200101000000Z", "20210101000000Z", "expired at 2021-01-01T00:00:00Z"),
                            ("20900101000000Z", "20910101000000Z", "is not valid before 2090-01-01T00:00:00Z")):
        (copy / "index.txt").write_text("")
        (copy / "ca.conf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={copy}/index.txt\nnew_certs_dir={copy}\nrand_serial=yes\ndefault_md=sha256\n"
            "policy=p\ncopy_extensions=copy\nunique_subject=no\n[p]\nO=optional\nCN=supplied\nL=optional\n")
        openssl("ca", "-batch", "-notext", "-config", copy / "ca.conf", "-cert", p256 / "root-cert.pem", "-keyfile", p256 / "root-key.pem",
                "-in", p256 / "ca.csr", "-startdate", start, "-enddate", end, "-out", copy / "ca-cert.pem")
        (copy / "cert-chain.pem").write_text(read(copy, "ca-cert.pem") + read(copy, "root-cert.pem"))
        r = meshroot("verify", copy, rc=1)
        assert f"{copy}/ca-cert.pem: " in r.stderr and why in r.stderr


def test_not_a_ca_and_path_length(p256, copy):
    def sign(csr, ext, ca, key, out):
        (copy / "ext").write_text(ext)
        openssl("x509", "-req", "-days", "10", "-in", csr, "-CA", ca, "-CAkey", key, "-set_serial", "7", "-extfile", copy / "ext", "-out", out)

    sign(p256 / "ca.csr", "basicConstraints=CA:FALSE\n", p256 / "root-cert.pem", p256 / "root-key.pem", copy / "ca-cert.pem")
    assert "is not a CA certificate" in meshroot("verify", copy, rc=1).stderr
    # an intermediate below one with path length 0, under a name of its own
    openssl("req", "-new", "-key", p256 / "root-key.pem", "-subj", "/CN=Below", "-out", copy / "below.csr")
    sign(copy / "below.csr", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n", p256 / "ca-cert.pem", p256 / "ca-key.pem", copy / "ca-cert.pem")
    shutil.copy(p256 / "root-key.pem", copy / "ca-key.pem")
    (copy / "cert-chain.pem").write_text(read(copy, "ca-cert.pem") + read(p256, "ca-cert.pem"))
    r = meshroot("verify", copy, rc=1)
    assert "cert-chain.pem: " in r.stderr and "has path length 0" in r.stderr


def test_missing(copy):
    (copy / "cert-chain.pem").unlink()
    r = meshroot("verify", copy, rc=1)
    assert "cert-chain.pem: no such file" in r.stderr and "missing" in r.stdout
    meshroot("verify", copy / "nowhere", rc=3)
    meshroot("verify", rc=2)


# -- what meshroot makes -------------------------------------------------------------------------

@pytest.mark.parametrize("root_type,key_type", [("p256", "p256"), ("p384", "p384"), ("rsa2048", "rsa3072"), ("rsa4096", "p256"), ("ed25519", "ed25519")])
def test_made_verifies_with_openssl(root_type, key_type, tmp_path):
    root, a1 = tmp_path / "root", tmp_path / "a1"
    meshroot("root", "--out", root, "--subject", "O=Istio,CN=Root A", "--key-type", root_type)
    meshroot("intermediate", "--root", root, "--out", a1, "--subject", "O=Istio,CN=Intermediate CA - A1,L=cluster-A1",
             "--key-type", key_type, "--dns", "istiod.istio-system.svc", "--dns", "istiod")
    assert sorted(os.listdir(root)) == ["root-cert.pem", "root-key.pem"]
    assert sorted(os.listdir(a1)) == sorted(FILES)
    for key in (root / "root-key.pem", a1 / "ca-key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        openssl("pkey", "-in", key, "-check", "-noout")
    openssl("verify", "-x509_strict", "-CAfile", a1 / "root-cert.pem", a1 / "ca-cert.pem")
    text = openssl("x509", "-in", a1 / "ca-cert.pem", "-noout", "-text")
    for part in ("X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0", "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign",
                 "X509v3 Subject Key Identifier", "X509v3 Authority Key Identifier", "DNS:istiod.istio-system.svc, DNS:istiod",
                 "Subject: O = Istio, CN = Intermediate CA - A1, L = cluster-A1", "Issuer: O = Istio, CN = Root A"):
        assert part in text, text
    meshroot("verify", a1)
    # a leaf that plain openssl signs with it verifies through the chain file
    (tmp_path / "ext").write_text("subjectAltName=URI:spiffe://cluster.local/ns/a/sa/b\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", tmp_path / "k", "-subj", "/", "-out", tmp_path / "csr")
    openssl("x509", "-req", "-days", "1", "-in", tmp_path / "csr", "-CA", a1 / "ca-cert.pem", "-CAkey", a1 / "ca-key.pem", "-set_serial", "1", "-extfile", tmp_path / "ext", "-out", tmp_path / "leaf")
    openssl("verify", "-CAfile", a1 / "root-cert.pem", "-untrusted", a1 / "cert-chain.pem", tmp_path / "leaf")


def test_nothing_is_replaced_without_force(tmp_path):
    root, a1 = tmp_path / "root", tmp_path / "a1"
    meshroot("root", "--out", root)
    meshroot("intermediate", "--root", root, "--out", a1)
    before = {p: p.read_bytes() for p in [*root.iterdir(), *a1.iterdir()]}
    assert "exists already; --force replaces it" in meshroot("root", "--out", root, rc=15).stderr
    assert "exists already" in meshroot("intermediate", "--root", root, "--out", a1, rc=15).stderr
    (a1 / "root-cert.pem").unlink()  # one left is enough
    assert "ca-cert.pem exists already" in meshroot("intermediate", "--root", root, "--out", a1, rc=15).stderr
    assert not (a1 / "root-cert.pem").exists()
    assert all(p.read_bytes() == b for p, b in before.items() if p.exists())
    meshroot("intermediate", "--root", root, "--out", a1, "--force")
    meshroot("verify", a1)
    assert (a1 / "ca-key.pem").read_bytes() != before[a1 / "ca-key.pem"]
    assert sorted(os.listdir(a1)) == sorted(FILES)


def test_a_failure_half_way_leaves_what_was_there(tmp_path):
    root, a1 = tmp_path / "root", tmp_path / "a1"
    meshroot("root", "--out", root)
    meshroot("intermediate", "--root", root, "--out", a1)
    before = {name: read(a1, name) for name in FILES[:3]}
    (a1 / "cert-chain.pem").unlink()
    (a1 / "cert-chain.pem").mkdir()  # the last of the four cannot be written
    meshroot("intermediate", "--root", root, "--out", a1, "--force", rc=11)
    assert {name: read(a1, name) for name in FILES[:3]} == before


def test_also_trust(tmp_path):
    for n in "ab":
        meshroot("root", "--out", tmp_path / n, "--subject", f"CN=Root {n.upper()}")
    meshroot("intermediate", "--root", tmp_path / "b", "--out", tmp_path / "b1", "--also-trust", tmp_path / "a" / "root-cert.pem",
             "--also-trust", tmp_path / "b" / "root-cert.pem")
    j = json.loads(meshroot("verify", tmp_path / "b1", "--output", "json").stdout)
    assert sorted(r["subject"] for r in j["roots"]) == ["CN=Root A", "CN=Root B"] and j["signer_root"]["subject"] == "CN=Root B"


def test_wrong_issuer(tmp_path):
    for n in "ab":
        meshroot("root", "--out", tmp_path / n)
    shutil.copy(tmp_path / "a" / "root-key.pem", tmp_path / "b" / "root-key.pem")
    assert "does not belong to root-cert.pem" in meshroot("intermediate", "--root", tmp_path / "b", "--out", tmp_path / "x", rc=14).stderr
    assert "root-cert.pem: no such file" in meshroot("intermediate", "--root", tmp_path, "--out", tmp_path / "x", rc=3).stderr
    meshroot("root", "--out", tmp_path / "c", "--path-len", "1")
    assert "path length 1 does not fit" in meshroot("intermediate", "--root", tmp_path / "c", "--path-len", "1", "--out", tmp_path / "x", rc=14).stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("args,why", [
    (("--subject", "X=1"), "\"X\" is not an attribute"),
    (("--subject", "Istio"), "has no '='"),
    (("--subject", "CN="), "CN= is empty"),
    (("--subject", "CN=a,"), "has no '='"),
    (("--subject", "CN=a+b"), "must be written"),
    (("--subject", "CN=" + "a" * 65), "subject: CN="),
    (("--subject", "C=Germany"), "subject: C="),
    (("--key-type", "rsa1024"), "key-type"),
    (("--days", "0"), "days"),
])
def test_root_refuses(args, why, tmp_path):
    assert why in meshroot("root", "--out", tmp_path / "r", *args, rc=2).stderr
    assert not (tmp_path / "r").exists()


def test_subject_escapes_and_utf8(tmp_path):
    meshroot("root", "--out", tmp_path / "r", "--subject", "O=Example\\, Inc.,CN=Wurzel Ü \\+ 1,C=DE")
    j = json.loads(meshroot("inspect", tmp_path / "r" / "root-cert.pem", "--output", "json").stdout)
    assert j["files"][0]["holds"][0]["subject"] == "CN=Wurzel Ü \\+ 1,O=Example\\, Inc.,C=DE"
    theirs = openssl("x509", "-in", tmp_path / "r" / "root-cert.pem", "-noout", "-subject", "-nameopt", "RFC2253,utf8,-esc_msb")
    assert theirs.strip() == "subject=C=DE,CN=Wurzel Ü \\+ 1,O=Example\\, Inc."


def test_inspect(p256, rsa4096):
    out = meshroot("inspect", p256, rsa4096 / "ca-key.pem", p256 / "ca.csr").stdout
    for part in ("certificate 2 of 2", "private key, p256", "private key, rsa4096", "refuses: the CSR asks for a CA certificate", "DNS:istiod.istio-system.svc",
                 "CN=Intermediate CA,O=Istio,L=cluster1", "(self-signed)"):
        assert part in out
    assert "BEGIN" not in out
    openssl("x509", "-in", p256 / "ca-cert.pem", "-outform", "DER", "-out", p256 / "ca.der")
    assert "CN=Intermediate CA" in meshroot("inspect", p256 / "ca.der").stdout
    openssl("req", "-new", "-key", p256 / "ca-key.pem", "-subj", "/CN=x", "-out", p256 / "plain.csr")
    assert "certificate request, p256, its signature is good" in meshroot("inspect", p256 / "plain.csr").stdout
    assert "no-such: no such file" in meshroot("inspect", p256 / "no-such", rc=3).stderr


def test_no_socket_is_opened(tmp_path):
    (tmp_path / "no.c").write_text("#include <stdlib.h>\nint socket(int a, int b, int c) { (void)a, (void)b, (void)c; abort(); }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "no.so", tmp_path / "no.c"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(tmp_path / "no.so")}
    env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    probe = "import socket; socket.socket()"  # the shim works
    assert subprocess.run(["/usr/bin/python3", "-c", probe], env=env, capture_output=True).returncode != 0
    for args in (("root", "--out", tmp_path / "r"), ("intermediate", "--root", tmp_path / "r", "--out", tmp_path / "i"),
                 ("inspect", tmp_path / "i"), ("verify", tmp_path / "i")):
        r = subprocess.run([MESHROOT, "pki", *map(str, args)], env=env, capture_output=True, text=True, timeout=300)
        assert r.returncode == 0, r.stderr


@pytest.mark.parametrize("command", ["root", "intermediate", "inspect", "verify"])
def test_help(command):
    out = meshroot(command, "--help").stdout
    assert out.count("meshroot pki " + command) >= 3 and "Examples:" in out
