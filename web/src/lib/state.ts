// The states of paths: each has a colour, a shape and a word, so that none of them is needed alone.
import type { EventView, Path, Site } from "../api/types";

export type Mood = "good" | "warn" | "bad" | "wait";

export interface Look {
  mood: Mood;
  shape: string;
  word: string;
}

export function pathLook(path: Pick<Path, "state" | "degraded">): Look {
  switch (path.state) {
    case "up":
      return path.degraded
        ? { mood: "warn", shape: "▲", word: "degraded" }
        : { mood: "good", shape: "●", word: "up" };
    case "down":
      return { mood: "bad", shape: "✕", word: "down" };
    case "recovering":
      return { mood: "wait", shape: "◐", word: "recovering" };
    case "starting":
      return { mood: "wait", shape: "○", word: "starting" };
  }
}

/** What is worst comes first. */
const SEVERITY: Record<Mood, number> = { bad: 0, warn: 1, wait: 2, good: 3 };

export function severity(mood: Mood): number {
  return SEVERITY[mood];
}

export function siteLook(site: Site, paths: readonly Path[]): Look {
  if (site.state !== "active") return { mood: "bad", shape: "✕", word: site.state };
  const moods = paths.map((path) => pathLook(path).mood);
  const up = paths.filter((path) => path.state === "up").length;
  if (paths.length > 0 && up === 0) return { mood: "bad", shape: "✕", word: "unreachable" };
  if (moods.includes("bad")) return { mood: "warn", shape: "▲", word: "some paths are down" };
  if (moods.includes("warn")) return { mood: "warn", shape: "▲", word: "some paths are degraded" };
  if (moods.includes("wait")) return { mood: "wait", shape: "◐", word: "paths are coming up" };
  return { mood: "good", shape: "●", word: "all paths are up" };
}

export function healthLook(health: string): Look {
  if (health === "ok") return { mood: "good", shape: "●", word: "Everything works" };
  if (health === "degraded") return { mood: "warn", shape: "▲", word: "Needs attention" };
  return { mood: "bad", shape: "✕", word: "Failing" };
}

const BAD = ["path-down", "path-silent", "uplink-down", "site-inactive", "site-removed", "daemon-stopped"];
const WARN = ["path-degraded", "announcement-refused", "clock-set", "site-left"];
const GOOD = ["path-up", "path-improved", "uplink-up", "site-up", "daemon-started"];

export function eventLook(event: Pick<EventView, "kind">): Look {
  const { kind } = event;
  if (BAD.includes(kind) || kind.endsWith("-trouble")) return { mood: "bad", shape: "✕", word: "trouble" };
  if (WARN.includes(kind)) return { mood: "warn", shape: "▲", word: "attention" };
  if (GOOD.includes(kind)) return { mood: "good", shape: "●", word: "good" };
  return { mood: "wait", shape: "◆", word: "change" };
}

export function pathId(path: { site: string; tunnel: { local: number; remote: number } }): string {
  return `${path.site}/${path.tunnel.local}-${path.tunnel.remote}`;
}
