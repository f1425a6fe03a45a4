"""JWT-SVIDs: signed in the CA's signer process, handed out and checked by the agent's Workload API, with the real go-spiffe as
client; what go-spiffe itself says of each token stands beside what our ValidateJWTSVID says."""
import base64
import hashlib
import hmac
import json
import subprocess
import time

import grpc
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from conftest import openssl_intermediate, wait_for
from test_agent import TD, Agent
from test_ca import Ca, b64, copy_set, make_csr, pb, plugged  # noqa: F401 (fixtures)
from test_ca_crash import start_again
from test_signer import kill_signer, signer

SIGN = "/meshroot.v1.Trust/SignJwt"
PUBLISH_S = 10
SECURITY = (("workload.spiffe.io", "true"),)


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parts(token):
    head, claims, _ = token.split(".")
    return json.loads(unb64(head)), json.loads(unb64(claims))


class Lines:
    """A gospiffe that answers each line with a JSON object."""

    def __init__(self, gospiffe, verb, socket, audience):
        self.process = subprocess.Popen([gospiffe, verb, f"unix://{socket}", audience], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)

    def say(self, line=""):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def lines(gospiffe):
    started = []

    def start(verb, agent, audience="db"):
        started.append(Lines(gospiffe, verb, agent.dir / "api.sock", audience))
        return started[-1]

    yield start
    for x in started:
        x.process.kill()
        x.process.wait(60)


def workload(tmp, daemon, ca, name, *flags):
    return Agent(tmp, daemon, ca, name, "--workload-socket", tmp / name / "api.sock", *flags).ready()


@pytest.fixture
def ca(tmp_path, daemon, pb, plugged):  # noqa: F811
    return Ca(tmp_path, daemon, pb, "--jwt-publish", f"{PUBLISH_S}s").ready()


def sign(ca, audiences, token=None, channel=None):
    """SignJwt at the CA itself."""
    mpb = ca.pb[1]
    with ca.channel() as c:
        call = c.unary_unary(SIGN, request_serializer=lambda m: m.SerializeToString(), response_deserializer=mpb.JwtAnswer.FromString)
        meta = [("authorization", f"Bearer {ca.issuer.token() if token is None else token}")]
        return call(mpb.JwtRequest(audiences=audiences), metadata=meta, timeout=30).token


def verify(ca, token):
    """With plain cryptography, by the keys that the CA keeps."""
    head, claims = parts(token)
    keys = json.loads((ca.state / "trust/jwt-keys.json").read_text())["keys"]
    jwk = next(k["jwk"] for k in keys if k["kid"] == head["kid"])
    number = {k: int.from_bytes(unb64(v), "big") for k, v in jwk.items() if k in ("x", "y", "n", "e")}
    text, signature = token.rsplit(".", 1)[0].encode(), unb64(token.rsplit(".", 1)[1])
    if jwk["kty"] == "RSA":
        assert head["alg"] == "RS256"
        public = rsa.RSAPublicNumbers(number["e"], number["n"]).public_key()
        public.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
        return claims
    curve, digest, size = {"ES256": (ec.SECP256R1(), hashes.SHA256(), 32), "ES384": (ec.SECP384R1(), hashes.SHA384(), 48)}[head["alg"]]
    assert len(signature) == 2 * size
    r, s = (int.from_bytes(x, "big") for x in (signature[:size], signature[size:]))
    public = ec.EllipticCurvePublicNumbers(number["x"], number["y"], curve).public_key()
    public.verify(encode_dss_signature(r, s), text, ec.ECDSA(digest))
    return claims


def test_fetch_and_validate_with_go_spiffe(tmp_path, daemon, ca, lines):
    web, db = (workload(tmp_path, daemon, ca, name) for name in ("web", "db"))
    source = lines("jwt", web)
    got = source.say()
    assert got["error"] == "" and got["id"] == TD + "web" and got["audience"] == ["db", "extra"] and 200 < got["left"] <= 300
    head, claims = parts(got["token"])
    assert list(head) == ["alg", "kid", "typ"] and head["alg"] == "ES256" and head["typ"] == "JWT" and head["kid"] in got["keys"]
    assert set(claims) == {"aud", "exp", "iat", "sub"} and claims["exp"] - claims["iat"] == 300 and claims["sub"] == TD + "web"
    assert source.say()["token"] == got["token"], "kept until half of its life is over"
    said = lines("check", db).say(got["token"])
    assert (said["local"], said["code"], said["id"]) == ("", "OK", TD + "web")
    assert said["claims"] == claims
    for audience in ("other", "d", "dbx"):
        said = lines("check", db, audience).say(got["token"])
        assert said["local"] and said["code"] == "InvalidArgument" and "audience" in said["words"]
    assert ca.metric("meshroot_ca_jwt_svids_total 1"), "one for both calls"
    line = next(x for x in ca.daemon.text().splitlines() if "issued a JWT-SVID" in x)
    assert f"id={TD}web" in line and "db,extra" in line and head["kid"] in line and got["token"][-20:] not in line


def key_of(plugged):  # noqa: F811
    return serialization.load_pem_private_key((plugged[1] / "ca-key.pem").read_bytes(), None)


def raw_sign(key, text):
    r, s = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


LAX = {"typ of another use"}  # what go-spiffe itself lets through, and we do not


def forge(key, head, claims):
    text = b64(json.dumps(head).encode()) + "." + b64(json.dumps(claims).encode())
    return text + "." + b64(raw_sign(key, text.encode()))


def test_tokens_that_are_not_good(tmp_path, daemon, ca, plugged, lines):  # noqa: F811
    """The signer's real key is in the test's hands here, so that each token is wrong in one thing only."""
    db = workload(tmp_path, daemon, ca, "db")
    good = lines("jwt", db).say()
    head, claims = parts(good["token"])
    key, now = key_of(plugged), int(time.time())
    claims = {**claims, "aud": ["db"]}
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = b64(json.dumps({**head, "alg": "HS256"}).encode()) + "." + b64(json.dumps(claims).encode())
    bare = b64(json.dumps({"alg": "none", "typ": "JWT"}).encode()) + "." + b64(json.dumps(claims).encode()) + "."

    def but(**kw):
        return {k: v for k, v in {**claims, **kw}.items() if v is not None}

    bad = {
        "alg none": bare,
        "alg none, signed": forge(key, {**head, "alg": "none"}, claims),
        "HS256 with the public key": text + "." + b64(hmac.new(public, text.encode(), hashlib.sha256).digest()),
        "RS256 named": forge(key, {**head, "alg": "RS256"}, claims),
        "ES384 named": forge(key, {**head, "alg": "ES384"}, claims),
        "another key, our kid": forge(ec.generate_private_key(ec.SECP256R1()), head, claims),
        "unknown kid": forge(key, {**head, "kid": "x" * 43}, claims),
        "its own key in the header": forge(ec.generate_private_key(ec.SECP256R1()), {**head, "jwk": {"kty": "EC"}}, claims),
        "typ of another use": forge(key, {**head, "typ": "logout+jwt"}, claims),
        "no exp": forge(key, head, but(exp=None)),
        "expired": forge(key, head, but(exp=now - 600)),
        "exp a text": forge(key, head, but(exp=str(now + 60))),
        "not yet valid": forge(key, head, but(nbf=now + 3600)),
        "no audience": forge(key, head, but(aud=None)),
        "another audience": forge(key, head, but(aud=["web"])),
        "no subject": forge(key, head, but(sub=None)),
        "a subject that is no SPIFFE id": forge(key, head, but(sub="alice")),
        "another trust domain": forge(key, head, but(sub="spiffe://evil.test/ns/shop/sa/web")),
        "a byte changed": good["token"][:-10] + ("A" if good["token"][-10] != "A" else "B") + good["token"][-9:],
        "two parts": ".".join(good["token"].split(".")[:2]),
        "empty claims": good["token"].split(".")[0] + ".." + good["token"].split(".")[2],
        "one letter": "x",
        "17 KB": "a" * 17000,
    }
    client = lines("check", db)
    said = client.say(forge(key, head, but(n=1.5, deep={"a": [None, True, {"b": "c"}]})))
    assert (said["local"], said["code"]) == ("", "OK")
    assert said["claims"] == but(n=1.5, deep={"a": [None, True, {"b": "c"}]})
    for name, token in bad.items():
        said = client.say(token)
        assert said["code"] == "InvalidArgument", (name, said)
        assert said["local"] or name in LAX, f"go-spiffe takes it: {name}"


def api(agent, method, message=b"", metadata=SECURITY):
    with grpc.insecure_channel(f"unix:{agent.dir / 'api.sock'}") as channel:
        stub = channel.unary_unary(f"/SpiffeWorkloadAPI/{method}", request_serializer=bytes, response_deserializer=bytes)
        return stub(message, metadata=metadata, timeout=30)


def field(number, text):
    return bytes([number << 3 | 2, len(text)]) + text.encode()


def test_calls_that_are_not_let_in(tmp_path, daemon, ca, gospiffe):
    web = workload(tmp_path, daemon, ca, "web", "--workload-allow-uid", "0")
    codes = grpc.StatusCode
    rows = [("FetchJWTSVID", field(1, "db"), (), codes.INVALID_ARGUMENT, "security header"),
            ("FetchJWTSVID", field(1, "db"), (("workload.spiffe.io", "false"),), codes.INVALID_ARGUMENT, "security header"),
            ("ValidateJWTSVID", field(1, "db") + field(2, "x"), (), codes.INVALID_ARGUMENT, "security header"),
            ("FetchJWTBundles", b"", (), codes.INVALID_ARGUMENT, "security header"),
            ("FetchJWTSVID", b"", SECURITY, codes.INVALID_ARGUMENT, "1 to 8 audiences"),
            ("FetchJWTSVID", field(1, "db") * 9, SECURITY, codes.INVALID_ARGUMENT, "1 to 8 audiences"),
            ("FetchJWTSVID", field(1, ""), SECURITY, codes.INVALID_ARGUMENT, "audience 1"),
            ("FetchJWTSVID", field(1, "a b"), SECURITY, codes.INVALID_ARGUMENT, "audience 1"),
            ("FetchJWTSVID", field(1, 'a","sub":"x'), SECURITY, codes.INVALID_ARGUMENT, "audience 1"),
            ("FetchJWTSVID", field(1, "db") + field(2, TD + "other"), SECURITY, codes.PERMISSION_DENIED, "no identity issued"),
            ("FetchJWTSVID", b"\xff", SECURITY, codes.INVALID_ARGUMENT, "not what this method takes"),
            ("ValidateJWTSVID", field(2, "x"), SECURITY, codes.INVALID_ARGUMENT, "an audience and a token"),
            ("ValidateJWTSVID", field(1, "db"), SECURITY, codes.INVALID_ARGUMENT, "an audience and a token")]
    for method, message, metadata, code, words in rows:
        with pytest.raises(grpc.RpcError) as e:
            api(web, method, message, metadata)
        assert (e.value.code(), words in e.value.details()) == (code, True), (method, message, e.value.details())
    assert (TD + "web").encode() in api(web, "FetchJWTSVID", field(1, "db") + field(2, TD + "web"))
    web.dir.chmod(0o755)
    done = subprocess.run([gospiffe, "fetch", f"unix://{web.dir / 'api.sock'}"], capture_output=True, text=True, timeout=300, user=65534)
    assert done.returncode != 0 or json.loads(done.stdout)["jwt"] in ("PermissionDenied", "Unavailable"), done.stdout


def test_the_ca_signs_for_the_caller_and_nobody_else(ca):
    _, claims = parts(sign(ca, ["a", "b"]))
    assert claims["sub"] == "spiffe://cluster.local/ns/shop/sa/cart" and claims["aud"] == ["a", "b"]
    rows = [([], grpc.StatusCode.INVALID_ARGUMENT), (["a"] * 9, grpc.StatusCode.INVALID_ARGUMENT)]
    for audiences, code in rows:
        with pytest.raises(grpc.RpcError) as e:
            sign(ca, audiences)
        assert e.value.code() == code, e.value
    for audience in ("", "a b", 'a"', "a\\", "ä", "x" * 256):
        with pytest.raises(grpc.RpcError) as e:
            sign(ca, [audience])
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "printable ASCII" in e.value.details(), (audience, e.value)
    with pytest.raises(grpc.RpcError) as e:
        sign(ca, ["a"], token="x")
    assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert ca.metric("meshroot_ca_jwt_svids_total 1")


def test_a_new_key_is_published_before_it_signs(tmp_path, daemon, ca, pb, plugged, lines):  # noqa: F811
    """Rotation of the intermediate: every workload has the new key before a token names it, and the old one after the last."""
    web, db = (workload(tmp_path, daemon, ca, name) for name in ("web", "db"))
    source, judge = lines("jwt", web), lines("check", db)
    old = source.say()
    old_kid = parts(old["token"])[0]["kid"]
    began = time.monotonic()
    copy_set(openssl_intermediate(tmp_path / "a2", plugged[0], "Intermediate A2", "p256"), ca.dir)
    wait_for("A2", lambda: "A2" in ca.status()["intermediate"]["subject"])
    two = wait_for("both keys by push", lambda: (k := source.say()["keys"]) and len(k) == 2 and k)
    new_kid = next(k for k in two if k != old_kid)

    def next_kid():
        kid = parts(sign(ca, ["db"]))[0]["kid"]
        assert kid == old_kid or time.monotonic() - began >= PUBLISH_S, "it did not wait until the key was published"
        return kid == new_kid

    wait_for("the new key signs", next_kid)
    token = sign(ca, ["db"])
    for t in (old["token"], token):  # both are good, by both judges
        said = judge.say(t)
        assert (said["local"], said["code"]) == ("", "OK"), said
    # a restart forgets neither what is published nor who signs
    ca.daemon.kill()
    again = start_again(ca, tmp_path, daemon, pb)
    late = workload(tmp_path, daemon, again, "late")
    said = lines("check", late).say(old["token"])
    assert (said["local"], said["code"]) == ("", "OK"), said
    assert parts(sign(again, ["db"]))[0]["kid"] == new_kid
    kept = json.loads((ca.state / "trust/jwt-keys.json").read_text())["keys"]
    assert [k["kid"] for k in kept] == [old_kid, new_kid] and kept[0]["gone"] > time.time() and kept[1]["gone"] == 0
    assert all("d" not in k["jwk"] for k in kept)


def test_a_lost_signer_signs_tokens_again(tmp_path, daemon, ca):
    assert sign(ca, ["a"])
    kill_signer(ca)
    wait_for("another signer", lambda: signer(ca)["restarts"] >= 1 and signer(ca)["up"])
    assert sign(ca, ["a"])


def test_rsa_signs_rs256(tmp_path, daemon, pb, plugged, lines):  # noqa: F811
    folder = openssl_intermediate(tmp_path / "rsa", plugged[0], "Intermediate R", "rsa2048")
    ca = Ca(tmp_path, daemon, pb, folder=folder).ready()
    got = lines("jwt", workload(tmp_path, daemon, ca, "web")).say()
    assert got["error"] == "" and parts(got["token"])[0]["alg"] == "RS256"
