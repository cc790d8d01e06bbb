from django.apps import AppConfig
from django.db.models.signals import post_save


class TenantsConfig(AppConfig):
    name = "tenants"
    verbose_name = "Tenants"

    def ready(self) -> None:
        from . import people  # noqa: PLC0415 -- it needs the models

        post_save.connect(people.keep_address, sender="tenants.User", dispatch_uid="keep_address")
