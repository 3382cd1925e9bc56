"""Medians, spreads and ratios of what was measured, and the figures to reach."""

from dataclasses import dataclass
from statistics import median


@dataclass
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values):
        return cls(median(values), min(values), max(values))

    def over(self, divisor):
        return Spread(self.median / divisor, self.least / divisor, self.most / divisor)


class Results:
    """Everything measured: for each case and contestant, the metrics of each round."""

    def __init__(self, records):
        self.records = records

    def values(self, case, contestant, metric):
        return [
            record["metrics"][metric]
            for record in self.records
            if (record["case"], record["contestant"]) == (case, contestant) and metric in record["metrics"]
        ]

    def spread(self, case, contestant, metric):
        """None if it was not measured."""
        values = self.values(case, contestant, metric)
        return Spread.of(values) if values else None

    def ratio(self, case, contestant, baseline, metric):
        """How a contestant stands to the median of the baseline; None if there is nothing to divide by."""
        over, under = self.spread(case, contestant, metric), self.spread(case, baseline, metric)
        return over.over(under.median) if over and under and under.median else None


@dataclass
class Figure:
    """A figure to reach. Its value is the contestant's metric, times `scale`; divided by the median of `baseline`
    (contestant, metric) where `relative`. Where it is not, the baseline's own value stands beside it."""

    what: str
    case: str
    metric: str
    sense: str
    target: float
    contestant: str = "refmount"
    baseline: tuple = None
    relative: bool = True
    unit: str = ""
    scale: float = 1.0
    against: str = ""

    def value(self, results):
        spread = results.spread(self.case, self.contestant, self.metric)
        if spread is None:
            return None
        if not self.relative:
            return spread.over(1 / self.scale)
        under = results.spread(self.case, *self.baseline)
        return spread.over(under.median / self.scale) if under and under.median else None

    def ratio(self, results):
        """To the baseline, whatever the target is about."""
        spread = results.spread(self.case, self.contestant, self.metric)
        under = self.baseline and results.spread(self.case, *self.baseline)
        return spread.over(under.median) if spread and under and under.median else None

    def reached(self, value):
        return value.median <= self.target if self.sense == "<=" else value.median >= self.target
