"""The account that everything belongs to."""

from .errors import Json
from .routes import route
from .world import ACCOUNT_ID, World

NAME = "Meterhouse (simulated)"


@route("GET", "/v1/account")
def account(world: World, params: Json) -> Json:
    decline_on = {"avs_failure": False, "cvc_failure": False}
    return {
        "id": ACCOUNT_ID,
        "object": "account",
        "business_profile": {"name": NAME, "url": None, "support_email": "billing@example.com", "mcc": None},
        "business_type": "company",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "country": world.settings.country,
        "default_currency": world.settings.currency,
        "details_submitted": True,
        "email": "owner@example.com",
        "payouts_enabled": True,
        "settings": {
            "branding": {"icon": None, "logo": None, "primary_color": None, "secondary_color": None},
            "card_payments": {"decline_on": decline_on, "statement_descriptor_prefix": None},
            "dashboard": {"display_name": NAME, "timezone": "Etc/UTC"},
            "payments": {"statement_descriptor": "METERHOUSE"},
        },
        "type": "standard",
    }
