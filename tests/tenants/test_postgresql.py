import psycopg
import pytest

from metering.database import EngineConnection, conninfo
from tenants.postgresql import NoAnswer


class Hasty(EngineConnection):
    patience_seconds = 0.2


def test_a_server_that_says_nothing_is_given_up(committed: None) -> None:
    connection = Hasty.connect(conninfo(), autocommit=True)
    with pytest.raises(NoAnswer, match=r"did not answer within 0\.2 s"):
        connection.execute("SELECT pg_sleep(30)")
    assert connection.closed


def test_within_a_transaction_it_leaves_no_open_connection(committed: None) -> None:
    connection = Hasty.connect(conninfo(), autocommit=True)
    with pytest.raises(psycopg.OperationalError), connection.transaction():
        connection.execute("SELECT pg_sleep(30)")
    assert connection.closed


def test_an_answer_in_time_is_an_answer(committed: None) -> None:
    with Hasty.connect(conninfo(), autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
