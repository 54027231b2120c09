//! Figures of the benches and the demo: one JSON object on standard output.

use serde::Serialize;

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Stable name, such as `demo.failover_gap_ms`.
    pub name: String,
    /// The value; `None` when it could not be measured.
    pub value: Option<f64>,
    /// Unit, such as `ms`.
    pub unit: String,
    /// Runs or samples behind the value.
    pub n: u64,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// All figures of one bench.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    bench: String,
    version: u32,
    machine: Machine,
    figures: Vec<Figure>,
}

/// The median of some numbers; of an even count the upper one.
pub fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// What the figures were measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Machine {
    kernel: String,
    architecture: &'static str,
    processors: usize,
    processor: String,
    memory_mib: u64,
    optimized: bool,
}

impl Figures {
    /// No figures yet, of the bench of this name.
    pub fn new(bench: &str) -> Self {
        Self { bench: bench.into(), version: 1, machine: Machine::here(), figures: Vec::new() }
    }

    /// Adds a figure.
    pub fn add(&mut self, name: &str, value: f64, unit: &str, n: u64) {
        let value = (value * 1_000.0).round() / 1_000.0;
        self.push(Figure { name: name.into(), value: Some(value), unit: unit.into(), n, why: None });
    }

    /// Adds a figure that could not be measured, and why.
    pub fn missing(&mut self, name: &str, unit: &str, why: impl Into<String>) {
        self.push(Figure { name: name.into(), value: None, unit: unit.into(), n: 0, why: Some(why.into()) });
    }

    /// Adds a value that was measured, or why there is none, and tells it on standard error.
    pub fn tell(&mut self, name: &str, unit: &str, n: u64, value: anyhow::Result<f64>) {
        match value {
            Ok(value) => {
                eprintln!("        {name}: {value:.3} {unit}");
                self.add(name, value, unit, n);
            }
            Err(error) => {
                eprintln!("        {name}: {error:#}");
                self.missing(name, unit, format!("{error:#}"));
            }
        }
    }

    /// Prints them on standard output: as one JSON object, or a line each.
    pub fn print(&self, json: bool) {
        if json {
            println!("{}", self.to_json());
            return;
        }
        for figure in &self.figures {
            match (figure.value, &figure.why) {
                (Some(value), _) => println!("{:38} {value:>10} {} (n = {})", figure.name, figure.unit, figure.n),
                (None, why) => println!("{:38} not measured: {}", figure.name, why.as_deref().unwrap_or("?")),
            }
        }
    }

    /// The figures so far.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// The object as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures are plain data")
    }

    fn push(&mut self, figure: Figure) {
        self.figures.push(figure);
    }
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_string())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: u64 = memory.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            architecture: std::env::consts::ARCH,
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_mib: kib / 1_024,
            optimized: !cfg!(debug_assertions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_missing_says_why_and_the_others_do_not() {
        let mut figures = Figures::new("demo");
        figures.add("demo.total_s", 41.234_567, "s", 1);
        figures.missing("demo.failover_gap_ms", "ms", "nothing was cut");
        let json: serde_json::Value = serde_json::from_str(&figures.to_json()).expect("JSON");
        assert_eq!((&json["bench"], &json["version"]), (&"demo".into(), &1.into()));
        assert_eq!(json["figures"][0]["value"], 41.235);
        assert!(json["figures"][0].get("why").is_none());
        assert!(json["figures"][1]["value"].is_null());
        assert_eq!(json["figures"][1]["why"], "nothing was cut");
        assert!(json["machine"]["processors"].as_u64() > Some(0));
    }
}
