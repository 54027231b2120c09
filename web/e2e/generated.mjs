// The built page, and a daemon's API with generated answers behind it: a mesh of any size, for measurements.
// The answers have the shape of the daemon's; what they say changes with each request, as a busy gateway's does.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const DIST = join(fileURLToPath(import.meta.url), "../../dist");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const CLASSES = ["voip-video", "gaming", "bulk", "default"];

const hex = (number) => number.toString(16).padStart(32, "0");

/** A mesh with so many sites, four paths to each, and so many flows. */
function mesh(sites, flows) {
  let tick = 0;
  const began = Date.now();
  const uplinks = ["fibre", "lte"].map((name, index) => ({
    index, name, interface: `eth${index}`, usable: true, reason: null, addresses: [`192.0.2.${index + 1}`], gateways: [], mtu: 1500, metered: index === 1,
  }));
  const path = (site, at) => {
    const [local, remote] = [at >> 1, at & 1];
    const number = site * 4 + at;
    const down = number % 97 === 13;
    const degraded = number % 41 === 7;
    const wave = Math.sin(tick / 5 + number);
    return {
      number, site: hex(site + 1), site_name: `branch-${site + 1}`, tunnel: { local, remote },
      local_uplink: uplinks[local].name, remote_uplink: remote ? "lte" : "fibre", interface: `sdw${local}-${remote}`,
      endpoint: `198.51.100.${site % 250}:51820`, state: down ? "down" : "up", degraded: degraded && !down, since_s: 4000 + tick,
      score: 90 + wave, rtt_ms: down ? null : 12 + site / 5 + wave, rtt_min_ms: 11, rtt_variation_ms: 1, jitter_forward_ms: 0.4 + wave / 5,
      jitter_backward_ms: 0.5, loss_forward_pct: degraded ? 3.1 : 0, loss_backward_pct: 0, mos: down ? null : 4.3, mos_by_codec: { g711: 4.3, g729: 4, opus: 4.4 },
      spans: [60, 900, 86400].map((span_s) => ({ span_s, samples: 100, rtt_min_ms: 1, rtt_p50_ms: 2, rtt_p95_ms: 3, rtt_p99_ms: 4, rtt_max_ms: 5, jitter_forward_ms: 1, jitter_backward_ms: 1, loss_forward_pct: 0, loss_backward_pct: 0, loss_round_trip_pct: 0 })),
      capacity_bps: 1e8, capacity_how: "measured", capacity_backward_bps: 5e7, mtu: 1420, sent_packets: tick * 100, sent_bytes: tick * 1e4 * (number + 1), received_packets: tick, received_bytes: tick * 9e3 * (number + 1), probe_interval_ms: 50, detection_ms: 160,
    };
  };
  const flow = (number) => {
    const site = number % sites;
    return {
      source: `10.1.${(number >> 8) & 255}.${number & 255}`, source_port: 1024 + (number % 60000), destination: `10.${(site % 200) + 2}.0.9`, destination_port: 5060 + (number % 7),
      protocol: number % 3 ? "tcp" : "udp", class: CLASSES[number % 4], policy: CLASSES[number % 4],
      path: { number: site * 4, site_name: `branch-${site + 1}`, tunnel: { local: 0, remote: 0 }, uplinks: "fibre → fibre" }, second: null,
      packets: 100 * tick + number, bytes: 90_000 * tick + number * 997, age_s: tick + number / 100, idle_s: (number % 50) / 10, moves: number % 3,
    };
  };
  const list = (items, truncated = false) => ({ version: 1, items, truncated });
  const all = (count, make) => Array.from({ length: count }, (_, at) => make(at));
  const paths = () => all(sites * 4, (at) => path(at >> 2, at & 3));
  const event = (id) => ({ id, time_unix_ns: (began + id * 1000 - 200_000) * 1e6, kind: ["path-down", "path-up", "class-moved", "path-degraded"][id % 4], message: `path branch-${(id % sites) + 1}/fibre/lte: something happened to it, number ${id}`, site: hex((id % sites) + 1) });
  return {
    "/v1/status": () => {
      tick += 1;
      return { version: 1, health: "degraded", problems: [`${paths().filter((path) => path.state === "down").length} paths are down`], daemon_version: "0.1.0", pid: 1, uptime_s: tick + 9999, started_unix_ms: began, mesh: hex(7), site: hex(0), site_name: "head-office", overlay: null, prefixes: ["10.1.0.0/16"], tunnel_backend: "kernel", fast_path: "both", attach_mode: "tcx", attached: [], uplinks, sites: {}, paths: {}, policies: 4, drops: {}, passes: {}, refused_announcements: {}, internal_drops: {}, store: { ok: true } };
    },
    "/v1/session": () => ({ version: 1, who: "the generator", role: "viewer", logged_in: false, expires_in_s: null }),
    "/v1/sites": () => list(all(sites, (at) => ({ id: hex(at + 1), name: `branch-${at + 1}`, state: "active", since_s: 1000, overlay: null, prefixes: [`10.${at + 2}.0.0/16`], uplinks: ["fibre", "lte"], paths_up: 4, paths: 4, best_score: 90, last_announcement_s: 3, certificate_expires_unix: null }))),
    "/v1/paths": () => list(paths()),
    "/v1/flows": (query) => list(all(Math.min(flows, Number(query.get("limit") ?? 100)), flow)),
    "/v1/policies": () => list(CLASSES.map((name, at) => ({ name, priority: at === 3 ? 65535 : (at + 1) * 100, preference: "latency", mode: "best", sticky: "until-better", source: "built-in", packets: tick * 1e3, bytes: tick * 1e6 * (4 - at) }))),
    "/v1/events": (query) => {
      const latest = 300 + tick;
      const after = Number(query.get("after") ?? 0);
      const first = Math.max(1, after + 1, latest - 500);
      return list(all(Math.max(0, latest - first), (at) => event(first + at)));
    },
    "/v1/history": (query) => {
      const [since, until] = [Number(query.get("since")), Number(query.get("until"))];
      const step_s = Math.max(10, Math.ceil((until - since) / 400));
      const point = (at) => ({ time_unix_s: since + at * step_s, up_share: 1, rtt_ms: 12 + Math.sin(at / 9), rtt_min_ms: 11, rtt_max_ms: 15 + (at % 7), jitter_forward_ms: 0.4, jitter_backward_ms: 0.6, loss_forward_pct: at % 50 === 9 ? 2 : 0, loss_backward_pct: 0, mos: 4.3, capacity_bps: 1e8, capacity_backward_bps: 5e7, sent_bps: 4e6 + 1e6 * Math.sin(at / 20), received_bps: 2e6 });
      return { version: 1, since_unix_s: since, until_unix_s: until, step_s, points: all(Math.floor((until - since) / step_s), point) };
    },
  };
}

/** Serves it on a port that is free; returns its address and what ends it. */
export async function serve({ sites, flows }) {
  const api = mesh(sites, flows);
  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://localhost");
    const answer = api[url.pathname];
    if (answer) {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify(answer(url.searchParams)));
      return;
    }
    try {
      const name = url.pathname === "/" ? "/index.html" : url.pathname;
      const content = await readFile(join(DIST, name));
      response.setHeader("content-type", TYPES[extname(name)] ?? "application/octet-stream");
      response.setHeader("cross-origin-opener-policy", "same-origin");
      response.setHeader("cross-origin-embedder-policy", "require-corp");
      response.end(content);
    } catch {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const address = `http://127.0.0.1:${server.address().port}/`;
  return { address, close: () => server.close() };
}
