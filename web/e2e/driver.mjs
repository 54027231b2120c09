// A browser that obeys: one order a line on standard input, as JSON, and one answer a line on standard output. The tests
// (tests/src/browser.rs) start it in the network namespace of a gateway.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-precise-memory-info",
];
const PATIENCE_MS = 30_000;

let browser, context, page, cdp;
let requests = [];
let errors = [];

async function open({ width, height, scheme, touch, keep }) {
  if (page) await page.close();
  if (!keep || !context) {
    await context?.close();
    context = await browser.newContext({ serviceWorkers: "block" });
    requests = [];
    errors = [];
  }
  page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  cdp = await context.newCDPSession(page);
  await page.setViewportSize({ width, height });
  await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
  if (touch) await cdp.send("Emulation.setTouchEmulationEnabled", { enabled: true });
  page.on("request", (request) => requests.push(request.url()));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error.stack ?? error)));
  // What the page may not do is told to nobody but its console.
  page.on("console", (message) => message.text().includes("Content Security Policy") && errors.push(message.text()));
}

/** The page's own policy forbids to evaluate a text in it later: each look is an order of its own. */
async function wait({ js }) {
  for (const until = Date.now() + PATIENCE_MS; !(await page.evaluate(js)); ) {
    if (Date.now() > until) throw new Error(`not within ${PATIENCE_MS / 1000} s`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** Frames that were painted, and the longest time between two, in so many seconds. */
const FRAMES = `(seconds) => new Promise((done) => {
  const times = [];
  const tick = (now) => {
    times.push(now);
    if (now - times[0] < seconds * 1000) return requestAnimationFrame(tick);
    const gaps = times.slice(1).map((time, at) => time - times[at]).sort((a, b) => a - b);
    done({ per_second: gaps.length / ((times.at(-1) - times[0]) / 1000), longest_ms: gaps.at(-1), p99_ms: gaps[Math.floor(gaps.length * 0.99)] });
  };
  requestAnimationFrame(tick);
})`;

async function memory() {
  await cdp.send("HeapProfiler.collectGarbage");
  const { metrics } = await cdp.send("Performance.getMetrics");
  const metric = (name) => metrics.find((metric) => metric.name === name)?.value ?? null;
  let page_bytes = null;
  try {
    page_bytes = await page.evaluate("crossOriginIsolated ? performance.measureUserAgentSpecificMemory().then(({ bytes }) => bytes) : null");
  } catch {
    // Not every version offers it; the answer says null then.
  }
  return { heap_used_bytes: metric("JSHeapUsedSize"), heap_total_bytes: metric("JSHeapTotalSize"), nodes: metric("Nodes"), page_bytes };
}

const orders = {
  launch: async ({ executable }) => {
    browser = await chromium.launch({ executablePath: executable, args: ARGUMENTS });
    return browser.version();
  },
  open,
  goto: ({ url }) => page.goto(url, { waitUntil: "load" }).then(() => null),
  wait,
  evaluate: ({ js }) => page.evaluate(js),
  click: ({ selector }) => page.click(selector),
  fill: ({ selector, value }) => page.fill(selector, value),
  press: ({ key }) => page.keyboard.press(key),
  screenshot: ({ path }) => page.screenshot({ path, animations: "disabled" }).then(() => null),
  requests: () => requests,
  errors: () => errors.splice(0),
  frames: async ({ seconds }) => {
    await cdp.send("Performance.enable");
    return page.evaluate(`(${FRAMES})(${seconds})`);
  },
  memory: async () => {
    await cdp.send("Performance.enable");
    return memory();
  },
  serve: async ({ sites, flows }) => (await (await import("./generated.mjs")).serve({ sites, flows })).address,
  quit: async () => {
    await browser?.close();
    setImmediate(() => process.exit(0));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { order, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: (await orders[order](rest)) ?? null };
  } catch (error) {
    const where = page ? `\n${await page.evaluate("location.hash + ' | ' + document.body.innerText.slice(0, 1500)").catch(() => "")}` : "";
    answer = { error: `${error.message ?? error}${where}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser?.close();
