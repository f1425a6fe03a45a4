"""A vault that misbehaves as it is told to: an https server whose every answer the test chooses."""
import http.server
import json
import socket
import ssl
import threading

from conftest import openssl


def secret_body(base, name, value):
    return json.dumps({"value": value, "id": f"{base}/secrets/{name}/{'0' * 32}",
                       "attributes": {"enabled": True, "created": 1700000000, "updated": 1700000000}}).encode()


class HostileVault:
    """answer: a function of the handler; `seen` holds (method, path, Authorization) of each request."""

    def __init__(self, tmp):
        self.tmp = tmp
        self.seen = []
        self.open = set()  # connections: those that are kept alive end with the server
        self.answer = None
        self.released = threading.Event()  # ends answers that hang
        key, cert = tmp / "hostile-key.pem", tmp / "hostile-cert.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert)
        self.ca_file = cert
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                outer.open.add(self.request)
                self.request.do_handshake()
                super().setup()

            def finish(self):
                outer.open.discard(self.request)
                super().finish()

            def serve(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.seen.append((self.command, self.path, self.headers.get("authorization")))
                outer.answer(self)

            do_GET = do_PUT = do_POST = do_PATCH = serve

            def reply(self, status, body=b"", kind="application/json", **headers):
                self.send_response(status)
                for name, value in {"content-type": kind, "content-length": len(body), **headers}.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass  # clients that hang up are what this is for

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.thread.join(60)
