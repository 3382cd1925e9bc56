"""Puts images together in an OCI layout, in the forms for which no tool at hand has an option.

assemble_image.py image LAYOUT TAG uncompressed|gzip-members LAYER.tar...    an image of these layers
assemble_image.py index LAYOUT TAG PLATFORM=TAG...                           an index of images that are there
assemble_image.py rename LAYOUT TAG OLD-TAG FROM=TO...                       an image with annotations of another name
"""

import hashlib
import json
import os
import subprocess
import sys

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Layout:
    def __init__(self, directory):
        self.directory = directory
        self.blobs = os.path.join(directory, "blobs/sha256")

    def add_file(self, path):
        """Takes the file at `path` as a blob; a link, where that is possible."""
        digest = sha256(path)
        blob = os.path.join(self.blobs, digest)
        if not os.path.exists(blob):
            os.link(path, blob)
        return {"digest": f"sha256:{digest}", "size": os.path.getsize(path)}

    def add_document(self, document):
        content = json.dumps(document).encode()
        digest = hashlib.sha256(content).hexdigest()
        with open(os.path.join(self.blobs, digest), "wb") as file:
            file.write(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def read(self, digest):
        with open(os.path.join(self.blobs, digest.removeprefix("sha256:"))) as file:
            return json.load(file)

    def index(self):
        with open(os.path.join(self.directory, "index.json")) as file:
            return json.load(file)

    def descriptor(self, tag):
        found = [m for m in self.index()["manifests"] if m.get("annotations", {}).get(REF_NAME) == tag]
        return {key: found[0][key] for key in ("mediaType", "digest", "size")}

    def tag(self, name, media_type, descriptor):
        index = self.index()
        index["manifests"].append({"mediaType": media_type, **descriptor, "annotations": {REF_NAME: name}})
        with open(os.path.join(self.directory, "index.json"), "w") as file:
            json.dump(index, file)


def gzip_members(path):
    """Compresses piece by piece: each is a member of its own, as pigz -i and bgzip do it in their ways."""
    compressed = f"{path}.members.gz"
    with open(compressed, "wb") as file:
        subprocess.run(["split", "--bytes=3000001", "--filter=gzip -1 -n", path], stdout=file, check=True)
    return compressed


def image(layout, tag, form, layers):
    config = {"created": "2023-11-14T22:13:20Z", "architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}" for layer in layers]}}
    suffix = "+gzip" if form == "gzip-members" else ""
    files = [gzip_members(layer) if suffix else layer for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, **layout.add_document(config)},
        "layers": [{"mediaType": LAYER + suffix, **layout.add_file(file)} for file in files],
    }
    layout.tag(tag, MANIFEST, layout.add_document(manifest))
    for file in files:
        if file not in layers:
            os.unlink(file)


def index(layout, tag, images):
    manifests = []
    for platform, of in (text.split("=") for text in images):
        system, architecture, *variant = platform.split("/")
        known = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        manifests.append({**layout.descriptor(of), "platform": known})
    layout.tag(tag, INDEX, layout.add_document({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))


def rename(layout, tag, of, pairs):
    names = dict(pair.split("=") for pair in pairs)
    manifest = layout.read(layout.descriptor(of)["digest"])
    renamed = 0
    for layer in manifest["layers"]:
        annotations = layer.get("annotations", {})
        renamed += len(annotations.keys() & names.keys())
        layer["annotations"] = {names.get(name, name): value for name, value in annotations.items()}
    if not renamed:
        sys.exit(f"no layer of {of} has any of the annotations {', '.join(names)}")
    layout.tag(tag, MANIFEST, layout.add_document(manifest))


if __name__ == "__main__":
    what, directory, name, first, *rest = sys.argv[1:]
    if what == "image":
        image(Layout(directory), name, first, rest)
    elif what == "index":
        index(Layout(directory), name, [first, *rest])
    else:
        rename(Layout(directory), name, first, rest)
