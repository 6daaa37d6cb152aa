"""Is tonight's figure what this series gives? Points of one metric of one cell → verdicts. Pure.

band.py judges one figure against the points before it; walk.py goes through a series night by night, asks for
a second measurement before anything counts, and starts anew where a person accepted a run; drift.py finds
slow changes and only advises.
"""

from __future__ import annotations

from orchestrator.gate.band import Verdict, judge
from orchestrator.gate.drift import Step, change_points
from orchestrator.gate.rule import METRICS, Confirm, Direction, MetricRule, Rule, rule_for
from orchestrator.gate.walk import Judged, Kind, Point, State, Trend, walk

__all__ = [
    "METRICS",
    "Confirm",
    "Direction",
    "Judged",
    "Kind",
    "MetricRule",
    "Point",
    "Rule",
    "State",
    "Step",
    "Trend",
    "Verdict",
    "change_points",
    "judge",
    "rule_for",
    "walk",
]
