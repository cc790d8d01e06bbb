"""Every setting. What differs between deployments is an environment variable, named in `.env.example`.

Values that are missing or unsafe are named by the start-up checks in `config/checks.py`.
"""

import secrets
from pathlib import Path
from urllib.parse import urlsplit

import environ

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
if (BASE_DIR / ".env").is_file():
    env.read_env(BASE_DIR / ".env")

# -- What this deployment is -----------------------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", False)
SANDBOX = env.bool("SANDBOX", False)  # the product API to play with, demo data, traffic; never in production
PUBLIC_URL = env.str("PUBLIC_URL", "http://127.0.0.1:8000").rstrip("/")
HTTPS = urlsplit(PUBLIC_URL).scheme == "https"
# What a new customer calls first: a GET address of the product that is metered. Empty: the page says whom to ask.
FIRST_CALL_URL = env.str("FIRST_CALL_URL", f"{PUBLIC_URL}/sandbox/v1/auth/session" if SANDBOX else "")

# A missing secret gets a throw-away value, so that `manage.py help` works; the checks refuse to serve with it.
SECRET_KEY_IS_MISSING = not env.str("SECRET_KEY", "")
SECRET_KEY = env.str("SECRET_KEY", "") or secrets.token_urlsafe(50)
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])  # former ones, after a rotation
API_KEY_SECRET_IS_MISSING = not env.str("API_KEY_SECRET", "")
API_KEY_SECRET = env.str("API_KEY_SECRET", "") or secrets.token_urlsafe(50)

ALLOWED_HOSTS = env.list(
    "ALLOWED_HOSTS", default=[urlsplit(PUBLIC_URL).hostname or "127.0.0.1", "127.0.0.1", "localhost"]
)
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", True)
    SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", 31_536_000)
    SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^readyz$"]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_NAME = env.str("SESSION_COOKIE_NAME", "meterhouse_session")
CSRF_COOKIE_NAME = env.str("CSRF_COOKIE_NAME", "meterhouse_csrf")
CSRF_COOKIE_HTTPONLY = True

# -- Applications ----------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_htmx",
    "template_partials",
    "csp",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "djstripe",
    "config",
    "tenants",
    "metering",
    "billing",
    "dashboard",
    *(["sandbox"] if SANDBOX else []),
]
MIDDLEWARE = [
    "metering.middleware.MeteringMiddleware",  # outermost: it measures the whole call
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.compression.CompressionMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "config.language.language",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "dashboard.confirming.ConfirmedMiddleware",
    "tenants.outage.DatabaseOutageMiddleware",
    *(["sandbox.weather.weather"] if SANDBOX else []),
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
APPEND_SLASH = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SILENCED_SYSTEM_CHECKS: list[str] = []

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "billing.context.stripe",
            ],
        },
    },
]

# -- Data ------------------------------------------------------------------------------------------------------------
DATABASE_URL = env.str("DATABASE_URL", "")
try:
    DATABASE_IS_POSTGRESQL = (
        urlsplit(DATABASE_URL).scheme in {"postgresql", "postgres"} and urlsplit(DATABASE_URL).port != 0
    )
except ValueError:  # a port that is no number
    DATABASE_IS_POSTGRESQL = False
DATABASES = {
    "default": {
        # The checks name an address that is missing or is not PostgreSQL's; until then nothing may connect anywhere.
        **env.db_url_config(DATABASE_URL if DATABASE_IS_POSTGRESQL else "postgresql://not-set.invalid/meterhouse"),
        "ENGINE": "tenants.postgresql",  # Django's, with an end to each wait
        "CONN_MAX_AGE": env.int("CONN_MAX_AGE", 60),
        "CONN_HEALTH_CHECKS": True,
    },
}
DATABASES["default"].setdefault("OPTIONS", {}).update(
    {"connect_timeout": 3, "options": "-c lock_timeout=10s -c timezone=UTC", "application_name": "meterhouse"}
)
DATABASE_PATIENCE_SECONDS = env.float("DATABASE_PATIENCE_SECONDS", 5.0)  # a request waits no longer for PostgreSQL
REDIS_URL = env.str("REDIS_URL", "")

# Only the limits of signing in are counted here. In PostgreSQL they hold over all processes and know no failure of their
# own: where it is away nobody signs in anyway, and without Redis people still do.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "tenants_cache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},  # beyond, the expired ones go
    },
    # What a process may remember for a minute by itself, such as the names that a filter offers.
    "process": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
}

# -- People ----------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "tenants.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
ACCOUNT_ADAPTER = "dashboard.account_adapter.AccountAdapter"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "optional"  # at once, but within CONFIRM_EMAIL_DAYS: docs/decisions/0008
CONFIRM_EMAIL_DAYS = env.int("CONFIRM_EMAIL_DAYS", 7)
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if HTTPS else "http"
ACCOUNT_RATE_LIMITS = {
    "login": "60/m/ip",
    "login_failed": "20/m/ip,5/5m/key",  # wrong passwords and codes; the key is the account
    "signup": "10/m/ip,60/h/ip",
    "reset_password": "10/m/ip,3/10m/key",
    "confirm_email": "1/m/key",
}
ALLAUTH_TRUSTED_PROXY_COUNT = env.int("TRUSTED_PROXY_COUNT", 0)  # else all who come through a proxy share one limit
MFA_ADAPTER = "dashboard.account_adapter.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_TOTP_ISSUER = "Meterhouse"
MFA_TOTP_TOLERANCE = 1  # clocks differ: the code before and after are taken too, each once
MFA_FORMS = {
    "authenticate": "dashboard.second_step.AuthenticateForm",
    "reauthenticate": "dashboard.second_step.ReauthenticateForm",
    "activate_totp": "dashboard.second_step.ActivateTOTPForm",
}
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = SANDBOX or DEBUG  # passkeys over http, on this machine only

# -- Time and language -----------------------------------------------------------------------------------------------
TIME_ZONE = env.str("TIME_ZONE", "UTC")  # anything but UTC is refused by the checks: periods are UTC
USE_TZ = True
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
LOCALE_PATHS = [BASE_DIR / "locale"]
LANGUAGE_COOKIE_NAME = env.str("LANGUAGE_COOKIE_NAME", "meterhouse_language")
LANGUAGE_COOKIE_AGE = 365 * 24 * 60 * 60
LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SECURE = HTTPS
USE_I18N = True

# -- Stripe ------------------------------------------------------------------------------------------------------------
STRIPE_REAL_API = "https://api.stripe.com"
STRIPE_API_BASE = env.str("STRIPE_API_BASE", STRIPE_REAL_API).rstrip("/")  # any server that speaks Stripe's HTTP
STRIPE_IS_REAL = STRIPE_API_BASE == STRIPE_REAL_API
if not STRIPE_IS_REAL:
    STRIPE_API_HOST = STRIPE_API_BASE  # dj-stripe's name for it
    SILENCED_SYSTEM_CHECKS.append("djstripe.W002")  # our own check says where this is wrong
STRIPE_API_VERSION = "2026-08-26.dahlia"
STRIPE_LIVE_MODE = env.bool("STRIPE_LIVE_MODE", False)
STRIPE_TEST_SECRET_KEY = env.str("STRIPE_TEST_SECRET_KEY", "")
STRIPE_LIVE_SECRET_KEY = env.str("STRIPE_LIVE_SECRET_KEY", "")
STRIPE_TIMEOUT_SECONDS = env.float("STRIPE_TIMEOUT_SECONDS", 10.0)
# Signing secrets of the two webhook endpoints; during a rotation the old and the new one.
STRIPE_WEBHOOK_SECRETS = env.list("STRIPE_WEBHOOK_SECRETS", default=[])
STRIPE_THIN_WEBHOOK_SECRETS = env.list("STRIPE_THIN_WEBHOOK_SECRETS", default=[])
BILLING = {
    "METER_EVENT_NAME": env.str("STRIPE_METER_EVENT_NAME", "meterhouse_calls"),
    "GRACE_DAYS": env.int("GRACE_DAYS", 7),  # from a failed payment until calls are refused
    "UPGRADE_UNDO_MINUTES": env.int("UPGRADE_UNDO_MINUTES", 60),  # an announced automatic upgrade may be undone
    "BILL_USAGE_BY": env.str("BILL_USAGE_BY", "meter_events"),  # or "invoice_items": rated here
    "REPORT_WINDOW_MINUTES": env.int("REPORT_WINDOW_MINUTES", 60),  # of usage in one meter event
    "REPORT_SENDERS": env.int("REPORT_SENDERS", 8),  # accounts that one worker speaks to Stripe about at once
    "LATE_USAGE": env.str("LATE_USAGE", "write_off"),  # or "next_invoice"
    "WEBHOOK_MAX_BYTES": 512 * 1024,
    "WEBHOOK_TOLERANCE_SECONDS": 300,
    "EVENT_ATTEMPTS": 12,
    "SETTLING_MINUTES": env.int(
        "SETTLING_MINUTES", 60
    ),  # usage older than this is at Stripe, or reconciliation asks why not
}
DJSTRIPE_FOREIGN_KEY_TO_FIELD = "id"
DJSTRIPE_SUBSCRIBER_MODEL = "tenants.Tenant"
DJSTRIPE_SUBSCRIBER_MODEL_REQUEST_CALLBACK = None
DJSTRIPE_SUBSCRIBER_CUSTOMER_KEY = ""  # a foreign metadata value would otherwise break every webhook of that customer
MIGRATION_MODULES = {"djstripe": "billing.djstripe_migrations"}  # one squashed migration: seconds instead of minutes

# -- Static files and browser policy -----------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = DEBUG or SANDBOX  # production runs collectstatic instead
STATIC_ROOT = None if WHITENOISE_USE_FINDERS else BASE_DIR / "staticfiles"
if not WHITENOISE_USE_FINDERS:
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }
# Browsers ask the policy again when a form's answer redirects: subscribing and cards lead to Stripe's pages.
STRIPE_PAGES = ["https://checkout.stripe.com", "https://billing.stripe.com", "https://invoice.stripe.com"]
if not STRIPE_IS_REAL:
    STRIPE_PAGES = [STRIPE_API_BASE]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'", *STRIPE_PAGES],
        "frame-ancestors": ["'none'"],
        "img-src": ["'self'", "data:"],
    },
}
SECURE_REFERRER_POLICY = "same-origin"

# -- Mail ------------------------------------------------------------------------------------------------------------
EMAIL_CONFIG = env.email_url("EMAIL_URL", default="consolemail://")  # smtp+tls://user:password@host:587
vars().update(EMAIL_CONFIG)
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", "Meterhouse <billing@localhost>")
EMAIL_TIMEOUT = 10

# -- Outgoing webhooks -------------------------------------------------------------------------------------------------
# Customers' endpoints may be on this machine or network, and plain http: for the sandbox and tests, never in production.
WEBHOOK_ALLOW_PRIVATE = env.bool("WEBHOOK_ALLOW_PRIVATE", False)

# -- Invitations and tenants -------------------------------------------------------------------------------------------
INVITATIONS_PER_DAY = env.int("INVITATIONS_PER_DAY", 50)  # per tenant
TENANTS_PER_DAY = env.int("TENANTS_PER_DAY", 5)  # that one person opens beside those they have

# -- API -------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tenants.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "tenants.negotiation.JSONOnly",
    "EXCEPTION_HANDLER": "tenants.error_answers.exception_handler",
    "UNAUTHENTICATED_USER": None,
}

# -- Metering ---------------------------------------------------------------------------------------------------------
METERING = {
    "LEASE_SECONDS": env.float("METERING_LEASE_SECONDS", 10.0),  # a dead process's units come back after this
    "LEASE_MAX_UNITS": env.int("METERING_LEASE_MAX_UNITS", 1000),  # the largest single grant
    "LEASE_SHARE": 50,  # a grant takes at most one part in this many of what remains
    "IDLE_SECONDS": 1.0,  # unused units go back after this
    "REFUSAL_MEMORY_SECONDS": 0.1,  # a refusal is repeated from memory for at most this long
    "FLUSH_SECONDS": 0.045,  # from the begin of a flush to the next: with the flush itself, a kill loses 50 ms at most
    "FLUSH_CALLS": 500,
    "BUFFER_CALLS": env.int("METERING_BUFFER_CALLS", 200_000),  # records kept while PostgreSQL is away
    "TENANTS_KEPT": env.int("METERING_TENANTS_KEPT", 10_000),  # whose leases and bounds a process keeps in memory
    "SPOOL_DIR": env(
        "METERING_SPOOL_DIR", default=str(BASE_DIR / "var" / "spool")
    ),  # records that outlive their process
    "SPOOL_MAX_BYTES": env.int("METERING_SPOOL_MAX_BYTES", 256 * 1024 * 1024),  # of one process
    "POOL_SIZE": env.int("METERING_POOL_SIZE", 4),
    "STATEMENT_TIMEOUT_MS": env.int("METERING_STATEMENT_TIMEOUT_MS", 5000),
    "KEY_CACHE_SECONDS": 1.0,  # a revoked key is refused everywhere within this
    "KEY_OUTAGE_SECONDS": env.float("KEY_OUTAGE_SECONDS", 300.0),  # a verified key stays valid while PostgreSQL is away
}
GATE = {
    "PATHS": env.list("GATE_PATHS", default=[]),  # /path=capability:cost; empty: the proxy's header says it
    "SECRETS": env.list("GATE_SECRETS", default=[]),  # with which the operator's proxy tells outcomes
    "OUTCOME_SECONDS": env.float(
        "GATE_OUTCOME_SECONDS", 120.0
    ),  # a call without an outcome counts as served after this
}
CALL_LOG_DAYS = env.int("CALL_LOG_DAYS", 35)
EVENTS_MAX_AGE_DAYS = env.int("EVENTS_MAX_AGE_DAYS", 30)  # older events are refused; never older than the call log
EVENTS_STREAM_URL = env.str(
    "EVENTS_STREAM_URL", ""
)  # the Redis that carries the stream of events; `?cluster=true`: a cluster
EVENTS_STREAM_SHARDS = env.int(
    "EVENTS_STREAM_SHARDS", 16
)  # streams that tenants are spread over; change it only when they are empty
BURST_TIMEOUT_SECONDS = 0.05  # a slow Redis costs a call at most this
MANAGEMENT_BURST_PER_SECOND = env.int("MANAGEMENT_BURST_PER_SECOND", 50)  # /api/v1, per tenant

# -- Background work -------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = 300
CELERY_TIMEZONE = "UTC"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

# -- Logs ------------------------------------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    # A view may answer 5xx on purpose, and says so in its answer; what is ours to mend arrives with a traceback.
    "filters": {
        "with_traceback": {"()": "django.utils.log.CallbackFilter", "callback": lambda record: bool(record.exc_info)}
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", "INFO")},
    "loggers": {
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.request": {"level": "ERROR", "filters": ["with_traceback"]},  # a 4xx is the caller's affair
        "django.server": {"level": "ERROR"},
        "stripe": {"level": "WARNING"},  # else two lines for each request
    },
}
