"""What in src/ takes bytes or JSON from elsewhere, beside tests/fuzz/parsers.txt, which names the fuzz target of each.

    python3 tests/e2e/parsers.py    prints what the table lacks and what it has too much
"""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUZZ = ROOT / "tests/fuzz"
DECODES = re.compile(r"\b(json_load[bs]|json_object_parse|yaml_to_json|\w+__unpack|json_unpack(?:_ex)?)\(")


def functions():
    """(header, function) that take a span or a JSON value, of every room's headers; below, in base/, its parsers."""
    for header in sorted(ROOT.glob("src/*/*.h")):
        text = re.sub(r"/\*.*?\*/", " ", header.read_text(), flags=re.S)
        text = re.sub(r"(?m)^#.*$", " ", text)
        text = re.sub(r"\{[^{}]*\}", ";", text)
        for part in text.split(";"):
            m = re.search(r"\b(\w+)\(([^()]*\b(?:struct span \w+|const json_t \*\w+)[^()]*)\)\s*$", " ".join(part.split()))
            if not m or m[1].endswith("_fn"):
                continue
            if header.parent.name in ("base", "obs") and not re.search("parse|decode", m[1]):
                continue
            yield f"{header.parent.name}/{header.name}", m[1]


def files():
    """(file, decoder) of every source that decodes JSON, YAML or protobuf."""
    for source in sorted(ROOT.glob("src/*/*.c")):
        if DECODES.search(source.read_text()):
            yield f"{source.parent.name}/{source.name}", "decodes"


def wanted():
    return set(functions()) | set(files())


def table():
    """{(where, what): (targets, words)}; targets is empty for "-", and words then say why."""
    rows = {}
    for line in (FUZZ / "parsers.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        where, what, targets, *words = line.split(None, 3)
        assert (where, what) not in rows, f"twice: {line}"
        rows[where, what] = ([] if targets == "-" else targets.split(","), "".join(words))
    return rows


def targets():
    """{name: source} of the targets that are built."""
    names = re.search(r"fuzz_targets = \[(.*?)\]", (FUZZ / "meson.build").read_text(), re.S)[1]
    return {n: (FUZZ / f"fuzz_{n}.c").read_text() for n in re.findall(r"'(\w+)'", names)}


if __name__ == "__main__":
    for where, what in sorted(wanted() - set(table())):
        print(f"lacks: {where} {what}")
    for where, what in sorted(set(table()) - wanted()):
        print(f"is no more: {where} {what}")
