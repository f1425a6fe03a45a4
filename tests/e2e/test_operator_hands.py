"""What other people's hands may do to the operator: objects made, changed and taken away by somebody who is not its friend.

Source: issue 5 "Targets", "Bad input"; design.md "What must hold" 1, 2 and 9.
"""
import base64
import json

from conftest import wait_for
from test_operator import CM, FOUR, NS, world  # noqa: F401


def test_many_pluginca_displace_nobody(world):  # noqa: F811
    """The list is by name: theirs come first, and there are more than are kept."""
    world.plugin()
    world.run("--lease", "off")
    world.ready(1)
    for i in range(20):
        world.plugin(name=f"a{i:02}", adopt=True)
    world.api.compact()  # 410: all are read again
    world.namespace("late")
    wait_for("the late one", lambda: world.roots("late") == 1)
    wait_for("they are refused", lambda: all(world.condition("Held", f"a{i:02}")["reason"] == "AnotherPluginCA" for i in range(15)))
    world.api.edit("Secret", NS, "cacerts", {"data": {"extra": "eA=="}})
    wait_for("put back", lambda: sorted(world.secret()["data"]) == FOUR)
    assert world.secret()["metadata"]["annotations"]["meshroot.io/owner"] == f"{NS}/default"
    assert not any(c["type"] == "Loaded" for i in range(20) for c in world.status(f"a{i:02}").get("conditions", []))
    for i in range(20):
        world.api.delete("PluginCA", NS, f"a{i:02}")
    world.api.edit("PluginCA", NS, "default", {"spec": {"pollInterval": "2s"}})
    wait_for("the one that is left is heard", lambda: world.status().get("observedGeneration") == world.api.get("PluginCA", NS, "default")["metadata"]["generation"])
