"""A sidecar as a mesh has it: stunnel, which takes what an agent says without TLS and passes it on over TLS."""

import contextlib
import re
import subprocess
import sys
import tempfile
from urllib.parse import urlsplit

CONFIGURATION = """
foreground = yes
pid =
debug = info
[model]
client = yes
accept = 127.0.0.1:0
connect = 127.0.0.1:{port}
sni = localhost
CAfile = {ca}
verifyChain = yes
checkHost = localhost
"""


@contextlib.contextmanager
def before(base, ca):
    """Where to ask the server at `base` without TLS."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(CONFIGURATION.format(port=urlsplit(base).port, ca=ca))
        file.flush()
        with subprocess.Popen(["stunnel", file.name], stderr=subprocess.PIPE, text=True) as sidecar:
            said = (re.search(r"bound to 127\.0\.0\.1:(\d+)", line) for line in sidecar.stderr)
            bound = next(filter(None, said))
            try:
                yield f"http://localhost:{bound[1]}"
            finally:
                sidecar.terminate()
                sidecar.stderr.read()


def main():
    """sidecar.py BASE CA: says where to ask, and goes on until the end of its input."""
    with before(*sys.argv[1:]) as base:
        print(base, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
