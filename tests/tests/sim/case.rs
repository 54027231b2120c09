//! What a run is made of: plain data, so that a case that failed can be made smaller and kept as a file.

use serde::{Deserialize, Serialize};

use crate::random::Random;
use sdwan::engine::policy::{Mode, Policy, Preference, Sla, Sticky, default_policies};
use sdwan::engine::settings::Settings;

/// A mesh, what happens to it, and what its decisions rest on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub shows: String,
    /// For what the lines do to packets.
    pub seed: u64,
    pub sites: Vec<SiteCase>,
    /// Each site knows so many others, its neighbours in a ring; 0: all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub degree: usize,
    #[serde(default)]
    pub policies: PolicyCase,
    /// Probes per second and site.
    pub probe_budget: u32,
    #[serde(default)]
    pub messages: MessageCase,
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// How long it goes on after the last fault, ms.
    pub settle_ms: u64,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteCase {
    pub uplinks: Vec<UplinkCase>,
    /// User packets go to all sites that it knows.
    #[serde(default)]
    pub busy: bool,
}

/// One line to the provider; each way gets the whole of this.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkCase {
    pub delay_us: u64,
    /// Uniform between 0 and this, on top.
    #[serde(default)]
    pub jitter_us: u64,
    #[serde(default)]
    pub loss_ppm: u32,
    /// Declared rate, both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_mbps: Option<u64>,
    #[serde(default)]
    pub cost: u32,
}

/// What may happen to announcements and answers on top of what the lines do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageCase {
    /// Announcements lost; never more than two in a row between two sites.
    pub lost_ppm: u32,
    /// Packets that come twice.
    pub duplicated_ppm: u32,
    /// Packets that come up to 40 ms later than they should, and are overtaken.
    pub late_ppm: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyCase {
    /// The built-in ones.
    #[default]
    Default,
    /// Voice has an SLA, the rest none.
    Sla,
    /// The last class spreads over all good paths.
    Balance,
    /// Flows of every class stay until their end.
    UntilEnd,
}

impl PolicyCase {
    pub fn policies(self) -> Vec<Policy> {
        let mut policies = default_policies();
        match self {
            Self::Default => {}
            Self::Sla => {
                policies[0].sla = Sla { loss_pct: Some(1.0), latency_ms: Some(250.0), ..Sla::default() };
                policies[2].preference = Preference::Cost;
                policies[3].preference = Preference::Cost;
            }
            Self::Balance => policies[3].mode = Mode::Balance,
            Self::UntilEnd => policies.iter_mut().for_each(|policy| policy.sticky = Sticky::UntilEnd),
        }
        policies
    }
}

/// Something that goes wrong for a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub at_ms: u64,
    pub for_ms: u64,
    pub site: usize,
    /// One of the site's uplinks, where the kind concerns one.
    #[serde(default)]
    pub uplink: usize,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Nothing gets through, and nobody is told.
    Cut,
    /// Nothing leaves.
    CutOut,
    /// Nothing arrives.
    CutIn,
    /// No carrier: the engine is told.
    Carrier,
    /// Loss and delay on top, each way.
    Brownout { loss_ppm: u32, delay_us: u64 },
    /// Cut and mended in turns of half of this.
    Flap { period_ms: u64 },
    /// The daemon is away; programs and maps stay.
    Restart,
    /// The daemon does not get to run.
    Stall,
    /// The wall clock jumps by so much, and back at the end.
    Clock { jump_s: i64 },
    /// The site's prefix belongs to the next site.
    Move,
}

impl FaultKind {
    /// Whether it takes packets of the uplink away.
    pub fn breaks_line(self) -> bool {
        matches!(
            self,
            Self::Cut | Self::CutOut | Self::CutIn | Self::Carrier | Self::Brownout { .. } | Self::Flap { .. }
        )
    }
}

/// From here on nothing is started any more; faults come after.
pub const WARM_MS: u64 = 12_000;

impl Case {
    /// A random one: `sites` of them, and faults for `fault_ms`.
    pub fn random(seed: u64, sites: usize, degree: usize, faults: u64, fault_ms: u64) -> Self {
        let mut random = Random::new(seed);
        let random = &mut random;
        let sites: Vec<SiteCase> = (0..sites).map(|_| site(random)).collect();
        let policies = [PolicyCase::Default, PolicyCase::Sla, PolicyCase::Balance, PolicyCase::UntilEnd];
        let mut case = Self {
            shows: String::new(),
            seed: random.next(),
            degree,
            policies: policies[random.below(4) as usize],
            probe_budget: [4_000, 4_000, 1_000, 200][random.below(4) as usize],
            messages: MessageCase {
                lost_ppm: random.below(3) as u32 * 150_000,
                duplicated_ppm: random.below(3) as u32 * 10_000,
                late_ppm: random.below(3) as u32 * 10_000,
            },
            faults: Vec::new(),
            settle_ms: 75_000,
            sites,
        };
        for _ in 0..faults {
            let fault = fault(random, &case, fault_ms);
            case.faults.push(fault);
        }
        case.faults.sort_by_key(|fault| fault.at_ms);
        case
    }

    /// When the last fault is over, ms.
    pub fn calm_ms(&self) -> u64 {
        self.faults.iter().map(|fault| fault.at_ms + fault.for_ms).max().unwrap_or(0).max(WARM_MS)
    }

    /// What the engines are set to: the defaults, with the longest hold short enough to see the end of it.
    pub fn settings(&self) -> Settings {
        Settings {
            probe_budget: self.probe_budget,
            hold_down_max: std::time::Duration::from_secs(20),
            ..Settings::default()
        }
    }

    /// Whether two sites know each other.
    pub fn knows(&self, a: usize, b: usize) -> bool {
        let apart = a.abs_diff(b).min(self.sites.len() - a.abs_diff(b));
        a != b && (self.degree == 0 || apart <= self.degree / 2)
    }
}

fn site(random: &mut Random) -> SiteCase {
    let uplinks = (0..random.between(1, 4)).map(|_| {
        // Fibre, cable, mobile, satellite.
        let (delay_us, jitter_us) = [(3_000, 300), (10_000, 3_000), (25_000, 12_000), (280_000, 10_000)]
            [[0, 0, 1, 1, 1, 2, 2, 3][random.below(8) as usize]];
        UplinkCase {
            delay_us: random.between(delay_us / 2, delay_us),
            jitter_us: random.below(jitter_us),
            loss_ppm: [0, 0, 0, 500, 2_000][random.below(5) as usize],
            rate_mbps: [None, Some(10), Some(100), Some(1_000)][random.below(4) as usize],
            cost: random.below(3) as u32 * 10,
        }
    });
    SiteCase { uplinks: uplinks.collect(), busy: random.below(4) != 0 }
}

fn fault(random: &mut Random, case: &Case, fault_ms: u64) -> Fault {
    let site = random.below(case.sites.len() as u64) as usize;
    let uplink = random.below(case.sites[site].uplinks.len() as u64) as usize;
    let kind = match random.below(12) {
        0 | 1 => FaultKind::Cut,
        2 => FaultKind::CutOut,
        3 => FaultKind::CutIn,
        4 => FaultKind::Carrier,
        5 | 6 => {
            FaultKind::Brownout { loss_ppm: random.between(10_000, 400_000) as u32, delay_us: random.below(4) * 40_000 }
        }
        7 => FaultKind::Flap { period_ms: random.between(300, 20_000) },
        8 => FaultKind::Restart,
        9 => FaultKind::Stall,
        10 => FaultKind::Clock { jump_s: [-31_536_000, -3, 2, 31_536_000][random.below(4) as usize] },
        _ => FaultKind::Move,
    };
    let longest = match kind {
        FaultKind::Stall => 3_000,
        FaultKind::Restart => 6_000,
        FaultKind::Move => 40_000,
        _ => 20_000,
    };
    let at_ms = WARM_MS + random.below(fault_ms);
    Fault { at_ms, for_ms: random.between(200, longest), site, uplink, kind }
}
