// What the daemon answers, as far as the dashboard looks at it. `sdwan api-schema` describes all of it.

export interface Listing<T> {
  items: T[];
  truncated: boolean;
}

export type Health = "ok" | "degraded" | "failing";
export type Role = "viewer" | "operator" | "admin";

export interface Uplink {
  index: number;
  name: string;
  interface: string;
  usable: boolean;
  reason: string | null;
  addresses: string[];
  metered: boolean;
}

export interface Status {
  health: Health;
  problems: string[];
  daemon_version: string;
  uptime_s: number;
  started_unix_ms: number;
  site_name: string;
  site: string;
  overlay: string | null;
  prefixes: string[];
  tunnel_backend: string;
  fast_path: string;
  attach_mode: string;
  uplinks: Uplink[];
  drops: Record<string, number>;
  store: { ok: boolean };
}

export interface Site {
  id: string;
  name: string;
  state: string;
  since_s: number;
  prefixes: string[];
  uplinks: string[];
  paths_up: number;
  paths: number;
}

export interface TunnelKey {
  local: number;
  remote: number;
}

export type PathState = "starting" | "up" | "down" | "recovering";

export interface Path {
  site: string;
  site_name: string;
  tunnel: TunnelKey;
  local_uplink: string;
  remote_uplink: string;
  interface: string;
  endpoint: string | null;
  state: PathState;
  degraded: boolean;
  since_s: number;
  score: number;
  rtt_ms: number | null;
  jitter_forward_ms: number;
  jitter_backward_ms: number;
  loss_forward_pct: number | null;
  loss_backward_pct: number | null;
  mos: number | null;
  capacity_bps: number | null;
  capacity_how: string | null;
  capacity_backward_bps: number | null;
  mtu: number;
  sent_bytes: number;
  received_bytes: number;
  detection_ms: number;
}

export interface FlowPath {
  number: number;
  site_name: string;
  tunnel: TunnelKey | null;
  uplinks: string;
}

export interface Flow {
  source: string;
  source_port: number;
  destination: string;
  destination_port: number;
  protocol: string;
  class: string;
  policy: string | null;
  path: FlowPath;
  second: FlowPath | null;
  packets: number;
  bytes: number;
  age_s: number;
  idle_s: number;
  moves: number;
}

export interface Match {
  protocols?: string[];
  ports?: string[];
  source_ports?: string[];
  destination_ports?: string[];
  dscp?: string[];
  sources?: string[];
  destinations?: string[];
  zones?: string[];
}

export interface Sla {
  latency_ms?: number;
  jitter_ms?: number;
  loss_pct?: number;
  bandwidth_mbps?: number;
  mos?: number;
}

export interface Policy {
  name: string;
  priority: number;
  match?: Match[];
  class?: string;
  preference: string;
  sla?: Sla;
  mode: string;
  sticky: string;
  dscp?: number;
  outer_dscp?: number;
}

export interface PolicyView extends Policy {
  source: "built-in" | "file" | "stored";
  packets: number | null;
  bytes: number | null;
}

export interface EventView {
  id: number;
  time_unix_ns: number;
  kind: string;
  message: string;
  site?: string;
  class?: string;
}

export interface HistoryPoint {
  time_unix_s: number;
  up_share: number | null;
  rtt_ms: number | null;
  rtt_min_ms: number | null;
  rtt_max_ms: number | null;
  jitter_forward_ms: number | null;
  jitter_backward_ms: number | null;
  loss_forward_pct: number | null;
  loss_backward_pct: number | null;
  mos: number | null;
  capacity_bps: number | null;
  capacity_backward_bps: number | null;
  sent_bps: number | null;
  received_bps: number | null;
}

export interface History {
  since_unix_s: number;
  until_unix_s: number;
  step_s: number;
  points: HistoryPoint[];
}

export interface DryRunFlow {
  flow: Flow;
  class: string | null;
  policy: string | null;
  path: FlowPath | null;
}

export interface DryRun {
  looked_at: number;
  truncated: boolean;
  change_class: number;
  change_path: number;
  flows: DryRunFlow[];
  notes: string[];
}

export interface Session {
  who: string;
  role: Role;
  logged_in: boolean;
  expires_in_s: number | null;
}
