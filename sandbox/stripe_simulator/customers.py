"""Customers and their tax ids."""

import re

from . import lists
from .errors import Json, refused
from .lists import present
from .parameters import ADDRESS, CLEAR, INTEGER, METADATA, RANGE, TEXT, merged_metadata, one_of
from .routes import in_range, paged, route
from .world import World, listing

SHIPPING: Json = {"address": ADDRESS, "name": TEXT, "phone": TEXT}
FIELDS: Json = {
    "address": (CLEAR, ADDRESS),
    "balance": INTEGER,
    "description": TEXT,
    "email": TEXT,
    "invoice_prefix": TEXT,
    "invoice_settings": {"default_payment_method": TEXT, "footer": TEXT},
    "metadata": METADATA,
    "name": TEXT,
    "phone": TEXT,
    "preferred_locales": [TEXT],
    "shipping": (CLEAR, SHIPPING),
    "tax_exempt": one_of("exempt", "none", "reverse"),
}
TAX_ID: Json = {"type!": TEXT, "value!": TEXT}
EMPTY_ADDRESS: Json = dict.fromkeys(ADDRESS)
CLAUSE = re.compile(r"""\s*(-?)([a-z_]+)(?:\[['"]([^'"]+)['"]\])?\s*([:~])\s*(?:'([^']*)'|"([^"]*)"|(null))\s*""")


@route("POST", "/v1/customers", {**FIELDS, "payment_method": TEXT, "tax_id_data": [TAX_ID]})
def create(world: World, params: Json) -> Json:
    customer = world.add(_new(world, params), "customer.created")
    for given in params.get("tax_id_data") or []:
        add_tax_id(world, customer, given)
    if method := params.get("payment_method"):
        from . import payment_methods  # noqa: PLC0415  # attaching looks the customer up

        payment_methods.attach_to(world, method, customer["id"])
    return customer


def _new(world: World, params: Json) -> Json:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return {
        "id": world.new_id("cus", 14),
        "object": "customer",
        "address": _address(params.get("address")),
        "balance": params.get("balance") or 0,
        "created": world.now,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": params.get("description"),
        "discount": None,
        "email": params.get("email"),
        "invoice_prefix": params.get("invoice_prefix") or "".join(world.random.choices(letters, k=8)),
        "invoice_settings": _invoice_settings(world, params.get("invoice_settings") or {}, {}),
        "livemode": False,
        "metadata": params.get("metadata") or {},
        "name": params.get("name"),
        "next_invoice_sequence": 1,
        "phone": params.get("phone"),
        "preferred_locales": params.get("preferred_locales") or [],
        "shipping": params.get("shipping"),
        "tax_exempt": params.get("tax_exempt") or "none",
        "test_clock": None,
    }


def _address(given: Json | None) -> Json | None:
    return {**EMPTY_ADDRESS, **given} if given else None


def _invoice_settings(world: World, given: Json, held: Json) -> Json:
    method = given.get("default_payment_method")
    if method:
        world.load("payment_method", method, param="invoice_settings[default_payment_method]")
    empty: Json = {"custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None}
    return {**empty, **held, **given}


@route("GET", "/v1/customers", paged({"email": TEXT, "created": RANGE}))
def index(world: World, params: Json) -> Json:
    wanted, email = params.get("created"), params.get("email")
    found = (
        one
        for one in world.walk("customer")
        if not one.get("deleted") and in_range(one["created"], wanted) and (email is None or one["email"] == email)
    )
    return lists.page(world, params, "/v1/customers", found)


@route("GET", "/v1/customers/search", {"query!": TEXT, "limit": INTEGER, "page": TEXT})
def search(world: World, params: Json) -> Json:
    clauses = _clauses(params["query"])
    limit, start = params.get("limit") or lists.DEFAULT_LIMIT, int(params.get("page") or 0)
    found = [one for one in world.walk("customer") if not one.get("deleted") and _passes(one, clauses)]
    shown = found[start : start + limit]
    more = start + limit < len(found)
    return {
        "object": "search_result",
        "data": shown,
        "has_more": more,
        "next_page": str(start + limit) if more else None,
        "url": "/v1/customers/search",
    }


def _clauses(query: str) -> list[tuple[bool, str, str | None, str, str | None]]:
    """Negated, field, metadata key, operator, value (None: null) of each clause joined by AND."""
    clauses = []
    for part in re.split(r"\s+AND\s+", query.strip(), flags=re.IGNORECASE):
        found = CLAUSE.fullmatch(part)
        if not found or found[2] not in {"created", "email", "metadata", "name", "phone"}:
            raise refused("We were unable to parse your search query.", param="query")
        value = None if found[7] else (found[5] if found[5] is not None else found[6])
        clauses.append((bool(found[1]), found[2], found[3], found[4], value))
    return clauses


def _passes(customer: Json, clauses: list[tuple[bool, str, str | None, str, str | None]]) -> bool:
    for is_negated, name, key, operator, value in clauses:
        held = (customer["metadata"] or {}).get(key) if name == "metadata" else customer.get(name)
        if value is None:
            hit = held is None
        elif operator == "~":
            hit = value.lower() in str(held or "").lower()
        else:
            hit = held is not None and str(held).lower() == value.lower()
        if hit is is_negated:
            return False
    return True


@route("GET", "/v1/customers/{customer}")
def retrieve(world: World, params: Json, customer: str) -> Json:
    found = world.load("customer", customer)
    if found.get("deleted"):
        return {"id": customer, "object": "customer", "deleted": True}
    return found


@route("POST", "/v1/customers/{customer}", {**FIELDS, "default_source": TEXT})
def update(world: World, params: Json, customer: str) -> Json:
    found = living(world, customer)
    return change(world, found, params)


def change(world: World, customer: Json, params: Json) -> Json:
    """The given fields are set, with the event."""
    fields = {name: value for name, value in params.items() if name in FIELDS}
    if "metadata" in fields:
        fields["metadata"] = merged_metadata(customer["metadata"], fields["metadata"])
    if "address" in fields:
        fields["address"] = _address(fields["address"])
    if "invoice_settings" in fields:
        fields["invoice_settings"] = _invoice_settings(world, fields["invoice_settings"], customer["invoice_settings"])
    return world.change(customer, "customer.updated", **fields)


@route("DELETE", "/v1/customers/{customer}")
def delete(world: World, params: Json, customer: str) -> Json:
    from . import endings  # noqa: PLC0415  # a subscription knows its customer

    found = living(world, customer)
    for subscription in world.all("subscription", customer=customer):
        endings.end(world, subscription)
    world.emit("customer.deleted", found)
    world.save({**found, "deleted": True})
    return {"id": customer, "object": "customer", "deleted": True}


def living(world: World, identifier: str, *, param: str | None = None) -> Json:
    """The customer; raises StripeError when it never was or was deleted."""
    found = world.load("customer", identifier, param=param)
    if found.get("deleted"):
        raise refused(f"Customer {identifier} has been deleted.", param=param, code="resource_missing")
    return found


def add_tax_id(world: World, customer: Json, given: Json) -> Json:
    country = given["type"][:2].upper()
    tax_id = {
        "id": world.new_id("txi"),
        "object": "tax_id",
        "country": {"EU": given["value"][:2].upper(), "GB": "GB"}.get(country, country),
        "created": world.now,
        "customer": customer["id"],
        "livemode": False,
        "owner": {"type": "customer", "customer": customer["id"]},
        "type": given["type"],
        "value": given["value"],
        "verification": {"status": "verified", "verified_address": None, "verified_name": customer["name"]},
    }
    return world.add(tax_id, "customer.tax_id.created")


@route("POST", "/v1/customers/{customer}/tax_ids", TAX_ID)
def create_tax_id(world: World, params: Json, customer: str) -> Json:
    return add_tax_id(world, living(world, customer), params)


@route("GET", "/v1/customers/{customer}/tax_ids", paged())
def tax_ids(world: World, params: Json, customer: str) -> Json:
    world.load("customer", customer)
    return lists.page(world, params, f"/v1/customers/{customer}/tax_ids", world.walk("tax_id", customer=customer))


@route("DELETE", "/v1/customers/{customer}/tax_ids/{tax_id}")
def delete_tax_id(world: World, params: Json, customer: str, tax_id: str) -> Json:
    found = world.load("tax_id", tax_id)
    world.forget(tax_id)
    world.emit("customer.tax_id.deleted", found)
    return {"id": tax_id, "object": "tax_id", "deleted": True}


@lists.included("customer", "tax_ids")
def _tax_ids(world: World, customer: Json) -> Json:
    return listing(f"/v1/customers/{customer['id']}/tax_ids", world.all("tax_id", customer=customer["id"]))


@lists.included("customer", "subscriptions")
def _subscriptions(world: World, customer: Json) -> Json:
    found = [one for one in world.all("subscription", customer=customer["id"]) if one["status"] != "canceled"]
    shown = [present(world, one, None) for one in found]
    return listing(f"/v1/customers/{customer['id']}/subscriptions", shown)


@lists.included("customer", "sources")
def _sources(world: World, customer: Json) -> Json:
    """None: cards are payment methods. dj-stripe asks with every customer."""
    return listing(f"/v1/customers/{customer['id']}/sources", [])
