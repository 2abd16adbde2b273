#!/usr/bin/env python3
"""Packs a folder into the archive of an image: one layer, no registry, no daemon, no root.

The archive is an OCI image layout that also has the manifest of `docker save`: docker load, podman load, ctr images
import, kind load image-archive and skopeo all take it. The same files make the same bytes.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import stat
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main():
    arguments = parse()
    layer = pack_layer(arguments.root)
    # Not the time of day in the header: the same layer is the same digest.
    compressed = gzip.compress(layer, compresslevel=arguments.compress, mtime=0)
    blobs = {}

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer_blob = blob(compressed, "application/vnd.oci.image.layer.v1.tar+gzip")
    config = blob(
        to_json(
            {
                "architecture": ARCHITECTURES[platform.machine()],
                "os": "linux",
                "config": {
                    key: value
                    for key, value in {
                        "User": arguments.user,
                        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *arguments.env],
                        "Entrypoint": arguments.entrypoint,
                        "Labels": dict(label.split("=", 1) for label in arguments.label),
                    }.items()
                    if value
                },
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
                "history": [{"created_by": "AgentSight scripts/images.sh"}],
            }
        ),
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = blob(
        to_json(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config,
                "layers": [layer_blob],
            }
        ),
        "application/vnd.oci.image.manifest.v1+json",
    )
    names = [{**manifest, "annotations": {"io.containerd.image.name": full_name(name)}} for name in arguments.name]
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": names}
    path = lambda descriptor: "blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")
    saved = [{"Config": path(config), "RepoTags": arguments.name, "Layers": [path(layer_blob)]}]

    partial = arguments.out + ".partial"
    with tarfile.open(partial, "w") as archive:
        add(archive, "oci-layout", to_json({"imageLayoutVersion": "1.0.0"}))
        add(archive, "index.json", to_json(index))
        add(archive, "manifest.json", to_json(saved))
        for digest, data in sorted(blobs.items()):
            add(archive, f"blobs/sha256/{digest}", data)
    os.rename(partial, arguments.out)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="the folder that becomes the image's root")
    parser.add_argument("--out", required=True, help="the archive")
    parser.add_argument("--name", required=True, action="append", help="NAME:TAG; more than one may be given")
    parser.add_argument("--entrypoint", action="append", help="the program, and each argument")
    parser.add_argument("--user", help="UID:GID")
    parser.add_argument("--env", action="append", default=[], help="NAME=VALUE")
    parser.add_argument("--label", action="append", default=[], help="KEY=VALUE")
    parser.add_argument("--compress", type=int, default=6, help="0 (quick) to 9 (small)")
    return parser.parse_args()


def pack_layer(root):
    """All files belong to root and have no date: what the builder's machine is like does not show."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder, folders, files in os.walk(root):
            folders.sort()
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            names = ([""] if folder != root else []) + sorted(files + links)
            for name in names:
                path = os.path.join(folder, name).rstrip("/")
                if not name or not os.path.isdir(path) or os.path.islink(path):
                    add_path(archive, path, os.path.relpath(path, root))
    return data.getvalue()


def add_path(archive, path, name):
    mode = os.lstat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        return
    info = archive.gettarinfo(path, name)
    # Two names of one file are two files here: which is the link depends on the order of a folder.
    if info.islnk():
        info.type, info.linkname, info.size = tarfile.REGTYPE, "", os.path.getsize(path)
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    if info.isreg():
        with open(path, "rb") as file:
            archive.addfile(info, file)
    else:
        archive.addfile(info)


def full_name(name):
    """As containerd knows it: docker.io/library/NAME where no registry is named."""
    first, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    archive.addfile(info, io.BytesIO(data))


def to_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


if __name__ == "__main__":
    main()
