"""What a third party needs to check `meshroot ledger export`: docs/ledger.md, "The hash", in twenty lines.
Usage: meshroot ledger export | python3 check_ledger.py [ROW:HASH]"""
import hashlib
import json
import struct
import sys


def text(row, name):
    b = bytes.fromhex(row[name + "_hex"]) if name + "_hex" in row else row[name].encode()
    return struct.pack(">H", len(b)) + b


def check(lines, mark=None):
    prev, n = bytes(32).hex(), 0
    for row in map(json.loads, lines):
        if "removed" in row:  # by --ledger-retention: the first line says what the first row follows
            prev, n = row["removed"]["hash"], row["removed"]["rows"]
            continue
        n += 1
        serial = bytes.fromhex(row["serial"])
        record = (bytes([row["version"]]) + struct.pack(">Q", row["seq"]) + bytes.fromhex(prev) + struct.pack(">H", len(serial)) + serial
                  + text(row, "identity") + text(row, "instance") + bytes.fromhex(row["signer"]) + bytes.fromhex(row["root"])
                  + struct.pack(">qqqQ", row["not_before"], row["not_after"], row["issued"], row["generation"])
                  + text(row, "auth"))
        if row["version"] >= 2:
            record += struct.pack(">H", len(row["key_id"]) // 2) + bytes.fromhex(row["key_id"])
        prev = hashlib.sha256(record).hexdigest()
        assert prev == row["hash"], f"row {row['seq']} is not what it was, or does not follow the row before"
        mark = None if mark == f"{row['seq']}:{prev}" else mark
    assert mark is None, f"row {mark} is not there"
    return n


if __name__ == "__main__":
    print(check(sys.stdin, *sys.argv[1:2]), "rows, none edited, removed or moved")
