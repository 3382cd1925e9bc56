# Writes shards with the real package (make DIRECTORY SEED), and compares what it loads from two directories
# (compare MOUNTED SOURCE).
import os, sys

import numpy
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

command, directory, other = sys.argv[1:4]
SHARDS = 3
TYPES = ["float32", "float16", "float64", "int64", "int32", "uint8", "bool"]


def make():
    random = numpy.random.default_rng(int(other))
    for shard in range(1, SHARDS + 1):
        tensors = {}
        for layer, name in enumerate(TYPES):
            shape = (int(random.integers(1, 700)), int(random.integers(1, 900)))
            values = random.integers(0, 2 if name == "bool" else 127, shape)
            tensors[f"model.layers.{shard}.{layer}.weight"] = values.astype(name)
        tensors[f"scalar.{shard}"] = numpy.array(shard, dtype="float32")
        tensors[f"embedding.{shard}"] = random.standard_normal((1500, 513)).astype("float32")
        tensors[f"empty.{shard}"] = numpy.zeros((0, 7), dtype="float32")
        save_file(tensors, os.path.join(directory, f"model-{shard:05}-of-{SHARDS:05}.safetensors"), {"format": "np"})


def compare():
    tensors = 0
    for name in sorted(os.listdir(other)):
        expected = load_file(os.path.join(other, name))
        with safe_open(os.path.join(directory, name), framework="numpy") as mounted:
            assert mounted.metadata() == {"format": "np"}
            assert sorted(mounted.keys()) == sorted(expected), name
            for key in mounted.keys():
                got = mounted.get_tensor(key)
                assert got.dtype == expected[key].dtype and got.shape == expected[key].shape, key
                assert numpy.array_equal(got, expected[key]), key
                if got.ndim == 2 and got.shape[0] > 2:
                    last = got.shape[0] - 1
                    assert numpy.array_equal(mounted.get_slice(key)[1:last, :], expected[key][1:last, :]), key
                tensors += 1
    print(tensors, "tensors")


{"make": make, "compare": compare}[command]()
