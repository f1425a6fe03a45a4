"""Roots and intermediates by `meshroot pki`, offline, and the four secrets in the order that the procedure has."""
import subprocess

from conftest import MESHROOT

OBJECTS = ("root-cert", "ca-cert", "ca-key", "cert-chain")


class Pki:
    def __init__(self, folder):
        self.folder = folder

    def _run(self, *args):
        done = subprocess.run([MESHROOT, "pki", *args], capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr

    def root(self, name):
        self._run("root", "--out", f"root-{name}", "--subject", f"O=Istio,CN=Root {name}")

    def intermediate(self, root, name, also=()):
        """{object: PEM} of an intermediate under `root`; root-cert has the roots `also` too."""
        more = [x for a in also for x in ("--also-trust", f"root-{a}/root-cert.pem")]
        self._run("intermediate", "--root", f"root-{root}", "--out", name, "--subject", f"O=Istio,CN=Intermediate {name}", *more)
        return {o: (self.folder / name / f"{o}.pem").read_text() for o in OBJECTS}

    def roots(self, *names):
        return "".join((self.folder / f"root-{n}" / "root-cert.pem").read_text() for n in names)
