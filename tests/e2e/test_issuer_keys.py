"""Keys of token issuers by discovery, over https. Source: OpenID Connect Discovery 1.0; specs/peers.md 5a rows 8, 21, 37."""
import json
import time

import grpc
import pytest

from conftest import meshroot, wait_for
from https_peer import HttpsPeer
from test_ca import Ca, Issuer, make_csr, pb, plugged, refused  # noqa: F401

A, U = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


class Oidc(HttpsPeer):
    """An issuer: its document and its keys, each of which a test may bend."""

    def __init__(self, folder):
        self.keys = [("k1", Issuer())]
        self.document = {}  # overrides
        self.raw, self.status, self.location = None, 200, None
        super().__init__(folder, self.reply, "oidc")

    def reply(self, method, path, headers, body):
        more = {"location": self.location} if self.location else {}
        if path == "/.well-known/openid-configuration":
            return self.status, more, {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.document}
        if path == "/keys":
            if self.raw is not None:
                return 200, {}, self.raw
            keys = []
            for kid, issuer in self.keys:
                keys += [{**json.loads(issuer.jwks())["keys"][0], "kid": kid}]
            return 200, {}, {"keys": keys}
        return 404, {}, {}

    def token(self, kid="k1", **claims):
        return dict(self.keys)[kid].token({"kid": kid}, iss=self.url, **claims)

    def asked(self, path="/keys"):
        return sum(1 for _, p, _ in self.seen if p == path)


@pytest.fixture
def oidc(tmp_path):
    o = Oidc(tmp_path)
    yield o
    o.stop()


def start(tmp_path, daemon, pb, oidc, *flags):  # noqa: F811
    return Ca(tmp_path, daemon, pb, "--issuer", oidc.url, "--issuer-ca-file", f"{oidc.url}={oidc.root}", *flags).ready()


def loaded(ca, result, n=1):
    return loads(ca, result) >= n


def loads(ca, result):
    return sum(float(x.split()[-1]) for x in ca.get("/metrics")[1].splitlines()
               if x.startswith(f'meshroot_jwks_loads_total{{result="{result}"}}'))


def keys_are_there(ca, oidc):
    """By the status, which the loop that hands them to the workers tells; the log is ahead of it."""
    wait_for("the issuer's keys", lambda: any(i["issuer"] == oidc.url and i["keys"] for i in ca.status()["callers"]["issuers"]))


def test_rotation_outage_and_strangers(tmp_path, daemon, pb, plugged, oidc):  # noqa: F811
    """New keys are found by their id; a flood of unknown ids asks at most once in 10 s; over an outage the last keys stay."""
    ca = start(tmp_path, daemon, pb, oidc)
    keys_are_there(ca, oidc)
    _, csr = make_csr()
    assert ca.call(csr, oidc.token())[0]
    # rotation: both keys, then the new one alone
    oidc.keys.append(("k2", Issuer()))
    first, before = time.monotonic(), oidc.asked()
    def takes(kid):
        try:
            return ca.call(csr, oidc.token(kid))[0]
        except grpc.RpcError as e:
            assert e.code() == A
            return None

    wait_for("the new key", lambda: takes("k2"), step=0.2)  # a flood by itself: five a second
    assert ca.call(csr, oidc.token("k1"))[0]
    # a flood of ids that nobody has
    stranger, n = Issuer(), oidc.asked()
    flood = time.monotonic()
    while time.monotonic() - flood < 3:
        refused(A, "request authenticate failure",
                lambda: ca.call(csr, stranger.token({"kid": f"x{time.monotonic_ns()}"}, iss=oidc.url)))
    now = time.monotonic()
    assert n - before <= (now - first) / 10 + 2 and oidc.asked() - n <= (now - flood) / 10 + 2  # one may have been on its way when we began
    # an outage: what is known stays in force, a stranger gets nothing
    oidc.stop()
    failed = loads(ca, "failed")

    def outage_noticed():
        refused(A, "request authenticate failure", lambda: ca.call(csr, stranger.token({"kid": "y"}, iss=oidc.url)))
        return loads(ca, "failed") > failed
    wait_for("an attempt that failed", outage_noticed, step=0.5)
    assert ca.call(csr, oidc.token("k2"))[0] and "the last good set stays in force" in ca.daemon.text()
    # back, and the first key is gone from it
    del oidc.keys[0]
    gone = Issuer()
    oidc.start()

    def back():
        try:
            ca.call(csr, gone.token({"kid": "z"}, iss=oidc.url))
        except grpc.RpcError:
            pass
        return loaded(ca, "changed", 4)  # --issuer of the file, and three sets of ours
    wait_for("the set without k1", back, step=0.5)
    assert ca.call(csr, oidc.token("k2"))[0]


@pytest.mark.parametrize("what", ["another issuer", "a slash more", "no issuer", "keys over http", "no keys", "keys of a file", "redirect",
                                  "not JSON", "the issuer twice", "metadata", "no certificate to trust", "a private key"])
def test_documents_that_are_not_good(tmp_path, daemon, pb, plugged, oidc, what):  # noqa: F811
    """A failure is a failure: no keys, so UNAVAILABLE, and never a key that was not asked for (CVE-2026-31837, CVE-2026-41413)."""
    words = {"another issuer": "of another issuer", "a slash more": "of another issuer", "no issuer": "of another issuer",
             "keys over http": "no https:// URL", "no keys": 'no "jwks_uri"', "keys of a file": "no https:// URL",
             "redirect": "redirects are not followed", "not JSON": "JSON", "the issuer twice": "duplicate", "metadata": "may not lead to",
             "no certificate to trust": "certificate not accepted", "a private key": "a private key"}[what]
    good = {"issuer": oidc.url, "jwks_uri": f"{oidc.url}/keys"}
    oidc.document = {"another issuer": {"issuer": "https://evil.test"}, "a slash more": {"issuer": oidc.url + "/"}, "no issuer": {"issuer": None},
                     "keys over http": {"jwks_uri": f"http://127.0.0.1:{oidc.port}/keys"}, "no keys": {"jwks_uri": None},
                     "keys of a file": {"jwks_uri": "file:///etc/passwd"}, "metadata": {"jwks_uri": "https://169.254.169.254/keys"}}.get(what, {})
    if what == "redirect":
        oidc.status, oidc.location = 302, f"{oidc.url}/keys"
    if what in ("no issuer", "no keys", "not JSON", "the issuer twice"):
        text = json.dumps({k: v for k, v in {**good, **oidc.document}.items() if v is not None}).encode()
        text = {"not JSON": b"<html>", "the issuer twice": text[:-1] + b',"issuer":"https://evil.test"}'}.get(what, text)
        usual = oidc.answer
        oidc.answer = lambda m, p, h, b: (200, {}, text) if p.startswith("/.well") else usual(m, p, h, b)
    if what == "a private key":
        oidc.raw = json.dumps({"keys": [{**json.loads(oidc.keys[0][1].jwks())["keys"][0], "d": "AQAB"}]}).encode()
    flags = ("--issuer", oidc.url) if what == "no certificate to trust" else \
        ("--issuer", oidc.url, "--issuer-ca-file", f"{oidc.url}={oidc.root}")
    ca = Ca(tmp_path, daemon, pb, *flags).ready()

    def said():
        lines = [x for x in ca.daemon.text().splitlines() if f"keys of token issuer {oidc.url} not loaded" in x]
        return any(words in x and "there are none yet, tokens are refused" in x for x in lines)

    wait_for("the failure", said)
    assert (oidc.asked() > 0) == (what == "a private key"), "it is asked again every ten seconds"
    _, csr = make_csr()
    refused(U, "keys are not known yet", lambda: ca.call(csr, oidc.token()))
    assert ca.call(csr, ca.issuer.token())[0]  # the other issuer is not in its way


def test_keys_in_a_token_are_ignored(tmp_path, daemon, pb, plugged, oidc):  # noqa: F811
    """specs/peers.md 5a 8: jwk, x5c, jku and x5u of a token's header are not looked at."""
    ca = start(tmp_path, daemon, pb, oidc)
    keys_are_there(ca, oidc)
    evil, _csr = Issuer(), make_csr()[1]
    own = json.loads(evil.jwks())["keys"][0]
    for head in ({"jwk": own}, {"jku": "https://evil.test/keys"}, {"x5u": "https://evil.test/c"}, {"x5c": ["AAAA"]},
                 {"jwk": own, "kid": None}, {"kid": "../../dev/null"}, {"kid": "k1\x00"}):
        refused(A, "request authenticate failure", lambda: ca.call(_csr, evil.token({"kid": "k1", **head}, iss=oidc.url)))
    assert ca.call(_csr, oidc.token())[0]


def test_flags_that_do_not_fit(tmp_path):
    args = ("ca", "serve", "--ca-dir", tmp_path, "--state-dir", tmp_path / "s")
    for flags, words in ((("--issuer", "http://issuer.test"), "https:// URL"), (("--issuer", "issuer.test"), "https:// URL"),
                         (("--issuer", "https://a.test?x"), "https:// URL"), (("--issuer", "https://u@a.test"), "https:// URL"),
                         (("--issuer", "https://a.test="), "want ISSUER=JWKS"), (("--issuer", "https://a.test=http://a.test/k"), "over http"),
                         (("--issuer-ca-file", "https://a.test=x"), "an issuer that --issuer names"),
                         (("--issuer", "https://a.test=kubernetes"), "--kube-server")):
        done = meshroot(*args, *flags, check=False, env={"KUBERNETES_SERVICE_HOST": ""})
        assert done.returncode in (2, 3) and words in done.stderr, (flags, done.stderr)
