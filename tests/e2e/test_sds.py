"""SDS v3 of meshroot agent run, with gRPC's own Python client: every rule of the protocol, over the wire."""
import os
import pathlib
import queue
import sys
import threading

import grpc
import pytest
from grpc_tools import protoc

from conftest import Mesh, meshroot, openssl_intermediate, openssl_root, wait_for
from test_flow import settled, waits_for
from test_workload_api import copies_in_memory, metrics, status

ID = "spiffe://cluster.local/ns/test/sa/"
SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService/"
TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@pytest.fixture(scope="session")
def pb(tmp_path_factory):
    out = tmp_path_factory.mktemp("sds-pb")
    proto = pathlib.Path(__file__).resolve().parents[2] / "proto"
    assert protoc.main(["protoc", f"-I{proto}", f"--python_out={out}", str(proto / "sds.proto")]) == 0
    sys.path.insert(0, str(out))
    import sds_pb2
    return sds_pb2


class Stream:
    """One stream; what comes is collected, what ends it too."""

    def __init__(self, pb, channel, delta=False):
        self.pb, self.delta, self.sent, self.came, self.end = pb, delta, queue.Queue(), queue.Queue(), None
        method = channel.stream_stream(SERVICE + ("DeltaSecrets" if delta else "StreamSecrets"),
                                       request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
                                       response_deserializer=(pb.DeltaDiscoveryResponse if delta else pb.DiscoveryResponse).FromString)
        self.call = method(iter(self.sent.get, None))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for m in self.call:
                self.came.put(m)
        except grpc.RpcError as e:
            self.end = e
        self.came.put(None)

    def ask(self, *names, nonce="", node="envoy-1", error=None, type_url=TYPE):
        q = self.pb.DiscoveryRequest(resource_names=[n.encode() for n in names], response_nonce=nonce.encode(),
                                     type_url=type_url.encode())
        self._send(q, node, error)

    def ask_delta(self, *names, drop=(), versions=None, nonce="", node="envoy-1", error=None):
        q = self.pb.DeltaDiscoveryRequest(resource_names_subscribe=[n.encode() for n in names], type_url=TYPE.encode(),
                                          resource_names_unsubscribe=[n.encode() for n in drop], response_nonce=nonce.encode())
        for k, v in (versions or {}).items():
            q.initial_resource_versions.add(key=k.encode(), value=v.encode())
        self._send(q, node, error)

    def _send(self, q, node, error):
        if node:
            q.node.id = node.encode()
        if error:
            q.error_detail.code, q.error_detail.message = 13, error.encode()
        self.sent.put(q)

    def take(self, seconds=60):
        m = self.came.get(timeout=seconds)
        assert m is not None, self.end
        return m

    def names(self, m):
        return {r.value.name: r.value for r in m.resources} if not self.delta else {r.name: r.resource.value for r in m.resources}

    def silent(self):
        """Nothing more has come."""
        return self.came.empty()

    def ended(self, seconds=60):
        while self.came.get(timeout=seconds) is not None:
            pass
        return self.end


class World:
    def __init__(self, tmp, daemon, pb, *flags):
        self.tmp, self.pb = tmp, pb
        self.root = openssl_root(tmp / "ra", "Root A", "p256")
        self.mesh = Mesh(tmp, daemon)
        self.mesh.set_all(openssl_intermediate(tmp / "a1", self.root, "Intermediate A1", "p256"))
        self.mesh.enable()
        self.socket = tmp / "web.sock"
        own = flags or ("--sds", "--sds-grace", "0", "--sds-ack-timeout", "10m")  # the test may be slow to acknowledge
        self.agent = self.mesh.agent("web", "--workload-socket", self.socket, *own)
        wait_for("on A1", lambda: settled(self.mesh, "Intermediate A1", 1))
        self.channel = grpc.insecure_channel(f"unix://{self.socket}")

    def stream(self, delta=False):
        return Stream(self.pb, self.channel, delta)

    def sds(self):
        return status(self.agent)["workload_api"]["sds"]

    def said(self, api, word):
        for line in metrics(self.agent).splitlines():
            if line.startswith(f'meshroot_agent_sds_requests_total{{api="{api}",said="{word}"}}'):
                return int(line.split()[-1])
        return 0

    def rotate(self, name, subject, root=None):
        self.mesh.set_all(openssl_intermediate(self.tmp / name, root or self.root, subject, "p256"))


@pytest.fixture
def world(tmp_path, daemon, pb):
    w = World(tmp_path, daemon, pb)
    yield w
    w.channel.close()


def file(world, name):
    return (world.tmp / "web" / name).read_bytes()


def test_state_of_the_world(world):
    s = world.stream()
    s.ask("default", "ROOTCA", "kubernetes://other")
    first = s.take()
    got = s.names(first)
    assert sorted(got) == ["ROOTCA", "default"], "a name that is not ours is not answered"
    assert got["default"].tls_certificate.certificate_chain.inline_bytes == file(world, "cert-chain.pem")
    assert got["default"].tls_certificate.private_key.inline_bytes == file(world, "key.pem")
    assert got["ROOTCA"].validation_context.trusted_ca.inline_bytes == file(world, "root-cert.pem")
    assert first.type_url == TYPE and first.version_info and {r.type_url for r in first.resources} == {TYPE}
    s.ask("default", "ROOTCA", nonce=first.nonce)  # accepted: silent
    s.ask("default", "ROOTCA", ID + "web", nonce=first.nonce)  # added: only that
    second = s.take()
    assert list(s.names(second)) == [ID + "web"] and second.nonce != first.nonce
    s.ask("default", nonce=first.nonce)  # stale: ignored
    s.ask("default", nonce=second.nonce)  # two names less, accepted: silent
    wait_for("said", lambda: world.said("sotw", "acknowledged") == 3)
    assert world.said("sotw", "stale") == 1 and world.said("sotw", "asked") == 1 and s.silent()
    one = world.sds()["streams"][0]
    assert one["names"] == ["default"] and one["state"] == "acknowledged" and one["node"] == "envoy-1"
    world.rotate("a2", "Intermediate A2")
    pushed = s.take()
    assert list(s.names(pushed)) == ["default"] and pushed.version_info != first.version_info
    s.ask("default", nonce=pushed.nonce)
    wait_for("settled on A2", lambda: settled(world.mesh, "Intermediate A2", 1))
    assert s.names(pushed)["default"].tls_certificate.private_key.inline_bytes == file(world, "key.pem")
    s.ask(nonce=pushed.nonce)  # no names: it leaves
    wait_for("left", lambda: world.said("sotw", "left") == 1)
    world.rotate("a3", "Intermediate A3")
    wait_for("settled on A3 without it", lambda: settled(world.mesh, "Intermediate A3", 1))
    assert s.silent() and "kubernetes://other" in world.agent.text()
    assert "meshroot_agent_sds_unknown_names_total 1" in metrics(world.agent)


def test_delta(world):
    s = world.stream(delta=True)
    s.ask_delta("default", "ROOTCA", "nobody")
    first = s.take()
    assert sorted(s.names(first)) == ["ROOTCA", "default"] and list(first.removed_resources) == [b"nobody"]
    versions = {r.name: r.version for r in first.resources}
    s.ask_delta(nonce=first.nonce)
    again = world.stream(delta=True)  # as after a broken connection: it says what it holds
    again.ask_delta("default", "ROOTCA", versions=versions)
    wait_for("both are told to be in use", lambda: [x["state"] for x in world.sds()["streams"]] == ["acknowledged"] * 2)
    assert again.silent()
    other = world.stream(delta=True)
    other.ask_delta("default", "ROOTCA", versions={**versions, "default": "an older one"})
    assert list(other.names(other.take())) == ["default"]
    other.call.cancel()
    again.call.cancel()
    s.ask_delta("ROOTCA", nonce=first.nonce)  # subscribed again: sent again
    m = s.take()
    assert list(s.names(m)) == ["ROOTCA"]
    s.ask_delta(drop=["ROOTCA"], nonce=m.nonce)
    wait_for("one name", lambda: world.sds()["streams"][0]["names"] == ["default"])
    world.rotate("a2", "Intermediate A2")
    pushed = s.take()
    assert list(s.names(pushed)) == ["default"] and pushed.resources[0].version != versions["default"]
    s.ask_delta(nonce=pushed.nonce)
    wait_for("settled on A2", lambda: settled(world.mesh, "Intermediate A2", 1))


@pytest.mark.parametrize("delta", [False, True])
def test_the_word_waits_for_the_acknowledgement(world, delta):
    """A root is added: until Envoy uses it, the CA is not told so, and the rotation is held with this workload's name."""
    s = world.stream(delta)

    def say(m, error=None):
        s.ask_delta(nonce=m.nonce, error=error) if delta else s.ask("default", "ROOTCA", nonce=m.nonce, error=error)

    s.ask_delta("default", "ROOTCA") if delta else s.ask("default", "ROOTCA")
    say(s.take())
    wait_for("settled", lambda: world.sds()["settled"])
    rb = openssl_root(world.tmp / "rb", "Root B", "p256")
    world.rotate("b1", "Intermediate B1", rb)
    widened = s.take()
    assert s.names(widened)["ROOTCA"].validation_context.trusted_ca.inline_bytes.count(b"BEGIN") == 2
    wait_for("the move is held, for it", lambda: waits_for(world.mesh) == [ID + "web"])
    wait_for("why", lambda: "has not acknowledged what it was sent" in (status(world.agent)["word_waits_for"] or ""))
    say(widened, error="Failed to load trusted CA certificates from <inline>")
    why = wait_for("refused", lambda: (t := status(world.agent)["word_waits_for"]) and "refused" in t and t)
    assert why == "SDS client envoy-1 refused what it was sent: Failed to load trusted CA certificates from <inline>"
    assert world.said("delta" if delta else "sotw", "refused") == 1 and "is not acknowledged to the CA: Failed to load" in world.agent.text()
    assert world.mesh.status()["rotation"]["held"] and world.sds()["last_refusal"].startswith("envoy-1: Failed to load")
    s.call.cancel()  # Envoy is replaced by one that takes it
    t = world.stream(delta)
    t.ask_delta("default", "ROOTCA", node="envoy-2") if delta else t.ask("default", "ROOTCA", node="envoy-2")

    def go_on():
        """Takes all that comes, until root A has gone."""
        while not t.came.empty():
            m = t.take()
            t.ask_delta(nonce=m.nonce) if delta else t.ask("default", "ROOTCA", nonce=m.nonce)
        st = settled(world.mesh, "Intermediate B1", 1)
        return st and len(st["ca"]["roots"]) == 1 and status(world.agent)["word_waits_for"] is None

    wait_for("on B1, root A gone, all said", go_on)


def test_a_client_that_went_away_is_waited_for(tmp_path, daemon, pb):
    w = World(tmp_path, daemon, pb, "--sds", "--sds-grace", "1h")
    s = w.stream()
    s.ask("ROOTCA")
    s.ask("ROOTCA", nonce=s.take().nonce)
    wait_for("settled", lambda: w.sds()["settled"])
    s.call.cancel()
    wait_for("gone", lambda: not w.sds()["streams"])
    assert w.sds()["waits_for_return"] and not w.sds()["settled"]
    assert status(w.agent)["word_waits_for"] is None, "nothing is due"
    w.rotate("b1", "Intermediate B1", openssl_root(tmp_path / "rb", "Root B", "p256"))
    wait_for("held", lambda: w.mesh.status()["rotation"]["held"])
    wait_for("why", lambda: status(w.agent)["word_waits_for"] == "an SDS client that went away may come back")
    w.channel.close()


def test_a_client_that_says_nothing_is_cut_off(tmp_path, daemon, pb):
    w = World(tmp_path, daemon, pb, "--sds", "--sds-ack-timeout", "300ms", "--sds-grace", "0")

    def acknowledged():
        """A client that answers in time: we may be slower than that ourselves."""
        other = w.stream()
        other.ask("ROOTCA")
        other.ask("ROOTCA", nonce=other.take().nonce)
        wait_for("what became of it", lambda: other.end or [x["state"] for x in w.sds()["streams"]] == ["acknowledged"])
        return not other.end
    wait_for("one that answers", acknowledged)
    s = w.stream()
    s.ask("default", node="silent")
    assert s.names(s.take())
    assert code(s, grpc.StatusCode.UNAVAILABLE) == "what was sent has not been acknowledged in time"
    wait_for("settled without it", lambda: w.sds()["settled"])
    assert [x["node"] for x in w.sds()["streams"]] == ["envoy-1"]
    assert 'meshroot_agent_sds_ended_total{code="UNAVAILABLE"} ' in metrics(w.agent) and "node=silent" in w.agent.text()
    w.channel.close()


def test_streams_are_bounded(world):
    channels = [grpc.insecure_channel(f"unix://{world.socket}", options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(3)]
    streams = [Stream(world.pb, channels[i % 3]) for i in range(256)]
    for s in streams:
        s.ask("ROOTCA")
    for s in streams:
        s.ask("ROOTCA", nonce=s.take().nonce)
    one_more = Stream(world.pb, channels[0])
    one_more.ask("ROOTCA")
    assert code(one_more, grpc.StatusCode.RESOURCE_EXHAUSTED) == "too many streams are under way"
    streams[0].call.cancel()
    wait_for("a place", lambda: len(world.sds()["streams"]) == 255)
    again = Stream(world.pb, channels[0])
    again.ask("ROOTCA")
    again.take()
    for c in channels:
        c.close()


def code(s, want):
    e = s.ended()
    assert e is not None and e.code() == want, e
    return e.details()


def test_what_is_refused(world):
    C = grpc.StatusCode
    s = world.stream()
    s.ask("default", node="")
    assert code(s, C.INVALID_ARGUMENT) == "missing node information"
    s = world.stream()
    s.ask("default", type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster")
    assert "is not what is served here" in code(s, C.INVALID_ARGUMENT)
    s = world.stream()
    s.sent.put(b"\xff\xff\xff")
    assert "not a DiscoveryRequest" in code(s, C.INVALID_ARGUMENT)
    s = world.stream(delta=True)
    s.ask_delta(*(f"n{i}" for i in range(17)))
    assert "17 names in one request; 16 are possible" in code(s, C.RESOURCE_EXHAUSTED)
    s = world.stream()
    s.sent.put(b"\x22" + b"\xff\xff\x7f" + bytes((1 << 21) - 1))
    assert "larger than max" in code(s, C.RESOURCE_EXHAUSTED)
    s = world.stream()

    def ask_on():
        """A burst more: so many come back each second that a slow client needs several."""
        for _ in range(400):
            s.ask("default")
        return s.end

    wait_for("cut off", ask_on)
    assert code(s, C.RESOURCE_EXHAUSTED) == "too many requests on one stream"
    s = world.stream()
    s.sent.put(b"\x40\x00" * 400000)  # fields that we do not know cost memory to skip
    assert "too big" in code(s, C.INVALID_ARGUMENT)
    assert world.sds()["streams"] == [] or wait_for("all gone", lambda: world.sds()["streams"] == [])


def test_a_stream_that_is_half_closed_is_not_waited_for(tmp_path, daemon, pb):
    w = World(tmp_path, daemon, pb, "--sds", "--sds-grace", "1h")
    s = w.stream()
    s.ask("default")
    s.take()
    s.sent.put(None)  # no more requests
    assert s.ended() is None
    wait_for("gone", lambda: not w.sds()["streams"])
    assert w.sds()["settled"]
    w.channel.close()


def test_fetch_once(world, pb):
    fetch = world.channel.unary_unary(SERVICE + "FetchSecrets", request_serializer=pb.DiscoveryRequest.SerializeToString,
                                      response_deserializer=pb.DiscoveryResponse.FromString)
    q = pb.DiscoveryRequest(resource_names=[b"spiffe://cluster.local"], type_url=TYPE.encode(), node=pb.Node(id=b"x"))
    got = fetch(q, timeout=30)
    assert [r.value.name for r in got.resources] == ["spiffe://cluster.local"]
    assert got.resources[0].value.validation_context.trusted_ca.inline_bytes == file(world, "root-cert.pem")
    q.resource_names.append(b"other")
    with pytest.raises(grpc.RpcError) as e:
        fetch(q, timeout=30)
    assert e.value.code() == grpc.StatusCode.NOT_FOUND and '"other"' in e.value.details()


def test_a_key_that_was_sent_is_wiped_from_the_buffers(world):
    key = file(world, "key.pem")
    for _ in range(3):
        s = world.stream()
        s.ask("default")
        assert s.names(s.take())["default"].tls_certificate.private_key.inline_bytes == key
        s.call.cancel()
        wait_for("wiped", lambda: copies_in_memory(world.agent.process.pid, key[28:120]) == 0)  # the client may be ahead of the agent


def test_without_the_flag_there_is_no_sds(tmp_path, daemon, pb):
    w = World(tmp_path, daemon, pb, "--workload-allow-uid", "0")
    s = w.stream()
    s.ask("default")
    assert "unknown service envoy.service.secret.v3" in code(s, grpc.StatusCode.UNIMPLEMENTED)
    w.channel.close()


def test_who_is_not_allowed_gets_nothing(tmp_path, daemon, pb):
    w = World(tmp_path, daemon, pb, "--sds", "--workload-allow-uid", str(os.geteuid() + 4242))
    s = w.stream()
    s.ask("default")
    assert f"uid {os.geteuid()} may not use this agent" in code(s, grpc.StatusCode.PERMISSION_DENIED)
    assert w.sds()["streams"] == [] and status(w.agent)["workload_api"]["refused"] == 1
    w.channel.close()


def test_before_the_first_certificate_it_waits_and_is_then_answered(tmp_path, daemon, pb):
    mesh, root = Mesh(tmp_path, daemon), openssl_root(tmp_path / "ra", "Root A", "p256")
    mesh.set_all(openssl_intermediate(tmp_path / "a1", root, "Intermediate A1", "p256"))
    mesh.enable()
    socket, ports, trust = tmp_path / "web.sock", tmp_path / "web.ports", tmp_path / "trust.pem"
    agent = daemon("agent", "run", "--dir", tmp_path / "web", "--identity", ID + "web", "--ca-addr", f"127.0.0.1:{mesh.ca_port()}",
                   "--ca-root-cert", trust, "--token-file", mesh.token("web"), "--monitoring", "127.0.0.1:0", "--port-file", ports,
                   "--workload-socket", socket, "--sds", port_file=ports)
    agent.ports()
    channel = grpc.insecure_channel(f"unix://{socket}")
    s = Stream(pb, channel)
    s.ask("default", "ROOTCA")
    wait_for("it is there", lambda: status(agent)["workload_api"]["sds"]["streams"])
    assert s.silent()
    trust.write_text((root / "root-cert.pem").read_text())
    assert sorted(s.names(s.take())) == ["ROOTCA", "default"]
    channel.close()


def test_sds_needs_the_socket(tmp_path):
    done = meshroot("agent", "run", "--dir", tmp_path / "d", "--identity", ID + "web", "--ca-root-cert", "/none", "--monitoring",
                    "off", "--sds", check=False)
    assert done.returncode == 2 and "--sds without --workload-socket" in done.stderr
