//! Small plots as inline SVG. They stretch to the width that they get; numbers stand beside them as text, which does not.

use std::fmt::Write as _;

/// Width and height of a plot in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 60.0;

/// What a plot shows at one step: where it begins and ends, 0–1 of the whole span, and a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct At<T> {
    /// Begin.
    pub from: f64,
    /// End.
    pub to: f64,
    /// What is there.
    pub value: T,
}

/// An SVG around some shapes, with a text for those who don't see it.
fn svg(label: &str, height: f64, shapes: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">{shapes}</svg>"
    )
}

/// A number with one decimal at most.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// Bars that are divided into shares, bottom up, each share with the CSS class of its place: what is left of 1 stays empty.
pub(super) fn shares<const N: usize>(label: &str, classes: [&str; N], steps: &[At<[f64; N]>]) -> String {
    let height = HEIGHT / 2.0;
    let mut paths = vec![String::new(); N];
    for step in steps {
        let (x, width) = (step.from * WIDTH, (step.to - step.from) * WIDTH);
        let mut bottom = height;
        for (path, share) in paths.iter_mut().zip(step.value) {
            let part = share.clamp(0.0, 1.0) * height;
            if part <= 0.0 {
                continue;
            }
            // What is there at all is to be seen: a second of an hour, too.
            let part = part.max(1.0).min(bottom);
            bottom -= part;
            // Writing to a string can't fail.
            let _ = write!(path, "M{} {}h{}v{}h-{2}z", short(x), short(bottom), short(width.max(0.5)), short(part));
        }
    }
    let shape = |(class, path): (&str, &String)| match path.is_empty() {
        true => String::new(),
        false => format!("<path class=\"{class}\" d=\"{path}\"/>"),
    };
    svg(label, height, &classes.into_iter().zip(&paths).map(shape).collect::<String>())
}

/// A line through the means, and a band from the smallest to the largest; both break where a step is missing.
pub(super) fn line(label: &str, top: f64, steps: &[At<(f64, f64, f64)>]) -> String {
    let y = |value: f64| HEIGHT - (value / top.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0) * HEIGHT;
    let (mut band, mut means) = (String::new(), String::new());
    for run in steps.chunk_by(|a, b| b.from - a.to < 1e-9) {
        let ends = |step: &At<(f64, f64, f64)>| [step.from * WIDTH, step.to * WIDTH];
        let mut command = 'M';
        for step in run {
            for x in ends(step) {
                let _ = write!(means, "{command}{} {}", short(x), short(y(step.value.1)));
                command = 'L';
            }
        }
        command = 'M';
        for step in run {
            for x in ends(step) {
                let _ = write!(band, "{command}{} {}", short(x), short(y(step.value.2)));
                command = 'L';
            }
        }
        for step in run.iter().rev() {
            for x in ends(step).into_iter().rev() {
                let _ = write!(band, "L{} {}", short(x), short(y(step.value.0)));
            }
        }
        band.push('Z');
    }
    svg(label, HEIGHT, &format!("<path class=\"band\" d=\"{band}\"/><path class=\"line\" d=\"{means}\"/>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_stacked_and_small_ones_are_still_seen() {
        let steps = [At { from: 0.0, to: 0.5, value: [0.5, 0.5] }, At { from: 0.5, to: 1.0, value: [0.9999, 0.0001] }];
        let svg = shares("up", ["up", "down"], &steps);
        assert!(svg.contains("<path class=\"up\" d=\"M0 15h300v15h-300zM300 0h300v30h-300z\"/>"), "{svg}");
        assert!(svg.contains("class=\"down\" d=\"M0 0h300v15h-300z"), "{svg}");
        let small = shares("up", ["down", "up"], &[At { from: 0.0, to: 1.0, value: [0.0001, 0.9999] }]);
        assert!(small.contains("class=\"down\" d=\"M0 29h600v1h-600z"), "{small}");
    }

    #[test]
    fn a_line_breaks_where_nothing_is_known() {
        let at = |from, to| At { from, to, value: (1.0, 2.0, 4.0) };
        let svg = line("RTT", 4.0, &[at(0.0, 0.25), at(0.25, 0.5), at(0.75, 1.0)]);
        assert_eq!(svg.matches('M').count(), 4, "two runs, each with a line and a band: {svg}");
        assert!(svg.contains("M0 30L150 30L150 30L300 30M450 30L600 30"), "{svg}");
        assert!(svg.contains("M0 0L150 0L150 0L300 0L300 45"), "{svg}");
        assert!(line("RTT", 0.0, &[]).contains("d=\"\""), "nothing makes nothing");
    }
}
