"""tools/dev.sh counts what unit programs say; whatever becomes of one, the closing line is there."""
import subprocess
from pathlib import Path

import pytest

DEV = Path(__file__).parents[2] / "tools" / "dev.sh"
OK = 'echo "[ RUN      ] a"; echo "[       OK ] a"\n'
FAILS = 'echo "[ RUN      ] b"; echo "[  FAILED  ] b"; echo "[  FAILED  ] 1 test(s), listed below:"; echo "[  FAILED  ] b"; exit 1\n'


def run(folder, programs):
    unit = folder / "tests" / "unit"
    unit.mkdir(parents=True)
    for name, text in programs.items():
        (unit / f"test_{name}").write_text("#!/bin/sh\n" + text)
        (unit / f"test_{name}").chmod(0o755)
    script = f'set -euo pipefail; . "{DEV}"; run_pytest() {{ :; }}; run_tests "{folder}"'
    p = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    return p.returncode, p.stdout.splitlines()[-1], p.stdout + p.stderr


@pytest.mark.parametrize(
    "what,program,failed,words",
    [
        ("killed before it says a word", "kill -9 $$\n", 1, "status 137"),
        ("killed in a test", OK + 'echo "[ RUN      ] the_one"\nkill -9 $$\n', 1, "in the_one: status 137"),
        ("a leak at the end", OK + "echo leaked; exit 99\n", 1, "leaked"),
        ("a test that fails", OK + FAILS, 1, "[  FAILED  ] b"),
    ],
)
def test_a_program_that_ends_badly_is_counted_and_the_others_run(tmp_path, what, program, failed, words):
    code, last, said = run(tmp_path, {"a": OK, "m": program, "z": OK})
    passed = 2 + program.count(OK)
    assert (code, last) == (1, f"{passed} passed, {failed} failed"), (what, said)
    assert words in said


def test_all_well(tmp_path):
    assert run(tmp_path, {"a": OK, "z": OK + OK})[:2] == (0, "3 passed, 0 failed")


def test_a_report_of_an_earlier_run_counts_for_nothing(tmp_path):
    """pytest is killed before it writes one."""
    python = tmp_path / "build" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase "$1" in *junit_counts.py) exec python3 "{DEV.parent}/junit_counts.py" "$2" ;; esac\nkill -9 $$\n')
    python.chmod(0o755)
    (tmp_path / "e2e.xml").write_text('<testsuites><testsuite tests="3" failures="0" errors="0" skipped="0"/></testsuites>')
    script = f'set -euo pipefail; . "{DEV}"; passed=0 failed=0; run_pytest . e2e tests; echo "$passed passed, $failed failed"'
    p = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert p.stdout.splitlines()[-1] == "0 passed, 1 failed", p.stdout + p.stderr
