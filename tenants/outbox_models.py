"""What happened that others may want to hear of, where they want to hear it, and what became of each telling."""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class EventType(models.TextChoices):
    ALERT_FIRED = "alert.fired", _("An alert has fired")
    LIMIT_REACHED = "limit.reached", _("The limit of a period is reached: further calls are refused")
    PLAN_CHANGED = "plan.changed", _("The plan has changed")
    PAYMENT_FAILED = "payment.failed", _("A payment has failed")
    INVOICE_PAID = "invoice.paid", _("An invoice is paid")


TEST_EVENT = "webhook.test"  # asked for on the page, sent to one endpoint whatever it listens to


class Event(models.Model):
    """Something that happened: written in the transaction that made it so, also by triggers in SQL. Its id is the webhook's.

    No foreign key in the database: what writes it must never wait for a tenant's row or be refused for it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, db_constraint=False, related_name="+")
    type = models.CharField(max_length=40, help_text=_("For example alert.fired"))
    key = models.CharField(max_length=200, help_text=_("What it is about: told once."))
    data = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    spread_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("When each endpoint that listens got its delivery (UTC).")
    )

    class Meta:
        ordering = ("-created_at",)
        constraints = (models.UniqueConstraint(fields=("tenant", "type", "key"), name="outgoing_event_once"),)
        indexes = (
            models.Index(fields=("created_at",), condition=models.Q(spread_at=None), name="outgoing_event_to_spread"),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.key}"


class WebhookEndpoint(models.Model):
    """An address of the tenant's own that events are posted to. Its secret is derived from `salt`, and stored nowhere."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="webhook_endpoints")
    url = models.CharField(max_length=2000)
    events = ArrayField(models.CharField(max_length=40), default=list)
    is_on = models.BooleanField(default=True)
    salt = models.CharField(max_length=64, editable=False)
    old_salt = models.CharField(max_length=64, blank=True, editable=False)
    old_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("Until when the secret before signs as well (UTC).")
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    failing_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("The first failure since the last success (UTC).")
    )
    disabled_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("When it was turned off for failing for days (UTC).")
    )
    busy_until = models.DateTimeField(
        default=timezone.now, editable=False, help_text=_("Until when a worker has its turn with it (UTC).")
    )

    class Meta:
        ordering = ("created_at",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(old_salt="", old_until=None) | ~models.Q(old_salt="") & models.Q(old_until__isnull=False),
                name="endpoint_old_secret_ends",
            ),
        )  # fmt: skip

    def __str__(self) -> str:
        return self.url


class Delivery(models.Model):
    """One event on its way to one endpoint. Sent at least once, always under the event's id."""

    class State(models.TextChoices):
        WAITING = "waiting", _("Waiting")
        DELIVERED = "delivered", _("Delivered")
        GIVEN_UP = "given_up", _("Given up")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries")
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=16, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0, help_text=_("Since it was last queued."))
    due_at = models.DateTimeField(help_text=_("Not sent before this instant (UTC)."))
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name_plural = _("deliveries")
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(fields=("endpoint", "event"), name="delivery_once_for_each_endpoint"),
            models.CheckConstraint(
                condition=models.Q(state__in=["waiting", "delivered", "given_up"]), name="delivery_state_known"
            ),
        )
        indexes = (
            models.Index(fields=("endpoint", "due_at"), condition=models.Q(state="waiting"), name="delivery_to_send"),
            models.Index(fields=("endpoint", "-created_at"), name="delivery_by_endpoint"),
        )

    def __str__(self) -> str:
        return f"{self.event_id} to {self.endpoint_id}"


class DeliveryAttempt(models.Model):
    """One try of a delivery: what the endpoint answered, or why it could not be asked."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="tries")
    at = models.DateTimeField(default=timezone.now, editable=False)
    status = models.PositiveSmallIntegerField(null=True, help_text=_("Of the answer; empty: there was none."))
    latency_ms = models.PositiveIntegerField()
    answer = models.CharField(max_length=500, blank=True, help_text=_("Its first characters."))
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("-at", "-id")
        indexes = (models.Index(fields=("delivery", "-at"), name="attempt_by_delivery"),)

    def __str__(self) -> str:
        return str(self.status or self.error)


class MailChoice(models.Model):
    """A member who was chosen to get mails of a topic; without any, owners and billing members get them."""

    class Topic(models.TextChoices):
        ALERTS = "alerts", _("Alerts and limits")

    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="mail_choices")
    topic = models.CharField(max_length=16, choices=Topic.choices)
    membership = models.ForeignKey("tenants.Membership", on_delete=models.CASCADE, related_name="mail_choices")

    class Meta:
        constraints = (models.UniqueConstraint(fields=("topic", "membership"), name="mail_choice_once"),)

    def __str__(self) -> str:
        return f"{self.topic}: {self.membership}"
