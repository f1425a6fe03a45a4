"""The world of kube_api.py: objects of any kind, what happened to them, and the rules by which they change. Not a product."""
import base64
import copy
import re
import threading
import time
import uuid

import kube_fields

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
         ("meshroot.io/v1alpha1", "pluginca", "PluginCA", True, True)]
REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 409: "Conflict", 410: "Expired",
           415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable",
           504: "Timeout"}


class Refused(Exception):
    def __init__(self, code, message, reason=None, details=None):
        super().__init__(message)
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                       "reason": reason or REASONS.get(code, "Unknown"), "details": details or {}, "code": code}


def now(later_s=0):
    """As the API server writes times: so many seconds from now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + later_s))


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
                more = "deleted and then recreated" if field == "uid" else "modified"
                raise Refused(409, f'Operation cannot be fulfilled on {r.kind} "{name}": the {word} in the precondition ({want}) does not match the '
                                   f'{word} in record ({was["metadata"][field]}). The object might have been {more}',
                              details={"name": name, "kind": r.plural})
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

    def backup(self):
        """Of etcd, for restore()."""
        with self.changed:
            return copy.deepcopy((self.version, self.floor, self.log, self.objects, self.owners))

    def put_back(self, backup):
        with self.changed:
            self.version, self.floor, self.log, self.objects, self.owners = copy.deepcopy(backup)
            self.pages.clear()

    def compact(self):
        """etcd forgets: watches from before, and lists half read, are told 410."""
        with self.changed:
            self.floor = self.version
            self.log.clear()
            self.pages.clear()
