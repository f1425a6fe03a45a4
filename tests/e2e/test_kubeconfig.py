"""Kubeconfigs as people have them: certificates and tokens inside, exec plug-ins (src/kube/exec.h). Source: client.authentication.k8s.io/v1."""
import base64
import json
import pathlib
import re
import subprocess
import sys
import time

import pytest

from conftest import BINARY, meshroot, wait_for
from https_peer import server_cert
from kube_api import KubeApi

TOOL = pathlib.Path(BINARY).parent / "tests" / "tools" / "kube_tool"
V1 = "client.authentication.k8s.io/v1"
PLUGIN = '''#!{python}
import json, os, sys, time
log = open({log!r}, "a"); log.write(json.dumps({{"argv": sys.argv, "info": json.loads(os.environ["KUBERNETES_EXEC_INFO"]), "extra": os.environ.get("EXTRA"),
                                                 "stdin": sys.stdin.read()}}) + "\\n"); log.close()
{body}
'''


def b64(path):
    return base64.b64encode(pathlib.Path(path).read_bytes()).decode()


@pytest.fixture
def us(tmp_path):
    """A client certificate of the CN "us"."""
    return server_cert(tmp_path / "us", "us")


@pytest.fixture
def api(tmp_path, us):
    a = KubeApi(tmp_path, client_root=us[0])
    a.rules["us"] = None
    yield a
    a.stop()


@pytest.fixture
def config(tmp_path, api):
    def make(user, cluster=None):
        path = tmp_path / "config"
        path.write_text(json.dumps({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "clusters": [
            {"name": "c", "cluster": {"server": api.url, **(cluster or {"certificate-authority-data": b64(api.root)})}}],
            "users": [{"name": "u", "user": user}]}))
        return path
    return make


@pytest.fixture
def plugin(tmp_path, config):
    """A plug-in whose body is Python; its runs are in plugin.runs()."""
    def make(body, **more):
        path = tmp_path / "get-token"
        path.write_text(PLUGIN.format(python=sys.executable, log=str(tmp_path / "runs"), body=body))
        path.chmod(0o755)
        return config({"exec": {"apiVersion": V1, "command": "./get-token", "interactiveMode": "Never", **more}})
    make.runs = lambda: [json.loads(x) for x in (tmp_path / "runs").read_text().splitlines()] if (tmp_path / "runs").exists() else []
    return make


def says(token="own", **status):
    return f"print(json.dumps({{'apiVersion': '{V1}', 'kind': 'ExecCredential', 'status': {({'token': token} if token else {}) | status!r}}}))"


def get(path, times=1, env=None, **kw):
    """Reads a ConfigMap, several times with one client: the last answer."""
    q = json.dumps({"api": "v1", "kind": "Namespace", "plural": "namespaces", "name": "default", "times": times, "deadline_ms": 40000, **kw})
    done = subprocess.run([TOOL, path, "get", q], capture_output=True, text=True, timeout=200, env=env)
    assert done.stdout, (done.returncode, done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def get_soon(path):
    """For what is tried again until its time is over: a little of it; on a slow machine not one try is answered in so little."""
    said = get(path, deadline_ms=4000)
    return said if said.get("error") != "timeout" else get(path, deadline_ms=40000)


def works(said):
    assert said.get("object", {}).get("metadata", {}).get("name") == "default", said


def refused(said, code, *words):
    assert said.get("error") == code, said
    for w in words:
        assert w in said["message"], said


def test_what_is_inside_is_as_good_as_a_file(config, api, us):
    _, pem, key = us
    works(get(config({"token": "own"})))
    refused(get(config({"token": "stale"})), "auth")
    works(get(config({"client-certificate-data": b64(pem), "client-key-data": b64(key)})))
    works(get(config({"client-certificate": str(pem), "client-key-data": b64(key)})))
    works(get(config({"client-certificate": "/nowhere", "client-key": "/nowhere", "client-certificate-data": b64(pem), "client-key-data": b64(key)})))
    assert {u for _, _, u, s in api.seen if s == 200} == {"admin", "us"}
    # the CA inside is the only one: another is not believed, and data goes before a file
    refused(get_soon(config({"token": "own"}, {"certificate-authority-data": b64(us[0])})), "peer", "certificate not accepted")
    refused(get_soon(config({"token": "own"}, {"certificate-authority-data": b64(us[0]), "certificate-authority": str(api.root)})), "peer",
            "certificate not accepted")
    refused(get_soon(config({"client-certificate-data": b64(pem), "client-key-data": b64(api.tls_key)})), "peer",
            "client certificate or its key")
    refused(get(config({"client-certificate-data": b64(pem)})), "inval", "belong together")


def test_a_plugin_is_run_once_until_its_end(plugin, api):
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    path = plugin(says(expirationTimestamp=later), args=["--for", "$HOME `id` *"], env=[{"name": "EXTRA", "value": "a b"}], provideClusterInfo=True)
    works(get(path, times=5))
    runs = plugin.runs()
    assert len(runs) == 1
    assert runs[0]["argv"][1:] == ["--for", "$HOME `id` *"] and runs[0]["extra"] == "a b" and runs[0]["stdin"] == ""  # no shell, nothing to read
    assert runs[0]["info"] == {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False, "cluster": {
        "server": api.url, "certificate-authority-data": b64(api.root)}}}
    # without an end it lasts as well; the cluster is told only when asked for
    works(get(plugin(says()), times=5))
    assert len(plugin.runs()) == 2 and "cluster" not in plugin.runs()[1]["info"]["spec"]
    # one that ends soon is followed by another
    began = time.monotonic()
    works(get(plugin("import time\n" + says().replace("'status': {", "'status': {'expirationTimestamp': time.strftime('%Y-%m-%dT%H:%M:%SZ', "
                                                      "time.gmtime(time.time() + 6)), ")), times=70, pause_ms=200))
    assert 3 <= len(plugin.runs()) - 2 <= (time.monotonic() - began) / 2 + 2  # each is good for five seconds and a part, less its start


def test_a_401_runs_it_again(plugin, api, tmp_path):
    """A token that the server no longer takes: one more run, within the same call."""
    (tmp_path / "token").write_text("old")
    path = plugin(f"token = open({str(tmp_path / 'token')!r}).read()\nopen({str(tmp_path / 'token')!r}, 'w').write('own')\n" +
                  says("TOKEN").replace("'TOKEN'", "token"))

    def is_refused():
        """A 401 in the first second after a run is followed by no other; one that comes later is, on a slow machine."""
        (tmp_path / "token").write_text("old")
        if "object" in (said := get(path)):
            return False
        refused(said, "auth")
        return True

    wait_for("not run again at once", is_refused)
    before = len(plugin.runs())
    (tmp_path / "token").write_text("own")
    query = {"api": "v1", "kind": "Namespace", "plural": "namespaces", "name": "default", "times": 2, "waits": True, "pause_ms": 1500, "deadline_ms": 40000}
    process = subprocess.Popen([TOOL, path, "get", json.dumps(query)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        works(json.loads(process.stdout.readline()))
        api.accounts = {"new": "admin"}
        (tmp_path / "token").write_text("new")
        print(file=process.stdin, flush=True)
        works(json.loads(process.stdout.readline()))
        assert process.wait(60) == 0 and len(plugin.runs()) == before + 2
    finally:
        process.kill()


def test_a_plugin_gives_a_certificate(plugin, us):
    _, pem, key = us
    works(get(plugin(says(None, clientCertificateData=pem.read_text(), clientKeyData=key.read_text())), times=3))
    assert len(plugin.runs()) == 1
    refused(get(plugin(says(None, clientCertificateData=pem.read_text()))), "peer", "belong together")


BAD = {"exit": ("sys.exit(3)", "peer", "it ended with exit status 3"), "signal": ("os.kill(os.getpid(), 9)", "peer", "it ended with signal 9"),
       "words": ("print('please log in: s3cret')", "peer", "no JSON object"), "nothing": ("", "peer", "no JSON object"),
       "flood": ("os.write(1, b'x' * 10 ** 6)", "limit", "writes more than 65536 bytes"),
       "expired": (says(expirationTimestamp="2020-01-01T00:00:00Z"), "auth", "has expired already"),
       "header": (says("a\r\nx: y"), "peer", "is no token"), "another kind": ("print('{\"kind\":\"Pod\"}')", "peer", "no ExecCredential")}


@pytest.mark.parametrize("how", BAD)
def test_a_plugin_that_fails(plugin, how):
    body, code, words = BAD[how]
    said = get(plugin(body))
    refused(said, code, words)
    assert "s3cret" not in said["message"] and ("get-token" in said["message"] or how == "expired")


def is_gone(pid):
    """Or a zombie that nobody has asked for yet."""
    try:
        return re.search(r"State:\s+Z", pathlib.Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return True


def test_a_plugin_that_is_not_there_or_stays(plugin, config, tmp_path, api):
    refused(get(config({"exec": {"apiVersion": V1, "command": "no-such-plugin-here", "installHint": "install it with care"}})), "sys",
            "cannot run no-such-plugin-here; install it with care")
    # found in PATH by its bare name
    plugin(says())
    path = config({"exec": {"apiVersion": V1, "command": "get-token"}})
    works(get(path, env={"PATH": str(tmp_path)}))
    # a child that keeps its output open holds nobody up, and is ended with it
    pid = tmp_path / "child"
    works(get(plugin(f"child = os.fork()\nif child == 0:\n    time.sleep(600)\nopen({str(pid)!r}, 'w').write(str(child))\n" + says() +
                     "\nsys.stdout.flush()\nos._exit(0)")))
    wait_for("the child is gone", lambda: is_gone(pid.read_text()))
    # one that hangs is killed; the call's own end comes before
    path = plugin("time.sleep(600)")
    refused(get(path, deadline_ms=1000), "timeout", "no answer of the Kubernetes API in time")
    refused(get(path, deadline_ms=40000), "timeout", "took longer than 20 s and was killed")


def test_a_command_finds_the_cluster_as_kubectl_does(api, tmp_path):
    """KUBECONFIG's files, one of them missing; an empty KUBECONFIG is none; and what is said when nothing names a cluster."""
    api.rules["own"] = None
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    env = {"HOME": str(home), "KUBERNETES_SERVICE_HOST": "", "KUBECONFIG": f"{tmp_path}/gone:{api.kubeconfig()}"}  # the tests may run in a pod
    ask = lambda: meshroot("mesh", "status", "--namespace", "shop", env=env, check=False)  # noqa: E731
    done = ask()
    assert done.returncode == 1 and "PluginCA" in done.stdout + done.stderr, done
    env["KUBECONFIG"] = ""
    done = ask()
    assert done.returncode == 3 and "which cluster? --kubeconfig FILE" in done.stderr, done
    (home / ".kube/config").write_text(api.kubeconfig().read_text().replace("kubeconfig.token", str(api.kubeconfig().with_suffix(".token"))))
    assert ask().returncode == 1
