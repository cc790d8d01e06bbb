"""What a check of `manage.py doctor` says."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Grade(StrEnum):
    OK = "ok"
    PROBLEM = "problem"
    INFORMATION = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw. `mend` says what to do about a problem."""

    name: str
    grade: Grade
    detail: str
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def ok(name: str, detail: str) -> Finding:
    return Finding(name, Grade.OK, detail)


def problem(name: str, detail: str, mend: str) -> Finding:
    return Finding(name, Grade.PROBLEM, detail, mend)


def information(name: str, detail: str, mend: str = "") -> Finding:
    return Finding(name, Grade.INFORMATION, detail, mend)
