"""Webhook endpoints: where snapshot events go, where thin ones go, and the secrets that sign them."""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from . import lists
from .errors import Json, refused
from .events import matches
from .parameters import BOOLEAN, METADATA, TEXT, chosen, merged_metadata
from .routes import paged, route
from .world import API_VERSION, World, public


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that exists from the start. Several secrets: all of them sign, as while one is being rotated."""

    url: str
    secrets: tuple[str, ...]
    thin: bool = False
    events: tuple[str, ...] = ("*",)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str) -> str:
    """The URL; raises StripeError unless it leads to this machine."""
    if urlsplit(url).scheme not in {"http", "https"} or not is_loopback(urlsplit(url).hostname or ""):
        raise refused(f"The simulated Stripe delivers to this machine only, not to '{url}'.", param="url")
    return url


def install(world: World, endpoint: Endpoint) -> Json:
    """The endpoint exists with exactly these secrets; one with the same URL is replaced."""
    check_url(endpoint.url)
    kind = "thin_endpoint" if endpoint.thin else "webhook_endpoint"
    held = next((one for one in world.all(kind) if one["url"] == endpoint.url), None)
    made = _new(world, endpoint.url, list(endpoint.events), kind)
    if held:
        made["id"] = held["id"]
    made["_secrets"] = list(endpoint.secrets)
    return world.add(made)


def _new(world: World, url: str, enabled: list[str], kind: str) -> Json:
    return {
        "id": world.new_id("we"),
        "object": kind,
        "api_version": API_VERSION,
        "application": None,
        "created": world.now,
        "description": None,
        "enabled_events": enabled,
        "livemode": False,
        "metadata": {},
        "status": "enabled",
        "url": url,
        "_secrets": [world.new_id("whsec", 32)],
    }


@route(
    "POST",
    "/v1/webhook_endpoints",
    {
        "api_version": TEXT, "connect": BOOLEAN, "description": TEXT, "enabled_events!": [TEXT], "metadata": METADATA,
        "url!": TEXT,
    },
)  # fmt: skip
def create(world: World, params: Json) -> Json:
    made = _new(world, check_url(params["url"]), params["enabled_events"], "webhook_endpoint")
    made |= {"description": params.get("description"), "metadata": params.get("metadata") or {}}
    made["api_version"] = params.get("api_version") or API_VERSION
    world.save(made)
    return {**made, "secret": made["_secrets"][0]}


@route("GET", "/v1/webhook_endpoints", paged())
def index(world: World, params: Json) -> Json:
    return lists.page(world, params, "/v1/webhook_endpoints", world.walk("webhook_endpoint"))


@route("GET", "/v1/webhook_endpoints/{endpoint}")
def retrieve(world: World, params: Json, endpoint: str) -> Json:
    return world.load("webhook_endpoint", endpoint)


@route(
    "POST",
    "/v1/webhook_endpoints/{endpoint}",
    {"description": TEXT, "disabled": BOOLEAN, "enabled_events": [TEXT], "metadata": METADATA, "url": TEXT},
)
def update(world: World, params: Json, endpoint: str) -> Json:
    found = world.load("webhook_endpoint", endpoint)
    fields = chosen(params, "description", "enabled_events")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(found["metadata"], params["metadata"])
    if "url" in params:
        fields["url"] = check_url(params["url"])
    if "disabled" in params:
        fields["status"] = "disabled" if params["disabled"] else "enabled"
    return world.change(found, None, **fields)


@route("DELETE", "/v1/webhook_endpoints/{endpoint}")
def delete(world: World, params: Json, endpoint: str) -> Json:
    world.load("webhook_endpoint", endpoint)
    world.forget(endpoint)
    return {"id": endpoint, "object": "webhook_endpoint", "deleted": True}


def interested(world: World, event: Json) -> list[Json]:
    """Endpoints that are to be told of an event."""
    kind = "thin_endpoint" if event["object"] == "v2.core.event" else "webhook_endpoint"
    return [
        one for one in world.all(kind) if one["status"] == "enabled" and matches(one["enabled_events"], event["type"])
    ]


def rotate(world: World, url: str, secrets: tuple[str, ...]) -> None:
    """The endpoint signs with these secrets from now on."""
    for kind in ("webhook_endpoint", "thin_endpoint"):
        for found in world.all(kind):
            if found["url"] == url:
                world.change(found, None, _secrets=list(secrets))


def signature(body: bytes, secrets: list[str], *, at: int) -> str:
    """The `Stripe-Signature` header: the time and one HMAC-SHA256 of "time.body" for each secret."""
    signed = str(at).encode() + b"." + body
    marks = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={at}", *(f"v1={mark}" for mark in marks)])


def plain(endpoint: Json) -> Json:
    """Without its secrets."""
    shown: Json = public(endpoint)
    return shown
