// What is known of the gateway, and since when. One poll at a time, about once a second; none while nobody looks.
import { Rates } from "../lib/rates";
import { pathId } from "../lib/state";
import type { EventView, Listing, Path, PolicyView, Session, Site, Status } from "./types";
import { ApiError, get } from "./client";

export type Topic = "sites" | "paths" | "policies" | "events";

/** Events that are kept. */
const MOST_EVENTS = 2000;
const FASTEST_MS = 1000;
const SLOWEST_MS = 10_000;
/** How long an answer about who we are is good for. */
const SESSION_MS = 30_000;
/** Of the time, at most one part in so many goes into polling: a slow line or a large mesh is asked less often. */
const SHARE = 4;

export class Live {
  status: Status | null = null;
  sites: Site[] = [];
  paths: Path[] = [];
  policies: PolicyView[] = [];
  /** In their order. */
  events: EventView[] = [];
  readonly rates = new Rates();

  /** Wall-clock time of the last whole answer, ms. */
  answeredAt: number | null = null;
  /** Why there is none; null while all is well. */
  trouble: ApiError | null = null;

  private known: { session: Session; at: number } | null = null;
  private topics: ReadonlySet<Topic> = new Set();
  private extra: (() => Promise<void>) | null = null;
  private timer: number | undefined;
  private asking = false;
  private again = false;
  private eventsBegan = false;

  constructor(private readonly changed: () => void) {
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.now();
    });
  }

  /** Who we are; null until the daemon says. */
  get session(): Session | null {
    return this.known?.session ?? null;
  }

  /** What a login or a logout has made of it; null: ask again. */
  set session(session: Session | null) {
    this.known = session && { session, at: performance.now() };
  }

  /** What the view that is shown needs, and what else it asks itself. */
  want(topics: readonly Topic[], extra: (() => Promise<void>) | null): void {
    this.topics = new Set(topics);
    this.extra = extra;
    this.now();
  }

  /** Asks at once. */
  now(): void {
    if (this.asking) {
      this.again = true;
      return;
    }
    window.clearTimeout(this.timer);
    void this.poll();
  }

  private async poll(): Promise<void> {
    if (document.hidden) return;
    this.asking = true;
    const began = performance.now();
    try {
      await this.ask();
      this.answeredAt = Date.now();
      this.trouble = null;
    } catch (error) {
      this.trouble = error instanceof ApiError ? error : new ApiError(0, String(error));
    }
    this.asking = false;
    this.changed();
    const took = performance.now() - began;
    const pause = this.again ? 0 : Math.min(Math.max(FASTEST_MS - took, took * (SHARE - 1)), SLOWEST_MS);
    this.again = false;
    this.timer = window.setTimeout(() => void this.poll(), pause);
  }

  private async ask(): Promise<void> {
    const { topics, extra } = this;
    await Promise.all([
      this.askStatus(),
      topics.has("sites") && get<Listing<Site>>("/v1/sites").then((answer) => (this.sites = answer.items)),
      topics.has("paths") && this.askPaths(),
      topics.has("policies") && this.askPolicies(),
      topics.has("events") && this.askEvents(),
      extra?.(),
    ]);
  }

  private async askStatus(): Promise<void> {
    const { known } = this;
    const old = known === null || performance.now() - known.at > SESSION_MS;
    const [status, session] = await Promise.all([get<Status>("/v1/status"), old ? get<Session>("/v1/session") : null]);
    // Whoever logged in meanwhile is known better.
    if (session && this.known === known) this.session = session;
    // Another daemon knows nothing of the login.
    if (this.status && this.status.started_unix_ms !== status.started_unix_ms) this.session = null;
    this.status = status;
  }

  private async askPaths(): Promise<void> {
    this.paths = (await get<Listing<Path>>("/v1/paths")).items;
    const at = performance.now();
    const keys = new Set<string>();
    for (const path of this.paths) {
      const id = pathId(path);
      keys.add(`${id} out`).add(`${id} in`);
      this.rates.note(`${id} out`, path.sent_bytes, at);
      this.rates.note(`${id} in`, path.received_bytes, at);
    }
    for (const policy of this.policies) keys.add(`class ${policy.class ?? policy.name}`);
    this.rates.keep(keys);
  }

  private async askPolicies(): Promise<void> {
    this.policies = (await get<Listing<PolicyView>>("/v1/policies")).items;
    const at = performance.now();
    for (const policy of this.policies) this.rates.note(`class ${policy.class ?? policy.name}`, policy.bytes ?? 0, at);
  }

  private async askEvents(): Promise<void> {
    const after = this.events.at(-1)?.id;
    const query = this.eventsBegan && after !== undefined ? { after, limit: 1000 } : { limit: 500 };
    const { items } = await get<Listing<EventView>>("/v1/events", query);
    this.eventsBegan = true;
    if (items.length > 0) this.events = this.events.concat(items).slice(-MOST_EVENTS);
  }
}
