"""The demo is the product's promise: whole story, 0 failed handshakes, under a minute."""
import json
import subprocess

from conftest import BINARY


def test_demo_fails_no_handshake(tmp_path):
    done = subprocess.run([BINARY, "demo", "--output", "json", "--dir", str(tmp_path / "d")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["ok"] and report["handshakes"]["failed"] == 0 and report["handshakes"]["tried"] >= 2000
    names = [s["name"] for s in report["steps"]]
    assert len(names) == 9
    last = report["steps"][-1]["issuers"]
    assert last == {"B1": 3}
