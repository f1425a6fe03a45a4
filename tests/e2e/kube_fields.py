"""What the API server does with fields: merge patches, server-side apply with an owner for each field. Used by kube_api.py.

Simpler than the real one in one thing: which lists have keys is told by their names below, others are replaced as a whole."""
import copy

KEYED = {"ownerReferences": "uid", "conditions": "type", "containers": "name", "initContainers": "name", "volumes": "name", "env": "name",
         "volumeMounts": "mountPath"}
SETS = {"finalizers"}
UNOWNED = {("apiVersion",), ("kind",), *(("metadata", x) for x in ("name", "namespace", "uid", "resourceVersion", "generation", "managedFields",
                                                                  "creationTimestamp", "deletionTimestamp", "selfLink", "generateName"))}


class Conflict(Exception):
    pass


def merge(live, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    out = dict(live) if isinstance(live, dict) else {}
    for k, v in patch.items():
        if v is None:
            out.pop(k, None)
        else:
            out[k] = merge(out.get(k), v)
    return out


def keyed_merge(live, patch, name=""):
    """A strategic merge patch, as far as lists with keys go; apply's merge too (which has no nulls)."""
    if isinstance(patch, dict):
        out = dict(live) if isinstance(live, dict) else {}
        for k, v in patch.items():
            if v is None:
                out.pop(k, None)
            else:
                out[k] = keyed_merge(out.get(k), v, k)
        return out
    if isinstance(patch, list) and name in KEYED and isinstance(live, list):
        out, key = list(live), KEYED[name]
        for one in patch:
            at = next((i for i, x in enumerate(out) if x.get(key) == one.get(key)), None)
            if one.get("$patch") == "delete":
                out = [x for x in out if x.get(key) != one.get(key)]
            elif at is None:
                out.append(copy.deepcopy(one))
            else:
                out[at] = keyed_merge(out[at], one)
        return out
    if isinstance(patch, list) and name in SETS and isinstance(live, list):
        return live + [x for x in patch if x not in live]
    return copy.deepcopy(patch)


def leaves(value, path=()):
    """The paths that somebody can own; an item of a list with keys is ('list', ('key', value))."""
    name = path[-1] if path else ""
    if path in UNOWNED:
        return set()
    if isinstance(value, dict) and value:
        return set().union(*(leaves(v, (*path, k)) for k, v in value.items()))
    if isinstance(value, list) and isinstance(name, str) and name in KEYED:
        return set().union(set(), *({(*path, (KEYED[name], x.get(KEYED[name])))} | leaves(x, (*path, (KEYED[name], x.get(KEYED[name]))))
                                    for x in value))
    if isinstance(value, list) and name in SETS:
        return {(*path, ("=", x)) for x in value}
    return {path}


def find(value, path):
    for step in path:
        if isinstance(step, tuple):
            key, want = step
            value = next((x for x in value or [] if (x == want if key == "=" else x.get(key) == want)), None)
        else:
            value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return None
    return value


def remove(value, path):
    parent, last = find(value, path[:-1]), path[-1]
    if parent is None:
        return
    if isinstance(last, tuple):
        key, want = last
        parent[:] = [x for x in parent if not (x == want if key == "=" else x.get(key) == want)]
    else:
        parent.pop(last, None)
        if not parent and len(path) > 1 and not isinstance(path[-2], tuple):
            remove(value, path[:-1])


def shown(path):
    return "".join(f"[{s[0]}={s[1]}]" if isinstance(s, tuple) else f".{s}" for s in path)


def apply(live, config, owners, manager, api, force):
    """-> the object. `owners`: {(manager, operation): set of paths}, changed in place. live None: there is no object."""
    me, fields = (manager, "Apply"), leaves(config)
    taken = {}
    for who, theirs in owners.items():
        for path in fields & theirs if who != me else ():
            if find(live, path) != find(config, path):
                taken.setdefault(who, []).append(path)
    if taken and not force:
        lines = [f'conflict with "{who[0]}" using {api}: {shown(p)}' for who, paths in sorted(taken.items()) for p in sorted(paths, key=str)]
        raise Conflict(f"Apply failed with {len(lines)} conflict{'s' * (len(lines) > 1)}: {'; '.join(lines)}")
    for who, paths in taken.items():
        owners[who] -= set(paths)
    out = keyed_merge(copy.deepcopy(live or {}), config)
    gone = owners.get(me, set()) - fields
    for path in sorted(gone, key=len, reverse=True):
        if not any(path in theirs or any(t[:len(path)] == path for t in theirs) for who, theirs in owners.items() if who != me) and \
                not any(f[:len(path)] == path for f in fields):
            remove(out, path)
    owners[me] = fields
    return out


def written(before, after, owners, manager):
    """A create, update or patch: what changed is the writer's now, what is gone is nobody's."""
    now, was = leaves(after), leaves(before or {})
    changed = {p for p in now if p not in was or find(before, p) != find(after, p)}
    for who in owners:
        owners[who] &= now
        if who != (manager, "Update"):
            owners[who] -= changed
    owners[(manager, "Update")] = owners.get((manager, "Update"), set()) | changed


def managed(owners, api, when):
    """metadata.managedFields."""
    def tree(paths):
        out = {}
        for path in sorted(paths, key=str):
            at = out
            for s in path:
                at = at.setdefault(f'k:{{"{s[0]}":"{s[1]}"}}' if isinstance(s, tuple) else f"f:{s}", {})
        return out
    return [{"manager": who, "operation": op, "apiVersion": api, "time": when, "fieldsType": "FieldsV1", "fieldsV1": tree(paths)}
            for (who, op), paths in sorted(owners.items()) if paths]
