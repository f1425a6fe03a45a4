"""A small https server that a test scripts: an issuer of tokens, or the Kubernetes API. Not a product: it answers what it is told to."""
import http.server
import json
import ssl
import threading

from conftest import lasting_port, openssl


def server_cert(folder, name="peer"):
    """A root and a certificate for 127.0.0.1 and localhost under it."""
    folder.mkdir(parents=True, exist_ok=True)
    key, pem, root_key, root = (folder / f"{name}{x}" for x in ("-key.pem", ".pem", "-root-key.pem", "-root.pem"))
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", root_key, "-out", root,
            "-subj", f"/CN={name} root", "-days", "30", "-addext", "keyUsage=critical,keyCertSign")
    csr, ext = folder / f"{name}.csr", folder / f"{name}.ext"
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", csr, "-subj",
            f"/CN={name}")
    ext.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("x509", "-req", "-in", csr, "-CA", root, "-CAkey", root_key, "-CAcreateserial", "-days", "30", "-extfile", ext, "-out", pem)
    return root, pem, key


class HttpsPeer:
    """answer(method, path, headers, body) -> (status, headers, object or bytes); every request is in .seen as (method, path, headers)."""

    def __init__(self, folder, answer, name="peer", client_root=None):
        self.root, self.pem, self.key = server_cert(folder, name)
        self.answer, self.seen, self.client_root, self.port, self.server = answer, [], client_root, lasting_port(), None
        self.start()

    def start(self):
        peer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def one(self):
                if peer.server is not self.server:  # stopped: open connections end too
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                peer.seen.append((self.command, self.path, dict((k.lower(), v) for k, v in self.headers.items())))
                status, headers, out = peer.answer(self.command, self.path, peer.seen[-1][2], body)
                out = out if isinstance(out, bytes) else json.dumps(out).encode()
                self.send_response(status)
                for k, v in {"content-type": "application/json", **headers, "content-length": str(len(out))}.items():
                    self.send_header(k, v)
                self.end_headers()
                try:
                    self.wfile.write(out)
                except OSError:
                    pass  # who asked has gone

            do_GET = do_POST = do_PUT = one

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem, self.key)
        if self.client_root:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.client_root)
        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        """Nobody answers at that port any more, until start()."""
        server, self.server = self.server, None
        if server:
            server.shutdown()
            server.server_close()
