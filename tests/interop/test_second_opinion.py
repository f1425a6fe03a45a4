"""Other people's X.509 on what we read and write: Go's crypto/x509, OpenSSL and zlint. docs/second-opinion.md says which rules run."""
import itertools
import json
import pathlib
import ssl
import subprocess

import pytest
from cryptography import x509

from conftest import BINARY, meshroot, wait_for
from test_ca import IDENTITY, Ca, make_csr, pb  # noqa: F401 (fixture)

BUILT = pathlib.Path(BINARY).resolve().parent / "tests" / "interop" / "c"
CSRS = 100_000

# What zlint reports that is no error, and why it stays.
KNOWN_LINTS = {
    "w_ext_subject_key_identifier_missing_sub_cert":
        "a SHOULD of RFC 5280 4.2.1.2; istiod writes none, and nothing is ever below a leaf: 32 bytes of every handshake saved",
    "n_san_iana_pub_suffix_empty":
        "listeners are named as the cluster names them: localhost, NAME.NAMESPACE.svc; no public suffix is meant",
}

# What our reader refuses and another accepts: the start of our reason, and why we want it so.
STRICTER = {
    "failed to parse X.### certificate signing request": {
        "": "DER only: indefinite, long and wrong lengths, other tags; OpenSSL reads much of BER",
        ": trailing bytes": "one request and nothing else",
        ": request information": "version 0 and four parts, no more: RFC 2986 4.1",
        ": more than ##### bytes": "CSR_MAX_BYTES: a request of an agent has some hundred",
        ": subject": "names of one OID and one string of a kind that every library reads; no BMPString, UniversalString, bad UTF-8",
        ": public key": "an algorithm and a whole number of bytes, nothing else",
        ": RSA public key": "two positive minimal integers",
        ": RSA parameters": "NULL, as RFC 3279 2.3.1 has it",
        ": EC parameters are not a named curve": "RFC 5480 2.1.1; explicit parameters have been an attack (CVE-2020-0601)",
        ": EC point is not an uncompressed one of P-###": "RFC 5480 2.2: support for compressed ones is optional, and no agent sends them",
        ": Ed##### public key": "no parameters, 32 bytes: RFC 8410 3, 4",
        ": attributes": "a type and its values; one extension request with one value",
        ": attribute value": "DER down to the leaves, bounded in depth; readers that do not look inside accept it",
        ": requested extensions": "OID, critical or not, and DER in the value; at most 32",
        ": the same extension is requested twice": "RFC 5280 4.2: which of two would count?",
        ": basic constraints": "CA, and a path length that is not negative",
        ": subject alternative name": "URIs and DNS names in printable ASCII, addresses of 4 or 16 bytes",
        ": signature algorithm parameters": "NULL for RSA, absent for the others: RFC 4055 5, RFC 5758 3.2",
    },
    "the CSR's key is on a curve other than P-###, P-###, P-###": {"": "P-224 and below are too short for years"},
    "the CSR's key is none of ECDSA, RSA, Ed#####": {"": "no other has a use in TLS 1.2 and 1.3 of agents"},
    "the CSR's RSA key has #### bits; #### to #### are accepted": {"": "1024 bits are too few; istiod certifies them"},
    "the CSR's RSA key has # bits; #### to #### are accepted": {"": "the same"},
    "the CSR's RSA key has a modulus or exponent that no sound key has (##### is usual)": {"": "exponents below 65537: no agent has them"},
    "the CSR is signed with an algorithm other than ECDSA or RSA with SHA-#, or Ed#####": {"": "no MD5, no SHA-1"},
    "the CSR asks for a CA certificate (CA:TRUE)": {"": "agents are no CAs"},
    "the CSR asks for a name that is no URI, DNS name or IP address": {"": "peers.md 5a 12, 16: refused, not overlooked"},
    "the CSR asks for # URIs; a workload has one": {"": "peers.md 5a 10"},
    "the CSR asks for ## URIs; a workload has one": {"": "the same"},
    "x###: ECDSA verification failure": {"": "one of the others takes the signature for good"},
}


def is_explained(reason):
    return any(reason.startswith(head) and reason[len(head):] in tails for head, tails in STRICTER.items())


def test_no_csr_is_accepted_by_us_alone(go_tool):
    """100,000 requests from one seed, hurt in every way, most of them signed after that: what we accept, Go or OpenSSL accepts."""
    done = subprocess.run([go_tool("csrdiff"), "-verdicts", BUILT / "csr_verdicts", "-n", str(CSRS), "-seed", "4"], capture_output=True,
                          text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    r = json.loads(done.stdout)
    assert r["Total"] == CSRS and not r["OnlyOurs"] and not r["OtherKey"], r
    assert r["Ours"] > CSRS // 20 and r["Go"] > r["Ours"] and len(r["Mutations"]) > 30, "the corpus has both kinds in it"
    assert r["All"] > r["Ours"] * 9 // 10
    strange = [x for x in (*r["StricterThanAll"], *r["StricterThanOne"]) if not is_explained(x)]
    assert not strange, strange


def opinion(go_tool, *args, stdin=None):
    done = subprocess.run([go_tool("opinion"), *map(str, args)], input=stdin, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_order(r, at_least):
    assert not r["Mismatches"], r["Mismatches"]
    errors = {k: v for k, v in r["Lints"].items() if v["Status"] in ("error", "fatal")}
    assert not errors, errors
    assert set(r["Lints"]) <= set(KNOWN_LINTS), {k: v for k, v in r["Lints"].items() if k not in KNOWN_LINTS}
    assert r["Objects"] >= at_least and r["Ran"] > 20, r


def test_leaves_of_every_kind_name_and_date(go_tool):
    """Seven kinds of signer, seven of key, leap days, 2049/2050, 9999, short and high serials, names of 2048 bytes: crypto/x509 reads
    field by field what was asked for, and zlint finds no error. OpenSSL's reading: tests/unit/pki/test_leaf.c."""
    lines = subprocess.run([BUILT / "leaf_samples"], capture_output=True, text=True, timeout=600, check=True).stdout
    in_order(opinion(go_tool, "leaves", stdin=lines), 420)


def test_revocation_lists_of_every_kind_length_and_date(go_tool, tmp_path):
    file = tmp_path / "crls.pem"
    with open(file, "wb") as out:
        subprocess.run([BUILT / "crl_samples"], stdout=out, timeout=600, check=True)
    r = opinion(go_tool, "crls", file)
    assert not r["Mismatches"] and not r["Lints"] and r["Objects"] == 112 and r["Ran"] > 10, r


def test_roots_and_intermediates_of_meshroot_pki(go_tool, tmp_path):
    files = []
    for kind in ("p256", "p384", "rsa2048", "rsa3072", "rsa4096"):
        root, mid = tmp_path / f"root-{kind}", tmp_path / f"int-{kind}"
        meshroot("pki", "root", "--out", root, "--key-type", kind, "--subject", f"O=Istio,CN=Root {kind}", "--days", "36500")
        meshroot("pki", "intermediate", "--root", root, "--out", mid, "--key-type", kind, "--dns", "istiod.istio-system.svc",
                 "--subject", f"O=Istio,CN=Intermediate {kind},L=cluster-1")
        files += [root / "root-cert.pem", mid / "ca-cert.pem"]
    limited = tmp_path / "root-limited"
    meshroot("pki", "root", "--out", limited, "--path-len", "1", "--subject", r"C=DE,ST=Bayern,O=Example\, Inc.,CN=Würze")
    in_order(opinion(go_tool, "certs", *files, limited / "root-cert.pem"), 11)


def test_the_lists_that_a_ca_serves(go_tool, tmp_path, daemon, pb):  # noqa: F811
    """Before and after a revocation, by the product's own path; for an EC and an RSA signer."""
    for kind in ("p256", "rsa2048"):
        tmp = tmp_path / kind
        meshroot("pki", "root", "--out", tmp / "root", "--key-type", kind)
        meshroot("pki", "intermediate", "--root", tmp / "root", "--out", tmp / "cacerts", "--key-type", kind)
        ca = Ca(tmp, daemon, pb).ready()
        files = []
        for reason in (None, "keyCompromise", "superseded"):
            chain, _ = ca.call(make_csr()[1], ca.issuer.token())
            if reason:
                serial = format(x509.load_pem_x509_certificate(chain[0].encode()).serial_number, "x")
                meshroot("ca", "revoke", "--serial", serial, "--reason", reason, "--state-dir", ca.state)
            files.append(tmp / f"{reason}.pem")
            files[-1].write_text(ca.get("/ca-crl.pem")[1])
        r = opinion(go_tool, "crls", *files)
        assert not r["Mismatches"] and not r["Lints"] and r["Objects"] == 3, r


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "self-signed"])
def test_what_a_ca_hands_out_and_shows(go_tool, istio_agent, tmp_path, daemon, pb, kind):  # noqa: F811
    """The product's own path: leaves over the wire for three kinds of key, the listener's certificate, the roots."""
    flags = []
    if kind == "self-signed":
        (tmp_path / "cacerts").mkdir()
        flags = ["--self-signed"]
    else:
        meshroot("pki", "root", "--out", tmp_path / "root", "--key-type", kind)
        meshroot("pki", "intermediate", "--root", tmp_path / "root", "--out", tmp_path / "cacerts", "--key-type", kind)
    ca = Ca(tmp_path, daemon, pb, *flags).ready()
    agent, files = istio_agent(ca, IDENTITY), []
    for key, ttl in itertools.product(("rsa2048", "p256", "p384"), (60, 86400, 2160 * 3600)):
        a = agent.sign(key=key, ttl=ttl)
        assert (a["Code"], a["Problem"]) == ("OK", ""), a
        files.append(tmp_path / f"leaf-{key}-{ttl}.pem")
        files[-1].write_text("".join(a["Chain"]))
    listener = tmp_path / "listener.pem"
    wait_for("the listener", lambda: ca.get("/readyz")[0] == 200)
    listener.write_text(ssl.get_server_certificate(("127.0.0.1", ca.ports["ca"])))
    in_order(opinion(go_tool, "certs", *files, listener), len(files) * 2 + 1)
