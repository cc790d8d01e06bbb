"""Whatever goes wrong while records are sent: they are kept, sent again, and counted once."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from metering import calls, engine, ledger
from metering.models import Allowance, Recording, SetAside
from metering.recorder import Batch
from tests.conftest import MakeTenant, wait_until
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import attempt, caller_of
from tests.metering.test_recovery import entry

pytestmark = pytest.mark.usefixtures("committed")
GoesWrong = Callable[..., None]


class Told(BaseException):
    """What ends a thread from outside, as SystemExit and KeyboardInterrupt do."""


@pytest.fixture(autouse=True)
def _spool(settings: Settings, tmp_path: Path) -> None:
    settings.METERING = {**settings.METERING, "SPOOL_DIR": str(tmp_path / "spool")}


@pytest.fixture
def goes_wrong(monkeypatch: pytest.MonkeyPatch) -> GoesWrong:
    """`goes_wrong(error, times=2)`: so many commits end with the error, the first half before and the others after it was done."""

    def once(error: BaseException, *, times: int) -> None:
        left = times

        def commit(connection: Any, batch: Batch) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                return ledger.commit(connection, batch)
            if left < times // 2:
                ledger.commit(connection, batch)
            raise error

        monkeypatch.setattr(engine, "commit", commit)

    return once


def test_the_flush_thread_outlives_a_first_flush_that_goes_wrong(
    make_tenant: MakeTenant, goes_wrong: GoesWrong
) -> None:
    acme = make_tenant()
    goes_wrong(RuntimeError("nobody thought of it"), times=1)
    attempt(caller_of(acme.api_key), 3)
    wait_until(lambda: books(acme.tenant.id).used == 3, seconds=5, what="the flush")


def is_flushed(meter: engine.Engine) -> bool:
    try:
        return meter.flush()
    except Told:
        return False


@pytest.mark.parametrize("error", [RuntimeError, Told])
def test_what_was_being_flushed_is_counted_once(
    make_tenant: MakeTenant, goes_wrong: GoesWrong, error: type[BaseException]
) -> None:
    acme, meter, failed = make_tenant(), engine.Engine(), 0
    meter.buffer.append(entry(acme))
    goes_wrong(error(), times=4)
    while not is_flushed(meter):
        failed += 1
        assert failed <= 4
        meter.buffer.append(entry(acme))
    meter.database.close()
    books(acme.tenant.id).assert_balanced()
    assert books(acme.tenant.id).used == 1 + failed == 5
    assert not SetAside.objects.filter(tenant_id=acme.tenant.id).exists()


@pytest.mark.parametrize("error", [RuntimeError, Told])
def test_a_durable_call_is_counted_once(
    make_tenant: MakeTenant, goes_wrong: GoesWrong, error: type[BaseException]
) -> None:
    acme, meter = make_tenant(), engine.Engine(inline=True)
    Allowance.objects.filter(tenant=acme.tenant).update(recording=Recording.DURABLE)
    with engine.replaced(meter):
        call = calls.open_call(caller=caller_of(acme.api_key), capability="storage")
        goes_wrong(error(), times=2)
        with pytest.raises(Told) if error is Told else nullcontext():
            calls.close_call(call, status=200, latency_us=1)
        wait_until(lambda: is_flushed(meter), what="the flush")
        meter.stop()
    books(acme.tenant.id).assert_balanced()
    assert (books(acme.tenant.id).used, books(acme.tenant.id).reserved) == (1, 0)


def test_a_record_that_cannot_be_taken_is_set_aside_whatever_its_text(make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    meter = engine.Engine()
    meter.buffer.append(entry(acme, status=10**9, capability="a\x00\ud800"))
    meter.buffer.append(entry(acme))
    assert meter.flush()
    meter.database.close()
    assert books(acme.tenant.id).used == 1
    assert SetAside.objects.get(tenant_id=acme.tenant.id).records[0]["capability"] == "a?"
