#!/usr/bin/env python3
"""dns.py SERVER PKI ADDRESS: the cluster's DNS, in small: A records of Services (NAME.NAMESPACE.svc.cluster.local), and of the pods behind
a headless one, from the API server itself. Anything else is NXDOMAIN: nothing leaves the machine."""
import json
import socket
import ssl
import struct
import sys
import time
import urllib.request

SUFFIX = ".svc.cluster.local"
FRESH = 0.5  # seconds that an answer of the API server is believed
A, IN = 1, 1


class Names:
    def __init__(self, server, pki):
        self.server, self.at, self.known = server, 0.0, {}
        self.tls = ssl.create_default_context(cafile=f"{pki}/ca.crt")
        self.tls.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")

    def _get(self, path):
        with urllib.request.urlopen(self.server + path, context=self.tls, timeout=2) as answer:
            return json.load(answer)["items"]

    def _read(self):
        known, headless = {}, set()
        for s in self._get("/api/v1/services"):
            name = f"{s['metadata']['name']}.{s['metadata']['namespace']}{SUFFIX}"
            address = s["spec"].get("clusterIP", "None")
            known[name] = [] if address == "None" else [address]
            if address == "None":
                headless.add(name)
        for part in self._get("/apis/discovery.k8s.io/v1/endpointslices"):
            name = f"{part['metadata'].get('labels', {}).get('kubernetes.io/service-name')}.{part['metadata']['namespace']}{SUFFIX}"
            for endpoint in (part.get("endpoints") or []) if name in headless else []:
                known[name] += endpoint["addresses"]
                if "hostname" in endpoint:
                    known[f"{endpoint['hostname']}.{name}"] = endpoint["addresses"]
        return known

    def addresses(self, name):
        """A list, or None when there is no such name."""
        if time.monotonic() - self.at > FRESH:
            try:
                self.known = self._read()
                self.at = time.monotonic()
            except OSError as e:
                print(f"dns: {e}", file=sys.stderr, flush=True)  # what was known goes on being said
        return self.known.get(name)


def question(packet):
    """(name, type, end of the question)"""
    at, labels = 12, []
    while packet[at]:
        labels.append(packet[at + 1:at + 1 + packet[at]].decode("ascii", "replace").lower())
        at += 1 + packet[at]
    return ".".join(labels), struct.unpack(">H", packet[at + 1:at + 3])[0], at + 5


def answer(names, packet):
    name, kind, end = question(packet)
    found = names.addresses(name)
    records = [socket.inet_aton(a) for a in found or []] if kind == A else []
    code = 3 if found is None else 0
    head = packet[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(records), 0, 0)
    return head + packet[12:end] + b"".join(struct.pack(">HHHIH", 0xC00C, A, IN, 1, 4) + r for r in records)


def main():
    names = Names(sys.argv[1], sys.argv[2])
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((sys.argv[3], 53))
    while True:
        packet, peer = sock.recvfrom(512)
        try:
            sock.sendto(answer(names, packet), peer)
        except (IndexError, struct.error):
            pass  # not a question


if __name__ == "__main__":
    main()
