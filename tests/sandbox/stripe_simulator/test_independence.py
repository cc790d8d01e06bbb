"""The simulator stands alone: the standard library and itself, nothing of the product, no stripe package."""

import ast
import sys
from pathlib import Path

import sandbox.stripe_simulator

PACKAGE = Path(sandbox.stripe_simulator.__file__).parent


def test_it_imports_only_the_standard_library_and_itself() -> None:
    foreign = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            foreign |= {
                f"{path.name}: {name}"
                for name in names
                if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("sandbox.stripe_simulator")
            }
    assert not foreign
