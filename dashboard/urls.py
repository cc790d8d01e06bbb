"""The addresses that people visit."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from . import views

urlpatterns = [
    path("", views.home, name="home"),
    path("login", views.login, name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("t/<slug:tenant_slug>/", views.overview, name="overview"),
    path("t/<slug:tenant_slug>/usage", views.usage, name="usage"),
    path("t/<slug:tenant_slug>/trends", views.trends, name="trends"),
    path("t/<slug:tenant_slug>/invoice", views.invoice, name="invoice"),
    path("t/<slug:tenant_slug>/plan", views.plan, name="plan"),
    path("problems/<slug:slug>", views.problem, name="problem"),
]
