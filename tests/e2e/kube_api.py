"""A Kubernetes API server for tests: scripted, but faithful in what clients build on. Not a product.

Any kind generically (KINDS, and what a CustomResourceDefinition adds): lists in pages, watches with bookmarks and 410, create, update,
merge patch, apply with owners of fields, delete with preconditions, finalizers and owners, status subresource, dry run, terminating
namespaces; bearer tokens for accounts and a table of who may what; faults on demand (fail, lose, closed watches, stop). Source: Kubernetes API
concepts and conventions; messages as kube-apiserver 1.3x has them.

    api = KubeApi(tmp_path)                          # one account "admin" with the token "own", who may all
    api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {...}, ...})
    api.get("Secret", "ns", "name"); api.delete("Secret", "ns", "name"); api.all("Secret")
    api.accounts["t2"] = "system:serviceaccount:a:b"; api.allow("system:serviceaccount:a:b", ["get"], ["secrets"], ns="a")
    api.fail(429, times=3, method="PATCH", path="/secrets/", retry_after=1); api.lose("POST", "/secrets"); api.compact(); api.stop()
    old = api.backup(); api.restore(old)
    flags("--kubeconfig", api.kubeconfig())

MESHROOT_TEST_API_LATE=SEED:MAX_MS in the environment of the tests: each answer (what was asked for is done by then) and each line of a watch comes late
by a random time up to that, so that they overtake one another; the lines of one watch stay in order. A test must be right under it.
"""
import base64
import copy
import http.server
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
import uuid

from conftest import lasting_port, put_file
from https_peer import server_cert
from kube_world import Refused, Resource, World, selected
import kube_fields

REVIEWS = {"selfsubjectaccessreviews", "tokenreviews"}


class KubeApi(World):
    def __init__(self, folder, name="kube", client_root=None):
        super().__init__()
        self.client_root = client_root    # a client certificate under it is the user of its CN
        self.folder, self.port, self.server, self.sockets = folder, lasting_port(), None, set()
        self.accounts = {"own": "admin"}  # bearer token -> user
        self.rules = {"admin": None}      # user -> None (all), or rows of allow()
        self.reviews = {}                 # TokenReview: token -> status; others: not authenticated
        self.answers = {}                 # path -> function(method, headers, body) -> status, headers, object or bytes: comes first
        self.seen, self.faults = [], []   # (method, path with query, user, status)
        self.watch_s = None               # watches are closed after so many seconds, whatever was asked
        self.bookmark_s = 1.0
        self.mute = None                  # a plural: its watches tell nothing for now
        self.refuses_future = False       # a watch from a version that has not come yet; else it is silent until it has
        seed, _, ms = os.environ.get("MESHROOT_TEST_API_LATE", "0:0").partition(":")
        self.chance, self.late_s = random.Random(int(seed)), int(ms) / 1000
        self.root, self.pem, self.tls_key = server_cert(folder, name)
        self.start()

    # -- who may what, and what goes wrong ----------------------------------------------------------------------------------------------

    def allow(self, user, verbs, resources, ns=None, names=None, group=""):
        """A row of RBAC: `resources` as "pods" or "pods/status"; ns None: the whole cluster."""
        rows = self.rules.setdefault(user, [])
        if rows is not None:
            rows.append((set(verbs), set(resources), ns, names, group))

    def may(self, user, verb, group, resource, ns, name):
        rows = self.rules.get(user, [])
        return rows is None or any(verb in v and resource in r and group == g and n in (None, ns) and (names is None or name in names)
                                   for v, r, n, names, g in rows)

    def fail(self, status, times=1, method=None, path="", message=None, retry_after=None, reason=None):
        """The next requests that fit (path: a part of it) are answered so."""
        self.faults.append({"status": status, "times": times, "method": method, "path": path, "message": message, "retry_after": retry_after,
                            "reason": reason})

    def lose(self, method, path="", times=1):
        """The next request that fits is done, and the connection breaks instead of an answer."""
        self.fail("lost", times, method, path)

    def delay(self, seconds, method=None, path="", times=1):
        """etcd is slow."""
        self.fail(("slow", seconds), times, method, path)

    def fault(self, method, path):
        with self.changed:
            for f in self.faults:
                if f["times"] > 0 and f["method"] in (None, method) and f["path"] in path:
                    f["times"] -= 1
                    return f
        return None

    def count(self, method, part=""):
        return sum(1 for m, p, _, _ in list(self.seen) if m == method and part in p)

    def kubeconfig(self, token="own", name="kubeconfig"):
        """Whole at any time: who was given it before may read it now."""
        path, token_file = self.folder / name, self.folder / f"{name}.token"
        put_file(token_file, token + "\n")
        put_file(path, json.dumps({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                                    "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.root)}}],
                                    "users": [{"name": "u", "user": {"tokenFile": f"{name}.token"}}]}))
        return path

    # -- requests -----------------------------------------------------------------------------------------------------------------------

    def route(self, path):
        """-> resource, namespace, name, subresource."""
        m = re.fullmatch(r"/(?:api/(v1)|apis/([^/]+/[^/]+))(?:/namespaces/([^/]+)(?=/.))?/([^/]+)(?:/([^/]+))?(?:/([^/]+))?", path)
        if not m:
            raise Refused(404, "the server could not find the requested resource")
        api, ns, plural, name, sub = m[1] or m[2], m[3], m[4], m[5], m[6]
        if api == "v1" and ns and plural in ("status", "finalize") and name is None:  # /api/v1/namespaces/NAME/status
            ns, plural, name, sub = None, "namespaces", ns, plural
        if plural in REVIEWS:
            return Resource(api, plural, "", False, False), None, None, None
        r = self.resources.get((api, plural))
        if r is None or (ns and not r.is_namespaced) or sub not in (None, "status") or (sub and not r.has_status):
            raise Refused(404, "the server could not find the requested resource")
        return r, ns, name, sub

    def permit(self, user, verb, r, ns, name, sub):
        resource = f"{r.plural}/{sub}" if sub else r.plural
        if not self.may(user, verb, r.group, resource, ns, name):
            where = f'in the namespace "{ns}"' if ns else "at the cluster scope"
            raise Refused(403, f'{r.title}{f" {json.dumps(name)}" if name else ""} is forbidden: User "{user}" cannot {verb} resource "{resource}" '
                               f'in API group "{r.group}" {where}', details={"name": name, "group": r.group, "kind": r.plural})

    def review(self, user, r, o):
        if r.plural == "tokenreviews":
            said = self.reviews.get(o["spec"]["token"], {"authenticated": False, "error": "invalid bearer token", "user": {}})
            return {**o, "status": said}
        a = o["spec"].get("resourceAttributes", {})
        sub = f"/{a['subresource']}" if a.get("subresource") else ""
        return {**o, "status": {"allowed": self.may(user, a.get("verb"), a.get("group", ""), a.get("resource", "") + sub, a.get("namespace") or None,
                                                    a.get("name"))}}

    def handle(self, server, method, path, q, headers, body, user):
        """-> status, object; a watch: None, a generator of lines. What comes to a server that has stopped changes nothing any more."""
        r, ns, name, sub = self.route(path)
        if r.plural in REVIEWS and method == "POST":
            return 201, self.review(user, r, json.loads(body))
        verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if name else
                "deletecollection"}.get(method)
        if verb == "list" and q.get("watch") in ("1", "true"):
            verb = "watch"
        picked = dict(x.split("=", 1) for x in (q.get("fieldSelector") or "").split(",") if "=" in x).get("metadata.name")
        self.permit(user, verb, r, ns, name or (picked if verb in ("list", "watch") else None), sub)
        if (r.is_namespaced and not ns and verb not in ("list", "watch")) or (verb == "create" and (name or sub)):
            raise Refused(405, "the server does not allow this method on the requested resource")
        if verb == "get":
            with self.changed:
                return 200, copy.deepcopy(self.need(r, ns, name))
        if verb == "list":
            return 200, self.list(r, ns, q)
        if verb == "watch":
            return None, self.watch(r, ns, q)
        try:
            o = json.loads(body) if body else {}
        except ValueError:
            raise Refused(400, "the object provided is unrecognized (must be of type Object)") from None
        kind = headers.get("content-type", "").split(";")[0]
        if verb in ("create", "update") and (o.get("kind"), o.get("apiVersion")) != (r.kind, r.api):
            raise Refused(400, f'{o.get("kind")} in version "{o.get("apiVersion")}" cannot be handled as a {r.kind}')
        manager, dry, status = q.get("fieldManager") or "unknown", q.get("dryRun") == "All", 200
        with self.changed:
            if self.server is not server:
                raise Refused(503, "apiserver is shutting down")
            if verb == "create":
                out, done = self.create(r, ns, o, manager, dry)
                status = 201
            elif verb == "update":
                out, done = self.replace(r, ns, name, sub, o, manager, dry)
            elif verb == "patch":
                out, done, status = self.patch(r, ns, name, sub, o, kind, q.get("fieldManager"), q.get("force") == "true", dry)
            elif verb == "delete":
                out, done = self.remove(r, ns, name, o, dry)
            else:
                out, done = {"kind": f"{r.kind}List", "apiVersion": r.api, "metadata": {}, "items": []}, []
                for x in self.chosen(r, ns, q):
                    done += self.remove(r, x["metadata"].get("namespace"), x["metadata"]["name"], o, dry)[1]
            out = copy.deepcopy(out)
        self.tell(done)
        return status, out

    def matches(self, q, o):
        if o is None:
            return False
        labels = o["metadata"].get("labels") or {}
        return selected(q.get("labelSelector"), labels.get) and \
            selected(q.get("fieldSelector"), lambda path: kube_fields.find(o, tuple(path.split("."))))

    def chosen(self, r, ns, q):
        return [o for k, o in sorted(self.objects.items(), key=lambda x: (x[0][2] or "", x[0][3]))
                if k[:2] == (r.group, r.plural) and ns in (None, k[2]) and self.matches(q, o)]

    def list(self, r, ns, q):
        with self.changed:
            if q.get("continue"):
                if q["continue"] not in self.pages:
                    raise Refused(410, "The provided continue parameter is too old to display a consistent list result.")
                version, rest = self.pages[q["continue"]]
            else:
                version, rest = self.version, copy.deepcopy(self.chosen(r, ns, q))
            n, meta = int(q.get("limit") or 0) or len(rest), {"resourceVersion": str(version)}
            if len(rest) > n:
                meta.update({"continue": base64.urlsafe_b64encode(f"{version}:{uuid.uuid4()}".encode()).decode(), "remainingItemCount": len(rest) - n})
                self.pages[meta["continue"]] = version, rest[n:]
            return {"kind": f"{r.kind}List", "apiVersion": r.api, "metadata": meta, "items": rest[:n]}

    def watch(self, r, ns, q):
        """Lines until its time is over; None in between, to see whether anybody still listens."""
        since, server = int(q.get("resourceVersion") or 0), self.server
        began, asked_s, is_old = time.monotonic(), float(q.get("timeoutSeconds") or 300), False
        marks, mark_at = q.get("allowWatchBookmarks") in ("1", "true"), time.monotonic() + self.bookmark_s

        def left():
            return 0 if is_old or self.server is not server else began + min(self.watch_s or asked_s, asked_s) - time.monotonic()

        def line(kind, o):
            return json.dumps({"type": kind, "object": o}).encode() + b"\n"
        with self.changed:
            if since == 0:
                first, since = [line("ADDED", o) for o in self.chosen(r, ns, q)], self.version
            elif since > self.version and self.refuses_future:
                first, is_old = [line("ERROR", Refused(504, f"Timeout: Too large resource version: {since}, current: {self.version}", details={
                    "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}).status)], True
            elif since < self.floor:
                first, is_old = [line("ERROR", Refused(410, f"too old resource version: {since} ({self.floor})").status)], True
            else:
                first = []
        yield from first
        while left() > 0:
            with self.changed:
                self.changed.wait_for(lambda: (self.version > since and self.mute != r.plural) or self.server is not server,
                                      min(0.02 if self.late_s else 0.2, max(0.0, left())))
                if self.mute == r.plural:
                    continue
                if since < self.floor and self.version > since:
                    yield line("ERROR", Refused(410, f"too old resource version: {since} ({self.floor})").status)
                    return
                news = [x for x in self.log if x[0] > since and x[1] == (r.group, r.plural)]
                since = max(since, self.version)
            for _, _, kind, o, before in news:
                if ns not in (None, o["metadata"].get("namespace")):
                    continue
                was, is_in = self.matches(q, before), self.matches(q, o)
                if kind == "MODIFIED" and was != is_in and before is not None:
                    kind = "ADDED" if is_in else "DELETED"
                if is_in or was:
                    yield line(kind, o)
            if marks and time.monotonic() >= mark_at and since <= self.version:
                mark_at = time.monotonic() + self.bookmark_s
                yield line("BOOKMARK", {"kind": r.kind, "apiVersion": r.api, "metadata": {"resourceVersion": str(since)}})
            yield None
        if marks and self.server is server and not is_old and since <= self.version:
            yield line("BOOKMARK", {"kind": r.kind, "apiVersion": r.api, "metadata": {"resourceVersion": str(since)}})

    # -- the wire -----------------------------------------------------------------------------------------------------------------------

    def discovery(self, path):
        """For kubectl."""
        if path == "/version":
            return {"major": "1", "minor": "30", "gitVersion": "v1.30.0-meshroot-test"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = {}
            for api, _ in self.resources:
                if "/" in api and {"groupVersion": api, "version": api.split("/")[1]} not in groups.setdefault(api.split("/")[0], []):
                    groups[api.split("/")[0]].append({"groupVersion": api, "version": api.split("/")[1]})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": g, "versions": v, "preferredVersion": v[0]} for g, v in groups.items()]}
        m = re.fullmatch(r"/(?:api/(v1)|apis/([^/]+/[^/]+))", path)
        found = [r for r in self.resources.values() if m and r.api == (m[1] or m[2])]
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": found[0].api, "resources": [
            {"name": r.plural, "singularName": r.kind.lower(), "namespaced": r.is_namespaced, "kind": r.kind, "verbs": verbs} for r in found] + [
            {"name": f"{r.plural}/status", "singularName": "", "namespaced": r.is_namespaced, "kind": r.kind, "verbs": ["get", "patch", "update"]}
            for r in found if r.has_status]} if found else None

    def late(self):
        """When what is to be said now is said (time.monotonic)."""
        return time.monotonic() + self.chance.uniform(0, self.late_s)

    def answer(self, h):
        path, _, query = h.path.partition("?")
        headers = {k.lower(): v for k, v in h.headers.items()}
        body = h.rfile.read(int(headers.get("content-length") or 0))
        q = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        user = self.accounts.get(headers.get("authorization", "").removeprefix("Bearer "))
        cert = h.request.getpeercert()
        user = user or next((v for rdn in (cert or {}).get("subject", ()) for k, v in rdn if k == "commonName"), None)
        fault, extra, is_lost = self.fault(h.command, h.path), {}, False
        try:
            if fault and fault["status"] == "lost":
                is_lost = True
            elif fault and isinstance(fault["status"], tuple):
                threading.Event().wait(fault["status"][1])
            elif fault:
                extra = {"retry-after": str(fault["retry_after"])} if fault["retry_after"] is not None else {}
                raise Refused(fault["status"], fault["message"] or f"told to answer {fault['status']}", fault["reason"])
            scripted = self.answers.get(path)
            if scripted:
                status, extra, out = scripted(h.command, headers, body)
            elif path in ("/healthz", "/livez", "/readyz"):
                status, out = 200, b"ok"
            else:
                if user is None:
                    raise Refused(401, "Unauthorized")
                found = self.discovery(path) if h.command == "GET" else None
                status, out = (200, found) if found else self.handle(h.server, h.command, path, q, headers, body, user)
        except Refused as x:
            status, out = x.code, x.status
        self.seen.append((h.command, h.path, user, status or 200))
        time.sleep(max(0.0, self.late() - time.monotonic()))
        if is_lost:
            h.close_connection = True
            h.connection.shutdown(socket.SHUT_RDWR)
        elif status is None:
            self.stream(h, out)
        else:
            out = out if isinstance(out, bytes) else json.dumps(out).encode()
            h.send_response(status)
            for k, v in {"content-type": "application/json", **extra, "content-length": str(len(out))}.items():
                h.send_header(k, v)
            h.end_headers()
            h.wfile.write(out)

    def stream(self, h, lines):
        h.send_response(200)
        h.send_header("content-type", "application/json")
        h.send_header("transfer-encoding", "chunked")
        h.end_headers()
        h.wfile.flush()

        def say(line, at):
            time.sleep(max(0.0, at - time.monotonic()))
            h.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            h.wfile.flush()
        waiting, at = [], 0.0  # each no sooner than the one before it
        for line in lines:
            if line is not None:
                at = max(at, self.late())
                waiting.append((line, at))
            while waiting and waiting[0][1] <= time.monotonic():
                say(*waiting.pop(0))
        for one in waiting:
            say(*one)
        h.wfile.write(b"0\r\n\r\n")

    def start(self):
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 120
            wbufsize = -1

            def setup(self):
                self.request.do_handshake()
                api.sockets.add(self.request)
                super().setup()

            def finish(self):
                api.sockets.discard(self.request)
                super().finish()

            def one(self):
                if api.server is not self.server:
                    self.close_connection = True
                    return
                api.answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = one

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass  # who asked has gone

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem, self.tls_key)
        if self.client_root:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(self.client_root)
        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def restore(self, backup):
        """etcd is put back from a backup, with its revisions of then, and the API server is started anew."""
        self.stop()
        self.put_back(backup)
        self.start()

    def stop(self):
        """Away, open connections too, until start(); the world stays."""
        with self.changed:
            server, self.server = self.server, None
        if server:
            server.shutdown()
            server.server_close()
        with self.changed:
            self.changed.notify_all()
        for s in list(self.sockets):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
