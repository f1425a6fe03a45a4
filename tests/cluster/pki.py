"""Roots and intermediates by `meshroot pki`, offline, and the four secrets in the order that the procedure has."""
import datetime
import subprocess

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

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

    def lists(self, root, *names):
        """ca-crl: an empty list of the root, and one of each of those intermediates, as a stock istiod wants them."""
        self._run("crl", "--root", f"root-{root}", "--out", f"crl-{root}.pem")
        return "".join([(self.folder / f"crl-{root}.pem").read_text(), *(self._list(n) for n in names)])

    def _list(self, name):
        cert = x509.load_pem_x509_certificate((self.folder / name / "ca-cert.pem").read_bytes())
        key = serialization.load_pem_private_key((self.folder / name / "ca-key.pem").read_bytes(), None)
        now = datetime.datetime.now(datetime.timezone.utc)
        kid = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value)
        made = (x509.CertificateRevocationListBuilder().issuer_name(cert.subject).last_update(now - datetime.timedelta(minutes=1))
                .next_update(now + datetime.timedelta(days=30)).add_extension(x509.CRLNumber(1), False).add_extension(kid, False).sign(key, hashes.SHA256()))
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def roots(self, *names):
        return "".join((self.folder / f"root-{n}" / "root-cert.pem").read_text() for n in names)
