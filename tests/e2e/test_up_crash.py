"""meshroot up, killed at any point of a rotation: it comes back to a step of the plan, never to a half-taken one."""
import random
import subprocess
import threading

from conftest import Mesh, openssl_intermediate, openssl_root, verify_files, wait_for


def settled(mesh, subject):
    s = mesh.status()
    return subject in s["ca"]["intermediate"]["subject"] and len(s["ca"]["roots"]) == 1 and s["ready"] and s


def test_kill_at_random_points_of_rotations(tmp_path, daemon):
    root = {r: openssl_root(tmp_path / f"root-{r}", f"Root {r}", "p256") for r in "AB"}
    sets = [openssl_intermediate(tmp_path / f"i{i}", root["AABB"[i]], f"Intermediate {i}", "p256") for i in range(4)]
    mesh = Mesh(tmp_path, daemon)
    mesh.set_all(sets[0])
    mesh.enable()
    mesh.agent("web")
    wait_for("on the first", lambda: settled(mesh, "Intermediate 0"))
    wait_for("the agent's first files", (tmp_path / "web/..data").exists)
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    generation, want = mesh.status()["ca"]["generation"], 0
    for i in range(10):
        want = (want + 1) % len(sets)

        def write(want=want):
            try:
                mesh.set_all(sets[want])
            except (AssertionError, subprocess.TimeoutExpired):
                pass  # the kill

        writer = threading.Thread(target=write)
        writer.start()
        threading.Event().wait(rng.uniform(0.0, 2.0))
        mesh.up.kill()
        writer.join(60)
        mesh.start()
        s = wait_for(f"seed {seed}, round {i}: ready again", lambda: (s := mesh.status())["ready"] and s)
        assert s["ca"]["generation"] >= generation, f"seed {seed}, round {i}: generations only grow"
        generation = s["ca"]["generation"]
        subject = s["ca"]["intermediate"]["subject"]
        assert any(f"Intermediate {n}" in subject for n in range(len(sets))), f"seed {seed}, round {i}: {subject}"
        # the files that the agent serves from are one whole set, whatever happened to the CA
        verify_files(tmp_path / "web")
    mesh.set_all(sets[want])
    wait_for(f"seed {seed}: settled on the last set", lambda: settled(mesh, f"Intermediate {want}"))
