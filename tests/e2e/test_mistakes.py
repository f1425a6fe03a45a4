"""The mistakes that people make on a command line: each answer names the thing, the reason and the remedy, has its stable exit
status, and nothing has changed."""
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios

import pytest
from conftest import BINARY, Mesh, command_names, meshroot

IDENTITY = "spiffe://cluster.local/ns/shop/sa/web"
ENABLE = ("mesh", "enable", "--namespace", "shop", "--key-vault-id", "https://v.vault.azure.net")
KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A root, an intermediate, one whose chain is in the wrong order, one whose key is rubbish."""
    at = tmp_path_factory.mktemp("files")
    meshroot("pki", "root", "--out", at / "root")
    meshroot("pki", "intermediate", "--root", at / "root", "--out", at / "good")
    for name in ("turned", "rubbish"):
        subprocess.run(["cp", "-r", at / "good", at / name], check=True)
    end = "-----END CERTIFICATE-----\n"
    blocks = [b + end for b in (at / "good/cert-chain.pem").read_text().split(end) if b.strip()]
    (at / "turned/cert-chain.pem").write_text("".join(reversed(blocks)))
    (at / "rubbish/ca-key.pem").write_text("rubbish\n")
    (at / "kubeconfig").write_text(KUBECONFIG)
    return at


@pytest.mark.parametrize("args,status,words", [
    # commands and flags
    ((), 2, "Usage: meshroot COMMAND"),
    (("mseh", "status"), 2, '"mseh status" is not a command; did you mean "meshroot mesh status"?'),
    (("pki", "rot", "--out", "OUT"), 2, '"pki rot --out" is not a command'),
    (("mesh", "enbale"), 2, 'did you mean "meshroot mesh enable"?'),
    (("frobnicate",), 2, '"frobnicate" is not a command; see meshroot --help'),
    (("vault", "secret"), 2, "vault secret list-versions"),
    (("pki", "root", "--uot", "OUT"), 2, "unknown flag --uot; did you mean --out?"),
    (("mesh", "status", "-n", "shop"), 2, "unknown flag -n; did you mean --namespace?"),
    (("mesh", "status", "-ojson"), 2, "unknown flag -ojson; did you mean --output?"),
    (("mesh", "status", "--output", "yaml"), 2, '--output: "yaml" is not one of table|json'),
    (("pki", "root"), 2, "--out is needed"),
    (("pki", "root", "--out"), 2, "--out needs a value (DIR)"),
    (("pki", "root", "--out", "OUT", "more"), 2, '"more" is one word too many'),
    (("pki", "root", "--out", "OUT", "--days", "0"), 2, "--days: 0 is outside 1..36500"),
    (("pki", "root", "--out", "OUT", "--key-type", "rsa1024"), 2, '"rsa1024" is not one of p256|'),
    (("pki", "verify"), 2, "DIR is missing; usage: meshroot pki verify DIR"),
    (("up", "--renew-window", "5"), 2, '"5" is not a duration such as 90s'),
    # files
    (("pki", "root", "--out", "{at}/root"), 15, "root-key.pem exists already; --force replaces it"),
    (("pki", "intermediate", "--root", "{at}/none", "--out", "OUT"), 3, "none/root-cert.pem: no such file"),
    (("pki", "inspect", "{at}/none.pem"), 3, "none.pem: no such file"),
    (("pki", "verify", "{at}/none"), 3, "none: no such folder"),
    (("pki", "verify", "{at}/turned"), 1, "cert-chain.pem: out of order"),
    (("pki", "verify", "{at}/rubbish"), 1, "ca-key.pem: no PEM block"),
    (("pki", "crl", "--root", "{at}/root", "--out", "OUT", "--revoke", "{at}/none"), 2, "is neither a file nor a serial number"),
    (("pki", "root", "--out", "{at}/kubeconfig"), 15, "kubeconfig is no folder"),
    (("identity", "token", "--key", "{at}/root/root-key.pem", "--issuer", "x", "--identity", "shop/web"), 2, '--identity "shop/web"'),
    (("vault", "secret", "set", "--vault-name", "mine", "--name", "x", "--value", "y"), 2, "state has no vault of its own: meshroot up"),
    (("ledger", "list"), 3, "there is no ledger in"),
    # who runs, and where
    (("mesh", "status"), 3, "start one with: meshroot up --state-dir"),
    (("agent", "status", "--dir", "{at}/none"), 3, "no agent runs there"),
    (("up", "--ca-listen", "15012"), 2, 'where the CA answers: address "15012" is not HOST:PORT'),
    (("up", "--trust-domain", "Bad Domain"), 2, '--trust-domain "Bad Domain"'),
    (("up", "--default-workload-ttl", "5d", "--max-workload-ttl", "1d"), 2, "not longer than --max-workload-ttl"),
    (("up", "--issuer", "http://id"), 2, "name where they are instead (ISSUER=JWKS)"),
    (("up", "--trusted-node-account", "ztunnel"), 2, '"ztunnel": want NAMESPACE/SERVICEACCOUNT'),
    (("agent", "run", "--dir", "OUT", "--ca-root-cert", "x", "--identity", "shop/web"), 2, '--identity "shop/web"'),
    (("agent", "run", "--dir", "OUT", "--ca-root-cert", "x", "--identity", IDENTITY, "--ca-addr", "ca"), 2, 'address "ca" is not HOST:PORT'),
    (("agent", "run", "--dir", "OUT", "--ca-root-cert", "x", "--identity", IDENTITY, "--inbound", "8443", "--allow", IDENTITY), 2,
     'inbound "8443" is not LISTEN=TO'),
    # Kubernetes
    (("mesh", "status", "--namespace", "shop", "--kubeconfig", "{at}/none"), 3, "kubeconfig {at}/none: no such file"),
    (("mesh", "status", "--kubeconfig", "{at}/kubeconfig", "--kube-context", "prod"), 3, 'no "prod" in "contexts"'),
    (("mesh", "status", "--kubeconfig", "{at}/kubeconfig", "--namespace", "Shop_1"), 2, '"Shop_1" is no namespace: want lower-case'),
    (("mesh", "status", "--kubeconfig", "{at}/kubeconfig"), 19, "https://127.0.0.1:1: Failed to connect"),
    ((*ENABLE, "--workload-identity", "T/C", "--dry-run"), 2, "--dry-run needs a value"),
    ((*ENABLE, "--workload-identity", "T/C", "--dry-run=clinet"), 2, '"clinet" is not one of none|client|server'),
    ((*ENABLE, "--workload-identity", "T", "--dry-run=client"), 2, "want TENANT/CLIENT"),
    ((*ENABLE, "--workload-identity", "T/C", "--dry-run=client", "--name", "A_b"), 2, '"A_b" is no name of an object'),
    ((*ENABLE, "--dry-run=client"), 2, "who asks the vault?"),
    ((*ENABLE[:4], "--key-vault-id", "vault", "--workload-identity", "T/C", "--dry-run=client"), 2, '"vault" is no vault'),
])
def test_a_mistake_is_named_and_changes_nothing(tmp_path, files, args, status, words):
    before = tree(files)
    out = tmp_path / "out"
    args = [a.replace("{at}", str(files)) if a != "OUT" else out for a in args]
    done = meshroot(*args, check=False, env={"MESHROOT_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path / "home")})
    assert (done.returncode, words.replace("{at}", str(files)) in done.stderr) == (status, True), (done.returncode, done.stderr)
    assert list(tmp_path.iterdir()) == [] and tree(files) == before


def tree(at):
    return {p: p.read_bytes() for p in sorted(at.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("args", [
    ("mesh", "disable", "--dry-run=client"), ("mesh", "disable", "--dry-run=server"), ("mesh", "disable", "--wait"),
    ("mesh", "disable", "--name", "other"), ("mesh", "enable", "--dry-run=server"), ("mesh", "enable", "--adopt"),
    ("mesh", "enable", "--credential-secret", "s"), ("mesh", "enable", "--target", "both"),
])
def test_flags_of_kubernetes_without_a_namespace_change_no_mesh(tmp_path, daemon, args):
    """"mesh disable --dry-run=server" of a mesh of `meshroot up` must not disable it."""
    mesh = Mesh(tmp_path, daemon)
    mesh.run("mesh", "enable")
    done = meshroot(*args, "--state-dir", mesh.state, check=False)
    assert done.returncode == 2 and f"{args[2].split('=')[0]} is for a mesh on Kubernetes: add --namespace" in done.stderr
    assert mesh.status()["mode"] == "self-signed"


def test_a_state_folder_of_somebody_else(tmp_path, daemon):
    mesh = Mesh(tmp_path, daemon)
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    if not nobody:
        mesh.state.chmod(0)
    done = subprocess.run([BINARY, "mesh", "status", "--state-dir", mesh.state], capture_output=True, text=True, timeout=60, **nobody)
    mesh.state.chmod(0o700)
    assert done.returncode == 14 and "admin.sock is not ours: ask as the user that runs meshroot up" in done.stderr


def test_a_port_that_is_taken(tmp_path, daemon):
    mesh = Mesh(tmp_path, daemon)
    taken = f"127.0.0.1:{mesh.ports['monitoring']}"
    for flag in ("--vault-listen", "--monitoring"):
        flags = {"--ca-listen": "127.0.0.1:0", "--vault-listen": "127.0.0.1:0", "--monitoring": "127.0.0.1:0", flag: taken}
        done = meshroot("up", "--state-dir", tmp_path / f"second{flag}", *(x for pair in flags.items() for x in pair), check=False)
        assert done.returncode == 11 and taken in done.stderr and "in use" in done.stderr, done.stderr


def terminal(columns, *args, env=None):
    """What a command writes to a terminal that is so wide."""
    master, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    p = subprocess.Popen([BINARY, *map(str, args)], stdin=end, stdout=end, stderr=end, env={**os.environ, **(env or {})})
    os.close(end)
    text = b""
    try:
        while part := os.read(master, 65536):
            text += part
    except OSError:  # EIO: the last writer has gone
        pass
    os.close(master)
    assert p.wait(60) == 0
    return text.decode()


@pytest.mark.parametrize("command", ["mesh enable", "agent run", "ca serve"])
def test_help_fits_the_terminal(command):
    flags = {}
    for columns in (60, 80, 100):
        prose, _, rest = terminal(columns, *command.split(), "--help").replace("\r", "").partition("\nExamples:\n")
        below = rest.partition("\nFlags:\n")[2].splitlines()
        too_long = [x for x in prose.splitlines() + below if len(x) > columns and " " in x.strip()]
        assert not too_long and below
        flags[columns] = [x.split()[0] for x in below if x.startswith("  --")]
    assert flags[60] == flags[80] == flags[100]


def test_what_goes_to_a_pipe_is_plain(files):
    """No colour and no cursor movements where nobody looks, nor with NO_COLOR."""
    assert "\033" not in meshroot("pki", "verify", files / "good").stdout
    assert "\033" not in terminal(80, "pki", "verify", files / "good", env={"NO_COLOR": "1"})
    assert json.loads(meshroot("pki", "verify", files / "good", "--output", "json").stdout)["ok"] is True


def test_every_command_has_help_with_examples_and_exit_statuses():
    page = meshroot("--help").stdout
    commands = command_names()
    assert len(commands) > 30 and "mesh enable" in commands
    for c in commands:
        text = meshroot(*c.split(), "--help").stdout
        assert text.startswith(f"Usage: meshroot {c}") and "\nFlags:\n" in text and "Exit status:" in text, c
        assert text.partition("Examples:\n")[2].count(f"meshroot {c}") >= 1, c
    assert "17  wrong state" in page and meshroot("--version").stdout == meshroot("version").stdout


def test_the_same_thing_has_the_same_name_everywhere(tmp_path, daemon):
    """Daemons have --log-format, --log-level and --monitoring; what prints an answer has --output; --log-level holds."""
    for c in ("up", "vault serve", "sync run", "operator run", "ca serve", "agent run"):
        text = meshroot(*c.split(), "--help").stdout
        assert all(f"\n  {flag} " in text for flag in ("--log-format", "--log-level", "--monitoring")), c
    for c in ("demo", "mesh status", "mesh validate", "rotate force", "ledger list", "ledger show", "ledger verify", "pki root", "pki crl",
              "pki intermediate", "pki inspect", "pki verify", "vault secret set", "ca revoke", "ca revoked", "agent status", "version"):
        assert re.search(r"\n  --output FORMAT .*(?:\n  +)?.*\(table\|json", meshroot(*c.split(), "--help").stdout), c
    said = Mesh(tmp_path, daemon, "--log-level", "error").up.text()
    assert "\tinfo\t" not in said and "\twarn\t" not in said, said
