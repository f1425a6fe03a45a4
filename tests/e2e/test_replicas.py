"""Two replicas of the CA behind one address: rolling restarts and ages of connections under load lose no call; probes tell the truth."""
import http.client
import itertools
import json
import signal
import socket
import threading
import time

import grpc
import pytest
from cryptography import x509

from conftest import lasting_port, meshroot, openssl, wait_for
from test_agent import Agent
from test_ca import CREATE, ISSUER, Ca, Issuer, make_csr, pb, plugged  # noqa: F401

HEALTH = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class Replica(Ca):
    """One pod of the StatefulSet: its own state, the set and the issuer of all."""

    def __init__(self, tmp, daemon, pb, name, issuer, *flags):  # noqa: F811
        self.tmp, self.pb, self.name, self.issuer, self.start_daemon, self.flags = tmp, pb, name, issuer, daemon, flags
        self.state, self.dir, self.listen = tmp / name, tmp / "cacerts", f"127.0.0.1:{lasting_port()}"
        self.run()

    def run(self):
        ports = self.tmp / f"{self.name}.ports"
        self.daemon = self.start_daemon("ca", "serve", "--ca-dir", self.dir, "--state-dir", self.state, "--listen", self.listen, "--monitoring",
                                        "127.0.0.1:0", "--issuer", f"{ISSUER}={self.tmp}/jwks.json", "--reread-interval", "100ms", "--replica",
                                        self.name, "--port-file", ports, *self.flags, port_file=ports)
        self.ports = self.daemon.ports()


def is_ready(replica):
    try:
        return replica.is_ready()
    except http.client.HTTPException:
        return False  # it ended in the middle of its answer


class Service(threading.Thread):
    """What a Service is to its clients: each new connection goes to one of the pods that are ready, as their probes say (every
    100 ms, one failure is enough); a connection stays where it is until one side ends it."""

    def __init__(self, replicas):
        super().__init__(daemon=True)
        self.replicas, self.ready, self.turn, self.made, self.over = replicas, [], itertools.count(), {}, False
        self.begun, self.lock = 0, threading.Lock()  # connections on the way to a pod
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.probe, daemon=True).start()
        self.start()

    def probe(self):
        while not self.over:
            self.ready = [r for r in self.replicas if is_ready(r)]
            time.sleep(0.1)  # the probe's period

    def run(self):
        while not self.over:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.begin, args=(client,), daemon=True).start()

    def begin(self, client):
        with self.lock:
            self.begun += 1
        try:
            self.connect(client)
        finally:
            with self.lock:
                self.begun -= 1

    def has_left(self, replica):
        """Nobody is sent there any more, nor on the way there."""
        return replica not in self.ready and self.begun == 0

    def choose(self, ready):
        return ready[next(self.turn) % len(ready)]

    def connect(self, client):
        ready = self.ready
        if not ready:
            client.close()
            return
        to = self.choose(ready)
        self.made[to.name] = self.made.get(to.name, 0) + 1
        try:
            pod = socket.create_connection((to.ip, to.ports["ca"]), 60)
            pod.settimeout(None)
        except OSError:
            client.close()
            return
        for a, b in ((client, pod), (pod, client)):
            threading.Thread(target=self.pipe, args=(a, b), daemon=True).start()

    @staticmethod
    def pipe(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            for s in (a, b):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def stop(self):
        self.over = True
        self.listener.close()


class Load:
    """Clients that ask for leaves without a pause, each on a channel of its own; what their applications see."""

    def __init__(self, service, roots, csr, token, answer, n=4):
        self.service, self.roots, self.csr, self.token, self.answer = service, roots, csr, token, answer
        self.over, self.good, self.failed = False, 0, []
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(n)]
        for t in self.threads:
            t.start()

    def ask(self):
        with grpc.secure_channel(f"127.0.0.1:{self.service.port}", grpc.ssl_channel_credentials(self.roots),
                                 (("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1))) as channel:
            stub = channel.unary_unary(CREATE, request_serializer=lambda m: m.SerializeToString(),
                                       response_deserializer=self.answer.IstioCertificateResponse.FromString)
            while not self.over:
                try:
                    chain = stub(self.answer.IstioCertificateRequest(csr=self.csr), metadata=[("authorization", f"Bearer {self.token}")],
                                 timeout=30).cert_chain
                    assert len(chain) == 3
                    self.good += 1
                except grpc.RpcError as e:
                    self.failed.append(f"{e.code().name}: {e.details()}")

    def more(self, n=50):
        want = self.good + n
        wait_for("more leaves", lambda: self.good >= want)

    def stop(self):
        self.over = True
        for t in self.threads:
            t.join(30)
        return self.failed


@pytest.fixture
def pods(tmp_path, daemon, pb, plugged):  # noqa: F811
    """pods("--flag", ...) -> two replicas that are ready, and the Service in front of them."""
    made = []

    def start(*flags):
        issuer = Issuer()
        (tmp_path / "jwks.json").write_text(issuer.jwks())
        replicas = [Replica(tmp_path, daemon, pb, f"ca-{i}", issuer, *flags) for i in range(2)]
        for r in replicas:
            r.ready()
        service = Service(replicas)
        made.append(service)
        wait_for("both ready", lambda: len(service.ready) == 2)
        return replicas, service

    yield start
    for s in made:
        s.stop()
        for r in s.replicas:
            if r.daemon.process.poll() is None:
                r.daemon.process.send_signal(signal.SIGTERM)  # the fixture daemon's is the second one, which waits for no delay
        for r in s.replicas:
            wait_for("it leaves", lambda: r.daemon.process.poll() is not None or not is_ready(r))


def rolling_restart(replicas, service, load):
    """As a StatefulSet does it: one pod ends, comes again, and is ready, before the next."""
    for r in replicas:
        r.daemon.process.send_signal(signal.SIGTERM)
        wait_for("out of the Service", lambda: service.has_left(r))
        r.daemon.process.send_signal(signal.SIGTERM)  # so long, and no longer, is the drain delay
        assert r.daemon.process.wait(60) == 0
        load.more()
        r.run()
        wait_for("ready again", lambda: r in service.ready)
        load.more()


def agent_at(tmp_path, daemon, replica, name, address, *flags):
    class Of:  # what test_agent's Agent asks of a CA
        ports, issuer, state = {"ca": int(address.rsplit(":", 1)[1])}, replica.issuer, replica.state
    return Agent(tmp_path, daemon, Of, name, "--ca-addr", address, *flags)


def test_a_rolling_restart_under_load_loses_no_call(tmp_path, daemon, pods, pb):  # noqa: F811
    replicas, service = pods("--drain-delay", "5m", "--default-workload-ttl", "20s")
    roots = replicas[0].roots()
    agents = [agent_at(tmp_path, daemon, replicas[0], f"w{i}", f"127.0.0.1:{service.port}") for i in range(3)]
    for a in agents:
        a.ready()
    _, csr = make_csr()
    load = Load(service, roots, csr, replicas[0].issuer.token(), pb[0])
    load.more()
    for _ in range(2):
        rolling_restart(replicas, service, load)
    assert load.stop() == []
    assert load.good > 400
    assert all(service.made[r.name] > 2 for r in replicas)
    for a in agents:
        wait_for("on the stream", lambda: a.status()["ca"]["trust_stream"] == "on the trust stream")
        assert "\terror\t" not in a.run.text(), a.run.text()


def test_connections_age_and_spread(pods, pb):  # noqa: F811
    replicas, service = pods("--max-connection-age", "500ms")
    _, csr = make_csr()
    load = Load(service, replicas[0].roots(), csr, replicas[0].issuer.token(), pb[0], n=2)
    wait_for("many connections, and leaves over those of both", lambda: sum(service.made.values()) >= 10 and all(r.issued() > 0 for r in replicas))
    assert load.stop() == []


def test_an_agent_with_two_addresses_is_at_the_other_at_once(tmp_path, daemon, pods, pb):  # noqa: F811
    replicas, _ = pods()
    both = ",".join(f"127.0.0.1:{r.ports['ca']}" for r in replicas)
    a = agent_at(tmp_path, daemon, replicas[0], "w", both)
    a.ready()

    def at():
        return [r for r in replicas if r.daemon.process.poll() is None and r.metric("meshroot_ca_trust_streams 1")]

    for _ in range(2):
        was = wait_for("on a stream", at)[0]
        other = next(r for r in replicas if r is not was)
        was.daemon.process.send_signal(signal.SIGTERM)  # GOAWAY
        assert was.daemon.process.wait(60) == 0
        wait_for("on the other's", lambda: other.metric("meshroot_ca_trust_streams 1"))
        was.run()
        was.ready()
    was = wait_for("on a stream", at)[0]
    was.daemon.kill()  # no word at all
    other = next(r for r in replicas if r is not was)
    wait_for("on the other's", lambda: other.metric("meshroot_ca_trust_streams 1"))


def health(replica, service=b""):
    with replica.channel() as c:
        return c.unary_unary(HEALTH, request_serializer=bytes, response_deserializer=bytes)(service, timeout=30)


def test_probes_tell_the_truth_before_the_end(pods, pb):  # noqa: F811
    replicas, _ = pods("--drain-delay", "5m")
    r = replicas[0]
    _, csr = make_csr()
    assert health(r) == SERVING
    assert health(r, b"\x0a\x11meshroot.v1.Trust") == SERVING
    with pytest.raises(grpc.RpcError) as e:
        health(r, b"\x0a\x05other")
    assert e.value.code() == grpc.StatusCode.NOT_FOUND
    r.daemon.process.send_signal(signal.SIGTERM)
    wait_for("not ready", lambda: r.get("/readyz")[0] == 503)
    assert "it is stopping" in r.get("/readyz")[1]
    assert r.get("/healthz")[0] == 200
    assert health(r) == NOT_SERVING
    assert r.call(csr, r.issuer.token())[0]  # and goes on serving, new connections too
    r.daemon.process.send_signal(signal.SIGTERM)
    assert r.daemon.process.wait(60) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", r.ports["ca"]), 2)


def test_the_end_is_bounded_and_a_second_signal_does_not_wait(pods, pb):  # noqa: F811
    replicas, _ = pods("--drain-delay", "5m", "--drain-timeout", "300ms")
    r = replicas[0]
    silent = socket.create_connection(("127.0.0.1", r.ports["ca"]), 60)  # a handshake that never comes
    r.daemon.process.send_signal(signal.SIGTERM)
    wait_for("leaving", lambda: r.get("/readyz")[0] == 503)
    r.daemon.process.send_signal(signal.SIGTERM)
    assert r.daemon.process.wait(60) == 0
    silent.close()


# -- what the operator asks a replica for


def operator_token(replica, sa="operator"):
    return [("authorization", f"Bearer {replica.issuer.token(sub=f'system:serviceaccount:ops:{sa}')}")]


def snapshots(replica, pb, token):  # noqa: F811
    """Each whole snapshot: (what is loaded, workloads)."""
    m = pb[1]
    with replica.channel() as c:
        stream = c.unary_stream("/meshroot.v1.Evidence/Watch", request_serializer=lambda q: q.SerializeToString(),
                                response_deserializer=m.EvidencePiece.FromString)(m.EvidenceRequest(), metadata=token, timeout=60)
        loaded, workloads = None, []
        for piece in stream:
            loaded = piece.loaded if piece.HasField("loaded") else loaded
            workloads += piece.workloads
            if piece.last:
                yield loaded, workloads
                workloads = []


def test_evidence_of_two_replicas(tmp_path, daemon, pods, pb):  # noqa: F811
    """The leaf is one replica's, the word another's; whoever is not named is told nothing."""
    replicas, _ = pods("--evidence-reader", "ops/operator")
    a, b = replicas
    address = f"127.0.0.1:{a.ports['ca']}"
    agent = agent_at(tmp_path, daemon, a, "w", f"{address},127.0.0.1:{b.ports['ca']}")
    agent.ready()
    first = next(r for r in replicas if r.issued() == 1)
    second = b if first is a else a
    for r in replicas:
        loaded, _ = next(snapshots(r, pb, operator_token(r)))
        assert loaded.replica == r.name and len(loaded.root_ids) == 1
    w = wait_for("its word", lambda: next((x for x in next(snapshots(first, pb, operator_token(first)))[1] if x.said), None))
    assert w.leaves == 1 and w.used_issued == w.last_issued > 0 and w.ack_generation == w.min_row_generation
    first.daemon.process.send_signal(signal.SIGTERM)
    assert first.daemon.process.wait(60) == 0
    ended = time.time()
    moved = wait_for("its word to the other", lambda: next((x for x in next(snapshots(second, pb, operator_token(second)))[1] if x.said), None))
    assert (moved.identity, moved.instance) == (w.identity, w.instance)
    assert moved.leaves == 0 and moved.said >= w.said and moved.used_issued == 0 and moved.ack_generation == w.ack_generation
    first.run()
    first.ready()
    (_, (kept,)) = next(snapshots(first, pb, operator_token(first)))
    assert kept.leaves == 1 and kept.used_issued == 0  # what it heard before its restart names no leaf for certain
    assert w.said <= kept.said <= ended  # a word is said again on a new stream, perhaps after we had looked
    for token in (operator_token(second, "other"), [("authorization", f"Bearer {second.issuer.token()}")]):
        with pytest.raises(grpc.RpcError) as e:
            next(snapshots(second, pb, token))
        assert e.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as e:
        next(snapshots(second, pb, []))
    assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_certificate_for_istiod(tmp_path, daemon, pods, pb, plugged):  # noqa: F811
    replicas, _ = pods("--serving-account", "ops/operator", "--serving-name", "istiod.istio-system.svc", "--serving-name",
                       "istiod-asm-1-17.istio-system.svc")
    r, m = replicas[0], pb[1]
    key, csr = make_csr()

    def ask(names, token):
        with r.channel() as c:
            return c.unary_unary("/meshroot.v1.Serving/Sign", request_serializer=lambda q: q.SerializeToString(),
                                 response_deserializer=m.ServingAnswer.FromString)(
                m.ServingRequest(csr=csr, names=names, validity_s=3600), metadata=token, timeout=30).cert_chain

    chain = ask(["istiod.istio-system.svc", "istiod-asm-1-17.istio-system.svc"], operator_token(r))
    (tmp_path / "leaf.pem").write_text(chain[0])
    (tmp_path / "chain.pem").write_text("".join(chain[1:-1]))
    (tmp_path / "roots.pem").write_text(chain[-1])
    for name in ("istiod.istio-system.svc", "istiod-asm-1-17.istio-system.svc"):
        openssl("verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name, "-CAfile", tmp_path / "roots.pem", "-untrusted",
                tmp_path / "chain.pem", tmp_path / "leaf.pem")
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    assert leaf.public_key() == key.public_key()
    for names, token in ((["kubernetes.default.svc"], operator_token(r)), (["istiod.istio-system.svc"], operator_token(r, "other"))):
        with pytest.raises(grpc.RpcError) as e:
            ask(names, token)
        assert e.value.code() == grpc.StatusCode.PERMISSION_DENIED
    r.daemon.stop()
    (row,) = [json.loads(x) for x in meshroot("ledger", "export", "--state-dir", r.state).stdout.splitlines()]
    assert int(row["serial"], 16) == leaf.serial_number and row["auth"].startswith("serving:istiod.istio-system.svc jwt:")
    assert row["identity"] == "spiffe://cluster.local/ns/ops/sa/operator"
