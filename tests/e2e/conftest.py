"""Shared fixtures: the binary under test, processes that are ended by pid, and hierarchies made by plain openssl."""
import fcntl
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

# Before grpc is imported: its handlers around fork() restart its threads in parent and child, which children that only exec do
# not need. One run ended in an abort inside grpc.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

BINARY = os.environ.get("MESHROOT", str(pathlib.Path(__file__).resolve().parents[2] / "build" / "meshroot"))
SECRETS = ("root-cert", "ca-cert", "ca-key", "cert-chain")
VAULT = "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/meshroot"
LOGS_MAX, LOG_LINES, LOG_WIDTH = 6, 15, 300  # what a failed test shows
WITH_LISTS = ("--ca-crl-object-name", "ca-crl")


def wait_for(what, look, seconds=120.0, step=0.05):
    """Calls look() until it is truthy; a bounded wait on a condition, never a plain sleep."""
    until = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() > until  # taken before: whatever stops us meanwhile, there is one look after the end
        got = look()
        if got:
            return got
        if is_last:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(step)


PORTS = 2048  # for each worker of pytest-xdist, below those that the kernel hands out
FIRST_PORT = 10000 + PORTS * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_tried = itertools.count(os.getpid())


def lasting_port():
    """For what ends and comes back to the same port: one that the kernel gives to nobody else meanwhile, as it may with one of its own."""
    for _ in range(PORTS):
        port = FIRST_PORT + next(_tried) % PORTS
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass  # somebody has it
    raise AssertionError(f"no port of {FIRST_PORT} to {FIRST_PORT + PORTS} is free")


def put_file(path, text):
    """As a careful writer does it: whoever reads beside sees the old text or the new one, never an empty file."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def verify_files(folder, *flags, roots=None, lists=False):
    """openssl's word on an agent's leaf, of one generation of its files, as a reader of them takes it: openssl opens three or four (with
    `lists`, its ca-crl.pem), and the agent may swap the set in between; twice, and they are gone."""
    data = folder / "..data"
    while True:
        try:
            now = data.resolve(strict=True)
        except FileNotFoundError:  # two swaps while it was followed
            assert data.is_symlink(), f"{data} is gone"
            continue
        chain, own_roots, crl = (now / name for name in ("cert-chain.pem", "root-cert.pem", "ca-crl.pem"))
        more = ("-CRLfile", crl) if lists else ()
        done = subprocess.run(["openssl", "verify", *flags, *more, "-CAfile", roots or own_roots, "-untrusted", chain, chain],
                              capture_output=True, text=True)
        if done.returncode == 0:
            return
        is_gone = os.readlink(data) != now.name and not all(x.exists() for x in (chain, own_roots, *more[1:]))
        assert is_gone, f"{now}: {done.stdout}{done.stderr}"


def meshroot(*args, check=True, env=None, **kw):
    """Runs one command to its end."""
    done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, **(env or {})}, **kw)
    if check and done.returncode != 0:
        raise AssertionError(f"meshroot {' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def command_names():
    """Every command that --help lists."""
    listed = meshroot("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    return [line[2:31].strip() for line in listed.splitlines() if line[2] != " "]


class Daemon:
    """A meshroot daemon with its log; ports appear in its --port-file."""

    def __init__(self, tmp, args, port_file=None, env=None, preexec=None):
        self.log = tmp / f"{args[0]}-{time.monotonic_ns()}.log"
        self.port_file = pathlib.Path(port_file) if port_file else None
        if self.port_file and self.port_file.exists():
            self.port_file.unlink()
        self._out = open(self.log, "wb")
        self.process = subprocess.Popen([BINARY, *map(str, args)], stdout=self._out, stderr=subprocess.STDOUT,
                                        env={**os.environ, **(env or {})}, preexec_fn=preexec)

    def text(self):
        return self.log.read_text(errors="replace")

    def ports(self, seconds=60.0):
        def look():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.text()[-3000:]}")
            try:
                return json.loads(self.port_file.read_text())
            except (OSError, ValueError):
                return None

        return wait_for(f"{self.port_file}", look, seconds)

    def kill(self):
        """kill -9: what a power cut would do."""
        self.process.kill()
        self.process.wait(60)

    def stop(self, seconds=60):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(60)
                raise AssertionError(f"did not stop on SIGTERM:\n{self.text()[-3000:]}")
        self._out.close()
        return self.process.returncode


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what its daemons said last: where CI fails, nobody can look again."""
    report = yield
    if report.failed and "tmp_path" in item.funcargs:
        for log in sorted(item.funcargs["tmp_path"].rglob("*.log"))[:LOGS_MAX]:
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            report.sections.append((f"end of {log.name}", "".join(f"{x[:LOG_WIDTH]}\n" for x in lines)))
    return report


@pytest.fixture
def daemon(tmp_path):
    """daemon("up", "--state-dir", ...) -> Daemon; all are ended at the end, and sanitizer reports fail the test."""
    started = []

    def start(*args, port_file=None, env=None, preexec=None):
        d = Daemon(tmp_path, args, port_file, env, preexec)
        started.append(d)
        return d

    yield start
    for d in started:
        if d.process.poll() is None:
            d.process.terminate()
    for d in started:
        try:
            d.process.wait(60)
        except subprocess.TimeoutExpired:
            d.process.kill()
            d.process.wait(60)
    for d in started:
        text = d.text()
        assert "ERROR: AddressSanitizer" not in text and "runtime error:" not in text and "LeakSanitizer" not in text, text[-4000:]


def openssl(*args, cwd=None, stdin=None):
    return subprocess.run(["openssl", *map(str, args)], cwd=cwd, input=stdin, capture_output=True, text=True, check=True,
                          timeout=300).stdout


def _new_key(path, kind):
    if kind.startswith("rsa"):
        openssl("genrsa", "-out", path, kind[3:])
    elif kind == "ed25519":
        openssl("genpkey", "-algorithm", "ed25519", "-out", path)
    else:
        openssl("ecparam", "-name", {"p256": "prime256v1", "p384": "secp384r1"}[kind], "-genkey", "-noout", "-out", path)


def openssl_root(folder, name, kind):
    """The usual recipe for a root: a config file, req -x509."""
    folder.mkdir(parents=True, exist_ok=True)
    conf = folder / "root.conf"
    conf.write_text("[req]\nencrypt_key=no\nprompt=no\nutf8=yes\ndefault_md=sha256\nreq_extensions=ext\nx509_extensions=ext\n"
                    "distinguished_name=dn\n[ext]\nsubjectKeyIdentifier=hash\nbasicConstraints=critical, CA:true\n"
                    "keyUsage=critical, digitalSignature, nonRepudiation, keyEncipherment, keyCertSign\n"
                    f"[dn]\nO=Istio\nCN={name}\n")
    _new_key(folder / "root-key.pem", kind)
    openssl("req", "-x509", "-new", "-key", folder / "root-key.pem", "-config", conf, "-days", "3650", "-sha256",
            "-out", folder / "root-cert.pem")
    return folder


def openssl_intermediate(folder, root, name, kind):
    """The usual recipe for an intermediate with a DNS name, as istio's tools/certs has it."""
    folder.mkdir(parents=True, exist_ok=True)
    conf = folder / "int.conf"
    conf.write_text("[req]\nencrypt_key=no\nprompt=no\nutf8=yes\ndefault_md=sha256\nreq_extensions=ext\n"
                    "distinguished_name=dn\n[ext]\nsubjectKeyIdentifier=hash\nbasicConstraints=critical, CA:true, pathlen:0\n"
                    "keyUsage=critical, digitalSignature, nonRepudiation, keyEncipherment, keyCertSign\n"
                    f"subjectAltName=DNS:istiod.istio-system.svc\n[dn]\nO=Istio\nCN={name}\nL=cluster1\n")
    _new_key(folder / "ca-key.pem", kind)
    openssl("req", "-new", "-key", folder / "ca-key.pem", "-config", conf, "-out", folder / "ca.csr")
    openssl("x509", "-req", "-in", folder / "ca.csr", "-CA", root / "root-cert.pem", "-CAkey", root / "root-key.pem",
            "-CAcreateserial", "-days", "730", "-sha256", "-extfile", conf, "-extensions", "ext", "-out", folder / "ca-cert.pem")
    (folder / "cert-chain.pem").write_text((folder / "ca-cert.pem").read_text() + (root / "root-cert.pem").read_text())
    (folder / "root-cert.pem").write_text((root / "root-cert.pem").read_text())
    return folder


class Mesh:
    """meshroot up with its commands."""

    def __init__(self, tmp, daemon, *flags):
        self.tmp, self.daemon, self.flags = tmp, daemon, flags
        self.state = tmp / "state"
        self.issuer = "https://issuer.test"
        self.listen = {what: f"127.0.0.1:{lasting_port()}" for what in ("ca", "vault")}  # agents find it again after a restart
        meshroot("identity", "keygen", "--out", tmp / "issuer")
        self.start()

    def start(self):
        self.up = self.daemon("up", "--state-dir", self.state, "--ca-listen", self.listen["ca"], "--vault-listen",
                              self.listen["vault"], "--monitoring", "127.0.0.1:0", "--issuer",
                              f"{self.issuer}={self.tmp}/issuer/jwks.json", "--renew-window", "500ms", "--port-file",
                              self.tmp / "up.ports", *self.flags, port_file=self.tmp / "up.ports")
        self.ports = self.up.ports()

    def run(self, *args, check=True):
        return meshroot(*args, "--state-dir", self.state, check=check)

    def set_secret(self, name, file):
        return self.run("vault", "secret", "set", "--vault-name", "meshroot", "--name", name, "--file", file)

    def set_all(self, folder):
        for s in SECRETS:
            self.set_secret(s, folder / f"{s}.pem")

    def put_lists(self, text):
        """The lists' secret, where --ca-crl-object-name names it."""
        (self.tmp / "list.pem").write_text(text)
        self.set_secret("ca-crl", self.tmp / "list.pem")

    def enable(self, check=True, poll="1s", flags=()):
        return self.run("mesh", "enable", "--key-vault-id", VAULT, "--rotation-poll-interval", poll, *flags, check=check)

    def status(self):
        return json.loads(self.run("mesh", "status", "--output", "json").stdout)

    def ca_port(self):
        return self.status()["ports"]["ca"]

    def token(self, name, **kw):
        out = self.tmp / f"{name}.token"
        meshroot("identity", "token", "--key", self.tmp / "issuer/issuer-key.pem", "--issuer", self.issuer, "--identity",
                 f"spiffe://cluster.local/ns/test/sa/{name}", "--out", out)
        return out

    def agent(self, name, *flags):
        ports = self.tmp / f"{name}.ports"
        d = self.daemon("agent", "run", "--dir", self.tmp / name, "--ca-addr", f"127.0.0.1:{self.ca_port()}",
                        "--ca-root-cert", self.state / "trust/root-cert.pem", "--token-file", self.token(name),
                        "--identity", f"spiffe://cluster.local/ns/test/sa/{name}", "--monitoring", "127.0.0.1:0",
                        "--port-file", ports, *flags, port_file=ports)
        d.ports()
        return d


@pytest.fixture
def mesh(tmp_path, daemon):
    return Mesh(tmp_path, daemon)


def go_build(module, package, out):
    """One worker at a time: what it has built the others find, and `go` itself knows that it is up to date."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.with_name(f".{out.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["go", "build", "-trimpath", "-o", out, package], cwd=module, capture_output=True, text=True, timeout=900,
                              env={**os.environ, "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"})
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def gospiffe():
    """The real go-spiffe as a program, of the versions in tests/e2e/gospiffe/go.sum."""
    source = pathlib.Path(__file__).resolve().parent / "gospiffe"
    return go_build(source, ".", source.parents[2] / "build" / "gospiffe")
