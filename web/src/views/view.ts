// What a view is to the shell around it.
import type { Live, Topic } from "../api/live";

export interface View {
  title: string;
  element: HTMLElement;
  topics: Topic[];
  /** What else is asked with each poll. */
  ask?: () => Promise<void>;
  /** The data, or the address's parameters, are others. */
  update: (live: Live, parameters: URLSearchParams) => void;
  /** It isn't shown any more. */
  leave?: () => void;
}

/** The address of a view: `#/paths?site=…`. */
export function address(view: string, parameters: Record<string, string> = {}): string {
  const text = new URLSearchParams(parameters).toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}
