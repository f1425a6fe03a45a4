"""Hundreds of agents on one `meshroot up`, played by bench/bench_agents: the flow of the 10,000, small. No figure is asserted."""
import json
import pathlib
import subprocess

from conftest import BINARY

AGENTS = 300


def play(tmp_path, *flags):
    driver = pathlib.Path(BINARY).parent / "bench" / "bench_agents"
    report = tmp_path / "report.json"
    done = subprocess.run([driver, "--meshroot", BINARY, "--agents", str(AGENTS), "--identities", "30", "--renew-window", "500ms",
                           "--settle", "100ms", "--report", report, *flags], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return {r["name"].split(": ", 1)[1]: r["figure"] for r in json.loads(report.read_text())}


def test_all_get_leaves_follow_a_root_rotation_and_come_back_after_kill_and_mass_restart(tmp_path):
    rows = play(tmp_path)
    for step in ("all have a leaf, a stream, said so", "root added, acknowledged by all", "signer moved, all renewed and said so",
                 "old root dropped, acknowledged by all", "CA killed, all back from its start", "mass restart, all at once"):
        assert rows[step] > 0, step


def test_agents_that_show_no_leaf_are_known_by_their_tokens(tmp_path):
    rows = play(tmp_path, "--show", "token", "--ca-key", "rsa2048")
    assert rows["CA killed, all back from its start"] > 0


def test_the_driver_says_what_it_cannot_have(tmp_path):
    driver = pathlib.Path(BINARY).parent / "bench" / "bench_agents"
    done = subprocess.run([driver, "--agents", "0"], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "agents" in done.stderr
    done = subprocess.run(["sh", "-c", f"ulimit -n 256 && exec {driver} --meshroot {BINARY} --agents 300"], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode != 0 and "open files" in done.stderr
