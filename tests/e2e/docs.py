"""What the documentation says, for test_docs.py: commands with their flags, metrics, links. By hand, `python3 tests/e2e/docs.py`
prints the table rows of docs/metrics.md that the source wants."""
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parents[2]
METRIC = re.compile(r'\{\s*"([a-z]+_[a-z0-9_]+)",\s*((?:"(?:[^"\\]|\\.)*"\s*)+),\s*METRIC_(COUNTER|GAUGE|HISTOGRAM)')


def pages():
    return [HERE / "README.md", HERE / "ARCHITECTURE.md", HERE / "HACKING.md", HERE / "CHANGELOG.md", *sorted(HERE.glob("docs/*.md"))]


def metrics():
    """Of the source: name -> its HELP."""
    found = {}
    for file in sorted(HERE.glob("src/**/*.c")):
        for name, parts, _ in METRIC.findall(file.read_text()):
            assert name not in found, f"{name} is declared twice"
            found[name] = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', parts)).replace('\\"', '"')
    return found


def commands(text):
    """Every shell line of a page that calls meshroot, with what follows a backslash joined: the words after "meshroot"."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```|((?:^    .*\n)+)", text, re.M | re.S)
    lines = "\n".join(a or b for a, b in blocks).replace("\\\n", " ").splitlines()
    lines = [x for x in lines if "▶" not in x and not re.match("(?:#|helm) ", x)]  # no drawing, no name of a release
    for line in lines + re.findall(r"`([^`\n]+)`", text):
        for part in re.split(r"[|;&]|\$\(", re.sub(r"\s#\s.*", "", line)):
            part = re.sub(r"sudo (?:-E )?-u \S+ ", "", part)  # whose user is called as we are
            found = re.search(r"(?:^|\s)meshroot\s+([a-z].*)", part)
            if found:
                yield found[1].split()


def flags(text):
    """Flags that a page names in prose, between backticks."""
    for quoted in re.findall(r"`([^`\n]+)`", text):
        if quoted.startswith("--"):
            yield from re.findall(r"(?:^|\s)(--[a-z][a-z0-9-]*)", quoted)


if __name__ == "__main__":
    for metric, text in metrics().items():
        print(f"| `{metric}` | | {text} |")
