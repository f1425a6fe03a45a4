"""What HTTP/2 lets a stranger do to the CA's port, while a good client goes on getting leaves. Every limit here has its unit test
with a clock of its own (test_grpc.c, test_grpc_slow.c); these are the same attacks over TLS on a running `meshroot ca serve`.
Source: specs/peers.md 5a (19, 20), 5c (42, 43); CVE-2023-44487, CVE-2024-28182, CVE-2019-9512..9518; docs/limits.md."""
import itertools
import socket
import ssl
import struct
import threading
import time

import pytest

from conftest import wait_for
from test_ca import CREATE, ca, make_csr, pb, plugged  # noqa: F401 (fixtures)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CALM = 11


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def number(n, bits, first=0):
    """RFC 7541 5.1."""
    most = (1 << bits) - 1
    if n < most:
        return bytes((first | n,))
    out, n = bytearray((first | most,)), n - most
    while n >= 128:
        out.append(n % 128 | 128)
        n //= 128
    return bytes(out + bytes((n,)))


def literal(name, value, indexed=False):
    return (b"\x40" if indexed else b"\x00") + number(len(name), 7) + name + number(len(value), 7) + value


def head(path=CREATE, method="POST", more=()):
    fields = [(":method", method), (":scheme", "https"), (":path", path), (":authority", "localhost"),
              ("content-type", "application/grpc"), ("te", "trailers"), *more]
    return b"".join(literal(k.encode(), v.encode()) for k, v in fields)


class Raw:
    """A TLS connection that says what it is told to."""

    def __init__(self, ca, alpn="h2", preface=PREFACE + frame(SETTINGS), version=None):
        context = ssl._create_unverified_context()
        if alpn:
            context.set_alpn_protocols([alpn])
        if version:
            context.minimum_version = context.maximum_version = version
        self.s = context.wrap_socket(socket.create_connection(("127.0.0.1", ca.ports["ca"]), timeout=30))
        self.got = b""
        if preface:
            self.say(preface)

    def say(self, data):
        """False once the other side has ended the connection."""
        try:
            self.s.sendall(data)
            return True
        except OSError:
            return False

    def read(self, until=None):
        """Reads until `until(frames)` is true, or the end."""
        try:
            while until is None or not until(self.frames()):
                part = self.s.recv(65536)
                if not part:
                    return False
                self.got += part
            return True
        except (ConnectionError, ssl.SSLError):
            return False

    def frames(self):
        at, out = 0, []
        while at + 9 <= len(self.got):
            n = int.from_bytes(self.got[at:at + 3], "big")
            out.append((self.got[at + 3], int.from_bytes(self.got[at + 5:at + 9], "big"), self.got[at + 9:at + 9 + n]))
            at += 9 + n
        return out

    def close(self):
        self.s.close()

    def ended_calmly(self):
        """The server said ENHANCE_YOUR_CALM, or has cut the connection already."""
        self.read()
        return [p[4:8] for k, _, p in self.frames() if k == GOAWAY] in ([], [struct.pack(">I", CALM)])


class GoodClient:
    """Asks for leaves all the time, on one connection, until it is told to stop."""

    def __init__(self, ca):
        self.ca, self.errors, self.n, self.over = ca, [], 0, threading.Event()
        self.csr, self.token = make_csr()[1], ca.issuer.token()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with self.ca.channel() as channel:
            while not self.over.is_set():
                try:
                    self.ca.call(self.csr, self.token, channel=channel)
                    self.n += 1
                except Exception as e:  # noqa: BLE001 (whatever it is, the test names it)
                    self.errors.append(e)

    def __enter__(self):
        self.thread.start()
        wait_for("a first leaf", lambda: self.n or self.errors)
        return self

    def __exit__(self, *why):
        n = self.n
        if why[0] is None:
            wait_for("another leaf after the attack", lambda: self.n > n or self.errors)
        self.over.set()
        self.thread.join(30)
        assert not self.errors, self.errors[0]


@pytest.fixture
def good(ca):  # noqa: F811
    with GoodClient(ca) as g:
        yield g


def cut(ca, reason):  # noqa: F811
    prefix = f'meshroot_grpc_connections_cut_total{{listener="ca",reason="{reason}"}} '
    return sum(int(float(x[len(prefix):])) for x in ca.get("/metrics")[1].splitlines() if x.startswith(prefix))


FLOOD = 20_000  # in one go: above every burst. Who says them slower than H2_IDLE_FRAMES_PER_S floods nobody
FLOODS = {
    "rapid reset": lambda i: frame(HEADERS, END_HEADERS, 2 * i + 1, head()) + frame(RST, 0, 2 * i + 1, b"\0\0\0\x08"),
    "rapid reset of what is refused": lambda i: frame(HEADERS, END_HEADERS, 2 * i + 1, head("/no/such")) + frame(
        RST, 0, 2 * i + 1, b"\0\0\0\x08"),
    "made you reset": lambda i: frame(HEADERS, END_HEADERS, 2 * i + 1, head()) + frame(WINDOW, 0, 2 * i + 1, b"\0\0\0\0"),
    "ping": lambda i: frame(PING, 0, 0, b"12345678"),
    "settings": lambda i: frame(SETTINGS, 0, 0, b"\0\4\0\1\0\0"),
    "priority": lambda i: frame(2, 0, 1, b"\0\0\0\0\0"),
    "window update": lambda i: frame(WINDOW, 0, 0, b"\0\0\0\1"),
    "unknown type": lambda i: frame(0xbe, 0, 0, b"grease"),
    "empty data": lambda i: (frame(HEADERS, END_HEADERS, 1, head()) if i == 0 else b"") + frame(DATA, 0, 1),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_its_own_connection(ca, good, flood):  # noqa: F811
    before = cut(ca, "flood") + cut(ca, "protocol")
    raw = Raw(ca)
    end = time.monotonic() + 300  # what the kernel takes says nothing about what the server has read
    for batch in itertools.count():
        if not raw.say(b"".join(FLOODS[flood](FLOOD * batch + i) for i in range(FLOOD))):
            break
        assert time.monotonic() < end, f"{FLOOD * (batch + 1):,} of them were taken"
    raw.close()
    wait_for("the end is counted", lambda: cut(ca, "flood") + cut(ca, "protocol") > before)


def test_continuation_flood_is_cut_at_the_ninth(ca, good):  # noqa: F811
    before = cut(ca, "protocol")
    raw = Raw(ca)
    raw.say(frame(HEADERS, 0, 1, head()))
    while raw.say(frame(CONTINUATION, 0, 1, literal(b"x-more", b"a" * 1000))):
        pass
    assert sum(k == CONTINUATION for k, _, _ in raw.frames()) == 0
    wait_for("it is counted", lambda: cut(ca, "protocol") > before)


def rss_kib(ca):  # noqa: F811
    with open(f"/proc/{ca.daemon.process.pid}/statm") as f:
        return int(f.read().split()[1]) * 4


def test_hpack_bomb_costs_no_memory(ca):  # noqa: F811
    """One 4,000-byte field in the table, then frames of one-byte references to it: 16 KiB that mean 64 MiB. The good client comes
    after it: what a sanitizer keeps of freed memory grows by 80 KiB with each leaf."""
    with GoodClient(ca) as first:
        wait_for("settled", lambda: first.n > 20 or first.errors)
    raw = Raw(ca)
    before = rss_kib(ca)
    raw.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, head() + literal(b"x-bomb", b"b" * 3900, indexed=True)))
    for i in range(50):
        if not raw.say(frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 3, head() + b"\xbe" * 16000)):
            break
    assert raw.read(lambda fs: sum(k == HEADERS for k, _, _ in fs) >= 2), "it goes on answering this connection too"
    assert rss_kib(ca) - before < 8 * 1024
    with GoodClient(ca):
        pass
    raw.close()


def test_header_list_over_the_limit_is_refused_by_itself(ca, good):  # noqa: F811
    raw = Raw(ca)
    block = head(more=[("x-long", "a" * 40000)])
    raw.say(frame(HEADERS, 0, 1, block[:16000]) + frame(CONTINUATION, 0, 1, block[16000:32000]) + frame(
        CONTINUATION, END_HEADERS, 1, block[32000:]))
    raw.say(frame(PING, 0, 0, b"stillyou"))
    assert raw.read(lambda fs: any(k == PING and p == b"stillyou" for k, _, p in fs)), "the connection stays"
    assert any(k == HEADERS for k, _, _ in raw.frames())
    raw.close()


def test_a_frame_over_16_kib_is_an_error(ca, good):  # noqa: F811
    raw = Raw(ca)
    raw.say(struct.pack(">I", 16385)[1:] + bytes((DATA, 0)) + struct.pack(">I", 1) + b"a" * 16385)
    assert not raw.read(lambda fs: False)


def test_more_streams_than_allowed_are_refused(ca, good):  # noqa: F811
    raw = Raw(ca)
    raw.say(b"".join(frame(HEADERS, END_HEADERS, 2 * i + 1, head()) for i in range(200)))
    assert raw.read(lambda fs: sum(k == RST for k, _, _ in fs) >= 72 or any(k == GOAWAY for k, _, _ in fs))
    raw.close()


def test_silent_and_dripping_connections_hold_nobody_up(ca, good):  # noqa: F811
    """Three hundred that stop somewhere, all at once; the good client goes on, and those without a word are cut."""
    before, opening = cut(ca, "drip"), cut(ca, "opening")
    half_hello = [socket.create_connection(("127.0.0.1", ca.ports["ca"]), timeout=30) for _ in range(100)]
    for s in half_hello:
        s.sendall(bytes.fromhex("1603010200010001fc0303"))
    no_preface = [Raw(ca, preface=b"") for _ in range(100)]
    half_head = [Raw(ca) for _ in range(100)]
    for raw in half_head:
        raw.say(frame(HEADERS, 0, 1, head())[:30])
    n = good.n
    wait_for("leaves meanwhile", lambda: good.n > n + 20)
    wait_for("cut, all of them", lambda: cut(ca, "drip") - before >= 200 and cut(ca, "opening") - opening >= 100, 180)  # looked at each 30 s
    for raw in no_preface + half_head:
        raw.close()
    for s in half_hello:
        s.close()


PATHS = ("istio.v1.auth.IstioCertificateService/CreateCertificate", "/" + CREATE, CREATE + "/", CREATE + "?x=1", CREATE + "%00",
         CREATE.replace("/Create", "%2FCreate"), CREATE.lower(), CREATE + ".", CREATE.replace("/Create", "//Create"),
         CREATE.replace("/Create", "/./Create"), "*", "/", "/istio.v1.auth.IstioCertificateService")


def handler_was_reached(ca):  # noqa: F811
    """An empty message is a request without a CSR."""
    return any(x.startswith("grpc_server_handled_total") and "INVALID_ARGUMENT" in x for x in ca.get("/metrics")[1].splitlines())


def answered(raw, stream):
    return raw.read(lambda fs: any(s == stream and k in (HEADERS, RST) for k, s, _ in fs) or any(k == GOAWAY for k, _, _ in fs))


def test_paths_that_are_nearly_right_reach_no_handler(ca, good):  # noqa: F811
    """Row 19: byte for byte, or UNIMPLEMENTED; with a good token in each."""
    raw = Raw(ca)
    auth = [("authorization", f"Bearer {ca.issuer.token()}")]
    body = b"\0\0\0\0\0"
    for i, path in enumerate(PATHS):
        raw.say(frame(HEADERS, END_HEADERS, 2 * i + 1, head(path, more=auth)) + frame(DATA, END_STREAM, 2 * i + 1, body))
        assert answered(raw, 2 * i + 1), path
        if any(k == GOAWAY for k, _, _ in raw.frames()):
            raw = Raw(ca)
    assert not handler_was_reached(ca)
    raw.close()
    raw = Raw(ca)  # a GOAWAY for the last of them may be on its way
    raw.say(frame(HEADERS, END_HEADERS, 99, head(more=auth)) + frame(DATA, END_STREAM, 99, body))
    assert answered(raw, 99) and handler_was_reached(ca), "the right path does reach it"
    raw.close()


@pytest.mark.parametrize("method", ["post", "Post", "GET", "PUT", "PRI", "P OST", "POST\t", "CONNECT"])
def test_methods_that_are_nearly_right_reach_no_handler(ca, good, method):  # noqa: F811
    """Row 20."""
    raw = Raw(ca)
    raw.say(frame(HEADERS, END_HEADERS, 1, head(method=method, more=[("authorization", f"Bearer {ca.issuer.token()}")])) + frame(
        DATA, END_STREAM, 1, b"\0\0\0\0\0"))
    answered(raw, 1)
    assert not handler_was_reached(ca)
    raw.close()


def test_no_upgrade_to_h2c(ca, good):  # noqa: F811
    """Row 43: not on the CA's port with or without TLS, not on the monitoring port."""
    upgrade = (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
               b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n")
    raw = Raw(ca, preface=upgrade)
    raw.read()
    assert b"101" not in raw.got
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Raw(ca, alpn="http/1.1")
    s = socket.create_connection(("127.0.0.1", ca.ports["ca"]), timeout=30)
    s.sendall(upgrade)
    assert b"101" not in s.recv(4096)
    s.close()
    s = socket.create_connection(("127.0.0.1", ca.ports["monitoring"]), timeout=30)
    s.sendall(upgrade)
    assert s.recv(4096).startswith(b"HTTP/1.1 200")
    s.close()
    s = socket.create_connection(("127.0.0.1", ca.ports["monitoring"]), timeout=30)
    s.sendall(PREFACE + frame(SETTINGS))
    assert not s.recv(4096).startswith(b"\0\0")
    s.close()


def test_pings_at_the_pace_of_agents_are_welcome(ca, good):  # noqa: F811
    """specs/istio-ca.md 1.7: a client's PING every 30 s, and anything down to one in 15 s, is never ENHANCE_YOUR_CALM. A hundred at
    once (25 minutes of them) are answered too."""
    raw = Raw(ca)
    for i in range(100):
        raw.say(frame(PING, 0, 0, struct.pack(">Q", i)))
    assert raw.read(lambda fs: sum(k == PING for k, _, _ in fs) == 100)
    assert not any(k == GOAWAY for k, _, _ in raw.frames())
    raw.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(ca, good):  # noqa: F811
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Raw(ca, version=version)
