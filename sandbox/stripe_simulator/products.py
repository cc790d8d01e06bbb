"""Products: what the prices are of."""

from . import lists
from .errors import Json, refused
from .parameters import BOOLEAN, METADATA, RANGE, TEXT, merged_metadata, one_of
from .routes import in_range, paged, route
from .world import World

PRODUCT: Json = {
    "active": BOOLEAN,
    "description": TEXT,
    "images": [TEXT],
    "marketing_features": [{"name!": TEXT}],
    "metadata": METADATA,
    "shippable": BOOLEAN,
    "statement_descriptor": TEXT,
    "tax_code": TEXT,
    "unit_label": TEXT,
    "url": TEXT,
}


@route("POST", "/v1/products", {**PRODUCT, "id": TEXT, "name!": TEXT, "type": one_of("good", "service")})
def create_product(world: World, params: Json) -> Json:
    return new_product(world, params)


def new_product(world: World, params: Json) -> Json:
    identifier = params.get("id") or world.new_id("prod", 14)
    if world.store.get(identifier):
        raise refused(f"Product already exists: {identifier}", param="id", code="resource_already_exists")
    product = {
        "id": identifier,
        "object": "product",
        "active": params.get("active", True),
        "created": world.now,
        "default_price": None,
        "description": params.get("description"),
        "images": params.get("images") or [],
        "livemode": False,
        "marketing_features": params.get("marketing_features") or [],
        "metadata": params.get("metadata") or {},
        "name": params["name"],
        "package_dimensions": None,
        "shippable": params.get("shippable"),
        "statement_descriptor": params.get("statement_descriptor"),
        "tax_code": params.get("tax_code"),
        "type": params.get("type") or "service",
        "unit_label": params.get("unit_label"),
        "updated": world.now,
        "url": params.get("url"),
    }
    return world.add(product, "product.created")


@route("GET", "/v1/products", paged({"active": BOOLEAN, "created": RANGE, "ids": [TEXT], "type": TEXT}))
def products(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("product")
        if params.get("active", one["active"]) == one["active"]
        and in_range(one["created"], params.get("created"))
        and one["id"] in (params.get("ids") or [one["id"]])
    )
    return lists.page(world, params, "/v1/products", found)


@route("GET", "/v1/products/{product}")
def product(world: World, params: Json, product: str) -> Json:
    return world.load("product", product)


@route("POST", "/v1/products/{product}", {**PRODUCT, "name": TEXT, "default_price": TEXT})
def update_product(world: World, params: Json, product: str) -> Json:
    found = world.load("product", product)
    fields = {name: value for name, value in params.items() if name != "expand"}
    if "metadata" in fields:
        fields["metadata"] = merged_metadata(found["metadata"], fields["metadata"])
    if fields.get("default_price"):
        world.load("price", fields["default_price"], param="default_price")
    return world.change(found, "product.updated", **fields, updated=world.now)


@route("DELETE", "/v1/products/{product}")
def delete_product(world: World, params: Json, product: str) -> Json:
    found = world.load("product", product)
    if any(one["product"] == product for one in world.walk("price")):
        raise refused("This product cannot be deleted because it has one or more user-created prices.")
    world.forget(product)
    world.emit("product.deleted", found)
    return {"id": product, "object": "product", "deleted": True}


@route("GET", "/v1/products/{product}/features", paged())
def features(world: World, params: Json, product: str) -> Json:
    """None: entitlements are not simulated, but dj-stripe asks with every product."""
    world.load("product", product)
    return lists.page(world, params, f"/v1/products/{product}/features", ())
