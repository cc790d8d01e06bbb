"""Who was invited to a tenant by mail."""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Invitation(models.Model):
    """An address that was invited to a role. Of the link that was mailed only a digest is kept; it works once."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField(max_length=254)
    role = models.CharField(max_length=16)
    project_ids = ArrayField(
        models.BigIntegerField(), null=True, blank=True, help_text=_("Empty: all projects of the tenant.")
    )
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    links = models.PositiveIntegerField(default=1, help_text=_("How many were mailed; only the last one works."))
    invited_by = models.CharField(max_length=254)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "email"),
                condition=models.Q(accepted_at=None, revoked_at=None),
                name="invitation_open_once",
            ),
            models.CheckConstraint(
                condition=models.Q(role__in=["owner", "billing", "developer", "viewer"]), name="invitation_role_known"
            ),
            models.CheckConstraint(
                condition=models.Q(project_ids=None) | models.Q(role__in=["developer", "viewer"]),
                name="invitation_restrictable",
            ),
        )

    def __str__(self) -> str:
        return f"{self.email} to {self.tenant}"
