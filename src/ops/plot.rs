//! A plot of the last hours as SVG that stands in the page: no script, nothing loaded.

use std::fmt::Write as _;

use super::course::{EVERY, POINTS};

/// Size of the drawing, in units of its own; the page scales it.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;
/// Seconds that are shown, and their whole and half in words: the least that have room for all points, so that a node that
/// was started a moment ago shows something.
const SPANS: [(u32, &str, &str); 3] = [
    (900, "−15 min", "−7 min"),
    (7_200, "−2 h", "−1 h"),
    (EVERY.as_secs() as u32 * POINTS as u32, "−6 h", "−3 h"),
];

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A number, or one a second.
    Count,
    /// Seconds.
    Seconds,
    /// Octets.
    Octets,
}

impl Unit {
    /// A number with this unit, short enough for an axis. What is not known is a dash.
    pub(super) fn show(self, value: f64) -> String {
        if !value.is_finite() {
            return "–".into();
        }
        let steps: &[(f64, &str)] = match self {
            Self::Count => &[(1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, "")],
            Self::Seconds => &[(1.0, " s"), (1e-3, " ms"), (1e-6, " µs")],
            Self::Octets => &[
                (f64::from(1 << 30), " GiB"),
                (f64::from(1 << 20), " MiB"),
                (f64::from(1 << 10), " KiB"),
                (1.0, " B"),
            ],
        };
        let least = steps.last().copied().unwrap_or((1.0, ""));
        let (step, name) = steps
            .iter()
            .copied()
            .find(|(step, _)| value >= *step)
            .unwrap_or(least);
        let scaled = value / step;
        // Three digits are enough; those of small numbers stand behind the point.
        let digits = if scaled >= 100.0 || scaled.fract() == 0.0 {
            0
        } else if scaled >= 10.0 {
            1
        } else {
            2
        };
        format!("{scaled:.digits$}{name}")
    }

    /// One, two or five times a power of ten, of the binary unit for octets, that is not below a value.
    fn round_up(self, value: f64) -> f64 {
        if value <= 0.0 {
            return 1.0;
        }
        let binary = match self {
            Self::Octets => 1024_f64.powf((value.log2() / 10.0).floor().max(0.0)),
            Self::Count | Self::Seconds => 1.0,
        };
        let power = 10_f64.powf((value / binary).log10().floor()) * binary;
        let found = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
        found
            .into_iter()
            .find(|step| *step >= value)
            .unwrap_or(value)
    }
}

/// One line of a plot: its name, and time and value of each point; values that are not finite leave a gap.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(u32, f64)>,
}

/// The drawing of some lines up to the time `now`, from zero to a round number above the greatest value. Names are HTML.
pub(super) fn svg(lines: &[Line], unit: Unit, now: u32, title: &str) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let values = points().map(|(_, value)| *value);
    let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    let top = unit.round_up(most);
    let oldest = points().map(|(time, _)| now.saturating_sub(*time)).max();
    let fits = |(span, ..): &(u32, &str, &str)| *span >= oldest.unwrap_or(0);
    let [.., longest] = SPANS;
    let (span, whole, half) = SPANS.into_iter().find(fits).unwrap_or(longest);
    let mut out = format!(
        "<p class=\"axis\">{}</p><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{title}\">",
        unit.show(top)
    );
    for part in 1..4 {
        let y = HEIGHT / 4.0 * f64::from(part);
        let _ = write!(out, "<path class=\"g\" d=\"M0 {y}H{WIDTH}\"/>");
    }
    for (place, line) in lines.iter().enumerate() {
        let path = path(&line.points, top, now, span);
        let _ = write!(out, "<path class=\"s{place}\" d=\"{path}\"/>");
    }
    let _ = write!(
        out,
        "</svg><p class=\"axis\"><span>{whole}</span><span>{half}</span><span>0</span></p>"
    );
    out
}

/// The line through points.
fn path(points: &[(u32, f64)], top: f64, now: u32, span: u32) -> String {
    let mut out = String::new();
    let mut drawing = false;
    for (time, value) in points {
        let ago = now.saturating_sub(*time);
        if !value.is_finite() || ago > span {
            drawing = false;
            continue;
        }
        let x = WIDTH * (1.0 - f64::from(ago) / f64::from(span));
        let y = HEIGHT * (1.0 - value / top);
        let _ = write!(out, "{}{x:.1} {y:.1}", if drawing { 'L' } else { 'M' });
        if !drawing {
            // A point between gaps is a dot.
            out.push_str("h.1");
        }
        drawing = true;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (unit, value, text) in [
            (Unit::Count, 0.0, "0"),
            (Unit::Count, 0.25, "0.25"),
            (Unit::Count, 54_321.0, "54.3 k"),
            (Unit::Count, 2e6, "2 M"),
            (Unit::Seconds, 0.000_002_5, "2.50 µs"),
            (Unit::Seconds, 0.25, "250 ms"),
            (Unit::Octets, 1_610_612_736.0, "1.50 GiB"),
            (Unit::Seconds, f64::NAN, "–"),
        ] {
            assert_eq!(unit.show(value), text);
        }
    }

    /// Goal: a line lies in the drawing, new points at its right end, and what is not known is a gap.
    #[test]
    fn lines_lie_in_the_drawing() {
        let rounded = |unit: Unit, value| unit.show(unit.round_up(value));
        assert_eq!(rounded(Unit::Count, 3.0), "5");
        assert_eq!(rounded(Unit::Seconds, 0.02), "20 ms");
        assert_eq!(rounded(Unit::Octets, 33e6), "50 MiB");
        assert_eq!(rounded(Unit::Octets, 600.0 * 1024.0 * 1024.0), "1000 MiB");
        let points = [
            (100, 2.0),
            (21_700 - 10_800, 5.0),
            (21_600, f64::NAN),
            (21_700, 0.0),
        ];
        assert_eq!(
            path(&points, 5.0, 21_700, 21_600),
            "M0.0 72.0h.1L300.0 0.0M600.0 120.0h.1"
        );
        let drawn = svg(&[], Unit::Count, 0, "x");
        assert!(drawn.starts_with("<p class=\"axis\">1</p>"), "{drawn}");
        assert!(drawn.contains("<span>−15 min</span>"), "{drawn}");
    }
}
