"""Every parser of what comes from outside has a fuzz target: tests/fuzz/parsers.txt is the list, and it is whole."""
import re

import parsers


def test_every_parser_is_in_the_table():
    missing = sorted(parsers.wanted() - set(parsers.table()))
    assert not missing, f"give each a fuzz target, or say why not, in tests/fuzz/parsers.txt: {missing}"


def test_the_table_has_nothing_that_is_gone():
    gone = sorted(set(parsers.table()) - parsers.wanted())
    assert not gone, f"rows of tests/fuzz/parsers.txt that nothing in src/ answers to: {gone}"


def test_every_target_is_built_seeded_and_calls_what_it_says():
    built = parsers.targets()
    for (where, what), (targets, words) in parsers.table().items():
        if not targets:
            assert len(words) > 10, f"{where} {what}: no target, and no reason"
            continue
        for t in targets:
            assert t in built, f"{where} {what}: no target {t} is built"
        called = words.removeprefix("via ").split()[0] if words.startswith("via ") else what
        if what != "decodes" or words.startswith("via "):
            assert any(re.search(rf"\b{called}\b", built[t]) for t in targets), \
                f"{where} {what}: {targets} does not name {called}"


def test_every_target_has_seeds_and_a_property():
    for name, source in parsers.targets().items():
        assert any((parsers.FUZZ / "corpus" / name).iterdir()), f"{name} has no seeds"
        assert "abort()" in source or "assert(" in source, f"{name} asserts nothing but the absence of crashes"
