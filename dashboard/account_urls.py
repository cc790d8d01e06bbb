"""The addresses of the way in and of a person's own account. The names that begin with account_ and mfa_ are allauth's."""

from django.urls import path

from .views import account, entering

urlpatterns = [
    path("login", entering.login, name="login"),
    path("login", entering.login, name="account_login"),
    path("login/code", entering.second_step, name="mfa_authenticate"),
    path("login/passkey", entering.passkey_sign_in, name="mfa_login_webauthn"),
    path("signup", entering.sign_up, name="sign-up"),
    path("signup", entering.sign_up, name="account_signup"),
    path("logout", entering.sign_out, name="logout"),
    path("password/forgotten", account.forgotten, name="account_reset_password"),
    path("password/forgotten", account.forgotten, name="account_set_password"),
    path("password/forgotten/sent", account.forgotten_sent, name="account_reset_password_done"),
    path("password/new/<str:uidb36>/<str:key>", account.new_password, name="account_reset_password_from_key"),
    path("account", account.account, name="account"),
    path("account", account.account, name="mfa_index"),
    path("account", account.account, name="mfa_list_webauthn"),
    path("account/password", account.change_password, name="account_change_password"),
    path("account/address", account.change_address, name="change-address"),
    path("account/address/confirm", account.confirm_address, name="confirm-address"),
    path("account/address/confirm/<str:key>", account.confirmed, name="account_confirm_email"),
    path("account/sign-out-everywhere", account.sign_out_everywhere, name="sign-out-everywhere"),
    path("account/again", account.confirm_it_is_you, name="account_reauthenticate"),
    path("account/again/code", account.confirm_by_code, name="mfa_reauthenticate"),
    path("account/again/passkey", account.confirm_by_passkey, name="mfa_reauthenticate_webauthn"),
    path("account/app", account.add_totp, name="mfa_activate_totp"),
    path("account/app/remove", account.remove_totp, name="mfa_deactivate_totp"),
    path("account/recovery-codes", account.recovery_codes, name="mfa_view_recovery_codes"),
    path("account/recovery-codes/new", account.new_recovery_codes, name="mfa_generate_recovery_codes"),
    path("account/recovery-codes/download", account.download_recovery_codes, name="mfa_download_recovery_codes"),
    path("account/passkeys/add", account.add_passkey, name="mfa_add_webauthn"),
    path("account/passkeys/<int:pk>/name", account.rename_passkey, name="mfa_edit_webauthn"),
    path("account/passkeys/<int:pk>/remove", account.remove_passkey, name="mfa_remove_webauthn"),
]
