"""README's tour, line by line as it stands there."""
import os
import pathlib
import re
import signal
import subprocess

import docs
from conftest import BINARY


def tour():
    """The steps of the tour that a reader can paste: 7 needs a workload of one's own."""
    text = (docs.HERE / "README.md").read_text()
    block = re.search(r"^## Five-minute tour\n\n```\n(.*?)^```", text, re.M | re.S)[1]
    steps = re.split(r"^# (?=\d\.)", block, flags=re.M)
    return [s for s in steps if not s.startswith("7.")]


def test_the_tour_of_the_readme(tmp_path):
    """Pasted as a whole into bash; what differs: free ports, the state folder, and a look that ends instead of --watch."""
    ca = "$(meshroot mesh status --output json | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"ports\"][\"ca\"])')"
    a2 = "until meshroot ledger list --live --issuer 'Intermediate CA - A2' | grep -q sa/web; do sleep 0.2; done"
    script = "".join("# " + s if s[:1].isdigit() else s for s in tour())
    for here, there in (("./dev build && export PATH=$PWD/build:$PATH MESHROOT_STATE_DIR=/tmp/mesh", ""), ("127.0.0.1:15012", f"127.0.0.1:{ca}"),
                        ("/tmp/mesh/", f"{tmp_path}/mesh/"), ("meshroot mesh status --watch", a2),
                        ("meshroot up ", "meshroot up --monitoring 127.0.0.1:0 ")):
        assert here in script, here
        script = script.replace(here, there)
    env = {**os.environ, "PATH": f"{pathlib.Path(BINARY).parent}:{os.environ['PATH']}", "MESHROOT_STATE_DIR": str(tmp_path / "mesh"),
           "MESHROOT_CA_LISTEN": "127.0.0.1:0", "MESHROOT_VAULT_LISTEN": "127.0.0.1:0", "MESHROOT_RENEW_WINDOW": "500ms"}
    script = "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n" + script
    bash = subprocess.Popen(["bash", "-eu", "-c", script], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)
    try:
        said, _ = bash.communicate(timeout=240)
    finally:
        if bash.poll() is None:
            os.killpg(bash.pid, signal.SIGKILL)  # bash and its daemons: a session of their own
    assert bash.returncode == 0, said + "\n" + "\n".join(f.read_text()[-2000:] for f in tmp_path.glob("*.log"))
    for words in ("ok: one bundle", "mesh enabled: plug-in CA certificates", "web/cert-chain.pem: OK", "none edited, removed or moved"):
        assert words in said, said
