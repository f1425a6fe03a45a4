"""A CONNECT proxy that maps names to one local port: how unmodified Azure clients reach a local vault (specs/azure.md 0 point 8)."""
import select
import socket
import threading


class ConnectProxy:
    """Tunnels CONNECT host:443 for the given hosts (or their subdomains) to `target`; refuses all else."""

    def __init__(self, target, hosts):
        self.target, self.hosts, self.seen = target, hosts, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = True
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self):
        self._open = False
        self._listener.close()

    def _accept(self):
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                got = client.recv(4096)
                if not got:
                    return
                head += got
            method, where = head.split(b" ", 2)[:2]
            host = where.decode().rsplit(":", 1)[0]
            self.seen.append(host)
            if method != b"CONNECT" or not any(host == h or host.endswith("." + h) for h in self.hosts):
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            try:
                server = socket.create_connection(self.target)
            except OSError:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            for s in (client, server):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._relay(client, server)

    @staticmethod
    def _relay(a, b):
        peer = {a: b, b: a}
        while True:
            for s in select.select([a, b], [], [], 60)[0] or [None]:
                if s is None:
                    return
                try:
                    got = s.recv(65536)
                    if not got:
                        return
                    peer[s].sendall(got)
                except OSError:
                    return
