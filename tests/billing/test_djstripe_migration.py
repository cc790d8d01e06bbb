"""Our squashed migration of dj-stripe against the dj-stripe that is installed; from the files alone, no database."""

import sys
from importlib.metadata import version

import pytest
from django.apps import apps
from django.db.migrations import AddField, CreateModel, Migration
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

ADVICE = "dj-stripe was upgraded? The docstring of billing/djstripe_migrations/0001_initial.py says what to do."


@pytest.fixture(scope="module")
def on_disk() -> MigrationLoader:
    return MigrationLoader(None)


def missing_operations(*, loader: MigrationLoader, migrated: ProjectState) -> list[str]:
    """What a migration would have to do to bring `migrated` to dj-stripe's models."""
    changes = MigrationAutodetector(migrated, ProjectState.from_apps(apps)).changes(graph=loader.graph)
    return [operation.describe() for migration in changes.get("djstripe", []) for operation in migration.operations]


def latest_migration(loader: MigrationLoader) -> Migration:
    (key,) = loader.graph.leaf_nodes("djstripe")
    migration: Migration = loader.graph.nodes[key]
    return migration


def test_the_migration_leaves_no_difference_to_the_models(on_disk: MigrationLoader) -> None:
    assert missing_operations(loader=on_disk, migrated=on_disk.project_state()) == [], ADVICE


def test_a_missing_field_is_noticed(on_disk: MigrationLoader) -> None:
    incomplete = on_disk.project_state()
    incomplete.remove_field("djstripe", "customer", "subscriber")

    assert "Add field subscriber to customer" in missing_operations(loader=on_disk, migrated=incomplete)


def test_the_latest_migration_names_the_installed_version(on_disk: MigrationLoader) -> None:
    module = sys.modules[latest_migration(on_disk).__module__]

    assert getattr(module, "DJSTRIPE_VERSION", "none") == version("dj-stripe"), ADVICE


def test_the_first_migration_only_makes_tables(on_disk: MigrationLoader) -> None:
    """Its `apply` makes the tables of complete models and skips every other step."""
    first = on_disk.graph.nodes["djstripe", "0001_initial"]
    created = {operation.name_lower for operation in first.operations if isinstance(operation, CreateModel)}
    others = [operation for operation in first.operations if not isinstance(operation, CreateModel)]

    assert all(isinstance(operation, AddField) and operation.model_name_lower in created for operation in others)


@pytest.mark.parametrize("app", ["tenants", "metering", "billing"])
def test_our_own_tables_do_not_wait_for_those_of_djstripe(on_disk: MigrationLoader, app: str) -> None:
    for leaf in on_disk.graph.leaf_nodes(app):
        assert not [key for key in on_disk.graph.forwards_plan(leaf) if key[0] == "djstripe"]
