"""A disk that can be filled and emptied: 4 MB of tmpfs in a mount namespace of its own, which is gone with its last process
and which nobody else sees; where that cannot be had, the daemon's limit on the size of files."""
import ctypes
import os
import pathlib
import resource
import signal
import subprocess

import pytest

CLONE_FS, CLONE_NEWNS = 0x200, 0x20000


class Disk:
    def __init__(self, path):
        path.mkdir()
        self.path = self.view = path  # as the daemon has it; as we have it
        self.limits = None
        self.holder = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c",
             'mount -t tmpfs -o size=4m,mode=0700 tmpfs "$1" && echo mounted && exec cat', "sh", path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.mounted = self.holder.stdout.readline() == b"mounted\n"
        if self.mounted:
            self.view = pathlib.Path(f"/proc/{self.holder.pid}/root{path}")

    def enter(self):
        """In the daemon's process before its program: preexec."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if not self.mounted:
            return
        namespace = os.open(f"/proc/{self.holder.pid}/ns/mnt", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        # grpcio, once used, starts a thread in each forked child, which shares its folder and root: first one's own
        if libc.unshare(CLONE_FS) != 0 or libc.setns(namespace, CLONE_NEWNS) != 0:
            os.write(2, f"into the small disk's namespace: {os.strerror(ctypes.get_errno())}\n".encode())
            os._exit(127)
        os.close(namespace)

    def fill(self, pid):
        if not self.mounted:
            self.limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, self.limits[1]))
            return
        with open(self.view / "filler", "wb", buffering=0) as f:
            for size in (65536, 1):
                try:
                    while True:
                        f.write(b"x" * size)
                except OSError:
                    pass

    def empty(self, pid):
        if self.mounted:
            (self.view / "filler").unlink()
        else:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, self.limits)

    def close(self):
        self.holder.stdin.close()
        self.holder.wait(60)


@pytest.fixture
def disk(tmp_path):
    d = Disk(tmp_path / "disk")
    yield d
    d.close()
