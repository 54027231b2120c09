// Rates from counters that only grow.

interface Reading {
  count: number;
  at: number;
  bps: number | null;
}

/** Bits per second of byte counters, by key; times are ms of a clock that only goes forward. */
export class Rates {
  private readings = new Map<string, Reading>();

  /** Takes a reading; `null` until there are two. A counter that went back began anew. */
  note(key: string, count: number, at: number): number | null {
    const last = this.readings.get(key);
    if (last && at - last.at < 200) return last.bps;
    const fits = last !== undefined && count >= last.count;
    const bps = fits ? ((count - last.count) * 8000) / (at - last.at) : null;
    this.readings.set(key, { count, at, bps });
    return bps;
  }

  /** What was found last. */
  of(key: string): number | null {
    return this.readings.get(key)?.bps ?? null;
  }

  /** Forgets whatever isn't among these any more. */
  keep(keys: ReadonlySet<string>): void {
    for (const key of this.readings.keys()) if (!keys.has(key)) this.readings.delete(key);
  }
}
