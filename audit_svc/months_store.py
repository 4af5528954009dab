"""The one statement by which the service has months made."""

import sqlalchemy as sa

from svc_kit.database import Database

_MAKE = sa.text("SELECT make_months(CAST(:ahead AS integer))")


class MonthStore:
    """Asks the database's own function: the service's role itself changes no schema."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def make_months(self, ahead: int) -> int:
        """Make what is missing of so many months ahead; how many are ready then."""
        async with self._database.autocommit() as connection:
            ready: int = (await connection.execute(_MAKE, {"ahead": ahead})).scalar_one()
        return ready
