#!/usr/bin/env python3
"""How long after a program's exec its probes stand, for files that the agent has never seen.

    attach.py --agent agentsight [--times 30] [NAME=PROGRAM ...]

Each time a copy of the program is run, and of the library that it uses: a new file, as in a new image. `agentsight run`
traces it and says when it attached. With no programs: curl's OpenSSL, and the agents that the tests have fetched. What the
copy of a program is read from is either the page cache, or (cold) the disk. A table, median and 99th percentile in ms; the
programs themselves run at the same time on the same machine, as they would.
"""

import argparse
import datetime
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "agentsight/agents"
AGENTS = ["claude-2.1.332", "codex-0.171.0", "node-24.22.3"]
TRACE = """\
apiVersion: agentsight.dev/v1alpha1
kind: AgentTrace
metadata: {name: bench}
spec: {selector: {}}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("programs", nargs="*", metavar="NAME=PROGRAM")
    options = parser.parse_args()
    programs = dict(program.split("=", 1) for program in options.programs)
    if not programs:
        programs = {"a library of 0.7 MB, by its symbols": None}
        programs |= {name: CACHE / name / "program" for name in AGENTS if (CACHE / name).exists()}
    print("| file | from | median, ms | 99th percentile, ms | worst, ms | times |")
    print("|---|---|---|---|---|---|")
    for name, program in programs.items():
        for cold in [False, True]:
            times = sorted(measure(options, program and Path(program).resolve(), cold))
            # Of so few the worst stands for the percentile where it must.
            percentile = times[min(len(times) - 1, int(len(times) * 0.99))]
            source = "disk" if cold else "page cache"
            print(f"| {name} | {source} | {statistics.median(times):.0f} | {percentile:.0f} | {times[-1]:.0f} | {len(times)} |", flush=True)


def measure(options, program, cold):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "trace.yaml").write_text(TRACE)
        command = [options.agent, "run", "--listen", "127.0.0.1:0", "-v", "-f", folder / "trace.yaml"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "NO_COLOR": "1"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as agent:
            log = iter(agent.stderr.readline, "")
            next(line for line in log if "http://" in line)
            try:
                for n in range(options.times):
                    yield once(folder / str(n), program, cold, log)
            finally:
                agent.terminate()
                for _ in log:
                    pass


def once(folder, program, cold, log):
    folder.mkdir()
    copy = folder / "traced-by-bench"
    command, environment, attached = [copy, "--version"], {"HOME": str(folder), "PATH": os.environ["PATH"]}, copy
    if program:
        shutil.copy(program, copy)
    else:
        shutil.copy(shutil.which("curl"), copy)
        attached = folder / "libssl.so.3"
        shutil.copy("/usr/lib/x86_64-linux-gnu/libssl.so.3", attached)
        environment["LD_LIBRARY_PATH"] = str(folder)
    if cold:
        with open(attached, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.time()
    process = subprocess.Popen(command, env=environment, **quiet)
    line = next(line for line in log if "attached" in line and str(attached) in line)
    process.wait()
    shutil.rmtree(folder)
    at = datetime.datetime.fromisoformat(re.search(r"\d{4}-\d\d-\d\dT[\d:.]+", line)[0]).replace(tzinfo=datetime.timezone.utc)
    return (at.timestamp() - begun) * 1000


if __name__ == "__main__":
    main()
