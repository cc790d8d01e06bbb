"""Who is calling: users, tenants, their projects, keys and what was done to them."""

import uuid
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .invitation_models import Invitation
from .outbox_models import Delivery, DeliveryAttempt, Event, EventType, MailChoice, WebhookEndpoint

__all__ = [
    "RESTRICTABLE", "ApiKey", "AuditEntry", "Delivery", "DeliveryAttempt", "Event", "EventType", "Invitation", "MailChoice",
    "MemberProject", "Membership", "Notice", "Project", "Role", "Tenant", "User", "WebhookEndpoint",
]  # fmt: skip


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """A user who signs in with this e-mail address exists; raises IntegrityError when the address is taken."""
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """An operator with every right exists."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email=(username or "").strip().lower())


class User(AbstractBaseUser, PermissionsMixin):
    """A person. What they may see comes from their memberships; `is_staff` opens the operators' admin."""

    email = models.EmailField(_("e-mail"), max_length=254, unique=True)
    name = models.CharField(_("name"), max_length=150, blank=True)
    is_staff = models.BooleanField(_("operator"), default=False, help_text=_("May sign in to the admin."))
    is_active = models.BooleanField(_("active"), default=True)
    date_joined = models.DateTimeField(_("joined"), default=timezone.now, editable=False)
    sessions_ended = models.PositiveIntegerField(default=0, editable=False)  # raised to end every session there is

    objects: ClassVar[UserManager] = UserManager()
    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")
        constraints = (models.CheckConstraint(condition=models.Q(email=Lower("email")), name="user_email_lower_case"),)

    def __str__(self) -> str:
        return self.email

    def clean(self) -> None:
        self.email = self.email.strip().lower()

    def _get_session_auth_hash(self, secret: str | None = None) -> str:
        """What a session must match to go on: Django's own, until sessions were ended for the first time."""
        own = str(super()._get_session_auth_hash(secret))  # type: ignore[misc]  # the stubs leave it out
        return f"{own}-{self.sessions_ended}" if self.sessions_ended else own

    @property
    def initials(self) -> str:
        words = (self.name or self.email.split("@", 1)[0].replace(".", " ")).split()
        return "".join(word[0] for word in words[:2]).upper() or "?"


class Tenant(models.Model):
    """The paying organisation. `max_projects` is pushed down by billing; nothing here knows plans."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(max_length=60, unique=True, help_text=_("Part of the address of the tenant's pages."))
    name = models.CharField(max_length=120)
    email = models.EmailField(help_text=_("Where mail about billing goes."))
    max_projects = models.PositiveIntegerField(null=True, blank=True, help_text=_("Empty: no limit. Set by the plan."))
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    OWNER = "owner", _("Owner")
    BILLING = "billing", _("Billing")
    DEVELOPER = "developer", _("Developer")
    VIEWER = "viewer", _("Viewer")


RESTRICTABLE = (Role.DEVELOPER, Role.VIEWER)  # who may be limited to some projects


class Membership(models.Model):
    """A user's role in a tenant. With `is_restricted` it is limited to `projects`: none left means none seen, never all."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices)
    is_restricted = models.BooleanField(default=False, help_text=_("Sees only the projects chosen below."))
    projects: "models.ManyToManyField[Project, MemberProject]" = models.ManyToManyField(
        "Project", through="MemberProject", related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("tenant", "user"), name="membership_once_per_tenant"),
            models.UniqueConstraint(fields=("tenant", "id"), name="membership_in_tenant"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="membership_role_known"),
            models.CheckConstraint(
                condition=models.Q(is_restricted=False) | models.Q(role__in=[role.value for role in RESTRICTABLE]),
                name="membership_restrictable",
            ),
        )

    def __str__(self) -> str:
        return f"{self.user} in {self.tenant} ({self.get_role_display()})"


class Project(models.Model):
    """A workspace of a tenant; a plan limits how many. Never deleted, for the ledger refers to it: archived instead."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="projects")
    slug = models.SlugField(max_length=60)
    name = models.CharField(max_length=120)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    archived_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("Its keys are revoked, and it counts against no limit.")
    )

    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "slug"), name="project_slug_unique_in_tenant"),
            models.UniqueConstraint(fields=("tenant", "id"), name="project_in_tenant"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def is_archived(self) -> bool:
        return self.archived_at is not None


class MemberProject(models.Model):
    """A project that a restricted member sees. Both belong to `tenant`: two foreign keys of the database say so."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    membership = models.ForeignKey(Membership, on_delete=models.CASCADE, related_name="seen")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")

    class Meta:
        constraints = (models.UniqueConstraint(fields=("membership", "project"), name="member_project_once"),)

    def __str__(self) -> str:
        return f"{self.project} for {self.membership.user}"


class ApiKey(models.Model):
    """A key of a project. The secret is never stored: only an HMAC-SHA-256 of the whole key."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_keys")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=120)
    public_id = models.CharField(max_length=16, unique=True, editable=False)
    last_four = models.CharField(max_length=4, editable=False)
    digest = models.BinaryField(max_length=32, editable=False)
    scopes = ArrayField(models.CharField(max_length=40), default=list, help_text=_("What the key may do."))
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text=_("Empty: never (UTC)."))
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False, help_text=_("To the minute (UTC)."))
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    replaced_by = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False,
        help_text=_("The key that a rotation made in its place."),
    )  # fmt: skip

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ("-created_at",)
        indexes = (models.Index(fields=("tenant", "project"), name="apikey_by_project"),)

    def __str__(self) -> str:
        return f"{self.prefix}...{self.last_four}"

    @property
    def prefix(self) -> str:
        """What may be shown: `mh_live_` and the public id."""
        return f"mh_live_{self.public_id}"


class AuditEntry(models.Model):
    """Who changed what; written in the transaction of the change, never updated (a trigger refuses it)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    at = models.DateTimeField(default=timezone.now, editable=False)
    actor = models.CharField(max_length=254, help_text=_("An e-mail address, a key's prefix, or a command."))
    action = models.CharField(max_length=60, help_text=_("For example key.revoked"))
    subject = models.CharField(max_length=200)
    detail = models.JSONField(default=dict)

    class Meta:
        verbose_name_plural = _("audit entries")
        ordering = ("-at",)
        indexes = (models.Index(fields=("tenant", "-at"), name="audit_by_tenant"),)

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"


class Notice(models.Model):
    """A mail that is owed to a tenant's people: written with what it tells of, sent afterwards, once for each `key`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="notices")
    kind = models.CharField(max_length=60, help_text=_("For example payment.failed"))
    key = models.CharField(max_length=120, help_text=_("What it is about, for example an invoice: told once."))
    recipient = models.EmailField(
        max_length=254, blank=True, help_text=_("Empty: whoever gets the tenant's mails of this kind.")
    )
    title = models.CharField(max_length=200)
    text = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    due_at = models.DateTimeField(default=timezone.now, help_text=_("Not sent before this instant (UTC)."))
    attempts = models.PositiveIntegerField(default=0)
    sent_at = models.DateTimeField(null=True, blank=True, editable=False)
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("-created_at",)
        indexes = (models.Index(fields=("due_at",), condition=models.Q(sent_at=None), name="notice_to_send"),)
        constraints = (models.UniqueConstraint(fields=("tenant", "kind", "key"), name="notice_once"),)

    def __str__(self) -> str:
        return self.title
