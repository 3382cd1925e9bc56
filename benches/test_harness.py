"""Tests of what scripts/bench makes of its measurements: python3 -m unittest discover -s benches."""

import argparse
import os
import signal
import unittest
import unittest.mock
import xml.dom.minidom
from pathlib import Path

from harness import chart, machine, report
from harness.__main__ import default_name
from harness.cases import Case, all_cases
from harness.data import safetensors_header
from harness.figures import Figure, Results, Spread
from harness.mounted import Mounted
from harness.processes import CommandLog, Commands
from harness.profile import Profile
from harness.targets import FIGURES, peak_of_each_case


def records(contestant, metric, values, case="case"):
    return [
        {"round": number, "case": case, "contestant": contestant, "metrics": {metric: value}}
        for number, value in enumerate(values, 1)
    ]


CASE = Case("case", "A <case>", {"refmount": None, "curl": None}, "curl", ["total_seconds"])
RECORDS = records("refmount", "total_seconds", [3.0, 1.0, 2.0]) + records("curl", "total_seconds", [5.0, 4.0, 3.0])


class Profiles(unittest.TestCase):
    def test_shares_are_of_the_time_that_was_not_idle_and_of_threads_that_do_the_same(self):
        shares = Profile(["swapper;idle 900", "fuser-0;main;read 10", "fuser-3;main;read 20", "cat;[k];copy 69", "sh;fork 1"])
        self.assertEqual(shares.markdown()[2:], [
            "| 69% | cat | `copy` 69.0% |", "| 30% | fuser | `read` 30.0% |", "| 1% | sh | `fork` 1.0% |",
        ])


class Figures(unittest.TestCase):
    def test_the_median_stands_between_the_least_and_the_most(self):
        self.assertEqual(Spread.of([9.0, 1.0, 2.0, 4.0]), Spread(3.0, 1.0, 9.0))

    def test_a_ratio_is_to_the_median_of_the_baseline(self):
        self.assertEqual(Results(RECORDS).ratio("case", "refmount", "curl", "total_seconds"), Spread(0.5, 0.25, 0.75))

    def test_what_was_not_measured_has_no_ratio(self):
        results = Results(RECORDS)
        self.assertIsNone(results.ratio("case", "refmount", "curl", "other"))
        self.assertIsNone(results.ratio("case", "refmount", "wget", "total_seconds"))

    def test_a_figure_is_reached_on_its_own_side(self):
        baseline = ("curl", "total_seconds")
        relative = Figure("", "case", "total_seconds", "<=", 0.5, baseline=baseline)
        self.assertTrue(relative.reached(relative.value(Results(RECORDS))))
        absolute = Figure("", "case", "total_seconds", ">=", 2001.0, baseline=baseline, relative=False, scale=1e3)
        value = absolute.value(Results(RECORDS))
        self.assertEqual(value, Spread(2000.0, 1000.0, 3000.0))
        self.assertFalse(absolute.reached(value))
        self.assertEqual(absolute.ratio(Results(RECORDS)).median, 0.5)

    def test_only_our_processes_count_for_the_peak(self):
        measured = records("refmount, twice", "peak_mib", [7.0, 9.0]) + records("curl", "peak_mib", [99.0])
        self.assertEqual(peak_of_each_case(Results(measured)), {"case": 9.0})

    def test_every_figure_is_of_a_case_and_its_contestants(self):
        cases = {case.name: case for case in all_cases()}
        for figure in FIGURES:
            self.assertIn(figure.contestant, cases[figure.case].contestants, figure.what)
            self.assertIn(figure.baseline[0], cases[figure.case].contestants, figure.what)
        for case in cases.values():
            self.assertIn(case.baseline, case.contestants)


class Written(unittest.TestCase):
    def test_values_have_the_unit_of_their_metric(self):
        self.assertEqual(report.shown("total_seconds", 0.0123), "12.3 ms")
        self.assertEqual(report.shown("total_seconds", 12.345), "12.3 s")
        self.assertEqual(report.shown("disk_bytes_per_second", 1.25e9), "1,250 MB/s")
        self.assertEqual(report.shown("memory_random_iops", 34_000), "34,000 /s")
        self.assertEqual(report.shown("peak_mib", 104.2), "104 MiB")

    def test_a_table_has_a_row_for_each_contestant(self):
        table = report.case_table(CASE, Results(RECORDS))
        self.assertEqual(len(table), 4)
        self.assertIn("| refmount | total_seconds | 2.00 s (1.00 s to 3.00 s) | 0.50 (0.25 to 0.75) |", table)

    def test_the_chart_is_xml_with_a_bar_for_each_contestant(self):
        drawn = xml.dom.minidom.parseString(chart.svg("a & b", [CASE], RECORDS))
        # And the background.
        self.assertEqual(len(drawn.getElementsByTagName("rect")), 3)
        bars = [float(each.getAttribute("width")) for each in drawn.getElementsByTagName("rect")[1:]]
        self.assertAlmostEqual(bars[0] / bars[1], 0.5, places=2)

    def test_the_short_chart_is_of_cases_and_metrics_that_there_are(self):
        cases = {case.name: case for case in all_cases()}
        for name, metric in chart.OVERVIEW.items():
            self.assertIn(metric, cases[name].shown_metrics)

    def test_a_ratio_beyond_the_scale_ends_at_its_edge(self):
        self.assertEqual(chart.x_of(40.0), chart.x_of(chart.RATIO_MAX))

    def test_a_command_is_logged_once_and_without_the_places_of_the_run(self):
        log = CommandLog({"/tmp/run": "$WORK"})
        for _ in range(2):
            log.note(["cat", "/tmp/run/a b"], " &")
        self.assertEqual(log.take(), ["cat '$WORK/a b' &"])
        self.assertEqual(log.take(), [])


class Machine(unittest.TestCase):
    def test_a_directory_in_memory_or_without_room_is_refused(self):
        self.assertIn("TMPDIR", machine.objection("tmpfs tmpfs", 99e9, False))
        self.assertIn("9.0 GB", machine.objection("/dev/sda1 ext4", 9e9, False))
        self.assertIsNone(machine.objection("/dev/sda1 ext4", 9e9, True))
        self.assertIsNone(machine.objection("", 99e9, False))


class Names(unittest.TestCase):
    def test_results_of_some_cases_do_not_replace_those_of_all(self):
        def name(quick, *cases):
            return default_name(argparse.Namespace(quick=quick, cases=list(cases)))

        self.assertEqual([name(False), name(True)], ["full", "quick"])
        self.assertEqual([name(False, "start", "fio"), name(True, "fio")], ["start-fio", "quick-fio"])


class Processes(unittest.TestCase):
    def test_what_a_run_has_begun_ends_with_it(self):
        commands = Commands(CommandLog())
        process = commands._start(["sleep", "infinity"])
        commands.end()
        self.assertEqual(process.returncode, -signal.SIGTERM)
        self.assertEqual(commands.run(["true"]).stdout, "")
        self.assertEqual(commands.started[-1].returncode, 0)


class Mounts(unittest.TestCase):
    def test_what_mounts_share_is_counted_once_and_their_waits_are_added(self):
        status = {"network_bytes": 7, "wasted_bytes": 2, "reads_waited": 3, "waited_seconds": 0.5, "fetched_bytes": {"demand": 5}}
        mount = Mounted(unittest.mock.Mock(mounts=Path("/nowhere")), "r/m:v1", None, count=2)
        mount.owner = os.getpid()
        mount.status = lambda directory: status
        metrics = mount.metrics()
        self.assertEqual((metrics["network_bytes"], metrics["wasted_bytes"], metrics["fetched_demand_bytes"]), (7, 2, 5))
        self.assertEqual((metrics["reads_waited"], metrics["waited_seconds"]), (6, 1.0))


class Data(unittest.TestCase):
    def test_the_tensors_of_a_shard_begin_at_a_multiple_of_eight(self):
        header = safetensors_header(3, 64)
        self.assertEqual(int.from_bytes(header[:8], "little"), len(header) - 8)
        self.assertEqual(len(header) % 8, 0)


if __name__ == "__main__":
    unittest.main()
