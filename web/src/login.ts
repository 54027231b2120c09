// Who may change things: a code from the gateway, or a token, is exchanged for a cookie that no script can read.
import { ApiError, post, remove } from "./api/client";
import type { Live } from "./api/live";
import { duration } from "./lib/format";
import { h, setText } from "./ui/dom";

export class Login {
  readonly element: HTMLElement;
  private readonly who = h("span", { class: "who" });
  private readonly out = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => void this.logout() }, "Log out");
  readonly form: HTMLElement;
  private readonly secret = h("input", { type: "password", name: "secret", autocomplete: "off", "aria-label": "Token or code", required: true });
  private readonly said = h("p", { class: "said bad", role: "alert" });

  constructor(private readonly live: Live) {
    this.element = h("div", { class: "login" }, this.who, this.out);
    const submit = (event: Event) => {
      event.preventDefault();
      void this.login(this.secret.value.trim());
    };
    this.form = h(
      "section",
      { class: "card narrow", hidden: true },
      h("h2", {}, "Log in"),
      h("p", {}, "Over the network, even reading needs a login: a client certificate in the browser, a token from `sdwan token add`, or the address that `sdwan dashboard --login` prints on the gateway."),
      h("form", { onsubmit: submit, class: "inline" }, this.secret, h("button", { class: "primary" }, "Log in")),
      this.said,
    );
  }

  update(): void {
    const { session, trouble } = this.live;
    this.form.hidden = trouble?.status !== 401;
    this.out.hidden = !session?.logged_in;
    if (!session) return;
    const left = session.expires_in_s === null ? "" : ` for ${duration(session.expires_in_s)}`;
    setText(this.who, session.logged_in ? `${session.role}${left}` : session.role === "viewer" ? "read-only" : session.role);
    this.who.title = session.who;
  }

  async login(secret: string): Promise<void> {
    try {
      this.live.session = await post("/v1/session", { secret });
      this.secret.value = "";
      setText(this.said, "");
    } catch (error) {
      setText(this.said, error instanceof ApiError ? error.message : String(error));
      this.form.hidden = false;
    }
    this.live.now();
  }

  private async logout(): Promise<void> {
    try {
      await remove("/v1/session");
    } catch (error) {
      setText(this.said, error instanceof ApiError ? error.message : String(error));
    }
    this.live.session = null;
    this.live.now();
  }
}
