"""What is mounted: a model of raw shards, the same model as one tar+gzip archive, and a tree of small files; each as an
artifact in the registry and as files on the disk."""

import hashlib
import http.client
import json
import os
import random
import shutil
import subprocess

SHARDS = 4
TENSORS_OF_SHARD = 32
MODEL = "application/vnd.cncf.model"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Artifact:
    """One in the registry: its name there, and digest and size of each blob by the path of its file."""

    def __init__(self, registry, name, blobs):
        self.registry, self.name, self.blobs = registry, name, blobs

    def reference(self, host=None):
        return f"{host or self.registry.host}/bench/{self.name}:v1"

    def url(self, path, host=None):
        return f"http://{host or self.registry.host}/v2/bench/{self.name}/blobs/{self.blobs[path]}"

    def blob_file(self, path):
        return self.registry.blob_file(self.blobs[path])

    def blob_files(self):
        return [self.blob_file(path) for path in self.blobs]


class Data:
    def __init__(self, workplace, registry):
        self.workplace, self.registry = workplace, registry
        self.shard_mib = 64 if workplace.quick else 512
        self.small_files_count = 5_000 if workplace.quick else 20_000
        self.source = workplace.root / "source"
        self.small_source = workplace.root / "small-source"
        self.shards = [f"model-{number:05}-of-{SHARDS:05}.safetensors" for number in range(1, SHARDS + 1)]
        self.shard = self.shards[1]
        self.shard_bytes = 0
        self.files = ["config.json", *self.shards]

    def make(self, archive, small_files):
        self._make_model()
        self.model = self._push_model()
        self.model_bytes = sum((self.source / name).stat().st_size for name in self.files)
        self.shard_bytes = (self.source / self.shard).stat().st_size
        if archive:
            self.archive = self._push_archive()
        if small_files:
            self._make_small_files()
            self.small = self._push_small_files()
        # By the names of their files, for what reads a directory over HTTP.
        self.served = self.workplace.root / "served"
        self.served.mkdir()
        for name in self.files:
            (self.served / name).symlink_to(self.model.blob_file(name))

    def source_files(self):
        return [self.source / name for name in self.files]

    def _make_model(self):
        self.source.mkdir()
        config = {"architectures": ["DemoForCausalLM"], "model_type": "demo", "torch_dtype": "bfloat16"}
        (self.source / "config.json").write_text(json.dumps(config) + "\n")
        for number, name in enumerate(self.shards, 1):
            with open(self.source / name, "wb") as file:
                file.write(safetensors_header(number, self.shard_mib))
                file.flush()
                argv = [self.workplace.examples / "make_weights", str(self.shard_mib), str(number)]
                subprocess.run(argv, stdout=file, check=True)

    def _push_model(self):
        layout = self.workplace.root / "layout"
        commands, refmount = self.workplace.commands, self.workplace.refmount
        commands.run([refmount, "pack", self.source, f"oci:{layout}:v1"])
        reference = f"{self.registry.host}/bench/model:v1"
        copy = ["skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
        commands.run([*copy, f"oci:{layout}:v1", f"docker://{reference}"])
        shutil.rmtree(layout)
        printed = commands.run([refmount, "inspect", "-o", "json", reference], stdout=subprocess.PIPE).stdout
        return Artifact(self.registry, "model", {layer["path"]: layer["digest"] for layer in json.loads(printed)["layers"]})

    def _push_archive(self):
        """Without an index of blocks, and in the order in which packers see the files."""
        path = self.workplace.root / "model.tar.gz"
        tar = ["tar", "--format=pax", "-C", self.source, "-cf", "-", *self.files]
        self.workplace.commands.pipe(tar, ["pigz", "-1"], stdout=path)
        self.archive_bytes = path.stat().st_size
        return self._push_layer("archive", path, f"{MODEL}.weight.v1.tar+gzip")

    def _make_small_files(self):
        contents = random.Random(1)
        for number in range(self.small_files_count):
            directory = self.small_source / f"package-{number // 1000:02}" / f"module-{number // 50 % 20:02}"
            if number % 50 == 0:
                directory.mkdir(parents=True)
            (directory / f"file_{number:05}.py").write_bytes(contents.randbytes(contents.randrange(500, 8000)))

    def _push_small_files(self):
        path = self.workplace.root / "small.tar"
        names = sorted(os.listdir(self.small_source))
        self.workplace.commands.run(["tar", "--format=pax", "-C", self.small_source, "-cf", path, *names])
        return self._push_layer("small", path, f"{MODEL}.dataset.v1.tar")

    def _push_layer(self, name, path, media_type):
        """An artifact of one layer; the file is removed."""
        layer = {"mediaType": media_type, **self._push_blob(name, path)}
        path.unlink()
        config = self.workplace.root / "config"
        config.write_text(json.dumps({"descriptor": {"name": name}}))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": f"{MODEL}.manifest.v1+json",
            "config": {"mediaType": f"{MODEL}.config.v1+json", **self._push_blob(name, config)},
            "layers": [layer],
        }
        self._request("PUT", f"/v2/bench/{name}/manifests/v1", json.dumps(manifest), {"Content-Type": MANIFEST})
        return Artifact(self.registry, name, {"layer": layer["digest"]})

    def _push_blob(self, name, path):
        with open(path, "rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        location = self._request("POST", f"/v2/bench/{name}/blobs/uploads/", None, {"Content-Length": "0"})
        size = path.stat().st_size
        with open(path, "rb") as file:
            target = location.split(self.registry.host, 1)[-1] + f"&digest={digest}"
            self._request("PUT", target, file, {"Content-Length": str(size), "Content-Type": "application/octet-stream"})
        return {"digest": digest, "size": size}

    def _request(self, method, path, body, headers):
        connection = http.client.HTTPConnection(self.registry.host, blocksize=1 << 20)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status not in (201, 202):
            raise RuntimeError(f"{method} {path}: {response.status} {answer.decode()}")
        return response.getheader("Location")


def safetensors_header(number, mib):
    """The length, and the JSON, of a shard's tensors (https://github.com/huggingface/safetensors, "Format"). The type
    is one that NumPy knows."""
    size = mib * 1024 * 1024 // TENSORS_OF_SHARD
    header = {"__metadata__": {"format": "pt"}}
    for tensor in range(TENSORS_OF_SHARD):
        begin = tensor * size
        name = f"model.layers.{number}.{tensor:02}.weight"
        header[name] = {"dtype": "F16", "shape": [size // 2048, 1024], "data_offsets": [begin, begin + size]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
