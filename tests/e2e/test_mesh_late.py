"""mesh enable, mesh disable and rotate force on Kubernetes where an answer is lost, late or overtaken: of what is gone, made anew, asked twice.

No operator runs but where one is started: what it would do, the test does, in the order that it wants.
"""
import json
import subprocess
import time

import pytest

from conftest import BINARY, wait_for
from test_operator import NS, enable_flags, on_kube, world  # noqa: F401
from test_operator_force import FORCE, annotate, annotation, force, hold, word

PATH = "/pluginca/default"
ASK_S = 10  # that one question may take, all tries together


def start(world, *args):  # noqa: F811
    return subprocess.Popen([str(x) for x in (BINARY, *args, "--namespace", NS, "--kubeconfig", world.api.kubeconfig())], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def end(p, code):
    out, said = p.communicate(timeout=300)
    assert p.returncode == code, f"exit {p.returncode}\n{out}{said}"
    return out + said


def plugin(world):  # noqa: F811
    return world.api.get("PluginCA", NS, "default")


def keep(world):  # noqa: F811
    """A PluginCA as an operator has it: it is gone when the operator says so."""
    world.plugin()
    world.api.edit("PluginCA", NS, "default", {"metadata": {"finalizers": ["meshroot.io/secrets"]}})


def let_go(world):  # noqa: F811
    world.api.edit("PluginCA", NS, "default", {"metadata": {"finalizers": None}})


def test_what_is_being_deleted_is_not_enabled(world):  # noqa: F811
    """The API server takes a spec for it, and the operator then takes it away with all that is its own."""
    keep(world)
    world.api.delete("PluginCA", NS, "default")
    for flags in ((), ("--wait",), ("--dry-run", "server")):
        out = on_kube(world, "enable", *enable_flags(world), *flags, check=False)
        assert out.returncode == 17 and "is being deleted" in out.stderr and "mesh enabled" not in out.stdout
    let_go(world)
    on_kube(world, "enable", *enable_flags(world))


@pytest.mark.parametrize("how", ("gone", "going", "anew"))
def test_what_is_deleted_while_it_is_waited_for_was_not_enabled(world, how):  # noqa: F811
    p = start(world, "mesh", "enable", *enable_flags(world), "--wait")
    wait_for("it waits", lambda: world.api.count("GET", PATH) >= 1)
    if how == "going":
        world.api.edit("PluginCA", NS, "default", {"metadata": {"finalizers": ["meshroot.io/secrets"]}})
    if how == "anew":
        world.api.hooks.append(lambda kind, o: kind == "DELETED" and o["kind"] == "PluginCA" and world.plugin())
    world.api.delete("PluginCA", NS, "default")
    assert "is being deleted, so the mesh is not enabled" in end(p, 17)


def test_what_the_vault_refuses_is_not_enabled_though_a_set_of_before_is_in_force(world):  # noqa: F811
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    flags = ["ca-crt" if f == "ca-cert" else f for f in enable_flags(world)]
    out = on_kube(world, "enable", *flags, "--wait", check=False)
    assert out.returncode == 17 and "VaultRefused: " in out.stderr and "ca-crt" in out.stderr and "mesh enabled" not in out.stdout
    assert world.holds("A1")
    on_kube(world, "enable", *enable_flags(world), "--wait")
    assert world.is_condition("Synced", "True")


def test_a_deletion_whose_answer_is_lost_is_a_deletion(world):  # noqa: F811
    world.plugin()
    world.api.lose("DELETE", PATH)
    assert "mesh disabled" in on_kube(world, "disable").stdout and plugin(world) is None
    assert on_kube(world, "disable", check=False).returncode == 3


def test_who_waits_for_the_end_of_one_does_not_wait_for_the_next(world):  # noqa: F811
    keep(world)
    p = start(world, "mesh", "disable", "--wait")
    wait_for("it is being deleted", lambda: "deletionTimestamp" in plugin(world)["metadata"])
    world.api.hooks.append(lambda kind, o: kind == "DELETED" and o["kind"] == "PluginCA" and world.plugin())
    let_go(world)
    assert "mesh disabled" in end(p, 0) and plugin(world)


def test_one_that_is_made_anew_in_that_moment_is_not_deleted(world):  # noqa: F811
    world.plugin()
    first, done, handle = plugin(world)["metadata"]["uid"], [], world.api.handle

    def anew(*request):
        """What was read is another one when the deletion comes."""
        if "DELETE" in request and not done:
            done.append(json.loads(request[-2])["preconditions"])
            world.api.delete("PluginCA", NS, "default")
            world.plugin()
        return handle(*request)
    world.api.handle = anew
    out = on_kube(world, "disable", check=False)
    assert out.returncode == 18 and done == [{"uid": first}] and plugin(world), out


def test_an_api_server_that_is_away_is_waited_for_too(world):  # noqa: F811
    """For longer than one question may take: --wait-timeout says how long, nothing else."""
    keep(world)
    p = start(world, "mesh", "disable", "--wait")
    wait_for("it is being deleted", lambda: "deletionTimestamp" in plugin(world)["metadata"])
    world.api.stop()
    until = time.monotonic() + ASK_S + 2
    wait_for("a question is over", lambda: time.monotonic() > until)
    world.api.start()
    let_go(world)
    assert "mesh disabled" in end(p, 0)


def answer(world, of, what, version):  # noqa: F811
    """The operator's, to the annotation in that version of the object."""
    world.api.edit("PluginCA", NS, "default", {"status": {"lastForce": {
        "force": of, "answer": what, "message": "so it is", "time": "2026-01-01T00:00:00Z", "resourceVersion": version}}}, sub="status")


def asked(world):  # noqa: F811
    """By another one before us: who waits has written the same word over it, which changes nothing. -> its version, the word, our command"""
    hold(world).kill()
    held = word(world)
    annotate(world, held)
    return held, plugin(world)["metadata"]["resourceVersion"]


def ask_too(world):  # noqa: F811
    n = world.api.count("PATCH", PATH)
    p = start(world, "rotate", "force", "--force", "--wait", "--wait-timeout", "40s")
    wait_for("it has asked", lambda: world.api.count("PATCH", PATH) > n)
    return p


@pytest.mark.parametrize("is_judged", (False, True))
def test_who_asks_for_what_is_asked_for_hears_the_answer(world, is_judged):  # noqa: F811
    """A command that was ended by Ctrl-C, and is given again; the operator has judged meanwhile, and is about to tell."""
    held, version = asked(world)
    if is_judged:
        world.api.edit("PluginCA", NS, "default", {"status": {"message": "a later version"}}, sub="status")
        assert plugin(world)["metadata"]["resourceVersion"] != version
    p = ask_too(world)
    answer(world, held, "Forced", version)
    assert "these workloads may be cut off now" in end(p, 0)


def test_an_answer_that_was_there_and_whose_word_goes_is_the_answer(world):  # noqa: F811
    held, version = asked(world)
    answer(world, held, "ForceRefused", version)
    p = ask_too(world)
    assert annotation(world) == held
    world.api.edit("PluginCA", NS, "default", {"metadata": {"annotations": {FORCE: None}}})
    assert "so it is" in end(p, 17)


def test_an_old_refusal_is_no_answer_to_a_word_that_is_put_there_anew(world):  # noqa: F811
    held, version = asked(world)
    answer(world, held, "ForceRefused", version)
    world.api.edit("PluginCA", NS, "default", {"metadata": {"annotations": {FORCE: None}}})
    p = ask_too(world)
    answer(world, held, "Forced", plugin(world)["metadata"]["resourceVersion"])
    assert "these workloads may be cut off now" in end(p, 0)


def test_who_waits_for_an_answer_waits_for_the_api_server_too(world):  # noqa: F811
    held, version = asked(world)
    p = ask_too(world)
    world.api.stop()
    until = time.monotonic() + ASK_S + 2
    wait_for("a question is over", lambda: time.monotonic() > until)
    world.api.start()
    answer(world, held, "Forced", version)
    assert "these workloads may be cut off now" in end(p, 0)
    assert force(world, check=False).returncode == 0


def test_a_watch_ends_with_its_reader(world):  # noqa: F811
    """As in `mesh status --watch | head -1`."""
    world.plugin()
    p = start(world, "mesh", "status", "--watch")
    assert "PluginCA" in p.stdout.readline()
    p.stdout.close()
    said = p.stderr.read()
    assert p.wait(300) == 11 and "cannot write to the standard output" in said
