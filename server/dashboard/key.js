// Asks for the key, in a dialog, when the daemon wants one.

import { byId, say } from "./dom.js";

/** The dialog. */
export class KeyDialog {
  #api;
  #dialog = byId("key-dialog");
  #field = byId("key");
  #asked = null;

  constructor(api) {
    this.#api = api;
    byId("key-form").addEventListener("submit", (event) => this.#enter(event));
    byId("key-cancel").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => this.#end(false));
  }

  /** Ask, because of what the daemon said; gives whether a key was entered. */
  ask(refusal) {
    const admin = refusal.code === "admin_key_needed" || refusal.message.includes("admin key");
    const again = this.#api.key !== "" && !admin;
    say(byId("key-title"), admin ? "The admin key, please" : "The key, please");
    say(
      byId("key-why"),
      admin
        ? "Moving this model needs the daemon's admin key (--admin-key). It is sent in place of the other one."
        : again
          ? "The daemon does not know this key. It was set with --api-key, --api-key-file or FLEXQUANT_API_KEY."
          : "This daemon asks for a key: the one that was set with --api-key, --api-key-file or FLEXQUANT_API_KEY.",
    );
    this.#field.value = "";
    if (!this.#dialog.open) this.#dialog.showModal();
    this.#field.focus();
    this.#end(false);
    return new Promise((resolve) => (this.#asked = resolve));
  }

  #enter(event) {
    event.preventDefault();
    this.#api.key = this.#field.value.trim();
    this.#field.value = "";
    this.#end(true);
    this.#dialog.close();
  }

  #end(entered) {
    const asked = this.#asked;
    this.#asked = null;
    asked?.(entered);
  }
}
