from django.apps import AppConfig


class ConfigConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        # Both register themselves by being imported: the start-up checks, and the Celery app that tasks bind to.
        from . import celery, checks  # noqa: F401, PLC0415
