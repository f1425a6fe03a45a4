"""What tests/e2e has, for the folders beside it."""
import importlib.util
import pathlib
import sys

E2E = pathlib.Path(__file__).resolve().parent / "e2e"


def e2e(into):
    """`from conftest import wait_for` means the same there as in tests/e2e; test_ca's Ca and Issuer can be imported."""
    spec = importlib.util.spec_from_file_location("e2e_conftest", E2E / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in vars(module).items():
        if not name.startswith("__"):
            into.setdefault(name, value)
    sys.path.insert(0, str(E2E))
