// Requests to the daemon that served this page, and to nobody else.

/** An answer that isn't what was asked for; `status` is 0 when there was none. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const PATIENCE_MS = 8000;

async function send(method: string, path: string, body?: unknown): Promise<unknown> {
  const init: RequestInit = {
    method,
    cache: "no-store",
    credentials: "same-origin",
    redirect: "error",
    signal: AbortSignal.timeout(PATIENCE_MS),
  };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "content-type": "application/json" };
  }
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch {
    throw new ApiError(0, "the daemon does not answer");
  }
  let answer: unknown;
  try {
    answer = await response.json();
  } catch {
    throw new ApiError(response.ok ? 0 : response.status, "the daemon's answer is broken off or no JSON");
  }
  if (!response.ok) {
    const text = (answer as { error?: unknown }).error;
    throw new ApiError(response.status, typeof text === "string" ? text : `the daemon says ${response.status}`);
  }
  return answer;
}

export function get<T>(path: string, query: Record<string, string | number | undefined> = {}): Promise<T> {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") parameters.set(key, String(value));
  }
  const text = parameters.toString();
  return send("GET", text ? `${path}?${text}` : path) as Promise<T>;
}

export function post<T>(path: string, body: unknown): Promise<T> {
  return send("POST", path, body) as Promise<T>;
}

export function remove<T>(path: string): Promise<T> {
  return send("DELETE", path) as Promise<T>;
}
