"""The CA under a wall clock that steps back and forth: libfaketime for the serving process, whose monotonic clock is left alone.
The signer process cannot read the file that steps it, so its clock stays: the two disagree, as on a machine that is being set."""
import datetime
import json
import time

import grpc
import pytest
from cryptography import x509

from conftest import meshroot, wait_for
from test_ca import Ca, make_csr, pb, plugged  # noqa: F401 (fixtures)
from test_jwt_svid import parts, sign
from test_signer import leaf_is_right, signer, works

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
HOUR, SKEW = 3600, datetime.timedelta(seconds=2)  # whole seconds, and a clock that is read twice


class Clock:
    def __init__(self, tmp):
        self.file = tmp / "clock"
        self.step(0)
        self.env = {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def step(self, seconds):
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self.file)
        self.offset = seconds

    def now(self):
        return datetime.datetime.fromtimestamp(time.time() + self.offset, datetime.timezone.utc)


def test_leaves_under_a_clock_that_steps(tmp_path, daemon, pb, plugged):  # noqa: F811
    clock = Clock(tmp_path)
    ca = Ca(tmp_path, lambda *a, **k: daemon(*a, env=clock.env, **k), pb, "--default-workload-ttl", "1h").ready()
    end = x509.load_pem_x509_certificate((plugged[1] / "ca-cert.pem").read_bytes()).not_valid_after_utc
    leaves = []
    for step in (0, 2 * HOUR, -2 * HOUR, 0, 30, -30, 20 * 24 * HOUR, 0):
        clock.step(step)
        key, csr = make_csr()
        token = ca.issuer.token(exp=int(time.time()) + 400 * 24 * HOUR)
        began = clock.now()
        chain, _ = ca.call(csr, token)
        ended = clock.now()
        leaf_is_right(chain, key)
        leaf = x509.load_pem_x509_certificate(chain[0].encode())
        assert began - SKEW <= leaf.not_valid_before_utc + datetime.timedelta(seconds=120) <= ended + SKEW, f"step {step}"
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == datetime.timedelta(seconds=HOUR + 120)
        assert leaf.not_valid_after_utc <= end
        leaves.append(leaf)
    # JWT-SVIDs have the signer's own times, which did not step
    clock.step(2 * HOUR)
    _, claims = parts(sign(ca, ["a"], token=ca.issuer.token(exp=int(time.time()) + 400 * 24 * HOUR)))
    assert abs(claims["iat"] - time.time()) < 120 and claims["exp"] - claims["iat"] == 300
    wait_for("a loud word", lambda: "THE CLOCK HAS STEPPED" in ca.daemon.text(), 180)  # it is looked at each 30 s
    assert ca.metric("meshroot_clock_steps_total")
    # near the signer's end: cut to it; beyond it: none
    left = int((end - datetime.datetime.now(datetime.timezone.utc)).total_seconds())
    assert signer(ca)["up"]
    clock.step(left - 1800)
    with pytest.raises(grpc.RpcError) as e:
        ca.call(make_csr()[1], ca.issuer.token(exp=int(time.time()) + 4000 * 24 * HOUR))
    # the signer's clock says that this leaf would live for years: its own limit holds
    assert "live longer than the signer allows" in e.value.details()
    clock.step(left + 60)
    with pytest.raises(grpc.RpcError):
        ca.call(make_csr()[1], ca.issuer.token(exp=int(time.time()) + 4000 * 24 * HOUR))
    clock.step(0)
    wait_for("leaves as before", lambda: works(ca))
    ca.daemon.stop()
    rows = [json.loads(x) for x in meshroot("ledger", "export", "--state-dir", ca.state).stdout.splitlines()]
    assert {x.serial_number for x in leaves} <= {int(r["serial"], 16) for r in rows}
    assert json.loads(meshroot("ledger", "verify", "--state-dir", ca.state, "--output", "json").stdout)["ok"]
