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
    flags("--kubeconfig", api.kubeconfig())
"""
import base64
import copy
import http.server
import json
import re
import socket
import ssl
import threading
import time
import urllib.parse
import uuid

import kube_fields
from https_peer import server_cert

# group/version, plural, kind, namespaced, has a status subresource
KINDS = [("v1", "namespaces", "Namespace", False, True), ("v1", "secrets", "Secret", True, False), ("v1", "configmaps", "ConfigMap", True, False),
         ("v1", "pods", "Pod", True, True), ("v1", "services", "Service", True, True), ("v1", "serviceaccounts", "ServiceAccount", True, False),
         ("v1", "nodes", "Node", False, True), ("v1", "events", "Event", True, False), ("v1", "endpoints", "Endpoints", True, False),
         ("apps/v1", "deployments", "Deployment", True, True), ("apps/v1", "statefulsets", "StatefulSet", True, True),
         ("apps/v1", "replicasets", "ReplicaSet", True, True), ("apps/v1", "daemonsets", "DaemonSet", True, True),
         ("batch/v1", "jobs", "Job", True, True), ("batch/v1", "cronjobs", "CronJob", True, True),
         ("coordination.k8s.io/v1", "leases", "Lease", True, False), ("events.k8s.io/v1", "events", "Event", True, False),
         ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", True, False),
         ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", False, False),
         ("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", False, True),
         ("meshroot.io/v1alpha1", "plugincas", "PluginCA", True, True)]
REVIEWS = {"selfsubjectaccessreviews", "tokenreviews"}
REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 409: "Conflict", 410: "Expired",
           415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable",
           504: "Timeout"}


class Refused(Exception):
    def __init__(self, code, message, reason=None, details=None):
        super().__init__(message)
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                       "reason": reason or REASONS.get(code, "Unknown"), "details": details or {}, "code": code}


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def selected(selector, of):
    """A label or field selector; `of(name)` -> value or None."""
    for term in re.findall(r"[^,(]+(?:\([^)]*\))?", selector or ""):
        term = term.strip()
        m = re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", term)
        if m:
            if (of(m[1]) in [x.strip() for x in m[3].split(",")]) != (m[2] == "in"):
                return False
        elif "!=" in term:
            k, v = term.split("!=", 1)
            if of(k) == v:
                return False
        elif "=" in term:
            k, v = term.replace("==", "=").split("=", 1)
            if (of(k) or "") != v:
                return False
        elif (of(term.lstrip("!")) is None) != term.startswith("!"):
            return False
    return True


class Resource:
    def __init__(self, api, plural, kind, is_namespaced, has_status):
        self.api, self.plural, self.kind, self.is_namespaced, self.has_status = api, plural, kind, is_namespaced, has_status
        self.group = api.rpartition("/")[0]
        self.title = f"{plural}.{self.group}" if self.group else plural  # as messages name it


class World:
    """The objects, and what happened to them. Everything under self.changed."""

    def __init__(self):
        self.changed, self.version, self.floor, self.log = threading.Condition(threading.RLock()), 100, 0, []
        self.resources, self.objects, self.owners, self.pages = {}, {}, {}, {}
        self.hold_namespaces = False  # a deleted namespace stays Terminating
        self.checks = {}              # kind -> function(object) -> message (422) or None
        self.hooks = []               # function(type, object), after each change, in the thread that made it; a stand-in for controllers
        for row in KINDS:
            self.add_kind(*row)
        for name in ("default", "kube-system"):
            self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def add_kind(self, api, plural, kind, is_namespaced=True, has_status=True):
        self.resources[(api, plural)] = Resource(api, plural, kind, is_namespaced, has_status)

    def resource_of(self, o):
        return next(r for r in self.resources.values() if r.kind == o["kind"] and r.api == o["apiVersion"])

    # -- changes -------------------------------------------------------------------------------------------------------------------

    def record(self, kind, r, key, after, before):
        self.version += 1
        after["metadata"]["resourceVersion"] = str(self.version)
        self.log.append((self.version, (r.group, r.plural), kind, copy.deepcopy(after), before))
        if kind == "DELETED":
            self.objects.pop(key, None)
            self.owners.pop(key, None)
        else:
            self.objects[key] = after
        self.changed.notify_all()
        return (kind, copy.deepcopy(after))

    def key(self, r, ns, name):
        return (r.group, r.plural, ns if r.is_namespaced else None, name)

    def need(self, r, ns, name):
        o = self.objects.get(self.key(r, ns, name))
        if o is None:
            raise Refused(404, f'{r.title} "{name}" not found', details={"name": name, "group": r.group, "kind": r.plural})
        return o

    def check(self, r, o):
        if r.kind == "Secret":
            for k, v in (o.pop("stringData", None) or {}).items():
                o.setdefault("data", {})[k] = base64.b64encode(v.encode()).decode()
            for k, v in (o.get("data") or {}).items():
                try:
                    base64.b64decode(v, validate=True)
                except (ValueError, TypeError):
                    raise Refused(400, f'Secret in version "v1" cannot be handled as a Secret: illegal base64 data in data.{k}') from None
            o.setdefault("type", "Opaque")
        said = self.checks.get(r.kind, lambda _: None)(o)
        if said:
            raise Refused(422, f'{r.kind}.{r.group} "{o["metadata"]["name"]}" is invalid: {said}'.replace(". ", " "))

    def create(self, r, ns, o, manager, dry=False, owners=None):
        meta = o.setdefault("metadata", {})
        if "name" not in meta and "generateName" in meta:
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        name = meta.get("name")
        if not name:
            raise Refused(422, f"{r.kind} is invalid: metadata.name: Required value: name or generateName is required")
        if meta.get("namespace") not in (None, ns):
            raise Refused(400, f"the namespace of the provided object does not match the namespace sent on the request")  # noqa: F541
        if meta.get("resourceVersion"):
            raise Refused(400, "resourceVersion should not be set on objects to be created")
        if r.is_namespaced:
            home = self.objects.get(("", "namespaces", None, ns))
            if home is None:
                raise Refused(404, f'namespaces "{ns}" not found', details={"name": ns, "kind": "namespaces"})
            if home["metadata"].get("deletionTimestamp"):
                raise Refused(403, f'{r.title} "{name}" is forbidden: unable to create new content in namespace {ns} because it is being terminated',
                              details={"name": name, "kind": r.plural, "causes": [
                                  {"reason": "NamespaceTerminating", "message": f"namespace {ns} is being terminated", "field": "metadata.namespace"}]})
            meta["namespace"] = ns
        key = self.key(r, ns, name)
        if key in self.objects:
            raise Refused(409, f'{r.title} "{name}" already exists', "AlreadyExists", {"name": name, "group": r.group, "kind": r.plural})
        if r.has_status and r.kind not in ("Namespace",):
            o.pop("status", None)
        if r.kind == "Namespace":
            o.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
            o["status"] = {"phase": "Active"}
            meta.setdefault("labels", {})["kubernetes.io/metadata.name"] = name
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=now(), **({"generation": 1} if "spec" in o or r.has_status else {}))
        self.check(r, o)
        if owners is None:
            owners = {}
            kube_fields.written(None, o, owners, manager)
        meta["managedFields"] = kube_fields.managed(owners, r.api, now())
        if dry:
            return o, []
        self.owners[key] = owners
        if r.kind == "CustomResourceDefinition":
            for v in o["spec"]["versions"]:
                self.add_kind(f"{o['spec']['group']}/{v['name']}", o["spec"]["names"]["plural"], o["spec"]["names"]["kind"],
                              o["spec"]["scope"] == "Namespaced", "status" in (v.get("subresources") or {}))
        return o, [self.record("ADDED", r, key, o, None)]

    def replace(self, r, ns, name, sub, o, manager, dry=False, owners=None):
        """PUT, and what a patch has made."""
        was = self.need(r, ns, name)
        meta, given = o.setdefault("metadata", {}), o["metadata"].get("resourceVersion")
        if meta.get("name", name) != name:
            raise Refused(400, f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
        if given not in (None, "", was["metadata"]["resourceVersion"]):
            raise Refused(409, f'Operation cannot be fulfilled on {r.title} "{name}": the object has been modified; please apply your changes '
                               'to the latest version and try again', details={"name": name, "group": r.group, "kind": r.plural})
        if meta.get("uid", was["metadata"]["uid"]) != was["metadata"]["uid"]:
            raise Refused(409, f'Operation cannot be fulfilled on {r.title} "{name}": Precondition failed: UID in precondition: {meta["uid"]}, UID '
                               f'in object meta: {was["metadata"]["uid"]}')
        if sub == "status":
            o = {**copy.deepcopy(was), "status": o.get("status")}
        elif r.has_status:
            o = {k: v for k, v in o.items() if k != "status"} | ({"status": was["status"]} if "status" in was else {})
        meta = o["metadata"] = copy.deepcopy(o["metadata"])
        for k in ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace", "name"):
            meta.pop(k, None)
            if k in was["metadata"]:
                meta[k] = was["metadata"][k]
        o.update(apiVersion=r.api, kind=r.kind)
        if r.kind == "Secret":
            if o.get("type", "Opaque") != was.get("type", "Opaque"):
                raise Refused(422, f'Secret "{name}" is invalid: type: Invalid value: "{o["type"]}": field is immutable')
            if was.get("immutable") and o.get("data") != was.get("data"):
                raise Refused(422, f'Secret "{name}" is invalid: data: Forbidden: field is immutable when `immutable` is set')
        self.check(r, o)
        if owners is None:
            owners = copy.deepcopy(self.owners.get(self.key(r, ns, name), {}))
            kube_fields.written(was, o, owners, manager)
        plain = lambda x: {k: v for k, v in x.items() if k not in ("metadata", "status")}  # noqa: E731
        if plain(o) != plain(was) and "generation" in meta:
            meta["generation"] += 1
        bare = lambda x: {**x, "metadata": {k: v for k, v in x["metadata"].items() if k not in ("managedFields", "resourceVersion")}}  # noqa: E731
        if bare(o) == bare(was) and owners == self.owners.get(self.key(r, ns, name)):
            return copy.deepcopy(was), []  # nothing changes: no event
        meta["managedFields"] = kube_fields.managed(owners, r.api, now())
        if dry:
            return o, []
        self.owners[self.key(r, ns, name)] = owners
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and not was["metadata"].get("finalizers") == meta.get("finalizers"):
            return o, self.gone(r, self.key(r, ns, name), o, was)
        return o, [self.record("MODIFIED", r, self.key(r, ns, name), o, was)]

    def patch(self, r, ns, name, sub, body, how, manager, force, dry=False):
        key = self.key(r, ns, name)
        if how == "application/apply-patch+yaml":
            if not manager:
                raise Refused(400, "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch")
            if body.get("apiVersion") != r.api or body.get("kind") != r.kind:
                raise Refused(400, "apiVersion and kind are required for apply patch")
            if body.get("metadata", {}).get("managedFields"):
                raise Refused(400, "metadata.managedFields must be nil")
            was, owners = self.objects.get(key), copy.deepcopy(self.owners.get(key, {}))
            if body["metadata"].get("name", name) != name:
                raise Refused(400, "name in the object does not match the URL")
            try:
                if sub == "status" and was is None:
                    self.need(r, ns, name)
                o = kube_fields.apply(was, body, owners, manager, r.api, force)
            except kube_fields.Conflict as x:
                causes = [{"reason": "FieldManagerConflict", "message": part} for part in str(x).split(": ", 1)[1].split("; ")]
                raise Refused(409, str(x), details={"causes": causes}) from None
            if was is None:
                if body["metadata"].get("resourceVersion") or body["metadata"].get("uid"):
                    raise Refused(409, f'Operation cannot be fulfilled on {r.title} "{name}": uid mismatch: the object was not there')
                return *self.create(r, ns, o, manager, dry, owners), 201
            return *self.replace(r, ns, name, sub, o, manager, dry, owners), 200
        merges = {"application/merge-patch+json": kube_fields.merge, "application/strategic-merge-patch+json": kube_fields.keyed_merge}
        if how not in merges:
            raise Refused(415, f"the body of the request was in an unknown format - accepted media types include: {', '.join(merges)}")
        o = merges[how](copy.deepcopy(self.need(r, ns, name)), body)
        if "resourceVersion" not in body.get("metadata", {}):
            o["metadata"].pop("resourceVersion", None)
        return *self.replace(r, ns, name, sub, o, manager, dry), 200

    def gone(self, r, key, o, was):
        """Out of the world, and what it owned after it."""
        done = [self.record("DELETED", r, key, o, was)]
        uid = o["metadata"]["uid"]
        for k, x in list(self.objects.items()):
            refs = x["metadata"].get("ownerReferences") or []
            if any(ref.get("uid") == uid for ref in refs) and all(ref.get("uid") == uid for ref in refs) and k in self.objects:
                done += self.remove(self.resources[(x["apiVersion"], k[1])], k[2], k[3], {})[1]
        return done

    def remove(self, r, ns, name, options, dry=False):
        was, key = self.need(r, ns, name), self.key(r, ns, name)
        for field, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            want = (options.get("preconditions") or {}).get(field)
            if want is not None and want != was["metadata"][field]:
                raise Refused(409, f'Operation cannot be fulfilled on {r.title} "{name}": Precondition failed: {word} in precondition: {want}, '
                                   f'{word} in object meta: {was["metadata"][field]}', details={"name": name, "kind": r.plural})
        if dry or options.get("dryRun"):
            return was, []
        o = copy.deepcopy(was)
        if o["metadata"].get("finalizers") or r.kind == "Namespace":
            if not o["metadata"].get("deletionTimestamp"):
                o["metadata"].update(deletionTimestamp=now(), deletionGracePeriodSeconds=0)
            if r.kind == "Namespace":
                o["status"] = {"phase": "Terminating"}
            done = [self.record("MODIFIED", r, key, o, was)]
            return (o, done) if r.kind != "Namespace" or self.hold_namespaces else (o, done + self.end_namespace(name))
        return o, self.gone(r, key, o, was)

    def end_namespace(self, name):
        done = []
        for k, x in list(self.objects.items()):
            if k[2] == name and k in self.objects:
                done += self.remove(self.resources[(x["apiVersion"], k[1])], k[2], k[3], {})[1]
        key = ("", "namespaces", None, name)
        if not any(k[2] == name for k in self.objects) and key in self.objects:
            done += self.gone(self.resources[("v1", "namespaces")], key, copy.deepcopy(self.objects[key]), self.objects[key])
        return done

    def tell(self, done):
        for kind, o in done:
            for hook in list(self.hooks):
                hook(kind, o)

    # -- for tests: as somebody else would do it ---------------------------------------------------------------------------------------

    def put(self, o, manager="test"):
        """Creates, or replaces as a whole (status too). Namespaces come along."""
        o, r = copy.deepcopy(o), self.resource_of(o)
        ns, name = o["metadata"].get("namespace"), o["metadata"]["name"]
        with self.changed:
            if ns and ("", "namespaces", None, ns) not in self.objects:
                self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}})
            status, done, asked_uid = o.get("status"), [], o["metadata"].get("uid")
            o["metadata"].pop("resourceVersion", None)
            if self.key(r, ns, name) in self.objects:
                o["metadata"].pop("uid", None)
                out, done = self.replace(r, ns, name, None, o, manager)
            else:
                out, done = self.create(r, ns, o, manager)
                if asked_uid:
                    out["metadata"]["uid"] = asked_uid  # a world written down by a test
                    done = [self.record("MODIFIED", r, self.key(r, ns, name), copy.deepcopy(out), None)]
            if status is not None and r.has_status and r.kind != "Namespace":
                out, more = self.replace(r, ns, name, "status", {"metadata": {}, "status": status}, manager)
                done += more
        self.tell(done)
        return copy.deepcopy(out)

    def resource(self, kind):
        return next(r for r in self.resources.values() if r.kind == kind)

    def get(self, kind, ns, name):
        """A copy, or None."""
        with self.changed:
            return copy.deepcopy(self.objects.get(self.key(self.resource(kind), ns, name)))

    def all(self, kind, ns=None):
        r = self.resource(kind)
        with self.changed:
            return [copy.deepcopy(o) for k, o in sorted(self.objects.items(), key=str) if k[:2] == (r.group, r.plural) and ns in (None, k[2])]

    def delete(self, kind, ns, name):
        with self.changed:
            _, done = self.remove(self.resource(kind), ns, name, {})
        self.tell(done)

    def edit(self, kind, ns, name, patch, sub=None, manager="test"):
        """A merge patch."""
        with self.changed:
            o, done, _ = self.patch(self.resource(kind), ns, name, sub, patch, "application/merge-patch+json", manager, False)
        self.tell(done)
        return copy.deepcopy(o)

    def compact(self):
        """etcd forgets: watches from before, and lists half read, are told 410."""
        with self.changed:
            self.floor = self.version
            self.log.clear()
            self.pages.clear()


class KubeApi(World):
    def __init__(self, folder, name="kube"):
        super().__init__()
        self.folder, self.port, self.server, self.sockets = folder, 0, None, set()
        self.accounts = {"own": "admin"}  # bearer token -> user
        self.rules = {"admin": None}      # user -> None (all), or rows of allow()
        self.reviews = {}                 # TokenReview: token -> status; others: not authenticated
        self.answers = {}                 # path -> function(method, headers, body) -> status, headers, object or bytes: comes first
        self.seen, self.faults = [], []   # (method, path with query, user, status)
        self.watch_s = None               # watches are closed after so many seconds, whatever was asked
        self.bookmark_s = 1.0
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
        (self.folder / f"{name}.token").write_text(token + "\n")
        path = self.folder / name
        path.write_text(json.dumps({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
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

    def handle(self, method, path, q, headers, body, user):
        """-> status, object; a watch: None, a generator of lines."""
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
        end = time.monotonic() + (self.watch_s or float(q.get("timeoutSeconds") or 300))
        marks, mark_at = q.get("allowWatchBookmarks") in ("1", "true"), time.monotonic() + self.bookmark_s

        def line(kind, o):
            return json.dumps({"type": kind, "object": o}).encode() + b"\n"
        with self.changed:
            if since == 0:
                first, since = [line("ADDED", o) for o in self.chosen(r, ns, q)], self.version
            elif since < self.floor:
                first, end = [line("ERROR", Refused(410, f"too old resource version: {since} ({self.floor})").status)], 0
            else:
                first = []
        yield from first
        while time.monotonic() < end and self.server is server:
            with self.changed:
                self.changed.wait_for(lambda: self.version > since or self.server is not server, min(0.2, max(0.0, end - time.monotonic())))
                if since < self.floor and self.version > since:
                    yield line("ERROR", Refused(410, f"too old resource version: {since} ({self.floor})").status)
                    return
                news = [x for x in self.log if x[0] > since and x[1] == (r.group, r.plural)]
                since = self.version
            for _, _, kind, o, before in news:
                if ns not in (None, o["metadata"].get("namespace")):
                    continue
                was, is_in = self.matches(q, before), self.matches(q, o)
                if kind == "MODIFIED" and was != is_in and before is not None:
                    kind = "ADDED" if is_in else "DELETED"
                if is_in or was:
                    yield line(kind, o)
            if marks and time.monotonic() >= mark_at:
                mark_at = time.monotonic() + self.bookmark_s
                yield line("BOOKMARK", {"kind": r.kind, "apiVersion": r.api, "metadata": {"resourceVersion": str(since)}})
            yield None
        if marks and self.server is server and end:
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

    def answer(self, h):
        path, _, query = h.path.partition("?")
        headers = {k.lower(): v for k, v in h.headers.items()}
        body = h.rfile.read(int(headers.get("content-length") or 0))
        q = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        user = self.accounts.get(headers.get("authorization", "").removeprefix("Bearer "))
        fault, extra, is_lost = self.fault(h.command, h.path), {}, False
        try:
            if fault and fault["status"] == "lost":
                is_lost = True
            elif fault and isinstance(fault["status"], tuple):
                threading.Event().wait(fault["status"][1])
            elif fault:
                extra = {"retry-after": str(fault["retry_after"])} if fault["retry_after"] is not None else {}
                raise Refused(fault["status"], fault["message"] or f"told to answer {fault['status']}", fault["reason"])
            if path in self.answers:
                status, extra, out = self.answers[path](h.command, headers, body)
            elif path in ("/healthz", "/livez", "/readyz"):
                status, out = 200, b"ok"
            else:
                if user is None:
                    raise Refused(401, "Unauthorized")
                found = self.discovery(path) if h.command == "GET" else None
                status, out = (200, found) if found else self.handle(h.command, path, q, headers, body, user)
        except Refused as x:
            status, out = x.code, x.status
        self.seen.append((h.command, h.path, user, status or 200))
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
        for line in lines:
            if line is not None:
                h.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                h.wfile.flush()
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
        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        """Away, open connections too, until start(); the world stays."""
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
