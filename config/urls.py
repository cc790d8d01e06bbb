"""Every address of the product."""

from allauth.account.decorators import secure_admin_login
from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from config import health

admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]  # no way past the second step

urlpatterns = [
    path("admin/", admin.site.urls),
    path("admin", RedirectView.as_view(url="/admin/")),
    path("api/v1/", include("metering.urls")),
    path("api/v1/", include("billing.urls")),
    path("favicon.ico", RedirectView.as_view(url="/static/favicon.svg")),
    path("livez", health.livez),
    path("readyz", health.readyz),
    path("webhooks/", include("billing.webhook_urls")),
]
if settings.SANDBOX:
    urlpatterns.append(path("sandbox/v1/", include("sandbox.urls")))
    urlpatterns.append(path("sandbox/", include("sandbox.page_urls")))
urlpatterns.append(path("", include("dashboard.urls")))

handler404 = "tenants.error_answers.not_found"
handler429 = "tenants.error_answers.too_many"  # asked for by allauth's limits
handler500 = "tenants.error_answers.server_error"
