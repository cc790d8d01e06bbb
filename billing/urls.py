from django.urls import path

from metering.models import LimitKind

from . import api, audit_api, calls_api, invoices_api, keys_api, projects_api, series_api

urlpatterns = [
    path("usage", api.UsageView.as_view(), name="api-usage"),
    path("usage/series", series_api.SeriesView.as_view(), name="api-usage-series"),
    path("calls", calls_api.CallsView.as_view(), name="api-calls"),
    path("calls/<uuid:call_id>", calls_api.CallView.as_view(), name="api-call"),
    path("limits", api.LimitsView.as_view(), name="api-limits"),
    path("limits/day", api.OwnLimitView.as_view(kind=LimitKind.DAY), name="api-limit-day"),
    path("limits/projects/<slug:subject>", api.OwnLimitView.as_view(kind=LimitKind.PROJECT), name="api-limit-project"),
    path("limits/keys/<slug:subject>", api.OwnLimitView.as_view(kind=LimitKind.KEY), name="api-limit-key"),
    path("projects", projects_api.ProjectsView.as_view(), name="api-projects"),
    path("projects/<slug:project_slug>", projects_api.ProjectView.as_view(), name="api-project"),
    path("keys", keys_api.KeysView.as_view(), name="api-keys"),
    path("keys/<slug:prefix>", keys_api.KeyView.as_view(), name="api-key"),
    path("keys/<slug:prefix>/rotate", keys_api.RotateView.as_view(), name="api-key-rotate"),
    path("invoices", invoices_api.InvoicesView.as_view(), name="api-invoices"),
    path("invoices/preview", invoices_api.PreviewView.as_view(), name="api-invoice-preview"),
    path("invoices/<slug:invoice_id>", invoices_api.InvoiceView.as_view(), name="api-invoice"),
    path("audit", audit_api.AuditView.as_view(), name="api-audit"),
    path("explain", invoices_api.ExplainView.as_view(), name="api-explain"),
]
