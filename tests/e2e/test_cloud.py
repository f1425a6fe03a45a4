"""The token endpoint, request by request: documents, both versions, and one row for each way to be refused
(specs/azure.md 2.1 to 2.6)."""
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from test_identity import check

TENANT = "11111111-2222-4333-8444-555555555555"
V2, V1 = f"/{TENANT}/oauth2/v2.0/token", f"/{TENANT}/oauth2/token"
SCOPE = "https://vault.azure.net/.default"


class Cloud:
    def __init__(self, tmp, daemon):
        state, ports = tmp / "state", tmp / "ports"
        self.process = daemon("vault", "serve", "--state-dir", state, "--listen", "127.0.0.1:0", "--tenant", TENANT,
                              "--port-file", ports, port_file=ports)
        self.url = self.process.ports()["vault"]
        self.context = ssl.create_default_context(cafile=str(state / "vault-ca.pem"))
        cred = json.loads((state / "credentials/sync.json").read_text())
        self.app, self.secret = cred["client_id"], cred["client_secret"]

    def call(self, path, body=None, **headers):
        q = urllib.request.Request(self.url + path, data=body.encode() if isinstance(body, str) else body,
                                   headers={k.replace("_", "-"): v for k, v in headers.items()})
        try:
            a = urllib.request.urlopen(q, context=self.context, timeout=30)
        except urllib.error.HTTPError as e:
            a = e
        text = a.read()
        return a.status, (json.loads(text) if text[:1] in b"{[" and text else text), a.headers

    def token(self, path=V2, **change):
        form = {"grant_type": "client_credentials", "client_id": self.app, "client_secret": self.secret}
        form["resource" if path == V1 else "scope"] = "https://vault.azure.net" if path == V1 else SCOPE
        form.update(change)
        return self.call(path, urllib.parse.urlencode({k: v for k, v in form.items() if v is not None}))


@pytest.fixture
def cloud(tmp_path, daemon):
    return Cloud(tmp_path, daemon)


def test_documents(cloud):
    status, doc, _ = cloud.call(f"/{TENANT}/v2.0/.well-known/openid-configuration?")
    assert status == 200
    assert doc["token_endpoint"] == cloud.url + V2 and doc["issuer"] == f"{cloud.url}/{TENANT}/v2.0"
    assert doc["authorization_endpoint"].startswith(cloud.url) and doc["jwks_uri"] == f"{cloud.url}/{TENANT}/discovery/v2.0/keys"
    # absolute URLs come from the Host header, port included
    _, doc, _ = cloud.call(f"/{TENANT}/v2.0/.well-known/openid-configuration", Host="login.example:8443")
    assert doc["token_endpoint"] == f"https://login.example:8443{V2}"
    status, doc, _ = cloud.call("/common/discovery/instance?api-version=1.1&authorization_endpoint=https://x/y")
    assert status == 200 and doc["tenant_discovery_endpoint"].startswith(cloud.url)
    assert doc["metadata"][0]["aliases"] == [cloud.url.removeprefix("https://")]
    keys = [cloud.call(p)[1] for p in (f"/{TENANT}/discovery/v2.0/keys", f"/{TENANT}/discovery/keys", "/common/discovery/keys")]
    assert keys[0] == keys[1] == keys[2] and keys[0]["keys"][0]["kty"] == "RSA" and "d" not in keys[0]["keys"][0]


@pytest.mark.parametrize("path,change,aud", [
    (V2, {}, "https://vault.azure.net"),
    (V2, {"scope": f"{SCOPE} openid offline_access profile"}, "https://vault.azure.net"),
    (V2, {"scope": f"openid {SCOPE}"}, "https://vault.azure.net"),
    (V2, {"scope": "https://management.core.windows.net//.default"}, "https://management.core.windows.net/"),
    (V2, {"client_info": "1", "claims": '{"access_token":{"xms_cc":{"values":["CP1"]}}}'}, "https://vault.azure.net"),
    (V1, {}, "https://vault.azure.net"),
    (V1, {"resource": "https://management.azure.com/"}, "https://management.azure.com/"),
])
def test_tokens(cloud, path, change, aud):
    status, answer, headers = cloud.token(path, **change)
    assert status == 200, answer
    assert headers["Cache-Control"] == "no-store" and headers["Pragma"] == "no-cache" and answer["token_type"] == "Bearer"
    if path == V1:
        assert answer["expires_in"] == "3599" and answer["resource"] == aud
        assert abs(int(answer["expires_on"]) - time.time() - 3599) < 60
    else:
        assert answer["expires_in"] == answer["ext_expires_in"] == 3599
    header, claims = check(answer["access_token"], cloud.call("/common/discovery/keys")[1])
    assert header["alg"] == "RS256" and header["typ"] == "JWT" and header["x5t"] == header["kid"]
    assert claims["aud"] == aud and claims["iss"] == f"https://sts.windows.net/{TENANT}/" and claims["tid"] == TENANT
    assert claims["appid"] == cloud.app and claims["sub"] == claims["oid"] and claims["idtyp"] == "app"
    assert claims["ver"] == "1.0" and claims["appidacr"] == "1" and claims["exp"] - claims["iat"] == 3599


OTHER = "99999999-2222-4333-8444-555555555555"


@pytest.mark.parametrize("path,change,status,error,code", [
    (V2, {"client_secret": "wrong"}, 401, "invalid_client", 7000215),
    (V2, {"client_secret": ""}, 401, "invalid_client", 7000215),
    (V2, {"client_secret": None}, 401, "invalid_client", 7000218),
    (V2, {"client_secret": None, "client_assertion": "x.y.z"}, 401, "invalid_client", 700027),
    (V2, {"client_id": OTHER}, 400, "unauthorized_client", 700016),
    (V2, {"client_id": None}, 400, "unauthorized_client", 700016),
    (V2, {"client_id": "../../x"}, 400, "unauthorized_client", 700016),
    (f"/{OTHER}/oauth2/v2.0/token", {}, 400, "invalid_request", 90002),
    ("/common/oauth2/v2.0/token", {}, 400, "invalid_request", 90002),
    (V2, {"scope": "openid"}, 400, "invalid_scope", 70011),
    (V2, {"scope": None}, 400, "invalid_scope", 70011),
    (V2, {"scope": "/.default"}, 400, "invalid_scope", 70011),
    (V1, {"resource": None}, 400, "invalid_scope", 70011),
    (V2, {"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
    (V2, {"grant_type": None}, 400, "unsupported_grant_type", 70003),
])
def test_refusals(cloud, path, change, status, error, code):
    got, answer, headers = cloud.token(path, **change)
    assert (got, answer["error"], answer["error_codes"]) == (status, error, [code])
    assert answer["error_description"].startswith(f"AADSTS{code}: ") and headers["Cache-Control"] == "no-store"
    assert {"timestamp", "trace_id", "correlation_id"} <= answer.keys()
    assert cloud.secret not in json.dumps(answer) and cloud.secret not in cloud.process.text()


def test_guesses_are_limited_per_application(cloud):
    statuses = [cloud.token(client_secret=f"guess-{i}")[0] for i in range(25)]
    assert statuses[:20] == [401] * 20 and statuses[20:] == [429] * 5
    status, answer, headers = cloud.token(client_secret="guess")
    assert status == 429 and int(headers["Retry-After"]) > 0
    # the owner is not locked out by somebody else's guesses
    assert cloud.token()[0] == 200
    # another application is not concerned
    assert cloud.token(client_id=OTHER)[0] == 400


@pytest.mark.parametrize("body", [b"", b"%", b"grant_type", b"\0" * 100, b"grant_type=client_credentials&client_id=%zz",
                                  b"client_id=a&" * 4000, b"{}", bytes(range(256))])
def test_bodies_that_are_no_form(cloud, body):
    status, answer, _ = cloud.call(V2, body)
    assert status in (400, 413), answer
    assert cloud.token()[0] == 200, "and the next one is served"


def test_a_body_over_the_bound(cloud):
    try:
        assert cloud.call(V2, b"x" * (1 << 20))[0] == 413
    except (urllib.error.URLError, ConnectionError):
        pass  # it may hang up before all of it is sent
    assert cloud.token()[0] == 200
