"""With a limit of N exactly N calls are admitted: over threads, over processes, with failures in between."""

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from django.utils import timezone

from billing.onboarding import Onboarded
from metering import calls, engine
from tenants.keys import Caller, cache
from tests.conftest import ROOT, MakeTenant, environment
from tests.metering.ledger import books

WORKER = """
import sys, django; django.setup()
from tests.metering.test_limit_is_exact import attempt, caller_of
from metering import engine
admitted = attempt(caller_of(sys.argv[1]), int(sys.argv[2]), threads=4)
engine.stop()
print(admitted)
"""


def caller_of(key: str) -> Caller:
    return cache.verify(key, now=timezone.now())


def attempt(caller: Caller, count: int, *, threads: int = 1, status: Callable[[int], int] = lambda _: 200) -> int:
    """Try this many calls from several threads; how many were admitted."""
    admitted = []

    def run(share: int) -> None:
        for number in range(share):
            call = calls.open_call(caller=caller, capability="storage")
            if call.problem is None:
                admitted.append(call.id)
            calls.close_call(call, status=429 if call.problem else status(number), latency_us=1000)

    runners = [threading.Thread(target=run, args=(count // threads,)) for _ in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return len(admitted)


def test_threads_share_a_limit(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=300, burst_per_second=10**6)
    assert attempt(caller_of(acme.api_key), 1200, threads=8) == 300
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved, kept.rolled_up["refused"]) == (300, 0, 900)


@pytest.mark.parametrize("limit", [pytest.param(1, marks=pytest.mark.long), 1000])
def test_processes_share_a_limit(committed: None, make_tenant: MakeTenant, limit: int) -> None:
    acme = make_tenant(included=limit, burst_per_second=10**6)
    commands = [[sys.executable, "-c", WORKER, acme.api_key, "800"] for _ in range(3)]
    env = {**environment(0), "DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE) for command in commands]
    admitted = [int(process.communicate(timeout=60)[0]) for process in running]
    assert sum(admitted) == limit
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (limit, 0)


def test_calls_that_fail_give_their_unit_back(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=50, burst_per_second=10**6)
    caller = caller_of(acme.api_key)
    assert attempt(caller, 200, status=lambda _: 500) == 200
    assert attempt(caller, 60) == 50
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.rolled_up["failed"], kept.rolled_up["refused"]) == (50, 200, 10)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_these_answers_are_never_billed(committed: None, make_tenant: MakeTenant, status: int) -> None:
    acme = make_tenant()
    attempt(caller_of(acme.api_key), 3, status=lambda _: status)
    engine.stop()
    assert books(acme.tenant.id).rolled_up == {"billable": 0, "failed": 3, "refused": 0}


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 409, 422])
def test_these_answers_are_billed(committed: None, make_tenant: MakeTenant, status: int) -> None:
    acme = make_tenant()
    attempt(caller_of(acme.api_key), 3, status=lambda _: status)
    engine.stop()
    assert books(acme.tenant.id).rolled_up == {"billable": 3, "failed": 0, "refused": 0}


def test_overage_is_admitted_and_a_hard_limit_stops_it(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="launch", included=20, hard_limit=35, burst_per_second=10**6)
    assert attempt(caller_of(acme.api_key), 50) == 35


def test_a_limit_of_zero_admits_nothing(committed: None, make_tenant: MakeTenant) -> None:
    assert attempt(caller_of(make_tenant(included=0).api_key), 5) == 0


def test_unlimited_admits_everything(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="enterprise", included=None, burst_per_second=10**6)
    assert attempt(caller_of(acme.api_key), 3000) == 3000
    engine.stop()
    books(acme.tenant.id).assert_balanced()


def test_a_flood_of_refusals_shares_rows_and_stays_counted(committed: None, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex", included=1, burst_per_second=10**6)
    attempt(caller_of(globex.api_key), 20_000)
    engine.stop()
    kept = books(globex.tenant.id)
    kept.assert_balanced()
    assert kept.rolled_up["refused"] == 19_999


def refusal_of(tenant: Onboarded) -> calls.QuotaExceeded:
    call = calls.open_call(caller=caller_of(tenant.api_key), capability="storage")
    calls.close_call(call, status=429, latency_us=1)
    assert isinstance(call.problem, calls.QuotaExceeded)
    return call.problem


def test_an_exhausted_period_says_when_it_ends(committed: None, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex", included=3)
    attempt(caller_of(globex.api_key), 3)
    engine.engine().flush()
    attempt(caller_of(globex.api_key), 1)
    engine.stop()
    problem = refusal_of(globex)
    allowance = globex.tenant.allowance
    end = problem.extra["period_end"]
    assert problem.extra["limit"] == problem.extra["used"] == 3
    assert end.endswith("Z")
    assert problem.retry_after_seconds is not None
    assert problem.retry_after_seconds > 24 * 3600
    assert allowance.anchor.isoformat()[8:10] == end[8:10]


def test_units_reserved_elsewhere_say_try_again_soon(committed: None, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex", included=1)
    caller = caller_of(globex.api_key)
    waiting = calls.open_call(caller=caller, capability="storage")
    assert refusal_of(globex).retry_after_seconds == 1
    calls.close_call(waiting, status=500, latency_us=1)
    engine.engine().flush()
    engine.engine().leases.release([globex.tenant.id])
    assert calls.open_call(caller=caller, capability="storage").problem is None
