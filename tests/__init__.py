"""The tests. Importing this package starts their servers and sets Django up, before anything reads its settings."""

import django

from tests import servers

servers.provide()
django.setup()
