#!/usr/bin/env python3
"""Writes charts/agentsight/README.md from the comments of values.yaml; with --check, only says whether it is stale.

A value is described by the comment lines directly above it, the first of which begins with `# --`.
"""
import itertools
import pathlib
import re
import sys

chart = pathlib.Path(__file__).parent.parent / "charts" / "agentsight"

HEAD = """<!-- Generated from values.yaml by scripts/chart-readme.py. Do not edit. -->
# agentsight

Traces AI agents from outside: their model calls become OpenTelemetry spans, with no SDK, proxy or restart.

```sh
helm install agentsight charts/agentsight -n agentsight-system --create-namespace \\
  --set otlp.endpoint=http://otel-collector.observability:4317
```

[docs/install.md](../../docs/install.md) goes on from here; [docs/security.md](../../docs/security.md) tells what each right is
needed for, [docs/backends.md](../../docs/backends.md) how to reach Tempo, Jaeger and others.

## Values

| value | default | meaning |
|---|---|---|
"""


def rows(text):
    """(path, default, meaning) of every described value."""
    lines, path, meaning = text.splitlines(), [], None
    for number, line in enumerate(lines):
        if match := re.match(r" *# -- (.*)", line):
            meaning = [match[1]]
        elif (match := re.match(r" *# (.*)", line)) and meaning is not None:
            meaning.append(match[1])
        elif match := re.match(r"( *)([A-Za-z]+):(.*)", line):
            path = path[: len(match[1]) // 2] + [match[2]]
            if meaning is not None:
                yield ".".join(path), match[3].strip() or block(lines[number + 1 :], len(match[1])), " ".join(meaning)
            meaning = None


def block(lines, indent):
    """What is indented more, on one line."""
    inner = itertools.takewhile(lambda line: len(line) - len(line.lstrip()) > indent, lines)
    return "; ".join(line.strip() for line in inner)


def main():
    text = (chart / "values.yaml").read_text()
    page = HEAD
    for path, value, meaning in rows(text):
        meaning = meaning.replace("|", "\\|")
        page += f"| `{path}` | `{value}` | {meaning} |\n"
    readme = chart / "README.md"
    if "--check" in sys.argv:
        if not readme.exists() or readme.read_text() != page:
            sys.exit(f"{readme} is stale: run scripts/chart-readme.py")
    else:
        readme.write_text(page)


main()
