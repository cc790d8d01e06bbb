"""The product API, once metered and once more without metering under `unmetered/`, to measure what metering costs."""

from django.urls import URLPattern, path, re_path

from .views import ObjectView, RecordView, SessionView, StatusView


def _product(prefix: str = "", **overrides: object) -> list[URLPattern]:
    return [
        path(f"{prefix}auth/session", SessionView.as_view(**overrides)),
        path(f"{prefix}database/records/<path:key>", RecordView.as_view(**overrides)),
        path(f"{prefix}storage/objects/<path:key>", ObjectView.as_view(**overrides)),
        re_path(
            rf"^{prefix}(?P<capability>auth|database|storage)/status/(?P<code>[^/]+)$", StatusView.as_view(**overrides)
        ),
    ]


urlpatterns = [*_product(), *_product("unmetered/", throttle_classes=[])]
