"""meshroot agent status, and the reload command: its time, its group, its environment, one at a time."""
import json
import os

import pytest

from conftest import meshroot, openssl_root, put_file, wait_for
from test_agent import TD, Agent, ca, hierarchy  # noqa: F401  (fixtures)
from test_ca import pb  # noqa: F401  (a fixture)


def script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def widen(ca, hierarchy, tmp_path, name):
    """Another root in the CA's set: a change of the trust set."""
    more = openssl_root(tmp_path / name, name, "p256")
    put_file(ca.dir / "root-cert.pem", (ca.dir / "root-cert.pem").read_text() + (more / "root-cert.pem").read_text())


def test_the_command_is_told_what_has_changed(tmp_path, daemon, ca, hierarchy):  # noqa: F811
    seen = tmp_path / "seen"
    told = script(tmp_path / "told.sh", f'echo "$MESHROOT_REASON $MESHROOT_GENERATION $MESHROOT_IDENTITY $MESHROOT_DIR $KEPT" >> {seen}\n')
    web = Agent(tmp_path, daemon, ca, "web", "--reload-command", told).ready()
    first = wait_for("run", lambda: seen.exists() and seen.read_text().splitlines())[0].split()
    assert first[0] == "certificate,trust" and first[2:] == [TD + "web", str(web.dir)]
    widen(ca, hierarchy, tmp_path, "Root B")
    second = wait_for("run again", lambda: len(n := seen.read_text().splitlines()) > 1 and n)[1].split()
    assert second[0] == "trust" and int(second[1]) > int(first[1])
    reload = wait_for("ok", lambda: (r := web.status()["reload"])["last_result"] == "ok" and r["last_reason"] == "trust" and r)
    assert reload["last_error"] is None and not reload["running"]
    assert 'meshroot_agent_reload_total{result="ok"} 2' in web.get("/metrics")[1]
    web.run.kill()
    web.start()
    assert wait_for("run at the start", lambda: len(n := seen.read_text().splitlines()) > 2 and n)[2].split()[0] == "start"


def test_a_command_that_hangs_is_killed_with_what_it_has_started(tmp_path, daemon, ca):  # noqa: F811
    pids, go = tmp_path / "pids", tmp_path / "go"
    hangs = script(tmp_path / "hangs.sh", f"test -e {go} && exit 0\nsleep 1000 &\necho $! >> {pids}\nwait\n")
    web = Agent(tmp_path, daemon, ca, "web", "--reload-command", hangs, "--reload-timeout", "300ms").ready()
    reload = wait_for("timeout", lambda: (r := web.status()["reload"])["last_result"] == "timeout" and r)
    assert reload["last_error"] == "took longer than 300 ms and was killed"
    assert web.status()["acknowledged_generation"] == 0
    child = int(wait_for("it has started something", lambda: pids.exists() and pids.read_text().split())[0])

    def is_gone():
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        try:
            with open(f"/proc/{child}/stat") as f:  # nobody may be there to reap it
                return f.read().rsplit(")", 1)[1].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for("its child is killed", is_gone)
    assert 'meshroot_agent_reload_total{result="timeout"}' in web.get("/metrics")[1] and "and was killed" in web.run.text()
    go.touch()
    wait_for("tried again", lambda: web.status()["reload"]["last_result"] == "ok")
    wait_for("the word", lambda: web.status()["acknowledged_generation"] > 0)


def test_it_never_runs_twice_at_once_and_the_last_change_wins(tmp_path, daemon, ca, hierarchy):  # noqa: F811
    running, go, seen, twice = (tmp_path / n for n in ("running", "go", "seen", "twice"))
    slow = script(tmp_path / "slow.sh", f"mkdir {running} || touch {twice}\nwhile ! test -e {go}; do sleep 0.02; done\n"
                  f'rmdir {running}\necho "$MESHROOT_GENERATION" >> {seen}\n')
    web = Agent(tmp_path, daemon, ca, "web", "--reload-command", slow, "--reload-timeout", "10m").ready()
    wait_for("runs", running.exists)
    for name in ("Root B", "Root C"):
        before = web.status()["generation"]
        widen(ca, hierarchy, tmp_path, name)
        wait_for("taken", lambda: web.status()["generation"] > before)
    assert web.status()["acknowledged_generation"] == 0
    go.touch()
    wait_for("the word", lambda: web.status()["acknowledged_generation"] == web.status()["generation"])
    assert not twice.exists()
    assert len(seen.read_text().split()) == 2 and int(seen.read_text().split()[-1]) == web.status()["generation"]


def test_status_of_an_agent(tmp_path, daemon, ca):  # noqa: F811
    ok = script(tmp_path / "ok.sh", "exit 0\n")
    socket = tmp_path / "web.sock"
    web = Agent(tmp_path, daemon, ca, "web", "--reload-command", ok, "--workload-socket", socket, "--sds", "--inbound",
                "127.0.0.1:0=127.0.0.1:1", "--allow", TD + "*").ready()
    wait_for("acknowledged, and on the stream", lambda: (s := web.status())["acknowledged_generation"] > 0 and s["watching"])
    by_dir = meshroot("agent", "status", "--dir", web.dir)
    for part in ("Identity       " + TD + "web", "State          ready", web.serial(), "CN=Intermediate A1,O=Istio,L=cluster1",
                 "CN=Root A,O=Istio  until", f"CA             127.0.0.1:{ca.ports['ca']}, on the trust stream",
                 "is in use, since", f"mTLS proxy     inbound, port {web.ports['inbound']}, 0 connections",
                 f"Workload API   unix://{socket}, 0 streams", "SDS            0 streams", "Reload         ok at"):
        assert part in by_dir.stdout, (part, by_dir.stdout)
    by_port = meshroot("agent", "status", "--monitoring", f"127.0.0.1:{web.ports['monitoring']}", "--output", "json")
    assert json.loads(by_port.stdout)["leaf"]["serial"] == web.serial()
    assert meshroot("agent", "status", "--socket", web.dir / "agent.sock").stdout.startswith("Identity")
    assert (web.dir / "agent.sock").stat().st_mode & 0o777 == 0o600
    assert web.run.stop() == 0
    gone = meshroot("agent", "status", "--dir", web.dir, check=False)
    assert gone.returncode == 3 and "no agent runs there" in gone.stderr


def test_status_of_an_agent_without_a_certificate(tmp_path, daemon):
    root = openssl_root(tmp_path / "ra", "Root A", "p256")
    ports, token = tmp_path / "ports", tmp_path / "token"
    token.write_text("a.b.c\n")
    daemon("agent", "run", "--dir", tmp_path / "web", "--identity", TD + "web", "--ca-addr", "127.0.0.1:1", "--ca-root-cert",
           root / "root-cert.pem", "--token-file", token, "--monitoring", "127.0.0.1:0", "--port-file", ports, port_file=ports).ports()
    got = wait_for("an error", lambda: "Last error" in (d := meshroot("agent", "status", "--dir", tmp_path / "web", check=False)).stdout and d)
    assert got.returncode == 1 and "State          not ready" in got.stdout and "Leaf           none yet" in got.stdout
    assert "failed to sign CSR" in got.stdout and "calls failed in a row" in got.stdout


@pytest.mark.parametrize("flags,code,part", [
    (["--dir", "/nowhere"], 3, "no agent runs there: /nowhere/agent.sock does not exist"),
    (["--dir", "/nowhere", "--socket", "/x"], 2, "one of them"),
    (["--monitoring", "127.0.0.1:1"], 19, "is the agent running?"),
])
def test_status_of_nobody(flags, code, part):
    done = meshroot("agent", "status", *flags, check=False)
    assert done.returncode == code and part in done.stderr, (done.returncode, done.stderr)
