"""The numbers of the usage page's chart as a table: a row a bucket, a page at a time, and the total of the whole range."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from metering.usage import Counts, Granularity

from .charts import values_of
from .daily import series_label
from .instants import machine
from .usage_figure import Sheet, bucket_name

ROWS = 50


@dataclass(frozen=True, slots=True)
class TableRow:
    """One bucket, or the total. `cells` are text, in the order of the columns; then what is not in them."""

    label: SafeString | str
    cells: tuple[str, ...]
    total: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class Table:
    """A page of the table. `shows_all`: what is not billed has columns of its own; `shows_units`: a call may cost several."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    total: TableRow
    shows_all: bool
    shows_units: bool
    number: int
    last: int

    @property
    def before(self) -> int | None:
        return self.number - 1 if self.number > 1 else None

    @property
    def after(self) -> int | None:
        return self.number + 1 if self.number < self.last else None


def table(sheet: Sheet, *, shows_all: bool, page: int) -> Table:
    """The rows of one page. Every amount is rounded from its exact value, so rows may differ from the total by a minor unit."""
    numbers, shown = sheet.numbers, sheet.shown
    last = max(1, -(-len(sheet.starts) // ROWS))
    number = min(max(1, page), last)
    everything = sum(numbers.counts.values(), Counts())
    headings = {
        Granularity.HOUR: _("Hour (UTC)"), Granularity.DAY: _("Day (UTC)"), Granularity.MONTH: _("Month (UTC)"),
    }  # fmt: skip
    return Table(
        heading=headings[sheet.granularity],
        columns=tuple(series_label(item, sheet.label) for item in sheet.series),
        rows=tuple(_row(sheet, at) for at in sheet.starts[(number - 1) * ROWS : number * ROWS]),
        total=TableRow(_("Total"), _cells(sheet, numbers.columns), shown.text(numbers.total), everything),
        shows_all=shows_all,
        shows_units=shows_all and everything.units != everything.billable,
        number=number,
        last=last,
    )


def _row(sheet: Sheet, at: datetime) -> TableRow:
    numbers = sheet.numbers
    name = bucket_name(at, sheet.granularity)
    return TableRow(
        format_html('<time datetime="{}">{}</time>', machine(at), name),
        _cells(sheet, numbers.cells.get(at, {})),
        sheet.shown.text(numbers.rows.get(at, 0)),
        numbers.counts.get(at, Counts()),
    )


def _cells(sheet: Sheet, numbers: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(map(sheet.shown.text, values_of(numbers, sheet.series)))
