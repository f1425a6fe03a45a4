"""The rows of tests/unit/pki/bad_csrs.h over the wire: signed with the right key where the row leaves that open, each is the caller's
mistake, says what is wrong, and costs no leaf."""
import ast
import base64
import pathlib
import re

import grpc
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from test_ca import ca, make_csr, pb, plugged, refused  # noqa: F401 (fixtures)

ROWS = pathlib.Path(__file__).resolve().parents[1] / "unit" / "pki" / "bad_csrs.h"
MESSAGE_MAX = 64 * 1024


def rows():
    for line in ROWS.read_text().splitlines():
        if line.startswith("ROW("):
            name, part, notation, words = re.fullmatch(r'ROW\((".*?"), (\w+), (".*?"), (".*?")\)', line).groups()
            yield ast.literal_eval(name), part, ast.literal_eval(notation), ast.literal_eval(words)


def tlv(tag, content):
    n = len(content)
    size = n.to_bytes(max(1, (n.bit_length() + 7) // 8), "big")
    return bytes([tag]) + (bytes([n]) if n < 128 else bytes([128 | len(size)]) + size) + content


def read(text, at=0, end=""):
    """The notation of bad_csrs.h: bytes, and where it ended."""
    out = b""
    while text[at:at + 1] != end:
        c = text[at]
        if c == " ":
            at += 1
        elif c == "'":
            stop = text.index("'", at + 1)
            out, at = out + text[at + 1:stop].encode(), stop + 1
        elif c == "[":
            colon = text.index(":", at)
            inner, after = read(text, colon + 1, "]")
            out, at = out + inner * int(text[at + 1:colon]), after
        else:
            value = int(text[at:at + 2], 16)
            at += 2
            if text[at:at + 1] == "{":
                inner, at = read(text, at + 1, "}")
                out += tlv(value, inner)
            else:
                out += bytes([value])
    return out, at + 1


def request(key, part, notation):
    """A PEM request with that part replaced; the signature is good unless it is the part."""
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    parts = {"VERSION": b"\x02\x01\x00", "SUBJECT": b"\x30\x00", "SPKI": spki, "ATTRIBUTES": b"\xa0\x00", "INFO_TAIL": b"",
             "ALGORITHM": tlv(0x30, bytes.fromhex("06082a8648ce3d040302")), "TAIL": b"", "SIGNATURE": None}
    if part:
        parts[part] = read(notation)[0]
    info = tlv(0x30, b"".join(parts[p] for p in ("VERSION", "SUBJECT", "SPKI", "ATTRIBUTES", "INFO_TAIL")))
    signature = parts["SIGNATURE"] or tlv(3, b"\0" + key.sign(info, ec.ECDSA(hashes.SHA256())))
    der = tlv(0x30, info + parts["ALGORITHM"] + signature) + parts["TAIL"]
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE REQUEST-----\n"


def test_each_row_is_invalid_argument_and_costs_no_leaf(ca):  # noqa: F811
    key, token, n = ec.generate_private_key(ec.SECP256R1()), ca.issuer.token(), 0
    with ca.channel() as channel:
        assert ca.call(request(key, None, None), token, channel=channel)[0], "the frame of all rows is a good request"
        for name, part, notation, words in rows():
            pem, n = request(key, part, notation), n + 1
            try:
                ca.call(pem, token, channel=channel)
                raise AssertionError(f"{name}: a leaf")
            except grpc.RpcError as e:
                if len(pem) > MESSAGE_MAX:
                    assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, name
                    continue
                assert e.code() == grpc.StatusCode.INVALID_ARGUMENT, (name, e)
                assert e.details().startswith("CSR signing error (") and words in e.details(), (name, e.details())
        assert n > 80
        assert ca.metric("citadel_server_success_cert_issuance_count 1")
        assert ca.call(make_csr()[1], token, channel=channel)[0]
    assert ca.metric("citadel_server_success_cert_issuance_count 2")


def test_cve_40_pem_bombs(ca):  # noqa: F811
    """10 MB of -----BEGIN end at the message cap; as much as a message may hold is read once and refused."""
    token = ca.issuer.token()
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "", lambda: ca.call("-----BEGIN " * (10 * 1024 * 1024 // 11), token))
    for line in ("-----BEGIN ", "-----BEGIN X-----\n", "-----BEGIN X-----\n-----END Y-----\n", "-----END X-----"):
        refused(grpc.StatusCode.INVALID_ARGUMENT, "certificate signing request is not properly encoded",
                lambda: ca.call(line * ((MESSAGE_MAX - 100) // len(line)), token))
    assert ca.call(make_csr()[1], token)[0]
