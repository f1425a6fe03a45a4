"""A root rotation over two replicas of the CA, with agents whose word is always heard by the replica that has not issued their leaf."""
import pytest
from cryptography import x509

from conftest import wait_for
from test_ca import pb  # noqa: F401
from test_operator import OWN
from test_operator_ca import start, world  # noqa: F401
from test_replicas import Service, agent_at, snapshots


class Elsewhere(Service):
    """A connection goes to the replica that has not issued the newest leaf. An agent makes a new one for each leaf it gets, so the word about a
    leaf never comes to where its row is, and the next leaf is the other's."""

    def __init__(self, replicas):
        self.counts, self.last = [r.issued() for r in replicas], replicas[1]
        super().__init__(replicas)

    def choose(self, ready):
        now = [r.issued() for r in self.replicas]
        for r, before, n in zip(self.replicas, self.counts, now):
            self.last = r if n > before else self.last
        self.counts = now
        return next(r for r in self.replicas if r is not self.last)


@pytest.fixture
def service():
    made = []

    def of(replicas):
        made.append(Elsewhere(replicas))
        wait_for("both ready", lambda: len(made[-1].ready) == 2)
        return made[-1]

    yield of
    for s in made:
        s.stop()


def agent(world, daemon, service, at, *flags):  # noqa: F811
    return agent_at(world.tmp, daemon, at, "web", f"127.0.0.1:{service.port}", "--ca-name", "localhost", *flags)


def evidence(replica, pb):  # noqa: F811
    """Of the agent, by this replica; None: it knows nothing of it."""
    _, all_of = next(snapshots(replica, pb, [("authorization", f"Bearer {(replica.tmp / 'token').read_text()}")]))
    return next((w for w in all_of if w.identity.endswith("/sa/web")), None)


def begin(world, daemon, pb, service, window, *flags):  # noqa: F811
    """Two replicas, the operator, and an agent: row at A, word at B."""
    world.plugin(target="meshroot", ttl={"default": "1h", "renewWindow": window})
    a, b = start(world, daemon, pb, ttl="1h")
    world.ready(1)
    web = agent(world, daemon, service((a, b)), a, *flags).ready()
    word = wait_for("its word, at B", lambda: (w := evidence(b, pb)) and w.said and w)
    assert (a.issued(), b.issued()) == (1, 0)
    assert word.leaves == 0 and word.used_issued == 0 and word.used_generation == 1
    assert evidence(a, pb).said == 0
    return a, b, web


def test_a_root_goes_without_waiting_for_leaves_to_end(world, daemon, pb, service):  # noqa: F811
    a, b, web = begin(world, daemon, pb, service, "1s")
    world.mesh.set_all(world.sets["B1"])  # A straight to B: widened, signer moved, narrowed, each at its gate
    wait_for("through all gates", lambda: world.is_at_rest("meshroot-ca", OWN) and world.generation("meshroot-ca", OWN) == 4)
    assert "Root B" in world.status()["root"] and "CN=Root A" not in world.status()["root"]
    assert (a.issued(), b.issued()) == (1, 1), "the second leaf was the other's"
    old, new = evidence(a, pb), evidence(b, pb)
    assert old.leaves == 1 and old.leaf_root_generations == [1], "A's row has not ended"
    assert old.used_issued == 0 and old.used_generation == 3, "A has the word about B's row"
    assert new.leaves == 1 and new.leaf_root_generations == [3]
    wait_for("the new root alone", lambda: web.status()["generation"] == 4 and len(web.status()["roots"]) == 1)
    assert "Intermediate B1" in web.status()["leaf"]["issuer"] and web.status()["leaf"]["generation"] == 3
    chain = x509.load_pem_x509_certificates((web.dir / "root-cert.pem").read_bytes())
    assert len(chain) == 1 and "Root B" in chain[0].subject.rfc4514_string()


def test_an_agent_on_its_old_leaf_holds_it_until_it_ends(world, daemon, pb, service):  # noqa: F811
    a, b, web = begin(world, daemon, pb, service, "0s", "--ephemeral")  # it renews at half-life only
    world.mesh.set_all(world.sets["B1"])  # A straight to B: widened, signer moved, narrowed, each at its gate
    wait_for("its leaf holds it", lambda: world.is_condition("Held", "True", "Leaves") and world.generation("meshroot-ca", OWN) == 3)
    wait_for("it has told of the new root", lambda: evidence(b, pb).ack_generation == 3)
    web.run.kill()  # no goodbye: what cannot be known to be gone counts
    web.start().ready()  # as itself: a set in its folder
    wait_for("its word", lambda: web.status()["acknowledged_generation"] == 3)
    assert web.status()["leaf"]["generation"] == 1 and evidence(b, pb).used_generation == 1
    wait_for("held still", lambda: world.is_condition("Held", "True", "Leaves"))
    assert world.generation("meshroot-ca", OWN) == 3 and (a.issued(), b.issued()) == (1, 0)
    assert web.run.stop() == 0  # a goodbye, to B; the row is A's
    wait_for("narrowed", lambda: world.is_at_rest("meshroot-ca", OWN) and world.generation("meshroot-ca", OWN) == 4)
    assert evidence(a, pb).leaves == 1, "the row has not ended"
    assert evidence(b, pb).ended_generation == 1
    assert "CN=Root A" not in world.status()["root"]
