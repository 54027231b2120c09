// From the daemon's list of points to what is plotted.
import type { History, HistoryPoint } from "../api/types";

export type Column = (number | null)[];

type Field = Exclude<keyof HistoryPoint, "time_unix_s">;

/** The times of a history, with a gap wherever a step is missing: no line may join what nobody measured. */
export function columns(history: History, fields: readonly Field[]): [number[], ...Column[]] {
  const times: number[] = [];
  const values: Column[] = fields.map(() => []);
  let last: number | null = null;
  for (const point of history.points) {
    if (last !== null && point.time_unix_s - last > history.step_s * 1.5) {
      times.push(last + history.step_s);
      values.forEach((column) => column.push(null));
    }
    times.push(point.time_unix_s);
    fields.forEach((field, at) => values[at]!.push(point[field]));
    last = point.time_unix_s;
  }
  return [times, ...values];
}

export interface Summary {
  last: number | null;
  least: number;
  most: number;
}

/** What a series says in words; null of nothing. */
export function summary(column: Column): Summary | null {
  const known = column.filter((value): value is number => value !== null);
  if (known.length === 0) return null;
  const least = known.reduce((a, b) => Math.min(a, b));
  const most = known.reduce((a, b) => Math.max(a, b));
  return { last: column.at(-1) ?? null, least, most };
}
