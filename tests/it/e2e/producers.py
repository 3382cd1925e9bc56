"""Makes artifacts of a directory with the producers that PyPI has.

producers.py oras SOURCE HOST/REPOSITORY:TAG              pushes each file and directory of SOURCE with the ORAS client
producers.py oras-unpacked SOURCE HOST/REPOSITORY:TAG     the same, with the mark that ORAS's other clients put on directories
producers.py helm SOURCE HOST/REPOSITORY                  packages the chart SOURCE with Helm's own library, and pushes it
producers.py olot-simple SOURCE LAYOUT                    an image of the files below SOURCE
producers.py olot-modelcar SOURCE LAYOUT                  an image with the files on top, and a ModelPack beside it
"""

import hashlib
import json
import os
import pathlib
import sys


def oras_unpacked(source, place):
    import oras.client
    import oras.oci
    import oras.utils

    os.chdir(source)
    client = oras.client.OrasClient(hostname=place.split("/")[0], insecure=True)
    container = client.get_container(place)
    manifest = oras.oci.NewManifest()
    for name in sorted(os.listdir(".")):
        packed = os.path.isdir(name)
        blob = oras.utils.make_targz(name) if packed else name
        layer = oras.oci.NewLayer(blob, is_dir=packed)
        layer["annotations"] = {"org.opencontainers.image.title": name}
        if packed:
            layer["annotations"]["io.deis.oras.content.unpack"] = "true"
        manifest["layers"].append(layer)
        assert client.upload_blob(blob, container, layer).status_code in (200, 201)
        if packed:
            os.unlink(blob)
    config = "../config-of-oras"
    pathlib.Path(config).write_text("{}")
    manifest["config"], _ = oras.oci.ManifestConfig(config)
    assert client.upload_blob(config, container, manifest["config"]).status_code in (200, 201)
    assert client.upload_manifest(manifest, container).status_code in (200, 201)


def oras(source, place):
    import oras.client

    os.chdir(source)
    client = oras.client.OrasClient(hostname=place.split("/")[0], insecure=True)
    answer = client.push(target=place, files=sorted(os.listdir(".")), manifest_annotations={"made": "by a test"})
    assert answer.status_code in (200, 201), answer


def helm(source, place):
    import helm_python.chart
    import helm_python.registry

    archive = helm_python.chart.package(source, destination=os.path.dirname(source))
    archive = archive if isinstance(archive, str) else archive["path"]
    with helm_python.registry.RegistryClient(plain_http=True, credentials_file=f"{source}.credentials") as client:
        print(client.push(archive, f"oci://{place}", plain_http=True))


def olot(kind, source, layout):
    import olot.basics
    import olot.oci_artifact

    source, layout = pathlib.Path(source), pathlib.Path(layout)
    layout.mkdir()
    if kind == "simple":
        olot.oci_artifact.create_simple_oci_artifact(source, layout)
        return
    base = source.with_name("base")
    base.mkdir()
    (base / "base").write_text("of the image below")
    olot.oci_artifact.create_simple_oci_artifact(base, layout)
    put_into_an_index(layout)
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.name != "README.md"]
    olot.basics.oci_layers_on_top(layout, files, source / "README.md", root_dir=source, add_modelpack=True)


def put_into_an_index(layout):
    """A ModelPack stands beside images only in an index of several platforms."""
    tags = json.loads((layout / "index.json").read_text())
    (image,) = tags["manifests"]
    annotations = image.pop("annotations")
    image["platform"] = {"os": "linux", "architecture": "amd64"}
    media_type = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": [image]})
    digest = hashlib.sha256(index.encode()).hexdigest()
    (layout / "blobs/sha256" / digest).write_text(index)
    tags["manifests"] = [
        {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(index), "annotations": annotations}
    ]
    (layout / "index.json").write_text(json.dumps(tags))


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    name, _, kind = what.partition("-")
    if name == "olot":
        olot(kind, *arguments)
    else:
        {"oras": oras, "oras-unpacked": oras_unpacked, "helm": helm}[what](*arguments)
