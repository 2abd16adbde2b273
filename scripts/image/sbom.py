#!/usr/bin/env python3
"""Writes what an image consists of as CycloneDX JSON: the crates in its program, and the Debian packages of its files."""

import argparse
import json
import os
import platform
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", required=True, help="the workspace's package whose program it is")
    parser.add_argument("--root", required=True, help="the image's root")
    arguments = parser.parse_args()
    package, crates = crates_of(arguments.package)
    components = crates + debian_packages(arguments.root)
    json.dump(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": {**component(package), "type": "container"}},
            "components": components,
        },
        sys.stdout,
        indent=1,
    )


def crates_of(name):
    """The package itself, and all that is linked into it: what builds and tests need besides is not."""
    target = f"{platform.machine()}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(package["id"] for package in packages.values() if package["name"] == name)
    found, waiting = set(), [root]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            # A procedural macro runs in the compiler; nothing of it is in the program.
            macro = any("proc-macro" in t["kind"] for t in packages[dependency["pkg"]]["targets"])
            if linked and not macro and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    crates = sorted((packages[crate] for crate in found), key=lambda crate: (crate["name"], crate["version"]))
    return packages[root], [component(crate) for crate in crates]


def component(crate):
    purl = f"pkg:cargo/{crate['name']}@{crate['version']}"
    told = {"type": "library", "name": crate["name"], "version": crate["version"], "purl": purl}
    if crate.get("license"):
        # The old way of writing OR.
        told["licenses"] = [{"expression": crate["license"].replace("/", " OR ")}]
    return told


def debian_packages(root):
    """Those that the root's libraries and certificates were copied from."""
    paths = []
    for folder, _, files in os.walk(root):
        paths += [os.path.realpath("/" + os.path.relpath(os.path.join(folder, file), root)) for file in files]
    libraries = [path for path in paths if ".so" in path and os.path.exists(path)]
    # /lib is /usr/lib; packages know their files by either name.
    names = libraries + [path.removeprefix("/usr") for path in libraries] + ["/usr/sbin/update-ca-certificates"]
    found = subprocess.run(["dpkg-query", "--search", *names], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    packages = sorted({line.split(": ")[0] for line in found.stdout.splitlines()})
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${Version} ${Architecture}\n", *packages],
        stdout=subprocess.PIPE, text=True, check=True,
    )
    components = []
    for line in shown.stdout.splitlines():
        name, version, architecture = line.split()
        purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={architecture}"
        components.append({"type": "library", "name": name, "version": version, "purl": purl})
    return components


if __name__ == "__main__":
    main()
