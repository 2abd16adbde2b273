#!/usr/bin/env python3
"""What tracing costs: the same work with and without the agent, in turns, in one run.

    bench.py --agent agentsight --model-server model-server --echo echo --python PYTHON
             [--quick] [-o markdown|json] [--write FILE]

Run it by `make bench`. docs/performance.md says what is measured and how to read it.
"""

import argparse
import ctypes
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE = 15 * 60  # seconds; a run that takes longer is taken for hung, and ended


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--model-server", required=True)
    parser.add_argument("--echo", required=True)
    parser.add_argument("--python", required=True, help="an interpreter with openai, httpx and httpx2")
    parser.add_argument("--quick", action="store_true", help="two short pairs: that it runs, not what it costs")
    parser.add_argument("-o", "--output", choices=["markdown", "json"], default="markdown")
    parser.add_argument("--write", type=Path, help="put the table between the marks in this file")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, hung)
    signal.alarm(PATIENCE)
    with tempfile.TemporaryDirectory() as folder:
        results = Bench(options, Path(folder)).run()
    text = markdown(results)
    print(json.dumps(results, indent=2) if options.output == "json" else text)
    if options.write:
        write_between_marks(options.write, text)


def hung(*_):
    raise SystemExit(f"not done within {PATIENCE} s")


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.pairs, self.scale = (2, 0.1) if options.quick else (10, 1)

    def run(self):
        results = {"machine": machine(), "pairs": self.pairs, "quick": self.options.quick}
        with Worker([self.options.echo]) as echo, Worker([self.options.echo]) as other:
            results["library"] = echo.ready
            results["echo"] = self.echo(echo, other)
            results["idle"] = self.idle(other)
        server = ModelServer(self.options.model_server, self.folder)
        command = [self.options.python, HERE / "load.py", "--base", server.base, "--ca", server.ca]
        with server, Worker(command) as client:
            results["client"] = client.ready
            results["loads"] = [self.load(name, load, client) for name, load in self.loads().items()]
        return results

    def loads(self):
        def calls(count):
            return max(20, int(count * self.scale))

        thinking = {"x-mock-first-ms": "450", "x-mock-chunks": "60", "x-mock-chunk-ms": "10"}
        fast = {"x-mock-chunks": "60"}
        return {
            "realistic": dict(client="openai", workers=20, calls=calls(80), stream=True, headers=thinking),
            "small calls": dict(client="httpx", workers=8, calls=calls(500), stream=False, headers={}),
            "streams": dict(client="httpx", workers=8, calls=calls(150), stream=True, headers=fast),
        }

    def echo(self, echo, other):
        """CPU time of a call of SSL_read or SSL_write: alone, traced, and while another process is traced."""
        sizes = [100, 1 << 10, 16 << 10, 1 << 20]

        def rounds(agent=None):
            for size in sizes:
                began = agent.cpu() if agent else 0
                counts = echo.ask(f"{size} {0.4 * self.scale}")
                used = agent.cpu() - began if agent else 0
                yield {
                    "call": counts["cpu_ns"] / counts["calls"],
                    "agent_call": used * 1e9 / counts["calls"],
                    "agent_mib": used * 2**20 / counts["bytes"],
                }

        list(rounds())
        pairs, agents = [], []
        for _ in range(self.pairs):
            alone = list(rounds())
            with self.agent(echo.pid) as agent:
                traced = list(rounds(agent))
            with self.agent(other.pid):
                beside = list(rounds())
            pairs.append(list(zip(alone, traced, beside)))
            agents.append(agent.used)

        def figures(of):
            return [spread(of(*pair[at]) for pair in pairs) for at in range(len(sizes))]

        columns = {
            "alone": figures(lambda a, t, b: a["call"]),
            "traced": figures(lambda a, t, b: t["call"]),
            "traced_more": figures(lambda a, t, b: t["call"] - a["call"]),
            "traced_ratio": figures(lambda a, t, b: t["call"] / a["call"]),
            "beside_more": figures(lambda a, t, b: b["call"] - a["call"]),
            "beside_ratio": figures(lambda a, t, b: b["call"] / a["call"]),
            "agent_call": figures(lambda a, t, b: t["agent_call"]),
            "agent_mib": figures(lambda a, t, b: t["agent_mib"]),
        }
        columns["traps"], columns["programs"] = self.programs(echo, sizes)
        rows = [{"size": size} | {name: column[at] for name, column in columns.items()} for at, size in enumerate(sizes)]
        return {"sizes": rows, "agent": self.costs(agents)}

    def programs(self, echo, sizes):
        """Runs of the kernel programs for a call, and the time in them, in a round of its own: counting costs, too."""
        runs, times = [], []
        with RunStatistics(), self.agent(echo.pid) as agent:
            for size in sizes:
                before = agent.program_runs()
                calls = echo.ask(f"{size} {0.4 * self.scale}")["calls"]
                count, time_ns = (after - before for after, before in zip(agent.program_runs(), before))
                runs.append(count / calls)
                times.append(time_ns / calls)
        return runs, times

    def idle(self, process):
        """The agent's CPU time, in seconds a second, while nothing happens."""
        seconds = 5 * self.scale
        with self.agent(process.pid) as agent:
            began = agent.cpu()
            time.sleep(seconds)
            cpu = agent.cpu() - began
        return {"cpu": cpu / seconds, "anonymous": agent.used["anonymous"], "maps": agent.used["maps"]}

    def load(self, name, load, client):
        line = json.dumps(load)
        client.ask(line)
        rounds = []
        for _ in range(self.pairs):
            alone = client.ask(line)
            with self.agent(client.pid, expected_calls=load["calls"]) as agent:
                traced = client.ask(line)
            rounds.append((alone, traced, agent.used))

        def figures(of):
            return {
                "alone": spread(of(alone) for alone, _, _ in rounds),
                "traced": spread(of(traced) for _, traced, _ in rounds),
                "ratio": spread(of(traced) / of(alone) for alone, traced, _ in rounds),
            }

        return {
            "name": name,
            "load": load,
            "p50": figures(lambda r: r["p50"]),
            "p99": figures(lambda r: r["p99"]),
            "rate": figures(lambda r: r["calls"] / r["seconds"]),
            "cpu": figures(lambda r: r["cpu"] / r["calls"]),
            "rss": figures(lambda r: r["rss"]),
            "agent": self.costs([used for _, _, used in rounds]),
            "agent_cpu_share": spread(used["cpu"] / traced["seconds"] for _, traced, used in rounds),
        }

    def costs(self, rounds):
        """The agent's CPU time for each thing that it captured, and what it held."""

        def each(what):
            return spread(used["cpu"] / used[what] for used in rounds if used[what])

        result = {
            "cpu_per_tls_call": each("tls_calls"),
            "cpu_per_mib": spread(used["cpu"] / (used["tls_bytes"] / 2**20) for used in rounds if used["tls_bytes"]),
            "lost_bytes": sum(used["tls_bytes"] - used["captured_bytes"] for used in rounds),
            "tls_bytes": sum(used["tls_bytes"] for used in rounds),
            "anonymous": spread(used["anonymous"] for used in rounds),
            "maps": spread(used["maps"] for used in rounds),
        }
        if rounds[0]["expected_calls"]:
            result["cpu_per_call"] = each("calls")
            result["calls_expected"] = sum(used["expected_calls"] for used in rounds)
            result["calls_seen"] = sum(used["calls"] for used in rounds)
        return result

    def agent(self, pid, expected_calls=0):
        return Agent(self.options.agent, pid, self.folder / "calls.jsonl", expected_calls)


class Agent:
    """`agentsight record --pid` while it is entered; afterwards `used` says what that took."""

    def __init__(self, program, pid, file, expected_calls):
        self.command = [program, "record", "--pid", str(pid), "-v", "--tree", "never", "--otlp-json", file]
        self.file, self.expected_calls = file, expected_calls

    def __enter__(self):
        self.file.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        self.log = until(self.process.stderr, "tracing;")
        self.began = self.cpu()
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.process.kill()
            self.process.wait()
            return
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.used = {
            "anonymous": int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024,
            "maps": self.kernel_memory(),
            "expected_calls": self.expected_calls,
        }
        self.process.send_signal(signal.SIGINT)
        self.log += self.process.stderr.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode != 0:
            raise SystemExit(f"the agent ended with {self.process.returncode}:\n{self.log}")
        # With its end: what it still had to write belongs to what it captured.
        self.used["cpu"] = usage.ru_utime + usage.ru_stime - self.began
        for name in ("tls_calls", "tls_bytes", "captured_bytes", "calls"):
            self.used[name] = int(re.search(rf"\b{name}=(\d+)", self.log)[1])

    def cpu(self):
        # The clock of another process' CPU time: clock_getcpuclockid(3).
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def kernel_memory(self):
        """What its maps take, the ring among them."""
        return sum(bpf_map["memlock"] for bpf_map in self.kernel_objects("map_id"))

    def program_runs(self):
        """How often its programs ran while that was counted, and for how many ns."""
        programs = self.kernel_objects("prog_id")
        return sum(program["run_cnt"] for program in programs), sum(program["run_time_ns"] for program in programs)

    def kernel_objects(self, kind):
        """Each once, as the kernel describes its descriptors."""
        found = {}
        for file in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            numbers = dict(re.findall(r"^(\w+):\s+(\d+)$", file.read_text(), re.M))
            if kind in numbers and "memlock" in numbers:  # a link names its program, too
                found[numbers[kind]] = {name: int(number) for name, number in numbers.items()}
        return found.values()


class RunStatistics:
    """Lets the kernel count what programs run and for how long, while it is entered: BPF_ENABLE_STATS of bpf(2)."""

    def __enter__(self):
        bpf = {"x86_64": 321, "aarch64": 280}[platform.machine()]
        attributes = ctypes.create_string_buffer(128)  # all zero: BPF_STATS_RUN_TIME
        self.descriptor = ctypes.CDLL(None, use_errno=True).syscall(bpf, 32, attributes, 4)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "BPF_ENABLE_STATS")

    def __exit__(self, *error):
        os.close(self.descriptor)


class Worker:
    """A program that answers each line with one of JSON, and says first that it is ready."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.ready = self.answer()["ready"]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, line):
        print(line, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)


class ModelServer:
    def __init__(self, program, folder):
        self.ca = folder / "ca.pem"
        command = [program, "--ca-file", self.ca]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.base = f"https://localhost:{json.loads(self.process.stdout.readline())['port']}"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()


def until(stream, mark):
    log = ""
    while mark not in log:
        line = stream.readline()
        if not line:
            raise SystemExit(f"the agent did not start:\n{log}")
        log += line
    return log


def spread(values):
    values = sorted(values)
    if not values:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "low": low, "high": high}


def machine():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    hypervisor = " hypervisor " in Path("/proc/cpuinfo").read_text()
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": hypervisor,
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def markdown(results):
    def cell(figure, scale=1.0, digits=2):
        if figure is None:
            return ""
        median, low, high = (f"{figure[key] * scale:,.{digits}f}" for key in ("median", "low", "high"))
        return f"{median} ({low} – {high})"

    machine = results["machine"]
    where = "in a virtual machine" if machine["virtual"] else "on bare metal"
    lines = [
        f"{machine['date']}, {machine['cpus']} × {machine['cpu']} {where}, Linux {machine['kernel']}, "
        f"load average {machine['load']:.1f} at the start; echo: {results['library']}; client: {results['client']}. "
        f"{results['pairs']} pairs; median (quartiles)." + (" **Quick run: not to be quoted.**" * results["quick"]),
        "",
        "**Echo**: CPU time of one call of `SSL_read_ex` or `SSL_write_ex`, and what tracing adds",
        "",
        "| message | alone, µs | traced, µs | added, µs | ratio | while another is traced: added, µs "
        "| probes hit | in our programs, µs | agent: CPU a call, µs | a MiB, ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for echo in results["echo"]["sizes"]:
        size = echo["size"]
        name = f"{size} B" if size < 1024 else f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"
        added, beside = cell(echo["traced_more"], 1e-3), cell(echo["beside_more"], 1e-3)
        lines.append(
            f"| {name} | {cell(echo['alone'], 1e-3)} | {cell(echo['traced'], 1e-3)} | {added} "
            f"| {cell(echo['traced_ratio'])} | {beside} "
            f"| {echo['traps']:.2f} | {echo['programs'] * 1e-3:.2f} | {cell(echo['agent_call'], 1e-3)} "
            f"| {cell(echo['agent_mib'], 1e3)} |"
        )
    lines += [
        "",
        "**Loads**: a Python client and a model server on the same machine",
        "",
        "| load | figure | alone | traced | ratio |",
        "|---|---|---|---|---|",
    ]
    for load in results["loads"]:
        for title, key, scale, digits in [
            ("p50, ms", "p50", 1e3, 1),
            ("p99, ms", "p99", 1e3, 1),
            ("calls a second", "rate", 1, 1),
            ("client CPU a call, ms", "cpu", 1e3, 2),
            ("client RSS, MiB", "rss", 2**-20, 1),
        ]:
            figure = load[key]
            alone, traced = cell(figure["alone"], scale, digits), cell(figure["traced"], scale, digits)
            lines.append(f"| {load['name']} | {title} | {alone} | {traced} | {cell(figure['ratio'], 1, 3)} |")
    lines += [
        "",
        "**The agent**",
        "",
        "| load | CPU a model call, µs | CPU a TLS call, µs | CPU a MiB, ms | CPU, % of a core | anonymous memory, MiB "
        "| maps and ring, MiB | calls seen / made | bytes lost / moved |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for load in [{"name": "echo"} | results["echo"]] + results["loads"]:
        agent = load["agent"]
        calls = f"{agent['calls_seen']:,} / {agent['calls_expected']:,}" if "calls_seen" in agent else ""
        lines.append(
            f"| {load['name']} | {cell(agent.get('cpu_per_call'), 1e6, 0)} | {cell(agent['cpu_per_tls_call'], 1e6, 1)} "
            f"| {cell(agent['cpu_per_mib'], 1e3, 1)} | {cell(load.get('agent_cpu_share'), 100, 1)} "
            f"| {cell(agent['anonymous'], 2**-20, 1)} | {cell(agent['maps'], 2**-20, 1)} "
            f"| {calls} | {agent['lost_bytes']:,} / {agent['tls_bytes']:,} |"
        )
    idle = results["idle"]
    lines.append(
        f"| idle | | | | {idle['cpu'] * 100:.2f} | {idle['anonymous'] * 2**-20:.1f} | {idle['maps'] * 2**-20:.1f} | | |"
    )
    return "\n".join(lines)


def write_between_marks(path, text):
    before, _, rest = path.read_text().partition("<!-- bench:begin -->\n")
    _, _, after = rest.partition("<!-- bench:end -->")
    if not after:
        raise SystemExit(f"{path} has no <!-- bench:begin --> and <!-- bench:end --> lines")
    path.write_text(f"{before}<!-- bench:begin -->\n{text}\n<!-- bench:end -->{after}")


if __name__ == "__main__":
    main()
