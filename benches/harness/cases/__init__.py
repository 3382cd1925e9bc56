"""The cases. Each is a title, contestants of which one is the baseline, and the metric that its chart shows."""

from dataclasses import dataclass
from importlib import import_module
from typing import Callable


@dataclass
class Case:
    name: str
    title: str
    # By name: what measures a contestant once, from a state that it prepares itself, and returns its metrics.
    contestants: dict[str, Callable]
    baseline: str
    shown_metrics: list[str]


def all_cases():
    modules = ["start", "cold", "shared", "again", "files", "scattered", "loads", "links", "archive", "small_files"]
    return [case for module in modules for case in import_module(f"{__name__}.{module}").cases()]
