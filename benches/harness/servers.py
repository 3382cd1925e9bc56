"""The servers of a run: a registry, nginx for what has no other way to the blobs, and links that delay. All of them
listen on the loopback interface alone, and are ended with the run."""

import re
import socket

from .processes import Service


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Registry:
    """docker-registry with its storage in the workplace."""

    def __init__(self, workplace):
        self.root = workplace.root / "registry"
        config = workplace.root / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: info}\nhttp: {addr: '127.0.0.1:0'}\n"
            f"storage: {{filesystem: {{rootdirectory: '{self.root}'}}}}\n"
        )
        log = workplace.root / "registry.log"
        self.service = Service(["docker-registry", "serve", config], log)
        said = self.service.wait_for(lambda: re.search(r"listening on ([0-9.]+:[0-9]+)", log.read_text()))
        self.host = said.group(1)

    def blob_file(self, digest):
        """The file that it serves a blob from."""
        algorithm, digits = digest.split(":")
        return self.root / f"docker/registry/v2/blobs/{algorithm}/{digits[:2]}/{digits}/data"


class Nginx:
    """Serves a directory, with listings that rclone understands."""

    def __init__(self, workplace, directory):
        self.port = free_port()
        root = workplace.root / "nginx"
        root.mkdir()
        (root / "nginx.conf").write_text(
            f"daemon off;\nuser root;\nworker_processes 2;\npid {root}/pid;\nerror_log stderr;\n"
            "events { worker_connections 256; }\n"
            "http {\n"
            + "".join(
                f"    {name}_temp_path {root}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"    access_log off;\n    sendfile on;\n    keepalive_requests 100000;\n"
            f"    server {{ listen 127.0.0.1:{self.port}; root {directory}; autoindex on; }}\n}}\n"
        )
        self.service = Service(["nginx", "-p", root, "-c", root / "nginx.conf"], root / "log")
        self.service.wait_for(self._answers)
        self.url = f"http://127.0.0.1:{self.port}/"

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Link:
    """A proxy before the registry that delays, and limits the rate (examples/slow_link.rs)."""

    RATE_MBIT = 1000

    def __init__(self, workplace, registry, rtt_ms):
        self.rtt_ms = rtt_ms
        log = workplace.root / f"link-{rtt_ms}.log"
        argv = [workplace.examples / "slow_link", registry.host, str(rtt_ms), str(self.RATE_MBIT)]
        self.service = Service(argv, log)
        said = self.service.wait_for(lambda: re.search(r"listening on ([0-9.]+:[0-9]+)", log.read_text()))
        self.host = said.group(1)


class Servers:
    def __init__(self, workplace):
        self.workplace = workplace
        self.started = []
        self.registry = self._started(Registry(workplace))
        self.links = {}

    def _started(self, server):
        self.started.append(server)
        return server

    def serve_files(self, directory):
        self.nginx = self._started(Nginx(self.workplace, directory))

    def link(self, rtt_ms):
        if rtt_ms not in self.links:
            self.links[rtt_ms] = self._started(Link(self.workplace, self.registry, rtt_ms))
        return self.links[rtt_ms]

    def stop(self):
        for server in reversed(self.started):
            server.service.stop()
