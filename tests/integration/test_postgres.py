"""The tests' own PostgreSQL: it answers, keeps its data over a restart, asks for its password and leaves nothing."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from tests.postgres import USER, postgres_server

pytestmark = pytest.mark.integration


def test_keeps_its_data_over_a_restart_and_asks_for_its_password():
    with postgres_server() as server:
        url = server.database("kept")
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE a (b int)"))
            connection.execute(text("INSERT INTO a VALUES (7)"))
        engine.dispose()
        server.restart()
        with engine.begin() as connection:
            assert connection.execute(text("SELECT b FROM a")).scalar_one() == 7
            assert connection.execute(text("SHOW listen_addresses")).scalar_one() == "127.0.0.1"
            owner = connection.execute(text("SHOW data_directory")).scalar_one()
        engine.dispose()
        assert Path(owner).stat().st_uid != 0
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host="127.0.0.1", port=server.port, user=USER, password="other", dbname="kept")
    assert not Path(owner).exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host="127.0.0.1", port=server.port, user=USER, password=server.password, dbname="kept")
