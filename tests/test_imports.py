"""Imports run one way: tenants <- metering <- billing <- dashboard; only billing touches Stripe."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APPS = ("tenants", "metering", "billing", "dashboard", "sandbox", "config")
MAY_IMPORT = {
    "tenants": {"tenants"},
    "metering": {"tenants", "metering"},
    "billing": {"tenants", "metering", "billing"},
    "dashboard": {"tenants", "metering", "billing", "dashboard"},
    "sandbox": {"tenants", "metering", "billing", "sandbox"},
    "config": set(APPS),
}
# Inside an app: entry points -> domain modules -> models, never back.
ENTRY_POINTS = {
    "api", "views", "tasks", "webhooks", "throttles", "middleware", "decorators", "checks", "admin", "urls",
    "authentication", "apps", "webhook_urls", "managed_api", "projects_api", "keys_api", "invoices_api", "series_api",
    "audit_api", "calls_api",
}  # fmt: skip


def modules(app: str) -> list[Path]:
    return [path for path in sorted((ROOT / app).rglob("*.py")) if "djstripe_migrations" not in path.parts]


def imported(path: Path, package: str) -> Iterator[str]:
    """Absolute names of what the file imports, at any level of nesting."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, node.module or ""]).strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


@pytest.mark.parametrize("app", APPS)
def test_imports_run_one_way(app: str) -> None:
    breaches = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(app)
        for name in imported(path, package_of(path))
        if name.split(".")[0] in APPS and name.split(".")[0] not in MAY_IMPORT[app]
    }
    assert not breaches


def test_only_billing_touches_stripe() -> None:
    breaches = set()
    for app in APPS:
        for path in modules(app):
            names = {name.split(".")[0] for name in imported(path, package_of(path))}
            if "stripe" in names and path.parent != ROOT / "billing" / "stripe_api":
                breaches.add(f"{path.relative_to(ROOT)} imports stripe")
            if "djstripe" in names and app != "billing":
                breaches.add(f"{path.relative_to(ROOT)} imports djstripe")
    assert not breaches


@pytest.mark.parametrize("app", ["tenants", "metering", "billing"])
def test_domain_modules_do_not_import_entry_points(app: str) -> None:
    breaches = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(app)
        if not ENTRY_POINTS & {path.stem, path.parent.name}
        and "migrations" not in path.parts
        and "management" not in path.parts
        for name in imported(path, package_of(path))
        if name.split(".")[0] in APPS and name.split(".")[-1] in ENTRY_POINTS
    }
    assert not breaches
