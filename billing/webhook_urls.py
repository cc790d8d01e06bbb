from django.urls import path

from . import webhooks

urlpatterns = [
    path("stripe", webhooks.snapshot, name="stripe-webhook"),
    path("stripe/thin", webhooks.thin, name="stripe-thin-webhook"),
]
