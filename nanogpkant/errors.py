"""Errors meant for a person: one line that names what is wrong and what would be right."""


class UserError(Exception):
    """Something the person running the program can mend. Printed as one line; exit status 1."""

    exit_status = 1


class UsageError(UserError):
    """A flag, key or value that can never work. Raised before anything is loaded; exit status 2."""

    exit_status = 2


class ToldElsewhereError(UserError):
    """An error that another process of the same run says for all."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("rank 0 says why")
        self.exit_status = exit_status
