"""ask.py <QUESTIONS: run where the cluster is, asks what a thief of keys would. QUESTIONS is JSON, {name: question}; a question shows `key` and `chain`
to `address`, whose roots are `roots`, and has either `request` (CreateCertificate of the CA with the name `host`; base64) or `line` (a sidecar's
port). It prints {name: [what came of it, the answer]}: OK, the status of gRPC, or what TLS says."""
import base64
import json
import socket
import ssl
import sys
import tempfile

import grpc

CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
PATIENCE = 60


def certificate(q):
    credentials = grpc.ssl_channel_credentials(q["roots"].encode(), q["key"].encode(), q["chain"].encode())
    own = (("grpc.ssl_target_name_override", q["host"]), ("grpc.use_local_subchannel_pool", 1))
    with grpc.secure_channel(q["address"], credentials, own) as channel:
        try:
            answer = channel.unary_unary(CREATE)(base64.b64decode(q["request"]), timeout=PATIENCE, wait_for_ready=True)
        except grpc.RpcError as e:
            return e.code().name, e.details()
    return "OK", base64.b64encode(answer).decode()


def line(q):
    context = ssl.create_default_context(cadata=q["roots"])
    context.check_hostname = False  # a SPIFFE id has no host
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(q["key"] + q["chain"])
        file.flush()
        context.load_cert_chain(file.name)
    host, port = q["address"].rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), PATIENCE) as tcp, context.wrap_socket(tcp) as tls:
            tls.sendall(q["line"].encode() + b"\n")
            answer = tls.makefile().readline()  # a refusal of our certificate comes here: the handshake is over on our side
    except OSError as e:
        return getattr(e, "reason", None) or type(e).__name__, str(e)
    return ("OK" if answer == q["line"] + "\n" else "CLOSED"), answer


if __name__ == "__main__":
    print(json.dumps({name: line(q) if "line" in q else certificate(q) for name, q in json.load(sys.stdin).items()}))
