from django.urls import path

from metering.models import LimitKind

from . import api

urlpatterns = [
    path("usage", api.UsageView.as_view(), name="api-usage"),
    path("usage/series", api.SeriesView.as_view(), name="api-usage-series"),
    path("limits", api.LimitsView.as_view(), name="api-limits"),
    path("limits/day", api.OwnLimitView.as_view(kind=LimitKind.DAY), name="api-limit-day"),
    path("limits/projects/<slug:subject>", api.OwnLimitView.as_view(kind=LimitKind.PROJECT), name="api-limit-project"),
    path("limits/keys/<slug:subject>", api.OwnLimitView.as_view(kind=LimitKind.KEY), name="api-limit-key"),
]
