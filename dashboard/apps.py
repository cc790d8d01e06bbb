from django.apps import AppConfig


class DashboardConfig(AppConfig):
    name = "dashboard"

    def ready(self) -> None:
        from . import account_records  # noqa: PLC0415 -- it needs the models

        account_records.connect()
