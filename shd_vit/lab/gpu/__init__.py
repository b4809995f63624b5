"""One report on one GPU: what works, what it costs, and whether goals are met.

Each part is a module with a function that measures and returns an :class:`Outcome`.
"""

from __future__ import annotations

from typing import NamedTuple

from shd_vit.lab.report import Table


class Goal(NamedTuple):
    """A figure that must not be above its limit."""

    name: str
    value: float
    limit: float

    @property
    def is_met(self) -> bool:
        return self.value <= self.limit  # what is no number is not


class Outcome(NamedTuple):
    """What a part has found: tables to print, goals, and a line for each thing that is wrong."""

    tables: tuple[Table, ...] = ()
    goals: tuple[Goal, ...] = ()
    wrong: tuple[str, ...] = ()


def goal_table(goals: list[Goal]) -> Table:
    rows = [['goal', 'found', 'at most', '']]
    for goal in goals:
        verdict = 'met' if goal.is_met else 'MISSED'
        rows.append([goal.name, f'{goal.value:.2f}', f'{goal.limit:.2f}', verdict])
    return 'Goals', rows
