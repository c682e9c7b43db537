//! Plots as SVG, without a font or script of others.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::content::{Bin, PcaPart, Scatter};

/// Width and height of a plot.
const SIZE: (f64, f64) = (720.0, 300.0);
/// Space left of, above, right of and below the plot.
const MARGIN: [f64; 4] = [66.0, 12.0, 12.0, 48.0];
/// Labels with a colour of their own.
const COLORS: usize = 7;

/// A number with spaces between thousands.
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A number that is short.
fn short(v: f64) -> String {
    let text =
        if v.abs() >= 100.0 || v == v.trunc() { format!("{v:.0}") } else { format!("{v:.2}") };
    if text.starts_with('-') { text.replacen('-', "\u{2212}", 1) } else { text }
}

/// The plot's frame: an axis with ticks at each side.
struct Axes {
    svg: String,
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn new(title: &'static str, x: (f64, f64), y: (f64, f64)) -> Self {
        let (width, height) = SIZE;
        let svg = format!(
            "<svg class=\"plot\" viewBox=\"0 0 {width} {height}\" role=\"img\"><title>{title}</title>"
        );
        Self { svg, x, y }
    }

    fn x(&self, v: f64) -> f64 {
        MARGIN[0] + (v - self.x.0) / (self.x.1 - self.x.0) * (SIZE.0 - MARGIN[0] - MARGIN[2])
    }

    fn y(&self, v: f64) -> f64 {
        SIZE.1
            - MARGIN[3]
            - (v - self.y.0) / (self.y.1 - self.y.0) * (SIZE.1 - MARGIN[1] - MARGIN[3])
    }

    /// Draws ticks and names of the axes. `percent` marks the left one in percent.
    fn ticks(&mut self, x_name: &str, y_name: &str, percent: bool) {
        for v in ticks(self.y.0, self.y.1) {
            let y = self.y(v);
            let text = if percent { format!("{:.0} %", 100.0 * v) } else { short(v) };
            let (left, right) = (MARGIN[0], SIZE.0 - MARGIN[2]);
            let _ = write!(
                self.svg,
                "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/><text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                left - 6.0,
                y + 4.0
            );
        }
        for v in ticks(self.x.0, self.x.1) {
            let _ = write!(
                self.svg,
                "<text class=\"mid\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                self.x(v),
                SIZE.1 - MARGIN[3] + 18.0,
                short(v)
            );
        }
        let middle = f64::midpoint(MARGIN[0], SIZE.0 - MARGIN[2]);
        let _ = write!(
            self.svg,
            "<text class=\"mid\" x=\"{middle:.1}\" y=\"{:.1}\">{x_name}</text>",
            SIZE.1 - 6.0
        );
        let height = f64::midpoint(MARGIN[1], SIZE.1 - MARGIN[3]);
        let _ = write!(
            self.svg,
            "<text class=\"mid\" transform=\"rotate(-90)\" x=\"{:.1}\" y=\"12\">{y_name}</text>",
            -height
        );
    }

    fn bar(&mut self, from: f64, to: f64, value: f64, title: &str) {
        let (left, right, top, bottom) = (self.x(from), self.x(to), self.y(value), self.y(0.0));
        let _ = write!(
            self.svg,
            "<rect class=\"bar\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{title}</title></rect>",
            (right - left - 1.0).max(0.5),
            (bottom - top).max(0.0)
        );
    }

    fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// Round numbers from one to another, some five.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let span = to - from;
    if !(span > 0.0 && span.is_finite()) {
        return Vec::new();
    }
    let unit = 10_f64.powf((span / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * unit).find(|step| span / step <= 6.0);
    let step = step.unwrap_or(10.0 * unit);
    let first = (from / step).ceil() as i64;
    let last = (to / step + 1e-9).floor() as i64;
    // Without "-0".
    (first..=last).map(|i| i as f64 * step + 0.0).collect()
}

pub(super) fn histogram(bins: &[Bin]) -> String {
    let most = bins.iter().map(|bin| bin.photos).max().unwrap_or(0);
    let end = bins.last().map_or(1.0, |bin| f64::from(bin.to) + 1.0);
    let mut axes = Axes::new(
        "Histogram: photos by number of keypoints",
        (0.0, end),
        (0.0, most.max(1) as f64),
    );
    axes.ticks("keypoints of a photo", "photos", false);
    for bin in bins {
        let range = if bin.from == bin.to {
            bin.from.to_string()
        } else {
            format!("{} to {}", bin.from, bin.to)
        };
        let title = format!("{range} keypoints: {} photos", thousands(bin.photos));
        axes.bar(f64::from(bin.from), f64::from(bin.to) + 1.0, bin.photos as f64, &title);
    }
    axes.finish()
}

pub(super) fn scree(pca: &PcaPart) -> String {
    let n = pca.ratios.len() as f64;
    let mut axes = Axes::new(
        "Scree plot: share of the variance by component, and cumulated",
        (0.5, n + 0.5),
        (0.0, 1.0),
    );
    axes.ticks("component", "share of variance", true);
    let mut line = String::new();
    for (i, (ratio, sum)) in pca.ratios.iter().zip(&pca.cumulated).enumerate() {
        let place = (i + 1) as f64;
        let title = format!(
            "component {place}: {:.1} %, with those before it {:.1} %",
            100.0 * ratio,
            100.0 * sum
        );
        axes.bar(place - 0.5, place + 0.5, *ratio, &title);
        let _ = write!(
            line,
            "{}{:.1} {:.1}",
            if i == 0 { "M" } else { "L" },
            axes.x(place),
            axes.y(sum.min(1.0))
        );
    }
    let _ = write!(axes.svg, "<path class=\"line\" d=\"{line}\"/>");
    axes.finish()
}

/// The scatter plot, and the names of its colours.
pub(super) fn scatter(scatter: &Scatter) -> (String, Vec<(String, usize)>) {
    let range = |value: fn(&super::content::ScatterPoint) -> f64| {
        let values = || scatter.points.iter().map(value).filter(|v| v.is_finite());
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let space = ((high - low) * 0.04).max(1e-6);
        if low <= high { (low - space, high + space) } else { (0.0, 1.0) }
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for point in &scatter.points {
        *counts.entry(point.label.as_deref().unwrap_or("")).or_default() += 1;
    }
    let mut labels: Vec<(&str, usize)> = counts.into_iter().collect();
    labels.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let color = |label: &str| {
        labels.iter().take(COLORS).position(|(name, _)| *name == label).unwrap_or(COLORS)
    };
    let mut axes = Axes::new(
        "Photos by the first two components of their mean score",
        range(|p| p.x),
        range(|p| p.y),
    );
    axes.ticks("first component", "second component", false);
    for point in &scatter.points {
        let label = point.label.as_deref().unwrap_or("");
        let _ = write!(
            axes.svg,
            "<circle class=\"c{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
            color(label),
            axes.x(point.x),
            axes.y(point.y)
        );
    }
    let mut names: Vec<(String, usize)> = labels
        .iter()
        .take(COLORS)
        .enumerate()
        .map(|(i, (name, _))| {
            (if name.is_empty() { "without a label".to_owned() } else { (*name).to_owned() }, i)
        })
        .collect();
    if labels.len() > COLORS {
        names.push((format!("{} other labels", labels.len() - COLORS), COLORS));
    }
    (axes.finish(), names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        let fifths: Vec<String> = ticks(0.0, 1.0).into_iter().map(short).collect();
        assert_eq!(fifths, ["0", "0.20", "0.40", "0.60", "0.80", "1"]);
        assert_eq!(ticks(0.0, 37.0), [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(ticks(-3.0, 3.0), [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
        assert!(ticks(1.0, 1.0).is_empty() && ticks(0.0, f64::NAN).is_empty());
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
