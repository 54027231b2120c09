//! What of the figures must hold, as ratios of one run.

use crate::figures::Figures;

/// What a ratio must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// For information.
    None,
}

/// One figure over another.
struct Ratio {
    name: &'static str,
    over: &'static str,
    /// `None`: the figure is a ratio already.
    under: Option<&'static str>,
    /// Both net of the empty program.
    net: bool,
    bound: Bound,
}

const fn ratio(name: &'static str, over: &'static str, under: &'static str, bound: Bound) -> Ratio {
    Ratio { name, over, under: Some(under), net: false, bound }
}

const fn net(name: &'static str, over: &'static str, under: &'static str, bound: Bound) -> Ratio {
    Ratio { name, over, under: Some(under), net: true, bound }
}

const fn itself(name: &'static str, figure: &'static str, bound: Bound) -> Ratio {
    Ratio { name, over: figure, under: None, net: false, bound }
}

const OURS: &str = "datapath.forward_ours_pps";
const EMPTY: &str = "datapath.empty_ns";
const RATIOS: [Ratio; 17] = [
    net("hit_over_lookup", "datapath.hit_ns", "datapath.lookup_ns", Bound::AtMost(2.0)),
    net("miss_over_hit", "datapath.miss_ns", "datapath.hit_ns", Bound::AtMost(3.0)),
    ratio("forward_over_floor", OURS, "datapath.forward_floor_pps", Bound::AtLeast(0.85)),
    ratio("forward_over_iprule64", OURS, "datapath.forward_iprule64_pps", Bound::AtLeast(2.0)),
    ratio("forward_over_iprule4", OURS, "datapath.forward_iprule4_pps", Bound::AtLeast(1.5)),
    ratio("forward_over_flowtable", OURS, "datapath.forward_flowtable_pps", Bound::AtLeast(1.3)),
    ratio("forward_over_kernel", OURS, "datapath.forward_kernel_pps", Bound::None),
    ratio("forward_over_flower", OURS, "datapath.forward_flower_pps", Bound::None),
    ratio("return_over_kernel", "datapath.return_ours_pps", "datapath.return_kernel_pps", Bound::None),
    // Rates of less over rates of more: times of more over times of less.
    ratio("flows", "datapath.forward_ours_1k_flows_pps", "datapath.forward_ours_1m_flows_pps", Bound::AtMost(1.5)),
    ratio(
        "flows_zipf",
        "datapath.forward_ours_1k_flows_pps",
        "datapath.forward_ours_1m_flows_zipf_pps",
        Bound::AtMost(1.5),
    ),
    ratio("policies_miss", "datapath.miss_256_policies_ns", "datapath.miss_ns", Bound::AtMost(1.1)),
    ratio("sites_hit", "datapath.hit_10k_sites_ns", "datapath.hit_ns", Bound::AtMost(1.3)),
    ratio("sites_miss", "datapath.miss_10k_sites_ns", "datapath.miss_ns", Bound::AtMost(1.3)),
    ratio("sites", "datapath.forward_ours_3_sites_pps", "datapath.forward_ours_10k_sites_pps", Bound::AtMost(1.3)),
    itself("wireguard", "datapath.wireguard_ratio", Bound::AtLeast(0.98)),
    itself("userspace_wireguard", "datapath.userspace_wireguard_ratio", Bound::AtLeast(0.98)),
];

impl Bound {
    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound}"),
            Self::AtMost(bound) => format!("≤ {bound}"),
            Self::None => "–".into(),
        }
    }

    fn holds(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(bound) => Some(value >= bound),
            Self::AtMost(bound) => Some(value <= bound),
            Self::None => None,
        }
    }
}

/// Adds the ratios of what was measured, and prints them next to their bounds on standard error.
pub fn add(figures: &mut Figures) {
    eprintln!("{:24} {:>8}  bound", "ratio", "measured");
    for ratio in &RATIOS {
        let of =
            |name: &str| figures.figures().iter().find(|figure| figure.name == name).and_then(|figure| figure.value);
        let less = if ratio.net { of(EMPTY) } else { Some(0.0) };
        let under = ratio.under.map_or(Some(1.0), of);
        let value = of(ratio.over).zip(under).zip(less).map(|((over, under), less)| (over - less) / (under - less));
        let name = format!("datapath.ratio.{}", ratio.name);
        match value.filter(|value| value.is_finite()) {
            Some(value) => {
                let verdict = match ratio.bound.holds(value) {
                    Some(true) => "holds",
                    Some(false) => "MISSED",
                    None => "",
                };
                eprintln!("{:24} {value:>8.2}  {:8} {verdict}", ratio.name, ratio.bound.text());
                if ratio.under.is_some() {
                    figures.add(&name, value, "", 1);
                }
            }
            None => {
                let missing = [Some(ratio.over), ratio.under].into_iter().flatten().find(|name| of(name).is_none());
                let why = format!("{} was not measured", missing.unwrap_or(EMPTY));
                eprintln!("{:24} {:>8}  {:8} {why}", ratio.name, "–", ratio.bound.text());
                if ratio.under.is_some() {
                    figures.missing(&name, "", why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_net_of_the_empty_program_where_they_shall_be_and_missing_where_a_figure_is() {
        let mut figures = Figures::new("datapath");
        for (name, value) in [(EMPTY, 10.0), ("datapath.hit_ns", 50.0), ("datapath.lookup_ns", 30.0), (OURS, 9e5)] {
            figures.add(name, value, "", 1);
        }
        figures.missing("datapath.forward_floor_pps", "packets/s", "no tcx");
        add(&mut figures);
        let of = |name: &str| figures.figures().iter().find(|figure| figure.name == name).expect(name).value;
        assert_eq!(of("datapath.ratio.hit_over_lookup"), Some(2.0));
        assert_eq!(of("datapath.ratio.forward_over_floor"), None);
        assert!(RATIOS.iter().all(|ratio| ratio.bound.holds(f64::NAN) != Some(true)));
    }
}
