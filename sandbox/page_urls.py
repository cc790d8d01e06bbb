"""The sandbox's own pages."""

from django.urls import path

from . import pages

urlpatterns = [
    path("states", pages.overview, name="states"),
    path("states/make", pages.make, name="make-states"),
    path("states/weather", pages.change_weather, name="weather"),
]
