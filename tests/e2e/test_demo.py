"""The demo is the product's promise: whole story, 0 failed handshakes, under a minute."""
import json
import os
import signal
import subprocess
import time

from conftest import BINARY

LIMIT_S = 600


def test_demo_fails_no_handshake(tmp_path):
    """Stopped and continued all the while, as by Ctrl-Z and fg: a system call that this interrupts is no failed handshake."""
    told, said = tmp_path / "report.json", tmp_path / "errors"
    with open(told, "wb") as out, open(said, "wb") as err:
        demo = subprocess.Popen([BINARY, "demo", "--output", "json", "--dir", tmp_path / "d"], stdout=out, stderr=err)
        until = time.monotonic() + LIMIT_S
        try:
            while demo.poll() is None and time.monotonic() < until:
                for s, pace in ((signal.SIGSTOP, 0.01), (signal.SIGCONT, 0.1)):
                    os.kill(demo.pid, s)
                    time.sleep(pace)
        finally:  # both do nothing, when it has ended
            demo.send_signal(signal.SIGCONT)
            demo.terminate()
        assert demo.wait(60) == 0, told.read_text()[-3000:] + said.read_text()[-3000:]
    report = json.loads(told.read_text())
    assert report["ok"] and report["handshakes"]["failed"] == 0 and report["handshakes"]["tried"] >= 2000
    names = [s["name"] for s in report["steps"]]
    assert len(names) == 9
    last = report["steps"][-1]["issuers"]
    assert last == {"B1": 3}
