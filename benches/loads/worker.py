"""How a load is started: it imports what it needs, says that it is ready, and begins when it is told to, so that the
starts of interpreters are not measured."""

import json
import sys


def run(load):
    print("ready", flush=True)
    sys.stdin.readline()
    result = load(sys.argv[1:])
    print(json.dumps(result), flush=True)
