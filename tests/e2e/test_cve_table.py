"""docs/cves.md says which test answers which hole of our peers: the tests exist, and no number is missing."""
import pathlib
import re

TESTS = pathlib.Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| (\d+a?) \| ([^|]+) \| ([^|]+) \| (.+) \|$")


def table():
    lines = (TESTS.parent / "docs" / "cves.md").read_text().splitlines()
    rows = [ROW.match(line) for line in lines if re.match(r"^\| \d", line)]
    assert all(rows)
    return {m[1]: m[4] for m in rows}


def names_of(file):
    text = (TESTS / file).read_text()
    if file.endswith(".py"):
        return set(re.findall(r"^def (test_\w+)\(", text, re.M))
    registered = text[text.index("main("):]
    return {n for n in re.findall(r"^(\w+)\(void \*\*state\)", text, re.M) if re.search(rf"\b{n}\b", registered)}


def test_every_number_has_its_row_and_every_test_exists():
    rows = table()
    assert list(rows) == [str(n) if n else "8a" for n in [*range(1, 9), 0, *range(9, 51)]]
    for number, text in rows.items():
        tests = re.findall(r"`(\w+/[\w/.]+)::(\w+)`", text)
        for file, name in tests:
            assert name in names_of(file), f"row {number}: {file} has no {name}"
        assert tests or text.startswith("does not apply: "), f"row {number} has no test and no reason"


def test_every_test_that_is_named_by_a_number_is_in_its_row():
    rows = table()
    for file in sorted([*TESTS.rglob("test_*.py"), *TESTS.rglob("test_*.c")]):
        where = str(file.relative_to(TESTS))
        for name in names_of(where):
            m = re.match(r"(?:test_)?cve_(?:row_)?((?:\d\d_)+)", name)
            for number in (m[1].strip("_").split("_") if m else []):
                assert f"`{where}::{name}`" in rows[str(int(number))], (number, where, name)
