"""Who the demo's four tenants are and what happened to them. Times are days before today, so the story never ages."""

from dataclasses import dataclass
from decimal import Decimal

from billing.accounts import Agreed

from .rhythm import Rhythm

DAYS_INTO_PERIOD = 21  # of 28 to 31: about 70 %
FIRST_MONTHS = 13


@dataclass(frozen=True, slots=True)
class Stream:
    """What one key does with one capability."""

    capability: str
    share: float  # of the tenant's calls
    rhythm: Rhythm
    failed_share: float = 0.002
    refused_share: float = 0.0  # by the burst limit


@dataclass(frozen=True, slots=True)
class KeyStory:
    name: str
    project: str
    streams: tuple[Stream, ...]
    since_days: int = 10_000


@dataclass(frozen=True, slots=True)
class Episode:
    """From `begins` to `ends` days ago the tenant was this much busier."""

    begins: int
    ends: int
    factor: float


@dataclass(frozen=True, slots=True)
class TenantStory:
    """`used` billable calls in the running period, exactly; what went before follows from growth and episodes."""

    slug: str
    name: str
    plan: str
    used: int
    keys: tuple[KeyStory, ...]
    monthly_growth: float
    episodes: tuple[Episode, ...] = ()
    agreed: Agreed = Agreed()  # noqa: RUF009 -- frozen
    hard_limit: int | None = None
    blocked_days: int | None = None  # used up since so many days
    has_holidays: bool = True

    @property
    def email(self) -> str:
        return f"owner@{self.slug}.example"

    @property
    def projects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key.project for key in self.keys))


@dataclass(frozen=True, slots=True)
class Incident:
    """Hours in which a capability was slow and failed often, for everybody."""

    days_ago: int
    hour: int
    hours: int
    capability: str
    failed_share: float


LONG_AGO = 1000

ACME = TenantStory(
    slug="acme",
    name="Acme",
    plan="scale",
    used=596_318,
    monthly_growth=1.045,
    # The mobile app's launch five months ago, and a campaign at the start of this period.
    episodes=(Episode(LONG_AGO, 152, 0.62), Episode(151, 146, 1.5), Episode(18, 12, 1.35)),
    keys=(
        KeyStory(
            "Web backend",
            "Production",
            (
                Stream("auth", 0.24, Rhythm.OFFICE),
                Stream("database", 0.27, Rhythm.OFFICE),
                Stream("storage", 0.08, Rhythm.OFFICE, failed_share=0.004),
            ),
        ),
        KeyStory(
            "Mobile app",
            "Mobile",
            (Stream("auth", 0.12, Rhythm.EVENING), Stream("database", 0.11, Rhythm.EVENING, failed_share=0.003)),
            since_days=152,
        ),
        KeyStory(
            "Nightly export",
            "Analytics",
            (Stream("database", 0.08, Rhythm.NIGHTLY), Stream("storage", 0.10, Rhythm.NIGHTLY, failed_share=0.006)),
        ),
    ),
)
INITECH = TenantStory(
    slug="initech",
    name="Initech",
    plan="launch",
    used=93_000,
    monthly_growth=1.03,
    episodes=(Episode(LONG_AGO, 22, 0.66), Episode(75, 61, 1.2)),  # a new customer of theirs began three weeks ago
    keys=(
        KeyStory("Backend", "Default", (Stream("auth", 0.24, Rhythm.OFFICE), Stream("database", 0.46, Rhythm.OFFICE))),
        KeyStory(
            "Report builder",
            "Reports",
            (
                Stream("database", 0.12, Rhythm.NIGHTLY, refused_share=0.01),
                Stream("storage", 0.18, Rhythm.NIGHTLY, failed_share=0.009, refused_share=0.02),
            ),
        ),
    ),
)
UMBRA = TenantStory(
    slug="umbra",
    name="Umbra",
    plan="enterprise",
    used=340_000,
    monthly_growth=1.02,
    episodes=(Episode(20, 10, 2.4), Episode(230, 221, 1.7)),  # two imports of old documents
    agreed=Agreed(
        included=300_000,
        fee_minor=499_00,
        unit_price_minor=Decimal("0.01"),  # $0.10 per 1,000
        sla="99.9 % per month",
        support="named engineer",
    ),
    hard_limit=2_000_000,
    keys=(
        KeyStory(
            "Core platform",
            "Platform",
            (Stream("auth", 0.18, Rhythm.OFFICE), Stream("database", 0.34, Rhythm.OFFICE)),
        ),
        KeyStory("Document store", "Documents", (Stream("storage", 0.26, Rhythm.OFFICE, failed_share=0.005),)),
        KeyStory(
            "Imports", "Documents", (Stream("database", 0.08, Rhythm.NIGHTLY), Stream("storage", 0.09, Rhythm.NIGHTLY))
        ),
        KeyStory("Monitoring", "Platform", (Stream("auth", 0.05, Rhythm.STEADY, failed_share=0.0005),)),
    ),
)
GLOBEX = TenantStory(
    slug="globex",
    name="Globex",
    plan="free",
    used=5_000,
    monthly_growth=1.05,
    episodes=(Episode(LONG_AGO, 22, 0.46),),
    blocked_days=3,
    has_holidays=False,
    keys=(
        KeyStory(
            "Website", "Default", (Stream("auth", 0.38, Rhythm.EVENING), Stream("database", 0.36, Rhythm.EVENING))
        ),
        KeyStory(
            "Image uploads",
            "Default",
            (Stream("storage", 0.26, Rhythm.EVENING, failed_share=0.008),),
            since_days=260,
        ),
    ),
)
TENANTS = (ACME, GLOBEX, INITECH, UMBRA)
INCIDENTS = (
    Incident(4, 15, 1, "database", 0.06),
    Incident(47, 9, 3, "storage", 0.14),
    Incident(163, 17, 2, "database", 0.11),
    Incident(290, 20, 4, "auth", 0.05),
)
