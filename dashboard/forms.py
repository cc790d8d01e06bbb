"""The forms of the pages."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.validators import DecimalValidator, MaxValueValidator, MinValueValidator
from django.utils.translation import gettext_lazy as _

from metering.models import MAX_CALLS, Alert, AlertKind, Policy

from . import formatting

MOST_PERCENT, MOST_MINOR = 1000, 10**14


class SubscribeForm(forms.Form):
    version = forms.IntegerField()
    currency = forms.RegexField("^[a-z]{3}$", required=False)


class ChangeForm(forms.Form):
    """A change that was shown before: with what was said to be due, and for which instant."""

    version = forms.IntegerField()
    previewed_minor = forms.IntegerField(required=False)
    proration_at = forms.DateTimeField(required=False)


class UndoForm(forms.Form):
    change = forms.UUIDField()


class PolicyForm(forms.Form):
    policy = forms.ChoiceField(choices=[(Policy.RATE.value, ""), (Policy.BLOCK.value, "")])


class CallsField(forms.IntegerField):
    """A whole number of calls; separators between the digits do not matter."""

    def to_python(self, value: Any) -> int | None:
        return super().to_python(_plain(value))


class AmountField(forms.DecimalField):
    """An amount in major units; separators and the currency's sign do not matter."""

    def to_python(self, value: Any) -> Any:
        return super().to_python(_plain(value))


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    signs = (*formatting.SYMBOLS.values(), ",", " ", "_", formatting.SPACE)
    for sign in sorted(signs, key=len, reverse=True):
        value = value.replace(sign, "")
    return value


class HardLimitForm(forms.Form):
    """Calls, money or neither; an empty field is no limit. `minor` is the amount in minor units."""

    calls = CallsField(
        label=_("Calls per period"), required=False,
        validators=[MinValueValidator(0), MaxValueValidator(MAX_CALLS)],
        widget=forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off"}),
        help_text=_("Empty: no limit in calls."),
    )  # fmt: skip
    money = AmountField(
        label=_("Money per period, for calls beyond the included ones"), required=False,
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
        help_text=_("Before tax; the plan's fee is not part of it. Empty: no limit in money."),
    )  # fmt: skip

    def __init__(self, *args: Any, currency: str, has_money: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.places = formatting.decimals(currency)
        money = self.fields["money"]
        money.validators = [
            MinValueValidator(Decimal(0)),
            MaxValueValidator(Decimal(MOST_MINOR).scaleb(-self.places)),
            DecimalValidator(max_digits=None, decimal_places=self.places),
        ]
        money.label = _("Money per period in %(currency)s, for calls beyond the included ones") % {
            "currency": currency.upper()
        }
        if not has_money:
            del self.fields["money"]

    @property
    def minor(self) -> int | None:
        amount = self.cleaned_data.get("money")
        return None if amount is None else int(amount.scaleb(self.places))


class ConsentForm(forms.Form):
    """Agreement to exactly what was shown: another price or plan in the meantime is not agreed to."""

    version = forms.IntegerField()
    fee_minor = forms.IntegerField()
    fallback = forms.ChoiceField(choices=[(Policy.RATE.value, ""), (Policy.BLOCK.value, "")])
    agrees = forms.BooleanField()


class AlertForm(forms.Form):
    """An alert: a share of the included calls in per cent, or an amount of the account's currency."""

    kind = forms.ChoiceField(label=_("Tell me when"), choices=AlertKind.choices)
    value = AmountField(
        label=_("Value"), min_value=Decimal("0.001"), max_digits=18,
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )  # fmt: skip

    def __init__(self, *args: Any, currency: str, has_money: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.currency, self.places = currency, formatting.decimals(currency)
        if has_money:
            text = _("Per cent of the included calls, or an amount in %(currency)s.")
            self.fields["value"].help_text = text % {"currency": currency.upper()}
        else:
            only = [choice for choice in AlertKind.choices if choice[0] == AlertKind.SHARE]
            self.fields["kind"] = forms.ChoiceField(label=_("Tell me when"), choices=only)
            self.fields["value"].help_text = _("Per cent of the included calls.")

    def clean(self) -> dict[str, Any]:
        found = self.cleaned_data
        value = found.get("value")
        if value is None or "kind" not in found:
            return found
        scaled = value if found["kind"] == AlertKind.SHARE else value.scaleb(self.places)
        most = MOST_PERCENT if found["kind"] == AlertKind.SHARE else MOST_MINOR
        if scaled != int(scaled) or not 1 <= scaled <= most:
            wanted = _("A whole number of per cent from 1 to 1000.") if found["kind"] == AlertKind.SHARE else None
            self.add_error("value", wanted or _("An amount above zero, to the smallest coin."))
        return found

    @property
    def alert(self) -> Alert:
        """What was asked for. Of a valid form."""
        kind, value = AlertKind(self.cleaned_data["kind"]), self.cleaned_data["value"]
        if kind == AlertKind.SHARE:
            return Alert(kind=kind, percent=int(value))
        return Alert(kind=kind, amount_minor=int(value.scaleb(self.places)), currency=self.currency)


class NarrowLimitForm(forms.Form):
    """A daily cap, or the limit of a project or key; no calls: none."""

    subject = forms.RegexField(r"^(day|project|key):\d{1,18}$")
    calls = CallsField(required=False, validators=[MinValueValidator(0), MaxValueValidator(MAX_CALLS)])
