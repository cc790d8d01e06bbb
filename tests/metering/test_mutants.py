"""Leases and ledger broken on purpose, in named ways: each must make a test fail, or the tests prove nothing."""

import gc
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test
from pytest_django import Settings

from metering import engine, leases, ledger, periods, process
from metering.database import conninfo
from tests.conftest import MakeTenant
from tests.conftest import wait_until as patiently
from tests.metering import (
    test_boundaries,
    test_costs,
    test_leases,
    test_limit_is_exact,
    test_periods,
    test_recovery,
    test_several_limits,
)
from tests.metering.test_any_order import Ledger, short_leases

pytestmark = [
    pytest.mark.usefixtures("committed"),
    # A test that fails, as it should here, leaves the connections of its engines to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
Test = Callable[[MakeTenant, Settings], None]
QUICK = hypothesis_settings(
    max_examples=20, deadline=None, stateful_step_count=40, suppress_health_check=list(HealthCheck), database=None,
    phases=[Phase.generate],
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in a module's class or function, or in a function of the database."""

    name: str
    where: Any  # a module, or the name of a function of the database
    old: str
    new: str
    noticed_by: Test


# -- the tests that must notice ------------------------------------------------------------------------------------------


def any_order(make_tenant: MakeTenant, settings: Settings) -> None:
    Ledger.make_tenant = staticmethod(make_tenant)
    with short_leases(settings):
        run_state_machine_as_test(Ledger, settings=QUICK)


def thawed(make_tenant: MakeTenant, settings: Settings) -> None:
    settings.METERING = {**settings.METERING, "LEASE_SECONDS": 1.0}
    test_recovery.test_a_thawed_process_does_not_use_leases_that_were_reclaimed(None, make_tenant, None)


def dead(make_tenant: MakeTenant, settings: Settings) -> None:
    settings.METERING = {**settings.METERING, "LEASE_SECONDS": 1.0}
    test_recovery.test_units_of_dead_processes_come_back_without_a_call(None, make_tenant, None)


def in_flight(make_tenant: MakeTenant, settings: Settings) -> None:
    for cost in (1, 5):
        test_recovery.test_units_in_flight_stay_reserved_when_the_rest_goes_back(None, make_tenant, cost)


def living(make_tenant: MakeTenant, settings: Settings) -> None:
    settings.METERING = {**settings.METERING, "LEASE_SECONDS": 1.0}
    test_recovery.test_units_of_a_living_process_are_not_reclaimed(None, make_tenant, None)


def late_boundary(make_tenant: MakeTenant, settings: Settings) -> None:
    with psycopg.connect(conninfo(), autocommit=True) as database:
        test_boundaries.test_a_call_that_is_flushed_late_lands_in_the_period_that_holds_it(make_tenant, database)


def sent_again(make_tenant: MakeTenant, settings: Settings) -> None:
    test_recovery.test_a_batch_that_is_sent_again_changes_nothing(None, make_tenant)


def exact(make_tenant: MakeTenant, settings: Settings) -> None:
    test_limit_is_exact.test_threads_share_a_limit(None, make_tenant)


def failing(make_tenant: MakeTenant, settings: Settings) -> None:
    test_limit_is_exact.test_calls_that_fail_give_their_unit_back(None, make_tenant)


def costs(make_tenant: MakeTenant, settings: Settings) -> None:
    test_costs.test_a_call_that_costs_five_takes_five_or_nothing(make_tenant, 500)


def mixed_costs(make_tenant: MakeTenant, settings: Settings) -> None:
    test_costs.test_a_dear_call_is_not_admitted_on_a_lease_for_cheap_ones(make_tenant)


def several(make_tenant: MakeTenant, settings: Settings) -> None:
    test_several_limits.test_a_projects_limit_holds_over_its_keys_and_threads(make_tenant)


def late_limit(make_tenant: MakeTenant, settings: Settings) -> None:
    test_several_limits.test_a_limit_that_is_set_late_counts_what_was_used_before(make_tenant)


def missed_change(make_tenant: MakeTenant, settings: Settings) -> None:
    test_leases.test_a_change_that_was_missed_is_noticed_when_the_lease_is_old(make_tenant, settings)


def month_ends(make_tenant: MakeTenant, settings: Settings) -> None:
    for name, test in vars(test_periods).items():
        if name.startswith("test_") and hasattr(test, "hypothesis"):
            test()


GRANT, COMMIT, RECLAIM = "metering_grant", "metering_commit", "metering_reclaim"
# ruff: noqa: E501 -- one mutant a line, with the code as it stands
MUTANTS = [
    Mutant("drop the expiry", process, "return self._clock.monotonic() >= self._good_until", "return False", thawed),
    Mutant("keep leases over a lapse", process, "            self.on_lapse()\n", "            pass\n", thawed),
    Mutant("never declare a process dead", RECLAIM, "AND p.expires_at > clock_timestamp()", "", dead),
    Mutant("declare everybody dead", RECLAIM, "l.granted_at < clock_timestamp() - patience", "true OR true", living),
    Mutant("reclaim twice", RECLAIM, "reserved - (SELECT sum(units) FROM dead)", "reserved - 2 * (SELECT sum(units) FROM dead)", any_order),
    Mutant("reclaim and keep the lease", RECLAIM, "reserved = reserved - (SELECT sum(units) FROM dead)", "reserved = reserved", any_order),
    Mutant("flush on a reclaimed lease", COMMIT, "SELECT * FROM emptied UNION ALL SELECT * FROM reduced",
           "SELECT tenant_id, to_timestamp(q_start[1]), 0::bigint, 0::bigint, NULL::timestamptz, coalesce(units, 0) FROM n", any_order),
    Mutant("refuse the last unit", GRANT, "IF free < p_cost THEN", "IF free <= p_cost THEN", exact),
    Mutant("grant one unit too many", GRANT, "IF free < p_cost THEN", "IF free < p_cost - 1 THEN", exact),
    Mutant("grant above the remainder", GRANT, "greatest(p_cost, coalesce(free / p_share, p_want))", "greatest(p_cost, p_want)", exact),
    Mutant("grant without reserving", GRANT, "SET reserved = reserved + units WHERE tenant_id = p_tenant AND period_start = q.period_start",
           "SET reserved = reserved WHERE tenant_id = p_tenant AND period_start = q.period_start", exact),
    Mutant("forget the narrower limits", GRANT, "free := least(free, l.calls - use.used - use.reserved);", "", several),
    Mutant("count a narrower limit from when it was set", "metering_window_use", "coalesce(sum(h.units), 0)", "0", late_limit),
    Mutant("skip the batch id", COMMIT, "    IF NOT FOUND THEN\n        RETURN;\n    END IF;\n", "", sent_again),
    Mutant("record and do not count", COMMIT, "SET used = q.used + c.used", "SET used = q.used", exact),
    Mutant("count and do not release", COMMIT, "reserved = q.reserved - c.released", "reserved = q.reserved", exact),
    Mutant("put late calls into the old period", COMMIT, "OR to_timestamp(k.latest) >= q.period_end", "", late_boundary),
    Mutant("release twice", leases, "            self._return(holding.tenant_id, lease.id, lease.left)\n",
           "            self._return(holding.tenant_id, lease.id, lease.left)\n"
           "            self._return(holding.tenant_id, lease.id, lease.left)\n", in_flight),
    Mutant("use a lease after it went back", leases, "            lease.left = 0\n", "            slot.lease = lease\n", in_flight),
    Mutant("use a lease for ever", leases, "slot.granted_at < old_since", "False", missed_change),
    Mutant("admit below the cost", leases, "lease.left < cost", "lease.left < 1", mixed_costs),
    Mutant("take one unit whatever the cost", leases, "lease.left -= cost", "lease.left -= 1", in_flight),
    Mutant("give back to a lease that is gone", leases, "if ticket.slot.lease is lease:", "if True:", in_flight),
    Mutant("never give back", leases, "                lease.left += ticket.cost\n", "                pass\n", failing),
    Mutant("bill failed calls", ledger, 'if e.outcome == "billable":', 'if e.outcome != "refused":', failing),
    Mutant("period from the previous plus a month", periods, "return Period(months_after(anchor, months), months_after(anchor, months + 1))",
           "return Period(months_after(anchor, months), months_after(months_after(anchor, months), 1))", month_ends),
]  # fmt: skip


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    if isinstance(mutant.where, str):
        with _function_of_database(mutant):
            yield
        return
    module: types.ModuleType = mutant.where
    source = inspect.getsource(module)
    assert source.count(mutant.old) >= 1, "the code has changed: name the mutant's place anew"
    before = dict(module.__dict__)
    mutated = types.ModuleType(module.__name__)
    mutated.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    sys.modules[module.__name__] = mutated
    exec(compile(source.replace(mutant.old, mutant.new), str(module.__file__), "exec"), mutated.__dict__)  # noqa: S102 -- our own
    sys.modules[module.__name__] = module
    changed = _swap(before, mutated)
    try:
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


def _swap(before: dict[str, Any], mutated: types.ModuleType) -> list[tuple[Any, str, Any]]:
    """The methods and functions of the module do what the mutated ones do; returns what to put back."""
    changed: list[tuple[Any, str, Any]] = []
    for name, value in before.items():
        other = getattr(mutated, name, None)
        if isinstance(value, types.FunctionType) and isinstance(other, types.FunctionType):
            changed.append((value, "__code__", value.__code__))
            value.__code__ = other.__code__
        elif inspect.isclass(value) and inspect.isclass(other) and value.__module__ == mutated.__name__:
            for attribute, method in vars(other).items():
                own = vars(value).get(attribute)
                if not (isinstance(method, types.FunctionType) and isinstance(own, types.FunctionType)):
                    continue
                if own.__code__.co_freevars == method.__code__.co_freevars:
                    changed.append((own, "__code__", own.__code__))
                    own.__code__ = method.__code__
    return changed


@contextmanager
def _function_of_database(mutant: Mutant) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s", [mutant.where])
        source = cursor.fetchone()[0]
    assert mutant.old in source, "the code has changed: name the mutant's place anew"
    _execute(source.replace(mutant.old, mutant.new))
    try:
        yield
    finally:
        _execute(source)


def _execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


# The classic mistakes are tried in every run, the others with --long.
ALWAYS = {
    "drop the expiry", "reclaim twice", "grant one unit too many", "skip the batch id", "period from the previous plus a month",
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_noticed(
    mutant: Mutant,
    make_tenant: MakeTenant,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if mutant.name not in ALWAYS and not request.config.getoption("--long"):
        pytest.skip("Tried with --long.")
    for module in (test_recovery, test_costs, test_several_limits):
        if hasattr(module, "wait_until"):
            monkeypatch.setattr(module, "wait_until", _briefly)
    is_noticed = False
    with applied(mutant):
        try:
            mutant.noticed_by(make_tenant, settings)
        except (Exception, pytest.fail.Exception):  # noqa: BLE001 -- however it is noticed
            is_noticed = True
        finally:
            _abandon_engines()
    assert is_noticed, f"nobody noticed: {mutant.name}"


def _briefly(condition: Callable[[], Any], *, seconds: float = 15, what: str = "it") -> Any:
    return patiently(condition, seconds=min(seconds, 4), what=what)


def _abandon_engines() -> None:
    """What a mutant left behind in the engines of this process is nobody's business afterwards."""
    try:
        engine.stop()
    finally:
        engine._forget()
        gc.collect()
