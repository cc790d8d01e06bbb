"""The product's settings, and beside its addresses the same view under other ways to limit or log calls."""

from benchmarks import sampler
from config.settings import *  # noqa: F403
from config.settings import DATABASES, REDIS_URL

ROOT_URLCONF = "benchmarks.peers_urls"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}
# In the peers' favour: no `SELECT 1` before the INSERT. Metering has connections of its own and does not notice.
DATABASES["default"]["CONN_HEALTH_CHECKS"] = False
sampler.install()
