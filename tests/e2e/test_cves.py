"""Holes of our peers, by their number in specs/peers.md 5, tried on us. The table of all of them: docs/cves.md."""
import base64
import datetime
import ipaddress
import json
import os
import random
import re
import string
import subprocess
import threading

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from conftest import BINARY, meshroot, openssl_intermediate, openssl_root, wait_for
from test_bad_csrs import read, request, rows
from test_secrets_stay_secret import Vault
from test_ca import CREATE, IDENTITY, Ca, b64, ca, make_csr, pb, plugged, refused  # noqa: F401 (fixtures)

UNAUTHENTICATED, INVALID = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT
OTHER = "spiffe://cluster.local/ns/shop/sa/other"


def issued(ca):  # noqa: F811
    lines = [x for x in ca.get("/metrics")[1].splitlines() if x.startswith("citadel_server_success_cert_issuance_count ")]
    return int(float(lines[0].split()[1])) if lines else 0


def uris(pem):
    leaf = x509.load_pem_x509_certificate(pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(list(names)) == 1 and len(leaf.subject) == 0
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def raw_call(ca, message, metadata=(), method=CREATE):  # noqa: F811
    with ca.channel() as channel:
        return channel.unary_unary(method)(message, metadata=metadata, timeout=30)


def code_of(call):
    try:
        call()
        return grpc.StatusCode.OK
    except grpc.RpcError as e:
        return e.code()


# -- 5a: who may have what -----------------------------------------------------------------------


def test_cve_02_unknown_values_open_no_door(ca):  # noqa: F811
    """Every field number and wire type, every method name near ours, by nobody: never a certificate."""
    csr = make_csr()[1].encode()
    good = b"\x0a" + bytes([len(csr) & 127 | 128, len(csr) >> 7]) + csr
    with ca.channel() as channel:
        call = channel.unary_unary(CREATE)
        for value in range(256):
            for message in (bytes([value]), good + bytes([value, 1]), bytes([value, 0]) + good):
                assert code_of(lambda: call(message, timeout=30)) == UNAUTHENTICATED, (value, message[:4])
        token = (("authorization", f"Bearer {ca.issuer.token()}"),)
        for value in range(256):  # with a token: read or refused, and the server goes on
            assert code_of(lambda: call(good + bytes([value, 1]), metadata=token, timeout=30)) in (grpc.StatusCode.OK, INVALID), value
    assert ca.call(csr.decode(), ca.issuer.token())[0]


def test_cve_03_nobody_speaks_for_another(ca):  # noqa: F811
    """A's word about B's leaf and instance counts for A only: B's leaf stays in use."""
    words = ca.pb[1]
    b_chain, trailers = ca.call(make_csr()[1], ca.issuer.token(sub="system:serviceaccount:shop:b"),
                                metadata=[("meshroot-instance", "bb" * 16)])
    serial = x509.load_pem_x509_certificate(b_chain[0].encode()).serial_number
    roots = [x509.load_pem_x509_certificate(b_chain[-1].encode()).fingerprint(hashes.SHA256())]
    word = words.Word(instance="bb" * 16, generation=int(trailers["meshroot-generation"]), root_ids=roots, ended=True,
                      leaf_serial=serial.to_bytes(16, "big").lstrip(b"\0"))
    code = code_of(lambda: raw_call(ca, word.SerializeToString(), (("authorization", f"Bearer {ca.issuer.token()}"),),
                                    "/meshroot.v1.Trust/Acknowledge"))
    live = json.loads(meshroot("ledger", "list", "--state-dir", ca.state, "--live", "--output", "json").stdout)
    assert "/sa/b" in json.dumps(live), (code, live)


def test_cve_05_issued_name_is_that_of_the_caller(ca):  # noqa: F811
    """200 requests with names by chance: the leaf's is the authenticated one's, each time."""
    chance = random.Random(5)
    key = ec.generate_private_key(ec.SECP256R1())
    with ca.channel() as channel:
        for i in range(200):
            who = "".join(chance.choices(string.ascii_lowercase + string.digits, k=chance.randint(1, 20)))
            names = [x509.DNSName("".join(chance.choices("abc.-*", k=5)).strip(".-") or "a") for _ in range(chance.randint(0, 3))]
            names += [x509.IPAddress(ipaddress.ip_address(chance.getrandbits(32))) for _ in range(chance.randint(0, 2))]
            names += [x509.UniformResourceIdentifier(chance.choice([OTHER, "https://x.test/", "spiffe://evil/ns/a/sa/b"]))]
            chance.shuffle(names)
            b = x509.CertificateSigningRequestBuilder().subject_name(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, chance.choice([OTHER, "admin", "istiod.istio-system.svc"]))]))
            b = b.add_extension(x509.SubjectAlternativeName(names), bool(i % 2))
            csr = b.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
            chain, _ = ca.call(csr, ca.issuer.token(sub=f"system:serviceaccount:shop:{who}"), channel=channel)
            assert uris(chain[0]) == [f"spiffe://cluster.local/ns/shop/sa/{who}"]


def test_cve_08_keys_that_come_with_the_token_are_no_keys(ca):  # noqa: F811
    mine = rsa.generate_private_key(65537, 2048)
    n = mine.public_key().public_numbers()
    jwk = {"kty": "RSA", "kid": "k1", "n": b64(n.n.to_bytes(256, "big")), "e": b64(n.e.to_bytes(3, "big"))}
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(mine.public_key()).serial_number(1).not_valid_before(
        now).not_valid_after(now + datetime.timedelta(days=1)).sign(mine, hashes.SHA256())
    der = base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).decode()
    csr = make_csr()[1]
    for extra in ({"jwk": jwk}, {"x5c": [der]}, {"jku": "http://127.0.0.1:1/jwks.json"}, {"x5u": "http://127.0.0.1:1/c.pem"},
                  {"jwk": jwk, "kid": "mine"}, {"kid": "../../../proc/self/environ"}, {"kid": None, "jwk": jwk}, {"crit": ["x"], "x": 1}):
        refused(UNAUTHENTICATED, "request authenticate failure", lambda: ca.call(csr, ca.issuer.token(extra, sign=mine)))
    assert issued(ca) == 0 and ca.call(csr, ca.issuer.token())[0]


def send_rows(ca, pick):  # noqa: F811
    key, token, n = ec.generate_private_key(ec.SECP256R1()), ca.issuer.token(), 0
    with ca.channel() as channel:
        for name, part, notation, words in rows():
            if pick(name):
                refused(INVALID, words, lambda: ca.call(request(key, part, notation), token, channel=channel))
                n += 1
    assert issued(ca) == 0
    return n


def test_cve_10_several_uri_sans(ca):  # noqa: F811
    assert send_rows(ca, lambda name: "URI SAN" in name) == 3


def test_cve_11_14_metacharacters_are_not_names(ca):  # noqa: F811
    """Names of a token go into a URI: what is not of their grammar is refused, not escaped."""
    csr = make_csr()[1]
    for part in ("*", "a*", "?", "a,b", "a/b", "a/../b", "..", ".", "a b", "a%2fb", "a\\b", "{{a}}", "$a", "a\u00e9", "A", "a_b", "a#b",
                 "a?b", "a\nb", "a\0b", "-a", "a-", "a" * 254, "<a>", "a:b:c", ""):
        for sub in (f"system:serviceaccount:shop:{part}", f"system:serviceaccount:{part}:cart"):
            refused(UNAUTHENTICATED, "request authenticate failure", lambda: ca.call(csr, ca.issuer.token(sub=sub)))
    assert issued(ca) == 0


def test_cve_12_raw_extensions_and_odd_strings(ca):  # noqa: F811
    assert send_rows(ca, lambda name: name in ("UniversalString", "BMPString", "SAN otherName") or "two SAN ext" in name) == 5


def test_cve_16_names_that_nobody_checks(ca):  # noqa: F811
    assert send_rows(ca, lambda name: re.match(r"SAN (otherName|e-mail|directoryName|registeredID|of no kind)", name)) == 5


class Minter:
    """Client certificates signed with the plugged-in intermediate's key."""

    def __init__(self, folder):
        self.cert = x509.load_pem_x509_certificate((folder / "ca-cert.pem").read_bytes())
        self.key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
        self.chain = (folder / "cert-chain.pem").read_bytes()

    def client(self, sans, usage=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH), serial=None, issuer=None):
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
        b = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(self.cert.subject).public_key(key.public_key())
        b = b.serial_number(serial or x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=1))
        b = b.not_valid_after(now + datetime.timedelta(hours=1)).add_extension(x509.SubjectAlternativeName(sans), True)
        if usage is not None:
            b = b.add_extension(x509.ExtendedKeyUsage(usage), False)
        cert = b.sign(issuer or self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), cert


def by_certificate(ca, key, cert, chain, csr=None, token=None):  # noqa: F811
    with ca.channel(key, cert + chain) as channel:
        return ca.call(csr or make_csr()[1], token, channel=channel)[0]


URI = x509.UniformResourceIdentifier


def test_cve_15_renewal_keeps_the_identity(ca, plugged):  # noqa: F811
    """Whatever the request asks for, and whoever's token lies beside it, the certificate's holder gets no other name by it."""
    m = Minter(plugged[1])
    key, cert = m.client([URI(IDENTITY)])
    chain = by_certificate(ca, key, cert, m.chain, make_csr(sans=[OTHER], cn="other")[1])
    assert uris(chain[0]) == [IDENTITY]
    with pytest.raises(grpc.RpcError):  # another's certificate without its key does not even connect
        by_certificate(ca, m.client([URI(IDENTITY)])[0], cert, m.chain)


def test_cve_18_a_serial_is_not_an_identity(ca, plugged, tmp_path):  # noqa: F811
    """The same serial, issuer name and SAN as a good leaf, signed by another key: refused."""
    m = Minter(plugged[1])
    key, cert = m.client([URI(IDENTITY)])
    assert by_certificate(ca, key, cert, m.chain)
    serial = x509.load_pem_x509_certificate(cert).serial_number
    fake_key, fake = m.client([URI(IDENTITY)], serial=serial, issuer=ec.generate_private_key(ec.SECP256R1()))
    assert code_of(lambda: by_certificate(ca, fake_key, fake, m.chain)) in (UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    twin = openssl_intermediate(tmp_path / "twin", openssl_root(tmp_path / "twin-root", "Root A", "p256"), "Intermediate A1", "p256")
    t = Minter(twin)
    fake_key, fake = t.client([URI(IDENTITY)], serial=serial)
    assert code_of(lambda: by_certificate(ca, fake_key, fake, t.chain)) in (UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    assert issued(ca) == 1


def test_cve_21_no_key_is_built_in():
    """Nothing in the binary that could be a key for a key set that is not there."""
    with open(BINARY, "rb") as f:
        data = f.read()
    assert not re.search(rb"-----BEGIN [A-Z ]*(KEY|CERTIFICATE)-----\s+[A-Za-z0-9+/]{20}", data)
    for text in re.findall(rb"[A-Za-z0-9_+/=-]{160,}", data):  # a modulus of 2048 bits has 342 characters
        assert re.fullmatch(rb"[A-Za-z0-9+/_=-]*?(.)\1{20,}.*", text) or b"ABCDEFGHIJKLMNOPQRSTUVWXYZ" in text or text.count(b"_") > 5, text


def test_cve_22_no_client_speaks_to_a_server_of_another_root(mesh, tmp_path, daemon):
    """Our own clients: what they would have sent stays with them."""
    mesh.set_all(openssl_intermediate(tmp_path / "a1", openssl_root(tmp_path / "ra", "Root A", "p256"), "Intermediate A1", "p256"))
    mesh.enable()
    other = openssl_root(tmp_path / "root-x", "Root X", "p256") / "root-cert.pem"
    token = mesh.token("x")
    for flags in ((), ("--ca-name", "localhost"), ("--ephemeral",)):
        ports = tmp_path / "agent.ports"
        d = daemon("agent", "run", "--dir", tmp_path / f"agent{len(flags)}", "--identity", "spiffe://cluster.local/ns/test/sa/x",
                   "--ca-addr", f"127.0.0.1:{mesh.ca_port()}", "--ca-root-cert", other, "--token-file", token, "--monitoring",
                   "127.0.0.1:0", "--port-file", ports, *flags, port_file=ports)
        wait_for("refused by the agent", lambda: "tls: " in d.text() and "certificate" in d.text())
        d.stop()
    assert mesh.status()["ledger_rows"] == 0
    for verb in (("list",), ("get", "--name", "ca-key"), ("set", "--name", "x", "--value", "canary")):
        done = mesh.run("vault", "secret", *verb, "--vault-name", "meshroot", "--ca-file", other, check=False)
        assert done.returncode != 0 and "certificate" in done.stderr, (verb, done.stderr)
    assert '"x"' not in mesh.run("vault", "secret", "list", "--vault-name", "meshroot", "--output", "json").stdout


# -- 5b: TLS and chains --------------------------------------------------------------------------


def test_cve_25_a_spiffe_id_counts_as_a_uri_only(ca, plugged):  # noqa: F811
    m = Minter(plugged[1])
    for sans in ([x509.DNSName(IDENTITY)], [x509.RFC822Name("a@cluster.local"), x509.DNSName("cluster.local")],
                 [x509.OtherName(ObjectIdentifier("1.2.3.4"), b"\x0c" + bytes([len(IDENTITY)]) + IDENTITY.encode())],
                 [URI(IDENTITY), URI(OTHER)], [URI(OTHER.replace("cluster.local", "evil"))], [x509.DNSName("cart.shop.svc")]):
        key, cert = m.client(sans)
        assert code_of(lambda: by_certificate(ca, key, cert, m.chain)) in (UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE), sans
    assert issued(ca) == 0
    key, cert = m.client([URI(IDENTITY)])
    assert uris(by_certificate(ca, key, cert, m.chain)[0]) == [IDENTITY]


def test_cve_26_extended_key_usage_is_held(ca, plugged):  # noqa: F811
    """A workload is client and server with one certificate: both usages must be there."""
    m = Minter(plugged[1])
    eku = ExtendedKeyUsageOID
    both = [eku.SERVER_AUTH, eku.CLIENT_AUTH]
    for usage in ([eku.EMAIL_PROTECTION], [eku.SERVER_AUTH], [eku.CLIENT_AUTH], [eku.CODE_SIGNING, eku.OCSP_SIGNING],
                  [ObjectIdentifier("1.2.3.4")], [eku.ANY_EXTENDED_KEY_USAGE], None):
        key, cert = m.client([URI(IDENTITY)], usage)
        assert code_of(lambda: by_certificate(ca, key, cert, m.chain)) in (UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE), usage
    assert issued(ca) == 0
    for usage in (both, both[::-1], both + [eku.EMAIL_PROTECTION]):
        key, cert = m.client([URI(IDENTITY)], usage)
        assert by_certificate(ca, key, cert, m.chain), usage


def test_cve_31_missing_trust_is_no_connection(ca, tmp_path, daemon):  # noqa: F811
    """No roots, no talk: nothing in clear, nothing unverified. A missing file is waited for by name."""
    token = tmp_path / "t"
    token.write_text(ca.issuer.token())
    for i, content in enumerate((None, "", "not PEM")):
        roots = tmp_path / f"roots-{i}.pem"
        if content is not None:
            roots.write_text(content)
        ports = tmp_path / f"a{i}.ports"
        d = daemon("agent", "run", "--dir", tmp_path / f"a{i}", "--identity", IDENTITY, "--ca-addr", f"127.0.0.1:{ca.ports['ca']}",
                   "--ca-root-cert", roots, "--token-file", token, "--monitoring", "127.0.0.1:0", "--port-file", ports, port_file=ports)
        wait_for("it says which file", lambda: str(roots) in d.text() or d.process.poll() is not None)
        assert str(roots) in d.text()
    assert ca.metric("citadel_server_csr_count 0")


def test_cve_32_38_long_chains_end_at_a_limit(ca, plugged):  # noqa: F811
    """A thousand intermediates beside a client's certificate: the handshake ends, the CA serves on."""
    m = Minter(plugged[1])
    key, cert = m.client([URI(IDENTITY)])
    for bomb in (m.chain * 500, m.chain * 20):
        code_of(lambda: by_certificate(ca, key, cert, bomb))  # may or may not be let in: the true path is among them
        assert ca.get("/readyz")[0] == 200
    strangers, issuer, name = b"", ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loop")])
    now = datetime.datetime.now(datetime.timezone.utc)
    for i in range(60):  # one name, many keys: each a candidate for each
        k = ec.generate_private_key(ec.SECP256R1())
        strangers += x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(k.public_key()).serial_number(
            i + 1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).add_extension(
            x509.BasicConstraints(True, None), True).sign(issuer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        issuer = k
    fake_key, fake = m.client([URI(IDENTITY)], issuer=issuer)
    assert code_of(lambda: by_certificate(ca, fake_key, fake, strangers)) in (UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    assert ca.call(make_csr()[1], ca.issuer.token())[0]


def test_cve_33_no_policy_checks_and_named_curves_only(ca):  # noqa: F811
    symbols = subprocess.run(["nm", "-D", BINARY], capture_output=True, text=True, check=True).stdout
    for name in ("X509_VERIFY_PARAM_set1_policies", "X509_VERIFY_PARAM_add0_policy", "X509_policy_check", "EC_GROUP_new_from_params",
                 "EC_GROUP_new_from_ecparameters"):
        assert name not in symbols, name
    assert send_rows(ca, lambda name: name == "curve by explicit parameters") == 1


# -- 5c: parsers, resources, files ---------------------------------------------------------------


def test_cve_34_35_bytes_by_chance_before_anyone_is_known(ca):  # noqa: F811
    chance = random.Random(34)
    with ca.channel() as channel:
        call = channel.unary_unary(CREATE)
        for _ in range(300):
            assert code_of(lambda: call(chance.randbytes(chance.randint(0, 2000)), timeout=30)) == UNAUTHENTICATED
        deep = b""
        for _ in range(2000):  # a Struct in a Struct in a Struct
            deep = b"\x22" + bytes([len(deep) & 127 | 128, len(deep) >> 7 & 127 | 128, len(deep) >> 14]) + deep
        token = (("authorization", f"Bearer {ca.issuer.token()}"),)
        assert code_of(lambda: call(deep, metadata=token, timeout=30)) == INVALID
        assert code_of(lambda: call(b"\x0a\xff\xff\xff\xff\x0f", metadata=token, timeout=30)) == INVALID
    assert ca.call(make_csr()[1], ca.issuer.token())[0]


def test_cve_39_empty_elements_everywhere(ca):  # noqa: F811
    """Each element of a request in turn without its content, signed: refused, or read; never a fall."""
    key, token = ec.generate_private_key(ec.SECP256R1()), ca.issuer.token()
    spki = "30{30{06{2a8648ce3d0201} 06{2a8648ce3d030107}} 03{00 04 [64:01]}}"
    ask = ("a0{30{06{2a864886f70d01090e} 31{30{30{06{551d11} 01{ff} 04{30{86{'spiffe://td/a'}}}} 30{06{551d25} 04{30{06{2a0304}}}}"
           "30{06{551d13} 04{30{01{ff} 02{01}}}}}}}}")
    n = 0
    with ca.channel() as channel:
        for part, text in (("SUBJECT", "30{31{30{06{550403} 0c{'a'}}}}"), ("SPKI", spki), ("ATTRIBUTES", ask),
                           ("ALGORITHM", "30{06{2a8648ce3d040302}}"), ("SIGNATURE", "03{00 30{02{01} 02{01}}}")):
            read(text)
            for at in (i for i, c in enumerate(text) if c == "{"):
                _, end = read(text, at + 1, "}")
                assert code_of(lambda: ca.call(request(key, part, text[:at + 1] + text[end - 1:]), token, channel=channel)) in (
                    INVALID, grpc.StatusCode.OK), (part, at)
                n += 1
    assert n > 35 and ca.call(make_csr()[1], token)[0]


def test_cve_45_json_that_costs_more_than_it_weighs(mesh):
    """Nesting, and names without end, in a body of the permitted size: 400, and the next request is served."""
    vault = Vault(mesh)
    headers = {"authorization": "Bearer " + vault.token(json.loads((mesh.state / "credentials/admin.json").read_text()))}
    url = "/secrets/a?api-version=7.4"
    for body in ("[" * 20000, '{"value":' * 3000 + "1" + "}" * 3000, '{"value":"x","tags":' + '{"a":' * 3000 + "1" + "}" * 3001,
                 '{"value":"x","value":"y"}', '{"value":"x","attributes":{"exp":1e999}}', "{" + '"a":1,' * 4000 + '"value":"x"}',
                 '{"value":"x","tags":{' + ",".join(f'"t{i}":"x"' for i in range(2000)) + "}}"):
        status, _ = vault.ask("PUT", url, body, **headers)
        assert status in (400, 413), (status, body[:40])
    assert vault.ask("PUT", url, '{"value":"x"}', **headers)[0] == 200


def test_cve_47_names_that_climb(mesh):
    """Names of secrets become keys of the store and never files; the set's files have fixed names."""
    for name in ("../../etc/x", "..", "a/b", "/etc/x", "a\\b", ".hidden", "a%2f..%2fb", ""):
        done = mesh.run("vault", "secret", "set", "--vault-name", "meshroot", "--name", name, "--value", "x", check=False)
        assert done.returncode != 0, name
    done = mesh.run("mesh", "enable", "--key-vault-id", "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/meshroot",
                    "--root-cert-object-name", "../root-cert", check=False)
    assert done.returncode != 0
    assert not [p for p in mesh.tmp.rglob("*x*") if p.name in ("x", ".hidden")]


def test_cve_50_hardening_flags_of_the_binary():
    """What checksec looks at, by readelf: PIE, full RELRO, no executable stack, canaries, branch protection."""
    def elf(*flags):
        return subprocess.run(["readelf", "-W", *flags, BINARY], capture_output=True, text=True, check=True).stdout

    assert re.search(r"Type:\s+DYN \(Position-Independent", elf("-h"))
    program, dynamic, symbols = elf("-l"), elf("-d"), elf("-s")
    assert "GNU_RELRO" in program and "BIND_NOW" in dynamic and re.search(r"FLAGS_1.*NOW PIE", dynamic)
    stack = [x for x in program.splitlines() if "GNU_STACK" in x]
    assert len(stack) == 1 and " RW " in stack[0], stack
    assert not [x for x in program.splitlines() if " LOAD " in x and "RWE" in x.replace(" ", "")]
    assert "__stack_chk_fail" in symbols
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    assert "__asan_init" in symbols or len(re.findall(r"__\w+_chk@", symbols)) > 5, "_FORTIFY_SOURCE"
    code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "--disassemble=main", BINARY], capture_output=True, text=True, check=True)
    assert re.search(r"<main>:\n\s+\w+:\s+endbr64", code.stdout), "-fcf-protection"


def test_cve_50_descriptors_stay_flat(ca):  # noqa: F811
    """20,000 calls of every kind: as many descriptors as before."""
    pid, token, (_, csr) = ca.daemon.process.pid, ca.issuer.token(), make_csr()

    def fds():
        return len(os.listdir(f"/proc/{pid}/fd"))

    def storm(n):
        with ca.channel() as channel:
            call = channel.unary_unary(CREATE)
            good = ca.pb[0].IstioCertificateRequest(csr=csr).SerializeToString()
            meta = (("authorization", f"Bearer {token}"),)
            for i in range(n):
                message, metadata = ((good, meta), (good, ()), (b"\xff", meta), (b"", meta))[i % 4]
                code_of(lambda: call(message, metadata=metadata, timeout=30))

    def storms(n):
        threads = [threading.Thread(target=storm, args=(n,)) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    storms(50)
    wait_for("the connections are gone", lambda: ca.get("/readyz")[0] == 200)
    before = fds()
    storms(5000)
    wait_for(f"{before} descriptors", lambda: fds() <= before + 2)
    assert issued(ca) >= 5000
