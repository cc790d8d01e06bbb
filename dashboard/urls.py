"""The addresses that people visit."""

from django.urls import path
from django.views.i18n import set_language

from . import account_urls
from .views import buying, entering, exploring, keyring, limiting, money, projecting, reading, starting

urlpatterns = [
    path("", entering.home, name="home"),
    *account_urls.urlpatterns,
    path("t/<slug:tenant_slug>/", reading.overview, name="overview"),
    path("t/<slug:tenant_slug>/usage", exploring.usage, name="usage"),
    path("t/<slug:tenant_slug>/usage.csv", exploring.usage_csv, name="usage-csv"),
    path("t/<slug:tenant_slug>/trends", reading.trends, name="trends"),
    path("t/<slug:tenant_slug>/invoice", reading.invoice, name="invoice"),
    path("t/<slug:tenant_slug>/invoices", money.invoices, name="invoices"),
    path("t/<slug:tenant_slug>/invoices.csv", money.invoices_file, name="invoices-csv"),
    path("t/<slug:tenant_slug>/invoices/<slug:invoice_id>", money.one_invoice, name="invoice-detail"),
    path("t/<slug:tenant_slug>/why", money.why, name="why"),
    path("t/<slug:tenant_slug>/plan", buying.plan, name="plan"),
    path("t/<slug:tenant_slug>/plan/subscribe", buying.subscribe, name="subscribe"),
    path("t/<slug:tenant_slug>/plan/returned", buying.returned, name="returned"),
    path("t/<slug:tenant_slug>/plan/change", buying.change, name="change"),
    path("t/<slug:tenant_slug>/plan/reactivate", buying.reactivate, name="reactivate"),
    path("t/<slug:tenant_slug>/plan/undo", buying.undo, name="undo"),
    path("t/<slug:tenant_slug>/plan/portal", buying.portal, name="portal"),
    path("t/<slug:tenant_slug>/plan/pay", buying.pay, name="pay"),
    path("t/<slug:tenant_slug>/state", buying.state, name="state"),
    path("t/<slug:tenant_slug>/limits", limiting.limits, name="limits"),
    path("t/<slug:tenant_slug>/limits/policy", limiting.policy, name="policy"),
    path("t/<slug:tenant_slug>/limits/hard-limit", limiting.hard_limit, name="hard-limit"),
    path("t/<slug:tenant_slug>/limits/upgrade", limiting.consent, name="consent"),
    path("t/<slug:tenant_slug>/limits/upgrade/withdraw", limiting.withdraw, name="withdraw"),
    path("t/<slug:tenant_slug>/limits/upgrade/card", limiting.card, name="card"),
    path("language", set_language, name="set_language"),
    path("t/<slug:tenant_slug>/start", starting.start, name="start"),
    path("t/<slug:tenant_slug>/projects", projecting.projects, name="projects"),
    path("t/<slug:tenant_slug>/projects/<slug:project_slug>", projecting.project, name="project"),
    path("t/<slug:tenant_slug>/projects/<slug:project_slug>/archive", projecting.archive, name="archive-project"),
    path("t/<slug:tenant_slug>/projects/<slug:project_slug>/restore", projecting.restore, name="restore-project"),
    path("t/<slug:tenant_slug>/keys", keyring.keys, name="keys"),
    path("t/<slug:tenant_slug>/keys/new", keyring.new, name="new-key"),
    path("t/<slug:tenant_slug>/keys/<slug:public_id>/rotate", keyring.rotate, name="rotate-key"),
    path("t/<slug:tenant_slug>/keys/<slug:public_id>/revoke", keyring.revoke, name="revoke-key"),
    path("problems/<slug:slug>", reading.problem, name="problem"),
]
