"""Looks for a private key in the memory of a process that runs: every map, readable or not, of every form in which
files and libraries keep one. No tracer and no debugger: root reads /proc/PID/mem."""
import base64

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

HALF_FROM_BYTES = 32  # of longer numbers each half counts alone: a copy that is half overwritten is a copy
STEP = 1 << 24


def memory_has(pid, needles):
    """The names of those needles that lie anywhere in a process's memory."""
    found, seen = set(), 0
    overlap = max(map(len, needles.values()))
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            if end - start > 1 << (30 if line.split()[1].startswith("---") else 36):
                continue  # a sanitizer's shadow, and what it sets aside
            for at in range(start, end, STEP):
                try:
                    mem.seek(at)
                    data = mem.read(min(STEP + overlap, end - at))
                except (OSError, ValueError, OverflowError):
                    continue  # a page that the kernel shows to nobody: [vvar], [vsyscall]
                seen += len(data)
                found |= {name for name, needle in needles.items() if needle in data}
    assert seen > 1 << 20, f"pid {pid}: its memory cannot be read, so nothing was looked for"
    return found


def private_numbers(key):
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"d": (key.private_numbers().private_value, (key.key_size + 7) // 8)}
    n = key.private_numbers()
    half = key.key_size // 16
    return {"d": (n.d, 2 * half), "p": (n.p, half), "q": (n.q, half), "dmp1": (n.dmp1, half), "dmq1": (n.dmq1, half),
            "iqmp": (n.iqmp, half)}


def forms_of(key_pem):
    """name -> bytes: each private number as DER has it (big endian) and as OpenSSL computes with it (the words of a BN,
    the least one first), and as it stands in base64 in PEM, whatever the alignment."""
    forms, numbers = {}, private_numbers(serialization.load_pem_private_key(key_pem, None))
    for name, (value, size) in numbers.items():
        big = value.to_bytes(size, "big")
        cut = size // 2 if size > HALF_FROM_BYTES else size
        for at in range(0, size, cut):
            forms[f"{name} big endian {at}"] = big[at:at + cut]
            forms[f"{name} limbs {at}"] = big[::-1][at:at + cut]
    body = b"".join(x for x in key_pem.splitlines() if b"-----" not in x)
    lines = b"\n".join(body[i:i + 64] for i in range(0, len(body), 64))
    der = base64.b64decode(body)
    forms["DER"] = der
    for name, (value, size) in numbers.items():
        at = (der.index(value.to_bytes((value.bit_length() + 7) // 8, "big")) + 2) // 3 * 4
        forms[f"{name} base64"] = body[at:at + 40]
        forms[f"{name} PEM"] = lines[at + at // 64:][:40]  # with PEM's ends of lines
    return forms
