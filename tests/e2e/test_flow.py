"""The one flow, on bundles that plain openssl made: vault, sync, CA, workloads, rotations."""

import pytest

from conftest import Mesh, meshroot, openssl_intermediate, openssl_root, verify_files, wait_for


def leaf_signers(status):
    return [a["leaf_signers"] for a in status["fleet"]["agents"]]


def settled(mesh, subject, n):
    """All n workloads use leaves of the intermediate `subject` only, and hold the trust set in force."""
    s = mesh.status()
    im, agents = s["ca"]["intermediate"], s["fleet"]["agents"]
    return (subject in im["subject"] and len(agents) == n and all(a["leaf_signers"] == [im["id"]] for a in agents)
            and all(a["trust_generation"] == s["ca"]["generation"] for a in agents) and s)


def waits_for(mesh):
    held = mesh.status()["rotation"]["held"]
    return [w["identity"] for w in held["waits_for"]] if held else []


@pytest.mark.parametrize("kind", ["rsa4096", "p256"])
def test_openssl_made_hierarchies_go_through_the_flow(tmp_path, daemon, kind):
    root = openssl_root(tmp_path / "root", "Root A", kind)
    a1 = openssl_intermediate(tmp_path / "a1", root, "Intermediate A1", kind)
    a2 = openssl_intermediate(tmp_path / "a2", root, "Intermediate A2", kind)
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(a1)
    mesh.enable()
    mesh.agent("web")
    mesh.agent("cart")
    wait_for("both on A1", lambda: settled(mesh, "Intermediate A1", 2))
    verify_files(tmp_path / "web", "-purpose", "sslserver", roots=root / "root-cert.pem")
    mesh.set_all(a2)
    wait_for("both on A2", lambda: settled(mesh, "Intermediate A2", 2))
    verify_files(tmp_path / "cart", "-purpose", "sslserver", roots=root / "root-cert.pem")
    assert "Istiod has detected the newly added intermediate CA" in mesh.up.text()


def test_root_replaced_straight_is_staged_by_itself(tmp_path, daemon):
    ra, rb = openssl_root(tmp_path / "ra", "Root A", "p256"), openssl_root(tmp_path / "rb", "Root B", "p256")
    a1 = openssl_intermediate(tmp_path / "a1", ra, "Intermediate A1", "p256")
    b1 = openssl_intermediate(tmp_path / "b1", rb, "Intermediate B1", "p256")
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(a1)
    mesh.enable()
    mesh.agent("web")
    wait_for("on A1", lambda: settled(mesh, "Intermediate A1", 1))
    mesh.set_all(b1)
    wait_for("on B1, root A gone",
             lambda: (s := settled(mesh, "Intermediate B1", 1)) and len(s["ca"]["roots"]) == 1 and s)
    verify_files(tmp_path / "web", "-purpose", "sslserver", roots=rb / "root-cert.pem")
    log = mesh.up.text()
    assert log.index("Updating new ROOT-CA") < log.index('Subject: "CN=Intermediate B1')  # a set that is half written is told of before


def test_a_cut_off_workload_holds_the_signer_and_is_named(tmp_path, daemon):
    ra, rb = openssl_root(tmp_path / "ra", "Root A", "p256"), openssl_root(tmp_path / "rb", "Root B", "p256")
    a1 = openssl_intermediate(tmp_path / "a1", ra, "Intermediate A1", "p256")
    b1 = openssl_intermediate(tmp_path / "b1", rb, "Intermediate B1", "p256")
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(a1)
    mesh.enable()
    mesh.agent("web")
    lost = mesh.agent("lost")
    wait_for("both on A1", lambda: settled(mesh, "Intermediate A1", 2))
    lost.kill()
    mesh.set_all(b1)
    wait_for("held for the lost one alone", lambda: waits_for(mesh) == ["spiffe://cluster.local/ns/test/sa/lost"])
    assert len(mesh.status()["ca"]["roots"]) == 2, "widened, but the signer has not moved"
    assert "Intermediate A1" in mesh.status()["ca"]["intermediate"]["subject"]
    explained = mesh.run("rotate", "force")
    assert "sa/lost" in explained.stdout
    assert "sa/lost" in mesh.run("rotate", "force", "--force").stdout, "who may be cut off now"
    wait_for("the signer moved", lambda: "Intermediate B1" in mesh.status()["ca"]["intermediate"]["subject"])


def test_restart_in_the_middle_of_a_rotation_goes_on_from_the_plan(tmp_path, daemon):
    ra, rb = openssl_root(tmp_path / "ra", "Root A", "p256"), openssl_root(tmp_path / "rb", "Root B", "p256")
    a1 = openssl_intermediate(tmp_path / "a1", ra, "Intermediate A1", "p256")
    b1 = openssl_intermediate(tmp_path / "b1", rb, "Intermediate B1", "p256")
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(a1)
    mesh.enable()
    lost = mesh.agent("lost")
    wait_for("on A1", lambda: settled(mesh, "Intermediate A1", 1))
    lost.kill()
    mesh.set_all(b1)
    wait_for("widened and held", lambda: len(mesh.status()["ca"]["roots"]) == 2)
    before = mesh.status()["ca"]["generation"]
    for _ in range(3):
        mesh.up.kill()
        mesh.start()
        s = wait_for("ready again", lambda: (s := mesh.status())["ready"] and s)
        assert "Intermediate A1" in s["ca"]["intermediate"]["subject"], "the signer in force, not the one wanted"
        assert s["ca"]["generation"] >= before
    mesh.agent("lost")
    wait_for("moved, once the lost one is back", lambda: settled(mesh, "Intermediate B1", 1))


def test_a_self_signed_mesh_is_not_switched_in_place(tmp_path, daemon):
    ra = openssl_root(tmp_path / "ra", "Root A", "p256")
    a1 = openssl_intermediate(tmp_path / "a1", ra, "Intermediate A1", "p256")
    mesh = Mesh(tmp_path, daemon)
    mesh.run("mesh", "enable")
    assert wait_for("self-signed", lambda: (s := mesh.status())["ready"] and s)["ca"]["mode"] == "self-signed"
    mesh.set_all(a1)
    refused = mesh.enable(check=False)
    assert refused.returncode == 17 and "mesh disable" in refused.stderr
    before = mesh.status()["ca"]["generation"]
    mesh.run("mesh", "disable")
    mesh.enable()
    s = mesh.status()
    assert s["ca"]["mode"] == "plugged-in" and s["ca"]["generation"] > before, "generations only grow"


def test_enable_refuses_what_is_no_bundle_and_changes_nothing(tmp_path, daemon):
    ra = openssl_root(tmp_path / "ra", "Root A", "p256")
    a1 = openssl_intermediate(tmp_path / "a1", ra, "Intermediate A1", "p256")
    a2 = openssl_intermediate(tmp_path / "a2", ra, "Intermediate A2", "p256")
    mesh = Mesh(tmp_path, daemon)
    missing = mesh.enable(check=False)
    assert missing.returncode != 0 and "root-cert" in missing.stderr
    mesh.set_all(a1)
    mesh.set_secret("ca-key", a2 / "ca-key.pem")
    mixed = mesh.enable(check=False)
    assert mixed.returncode != 0 and "ca-key" in mixed.stderr
    assert mesh.status()["mode"] == "disabled"


def test_a_mixed_set_in_the_vault_never_reaches_the_ca(tmp_path, daemon):
    ra = openssl_root(tmp_path / "ra", "Root A", "p256")
    a1 = openssl_intermediate(tmp_path / "a1", ra, "Intermediate A1", "p256")
    a2 = openssl_intermediate(tmp_path / "a2", ra, "Intermediate A2", "p256")
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(a1)
    mesh.enable()
    mesh.set_secret("ca-key", a2 / "ca-key.pem")
    s = wait_for("sync says so", lambda: "ca-key" in ((s := mesh.status())["sync"]["last_error"] or "") and s)
    assert "Intermediate A1" in s["ca"]["intermediate"]["subject"]
    mesh.set_secret("ca-cert", a2 / "ca-cert.pem")
    mesh.set_secret("cert-chain", a2 / "cert-chain.pem")
    wait_for("whole again", lambda: "Intermediate A2" in mesh.status()["ca"]["intermediate"]["subject"])


def test_two_processes_on_one_state_folder(tmp_path, daemon):
    mesh = Mesh(tmp_path, daemon)
    second = meshroot("up", "--state-dir", mesh.state, "--ca-listen", "127.0.0.1:0", "--vault-listen", "127.0.0.1:0",
                      "--monitoring", "127.0.0.1:0", check=False)
    assert second.returncode == 17 and f"pid {mesh.up.process.pid}" in second.stderr


def test_it_starts_again_once_it_has_keys(tmp_path, daemon):
    mesh = Mesh(tmp_path, daemon)
    mesh.up.stop()
    mesh.start()  # how fast is for ./dev bench
