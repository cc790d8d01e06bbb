"""WSGI entry; refuses to serve when a start-up check fails."""

import os

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application

from tenants.postgresql import limit_waits

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
application = get_wsgi_application()
limit_waits(settings.DATABASE_PATIENCE_SECONDS)

errors = [check for check in checks.run_checks(tags=["meterhouse"]) if check.is_serious() and not check.is_silenced()]
if errors:
    raise ImproperlyConfigured("\n".join(str(error) for error in errors))
