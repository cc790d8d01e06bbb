from django.urls import path

from . import api

urlpatterns = [
    path("usage", api.UsageView.as_view(), name="api-usage"),
    path("usage/series", api.SeriesView.as_view(), name="api-usage-series"),
    path("limits", api.LimitsView.as_view(), name="api-limits"),
]
