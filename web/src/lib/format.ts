// Numbers as people read them. `–` stands for what isn't known.

export const NOTHING = "–";

function scaled(value: number, units: readonly string[]): string {
  let unit = 0;
  let scaled = value;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  const digits = scaled >= 99.5 || unit === 0 ? 0 : scaled >= 9.95 ? 1 : 2;
  return `${scaled.toFixed(digits)} ${units[unit]}`;
}

/** Bits per second. */
export function rate(bps: number | null | undefined): string {
  return bps == null ? NOTHING : scaled(bps, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
}

export function bytes(count: number | null | undefined): string {
  return count == null ? NOTHING : scaled(count, ["B", "kB", "MB", "GB", "TB", "PB"]);
}

export function milliseconds(ms: number | null | undefined): string {
  if (ms == null) return NOTHING;
  return `${ms.toFixed(ms >= 99.5 ? 0 : ms >= 9.95 ? 1 : 2)} ms`;
}

export function percent(pct: number | null | undefined): string {
  if (pct == null) return NOTHING;
  return `${pct === 0 ? "0" : pct < 0.1 ? pct.toFixed(2) : pct.toFixed(1)} %`;
}

export function score(value: number | null | undefined): string {
  return value == null ? NOTHING : value.toFixed(0);
}

export function mos(value: number | null | undefined): string {
  return value == null ? NOTHING : value.toFixed(2);
}

export function count(value: number | null | undefined): string {
  return value == null ? NOTHING : Math.round(value).toLocaleString("en-GB");
}

/** A span of seconds, in its two largest units. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const parts: [number, string][] = [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const first = parts.findIndex(([size]) => whole >= size);
  const [size, unit] = parts[first]!;
  const next = parts[first + 1];
  const text = `${Math.floor(whole / size)} ${unit}`;
  const rest = next ? Math.floor((whole % size) / next[0]) : 0;
  return next && rest > 0 ? `${text} ${rest} ${next[1]}` : text;
}

/** Time of the day, and the date if it isn't today's. */
export function moment(unixMs: number, now = Date.now()): string {
  const at = new Date(unixMs);
  const time = at.toLocaleTimeString("en-GB", { hour12: false });
  return at.toDateString() === new Date(now).toDateString() ? time : `${day(at)} ${time}`;
}

function day(at: Date): string {
  const two = (number: number) => String(number).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** `10.0.0.1:80`, `[fd00::1]:80`, or the address alone where there is no port. */
export function endpoint(address: string, port: number): string {
  if (port === 0) return address;
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}
