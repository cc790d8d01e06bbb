/* Passkeys. A form with data-passkey asks the browser to make ("create") or use ("get") one, and sends what it answers.
   The options stand in a JSON data block of the page (data-options), or are fetched when they are needed
   (data-options-from). Forms stay hidden where there are no passkeys. */
"use strict";

(() => {
  const bytes = (text) => {
    const binary = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
    return Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
  };
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

  const described = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

  // What the server says in text, as the bytes that the browser wants.
  const readable = (key) => {
    const options = { ...key, challenge: bytes(key.challenge) };
    if (key.user) options.user = { ...key.user, id: bytes(key.user.id) };
    if (key.excludeCredentials) options.excludeCredentials = described(key.excludeCredentials);
    if (key.allowCredentials) options.allowCredentials = described(key.allowCredentials);
    return options;
  };

  // What the browser answers in bytes, as the text that the server wants.
  const PARTS = ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"];
  const written = (credential) => {
    const response = {};
    for (const part of PARTS) if (credential.response[part]) response[part] = text(credential.response[part]);
    return {
      id: credential.id,
      rawId: text(credential.rawId),
      type: credential.type,
      response,
      clientExtensionResults: credential.getClientExtensionResults(),
    };
  };

  const optionsOf = async (form) => {
    if (form.dataset.options) return JSON.parse(document.getElementById(form.dataset.options).textContent);
    const answer = await fetch(form.dataset.optionsFrom, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error("The server has no options.");
    return answer.json();
  };

  const made = async (form) => {
    const options = readable((await optionsOf(form)).creation_options.publicKey);
    const alone = form.elements.passwordless.checked;
    options.authenticatorSelection = {
      ...options.authenticatorSelection,
      residentKey: alone ? "required" : "discouraged",
      requireResidentKey: alone,
      userVerification: alone ? "required" : "preferred",
    };
    return navigator.credentials.create({ publicKey: options });
  };
  const used = async (form) =>
    navigator.credentials.get({ publicKey: readable((await optionsOf(form)).request_options.publicKey) });

  const start = (form) => {
    const error = form.querySelector("[data-passkey-error]");
    form.hidden = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      error.hidden = true;
      try {
        const credential = await (form.dataset.passkey === "create" ? made(form) : used(form));
        form.elements.credential.value = JSON.stringify(written(credential));
        form.submit();
      } catch {
        error.hidden = false;
      }
    });
  };

  const knows = window.PublicKeyCredential !== undefined;
  for (const form of document.querySelectorAll("form[data-passkey]")) if (knows) start(form);
  if (!knows) for (const note of document.querySelectorAll("[data-no-passkeys]")) note.hidden = false;
})();
