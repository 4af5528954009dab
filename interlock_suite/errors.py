"""What can stop the suite, said so that a person can mend it."""


class SuiteError(Exception):
    """The suite cannot go on: one sentence says what is wrong, one how to mend it."""

    exit_code = 2

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what} {fix}")
        self.what = what
        self.fix = fix
