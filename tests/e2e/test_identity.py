"""meshroot identity keygen and token: files, modes, refusals; the token checked with another JOSE reader's rules."""
import base64
import json
import time

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from conftest import meshroot


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(text):
    return int.from_bytes(unb64(text), "big")


def check(token, jwks):
    """Header and claims of a token whose signature is right; raises otherwise."""
    head, body, sig = token.split(".")
    header = json.loads(unb64(head))
    jwk = next(k for k in jwks["keys"] if k["kid"] == header["kid"])
    signed, sig = f"{head}.{body}".encode(), unb64(sig)
    if jwk["kty"] == "RSA":
        key = rsa.RSAPublicNumbers(number(jwk["e"]), number(jwk["n"])).public_key()
        key.verify(sig, signed, padding.PKCS1v15(), hashes.SHA256())
    else:
        curve, md = {"P-256": (ec.SECP256R1(), hashes.SHA256()), "P-384": (ec.SECP384R1(), hashes.SHA384())}[jwk["crv"]]
        half = len(sig) // 2
        der = encode_dss_signature(int.from_bytes(sig[:half], "big"), int.from_bytes(sig[half:], "big"))
        ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), curve).public_key().verify(der, signed, ec.ECDSA(md))
    return header, json.loads(unb64(body))


@pytest.mark.parametrize("kind,alg", [("p256", "ES256"), ("p384", "ES384"), ("rsa2048", "RS256")])
def test_keygen_and_token(tmp_path, kind, alg):
    issuer = tmp_path / "issuer"
    meshroot("identity", "keygen", "--out", issuer, "--key-type", kind, "--issuer", "https://id.example.com")
    assert (issuer / "issuer-key.pem").stat().st_mode & 0o777 == 0o600
    jwks = json.loads((issuer / "jwks.json").read_text())
    assert "d" not in jwks["keys"][0] and jwks["keys"][0]["use"] == "sig"

    out = tmp_path / "cart.token"
    meshroot("identity", "token", "--key", issuer / "issuer-key.pem", "--identity", "spiffe://cluster.local/ns/shop/sa/cart",
             "--ttl", "1h", "--out", out)
    assert out.stat().st_mode & 0o777 == 0o600
    header, claims = check(out.read_text(), jwks)
    assert header["alg"] == alg and header["typ"] == "JWT"
    assert claims["iss"] == "https://id.example.com" and claims["aud"] == ["istio-ca"]
    assert claims["sub"] == "system:serviceaccount:shop:cart"
    assert claims["kubernetes.io"] == {"namespace": "shop", "serviceaccount": {"name": "cart"}}
    assert claims["exp"] - claims["iat"] == 3600 and abs(claims["iat"] - time.time()) < 60

    text = meshroot("identity", "token", "--key", issuer / "issuer-key.pem", "--subject", "system:serviceaccount:a:b",
                    "--audience", "x", "--audience", "y", "--issuer", "https://other").stdout.strip()
    _, claims = check(text, jwks)
    assert claims["aud"] == ["x", "y"] and claims["iss"] == "https://other" and claims["sub"] == "system:serviceaccount:a:b"


def test_a_key_is_not_replaced_by_chance(tmp_path):
    meshroot("identity", "keygen", "--out", tmp_path / "i")
    before = (tmp_path / "i/issuer-key.pem").read_bytes()
    again = meshroot("identity", "keygen", "--out", tmp_path / "i", check=False)
    assert again.returncode == 15 and "issuer-key.pem" in again.stderr and "--force" in again.stderr
    assert (tmp_path / "i/issuer-key.pem").read_bytes() == before
    meshroot("identity", "keygen", "--out", tmp_path / "i", "--force")
    assert (tmp_path / "i/issuer-key.pem").read_bytes() != before


GOOD = ("--identity", "spiffe://td/ns/a/sa/b")


@pytest.mark.parametrize("flags,status,says", [
    ((), 2, "want one of --subject and --identity"),
    (("--subject", "system:serviceaccount:a:b", *GOOD), 2, "want one of --subject and --identity"),
    (("--subject", "system:serviceaccount:a"), 2, "system:serviceaccount:NAMESPACE:NAME"),
    (("--subject", "system:serviceaccount:a:b:c"), 2, "system:serviceaccount:NAMESPACE:NAME"),
    (("--subject", "system:serviceaccount:A:b"), 2, "not the name of a namespace"),
    (("--identity", "spiffe://td/ns/a/sa/.."), 2, "path segment"),
    (("--identity", "spiffe://td/a"), 2, "want spiffe://"),
    ((*GOOD, "--ttl", "0s"), 2, "--ttl"),
    ((*GOOD, "--ttl", "12"), 2, "--ttl"),
    ((*GOOD, "--key", "/does/not/exist"), 3, "/does/not/exist"),
    ((*GOOD, "--out", "/does/not/exist"), 11, "/does/not/exist"),
])
def test_refusals(tmp_path, flags, status, says):
    meshroot("identity", "keygen", "--out", tmp_path / "i")
    key = () if "--key" in flags else ("--key", tmp_path / "i/issuer-key.pem")
    done = meshroot("identity", "token", *key, *flags, check=False)
    assert (done.returncode, done.stdout) == (status, "") and says in done.stderr, done.stderr


def test_a_certificate_is_no_key(tmp_path):
    meshroot("pki", "root", "--out", tmp_path / "r")
    done = meshroot("identity", "token", "--key", tmp_path / "r/root-cert.pem", "--issuer", "x", *GOOD, check=False)
    assert done.returncode == 12 and "root-cert.pem" in done.stderr
