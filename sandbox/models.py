"""What the sandbox's product API keeps: JSON records and raw objects, each in one project of one tenant."""

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Record(models.Model):
    """A JSON document as it was sent: numbers and the order of members stay what they were."""

    pk = models.CompositePrimaryKey("tenant_id", "project_id", "key")
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    project = models.ForeignKey("tenants.Project", on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=120)
    document = models.TextField()
    changed_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.key


class StoredObject(models.Model):
    """Raw bytes with the content type that they were sent with."""

    pk = models.CompositePrimaryKey("tenant_id", "project_id", "key")
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    project = models.ForeignKey("tenants.Project", on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=120)
    content = models.BinaryField()
    content_type = models.CharField(max_length=200)
    etag = models.CharField(max_length=66, help_text=_("SHA-256 of the content in quotes (RFC 9110, 8.8.3)."))
    changed_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.key
