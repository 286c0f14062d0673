//! Plots as inline SVG. Colours come from the page's style sheet, so that they follow the reader's light or dark setting.

use super::columns::figure;
use super::page::escaped;
use std::fmt::Write as _;

const WIDTH: f64 = 920.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 34.0;

/// One line of a plot.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its colour: a class of the style sheet, `c1` to `c6` or `bad`.
    pub class: &'static str,
    /// Points, by x.
    pub points: Vec<(f64, f64)>,
}

/// Values over time.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    /// What the vertical axis counts.
    pub unit: &'static str,
    /// The height of the plot in pixels.
    pub height: f64,
    /// The lines.
    pub series: Vec<Series>,
    /// Stretches in which something was so: from, to, class, label.
    pub bands: Vec<(f64, f64, &'static str, String)>,
    /// Instants at which something happened.
    pub marks: Vec<(f64, String)>,
}

impl Lines {
    /// The plot.
    pub fn svg(&self) -> String {
        let height = self.height.max(120.0);
        let points = || self.series.iter().flat_map(|series| &series.points);
        let last = points().map(|(x, _)| *x).chain(self.bands.iter().map(|band| band.1)).fold(1.0, f64::max);
        let top = round_up(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let x = |value: f64| LEFT + value / last * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| height - BOTTOM - value / top * (height - TOP - BOTTOM);
        let mut svg = open(height);
        for (from, to, class, label) in &self.bands {
            let (from, to) = (x(*from), x(*to));
            let (wide, tall) = ((to - from).max(0.0), height - TOP - BOTTOM);
            let _ = write!(
                svg,
                r#"<rect class="band {class}" x="{from:.1}" y="{TOP}" width="{wide:.1}" height="{tall:.1}"/>"#
            );
            if wide > 40.0 {
                let (at, label) = ((from + to) / 2.0, escaped(label));
                let _ = write!(svg, r#"<text class="bandname" x="{at:.1}" y="{:.1}">{label}</text>"#, TOP - 8.0);
            }
        }
        grid(&mut svg, top, self.unit, &y);
        for step in 0..=6 {
            let at = last * f64::from(step) / 6.0;
            let _ = write!(
                svg,
                r#"<text class="tick mid" x="{:.1}" y="{:.1}">{} s</text>"#,
                x(at),
                height - 14.0,
                figure(at)
            );
        }
        for (at, label) in &self.marks {
            let (at, label) = (x(*at), escaped(label));
            let _ = write!(
                svg,
                r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"><title>{label}</title></line>"#,
                height - BOTTOM
            );
        }
        for Series { name, class, points } in &self.series {
            let path: Vec<String> =
                points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
            let (path, name) = (path.join(" "), escaped(name));
            let _ = write!(svg, r#"<polyline class="line {class}" points="{path}"><title>{name}</title></polyline>"#);
        }
        svg.push_str("</svg>");
        svg + &legend(self.series.iter().map(|series| (series.name.as_str(), series.class)))
    }
}

/// Values side by side.
#[derive(Debug, Clone, Default)]
pub struct Bars {
    /// What the vertical axis counts.
    pub unit: &'static str,
    /// Names and colours of the bars of a group.
    pub series: Vec<(&'static str, &'static str)>,
    /// Groups: a name, and a value for each of the series; none where there is nothing to show.
    pub groups: Vec<(String, Vec<Option<f64>>)>,
}

impl Bars {
    /// The plot.
    pub fn svg(&self) -> String {
        let height = 240.0;
        let top = round_up(self.groups.iter().flat_map(|(_, values)| values).flatten().copied().fold(0.0, f64::max));
        let y = |value: f64| height - BOTTOM - value / top * (height - TOP - BOTTOM);
        let count = |length: usize| f64::from(u32::try_from(length).unwrap_or(u32::MAX));
        let group = (WIDTH - LEFT - RIGHT) / count(self.groups.len()).max(1.0);
        let bar = (group * 0.8 / count(self.series.len()).max(1.0)).min(64.0);
        let mut svg = open(height);
        grid(&mut svg, top, self.unit, &y);
        for (number, (name, values)) in self.groups.iter().enumerate() {
            let middle = LEFT + group * (count(number) + 0.5);
            let first = middle - bar * count(values.len()) / 2.0;
            for (at, (value, (series, class))) in values.iter().zip(&self.series).enumerate() {
                let Some(value) = value else { continue };
                let (left, shown) = (first + bar * count(at), figure(*value));
                let (high, tall) = (y(*value), (height - BOTTOM - y(*value)).max(1.0));
                let wide = (bar - 2.0).max(1.0);
                let _ = write!(
                    svg,
                    r#"<rect class="bar {class}" x="{left:.1}" y="{high:.1}" width="{wide:.1}" height="{tall:.1}" rx="2"><title>{series}: {shown} {}</title></rect>"#,
                    self.unit
                );
                if bar > 26.0 {
                    let _ = write!(
                        svg,
                        r#"<text class="value" x="{:.1}" y="{:.1}">{shown}</text>"#,
                        left + wide / 2.0,
                        high - 4.0
                    );
                }
            }
            let name = escaped(name);
            let _ = write!(svg, r#"<text class="tick mid" x="{middle:.1}" y="{:.1}">{name}</text>"#, height - 14.0);
        }
        svg.push_str("</svg>");
        svg + &legend(self.series.iter().copied())
    }
}

fn open(height: f64) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" preserveAspectRatio="xMidYMid meet">"#)
}

fn grid(svg: &mut String, top: f64, unit: &str, y: &impl Fn(f64) -> f64) {
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let at = y(value);
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
        let shown = if step == 4 { format!("{} {unit}", figure(value)) } else { figure(value) };
        let _ = write!(svg, r#"<text class="tick end" x="{:.1}" y="{:.1}">{shown}</text>"#, LEFT - 6.0, at + 4.0);
    }
}

fn legend<'a>(of: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from(r#"<p class="legend">"#);
    for (name, class) in of {
        let _ = write!(text, r#"<span><i class="{class}"></i>{}</span>"#, escaped(name));
    }
    text + "</p>"
}

/// The next number that an axis may end with.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|end| *end >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_with_round_numbers() {
        assert_eq!([0.0, 0.03, 1.0, 7.3, 812.0].map(round_up), [1.0, 0.04, 1.0, 8.0, 1000.0]);
    }

    #[test]
    fn a_plot_holds_what_it_is_given() {
        let series = vec![Series { name: "a < b".into(), class: "c1", points: vec![(0.0, 1.0), (10.0, 4.0)] }];
        let bands = vec![(0.0, 10.0, "ipvs", "ipvs".to_owned())];
        let svg = Lines { unit: "ms", height: 200.0, series, bands, marks: vec![(5.0, "switch".into())] }.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("polyline") && svg.contains("band ipvs"), "{svg}");
        let groups = vec![("1".to_owned(), vec![Some(3.0), None])];
        let svg = Bars { unit: "s", series: vec![("x", "c1"), ("y", "c2")], groups }.svg();
        assert_eq!(svg.matches("<rect").count(), 1);
    }
}
