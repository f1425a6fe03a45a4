"""The documentation holds: what it names is there. Commands and flags are in --help, metrics, constants and words of the API in the
source, files and sections where links lead."""
import functools
import re

import docs
import manifests
import pytest
import yaml
from conftest import command_names

PAGES = docs.pages()
OF_OTHERS = {  # what pages name that is not ours: whose it is
    "--service-node": "Envoy", "--previous": "kubectl", "--set": "helm", "--unsafe-no-fsync": "etcd",
    "SECRET_TTL": "Istio's agent", "tools/certs": "Istio",
}


def ids(page):
    return page.relative_to(docs.HERE).as_posix()


@functools.cache
def flags_of_commands():
    """command -> its flags, as the binary tells them."""
    return {n: manifests.flags_of(tuple(n.split())) for n in command_names()}


@functools.cache
def source():
    files = [f for top in ("src", "deploy", "proto", "tests", "bench", "tools") for f in docs.HERE.glob(f"{top}/**/*")]
    return "\n".join(f.read_text(errors="replace") for f in files if f.is_file() and "__pycache__" not in f.parts)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_and_their_flags_exist(page):
    have, wrong = flags_of_commands(), []
    for words in docs.commands(page.read_text()):
        name = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in have), None)
        plain = [w for w in words if re.fullmatch("[a-z-]+", w) and not w.startswith("-")]
        if name is None:
            if not any(h.startswith(" ".join(plain) + " ") for h in have) and words[0] != "--help":
                wrong.append(f"no command: meshroot {' '.join(words)}")
            continue
        for flag in re.findall(r"(?:^|[\s|])(--[a-z][a-z0-9-]*)", " ".join(words)):
            if re.sub("^--no-", "--", flag) not in have[name] and flag not in have[name]:
                wrong.append(f"meshroot {name} has no {flag}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_flags_in_the_text_exist(page):
    have = set().union(*flags_of_commands().values()) | set(OF_OTHERS) | {"--version"}
    script = (docs.HERE / "tools/dev.sh").read_text()
    wrong = {f for f in docs.flags(page.read_text()) if f not in have and re.sub("^--no-", "--", f) not in have and f not in script}
    assert not wrong


def test_every_metric_is_in_its_table_with_its_help():
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| [^|]*\| (.*) \|$", (docs.HERE / "docs/metrics.md").read_text(), re.M)
    assert len(rows) == len(dict(rows)), "a row twice"
    assert dict(rows) == docs.metrics(), "python3 tests/e2e/docs.py prints the rows"


def test_help_of_metrics_is_a_sentence():
    for name, text in docs.metrics().items():
        assert re.fullmatch(r"[A-Z0-9].{8,}\.", text), f"{name}: {text}"
        assert "_total" in name or not name.startswith("meshroot_") or "Requests" not in text, name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_metrics_exist(page):
    have = docs.metrics()
    named = set(re.findall(r"\b((?:citadel_server|istio_agent|grpc_server|meshroot)_[a-z_]+[a-z])(?=[`{\"])", page.read_text()))
    assert {n for n in named if n not in have and n not in ("grpc_server_conf",)} == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_names_in_the_source_exist(page):
    """Constants (`GRPC_MAX_STREAMS`) and words of conditions, Events and kinds (`NotOwned`)."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    quoted = re.findall(r"`([^`\n]+)`", text)
    words = {w for q in quoted for w in re.findall(r"^[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+$|^[A-Z][a-z]+(?:[A-Z][a-z]+)*$", q)}
    known = source()
    words -= set(OF_OTHERS)
    # reasons of a held step are conditions too: "roots_max" is RootsMax
    snake = {w: re.sub("(?<=[a-z])(?=[A-Z])", "_", w).lower() for w in words}
    assert {w for w in words if not re.search(rf"\b{w}\b", known) and f'"{snake[w]}"' not in known} == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_and_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match("https?:", target):
            continue
        file, _, section = target.partition("#")
        at = (page.parent / file).resolve() if file else page
        assert at.exists(), target
        if section:
            heads = [re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", at.read_text(), re.M)]
            assert section in heads, target
    for path in set(re.findall(r"`((?:src|tests|deploy|tools|bench|docs|proto)/[A-Za-z0-9_./-]+)`", text)) - set(OF_OTHERS):
        path = re.split("/(?:ROOM/|X/|fuzz_X|test_X)", path)[0]  # HACKING.md's words for any
        assert (docs.HERE / path).exists() or (docs.HERE / "src" / path).exists(), path
    for path in re.findall(r"(?<![/a-z])docs/[a-z-]+\.md", text):
        assert (docs.HERE / path).exists(), path


def leaves(tree, at=""):
    """Names of what a values file sets: {"a": {"b": 1}} -> "a.b"."""
    if not isinstance(tree, dict) or not tree:
        return {at}
    return set().union(*(leaves(v, f"{at}.{k}" if at else k) for k, v in tree.items()))


def test_every_value_of_the_chart_is_in_its_table():
    have = leaves(yaml.safe_load((docs.HERE / "deploy/helm/meshroot/values.yaml").read_text()))
    table = re.search(r"^## Values\n(.*?)^## ", (docs.HERE / "docs/install-kubernetes.md").read_text(), re.M | re.S)[1]
    said = {n for row in re.findall(r"^\| (`.*?`) \|", table, re.M) for n in re.findall("`([A-Za-z.]+)`", row)}
    said = {n.replace("PART", p, 1) for n in said for p in (("operator", "ca", "validator", "vault") if n.startswith("PART.") else ("",))}
    of = lambda name: {h for h in have if h == name or h.startswith(name + ".")}  # noqa: E731
    assert {n for n in said if not of(n)} == set(), "no such value"
    assert have - set().union(*map(of, said)) == set(), "not in the table"


def test_every_field_of_a_plugin_ca_is_in_its_table_with_its_default():
    crd = yaml.safe_load(next(docs.HERE.glob("deploy/helm/meshroot/crds/*.yaml")).read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    page = (docs.HERE / "docs/kubernetes.md").read_text()
    rows = dict(re.findall(r"^\| `(.*?) \| (.*?) \|", re.search(r"^\| field \|.*?\n\n", page, re.M | re.S)[0], re.M))

    def look(at, name):
        if at.get("type") == "object" and "properties" in at and name not in ("vault", "namespaceSelector"):
            for k, v in at["properties"].items():
                look(v, f"{name}.{k}" if name else k)
        elif name and not name.startswith("vault"):
            row = next((v for k, v in rows.items() if name in k or name.rsplit(".", 1)[-1] in k.replace("`", "").split(", ")), None)
            assert row is not None, f"{name} is in no row"
            default = at.get("default")
            if default not in (None, {}):
                assert str(default).lower() in row.lower(), f"{name}: {default}, the page says {row}"

    look(spec, "")


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_nothing_is_said_twice_in_a_row(page):
    """What a merge that keeps both sides leaves behind: a table's row, a list's item or a line of prose beside its older self."""
    twice = []
    for block in re.split(r"\n\n|^```.*$", page.read_text(), flags=re.M):
        heads = re.findall(r"^- (\*\*.*?\*\*)", block, re.M) + re.findall(r"^\| (`[^|]*`) \|", block, re.M)
        prose = [x for x in block.splitlines() if len(x) > 60]
        twice += [x for x in heads + prose if (heads + prose).count(x) > 1]
    assert not twice


def test_every_page_is_listed_in_the_readme():
    readme = (docs.HERE / "README.md").read_text()
    assert {p.name for p in docs.HERE.glob("docs/*.md") if f"](docs/{p.name})" not in readme} == set()


def test_the_changelog_has_each_change_once():
    lines = re.findall(r"^- (.*)$", (docs.HERE / "CHANGELOG.md").read_text(), re.M)
    assert len(lines) == len(set(lines)) > 40


def test_the_reader_of_pages_sees_what_is_wrong():
    page = "```\nmeshroot mesh enable --nope \\\n    --more # --comment\n```\nIn text `meshroot pki rot`, `--flag x`.\n"
    assert list(docs.commands(page)) == [["mesh", "enable", "--nope", "--more"], ["pki", "rot"]]
    assert list(docs.flags(page)) == ["--flag"]
    assert "meshroot_ca_generation" in docs.metrics() and len(docs.metrics()) > 70
