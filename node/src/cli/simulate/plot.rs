//! The figures of a simulation as one SVG picture: four panels over the number of nodes.
//!
//! Colour is the direction (growing, shrinking), width is the figure where a panel has two. Pure:
//! the same steps give the same bytes.

use std::fmt::Write;

use super::course::{Shape, Step, Way};
use super::draw::{percent, sentence};

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 800.0;
/// Size of the part of a panel in which lines are drawn.
const PLOT: (f64, f64) = (390.0, 230.0);
/// Where the left upper corners of these parts are.
const COLUMNS: [f64; 2] = [76.0, 596.0];
const ROWS: [f64; 2] = [168.0, 496.0];

const INK: &str = "#1c2733";
const FAINT: &str = "#5d6b7a";
const GRID: &str = "#e4e9ee";
const GROWING: &str = "#1f6fb2";
const SHRINKING: &str = "#d9772b";
const MARK: &str = "#8a97a5";

/// How values become heights.
#[derive(Clone, Copy)]
enum Scale {
    Linear(f64, f64),
    Log(f64, f64),
}

impl Scale {
    /// 0 for the lowest value, 1 for the highest, never outside.
    fn of(self, value: f64) -> f64 {
        let part = match self {
            Self::Linear(low, high) => (value - low) / (high - low),
            Self::Log(low, high) => (value.max(low) / low).ln() / (high / low).ln(),
        };
        part.clamp(0.0, 1.0)
    }

    /// Values with a grid line.
    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear(low, high) => {
                let step = nice((high - low) / 6.0);
                let first = (low / step).ceil() as i64;
                (first..).map(|n| n as f64 * step).take_while(|v| *v <= high * 1.000_001).collect()
            }
            Self::Log(low, high) => {
                let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
                let narrow = high / low < 400.0;
                let steps = if narrow { vec![1.0, 3.0] } else { vec![1.0] };
                let all = powers.flat_map(|p| steps.iter().map(move |s| s * 10f64.powi(p)));
                let inside = |v: &f64| *v >= low * 0.999_999 && *v <= high * 1.000_001;
                all.collect::<Vec<_>>().into_iter().filter(inside).collect()
            }
        }
    }
}

/// The nearest of 1, 2 and 5 times a power of ten that is not smaller.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|n| n * power)
        .find(|n| *n >= value * 0.999)
        .unwrap_or(power)
}

/// One figure over the number of nodes, both ways.
struct Figure {
    /// Said at the right end; empty where the panel has one figure only.
    label: &'static str,
    width: f64,
    of: fn(&Step) -> Option<f64>,
}

struct Panel {
    title: &'static str,
    note: String,
    scale: Scale,
    write: fn(f64) -> String,
    figures: Vec<Figure>,
    /// A value with a name, drawn across.
    mark: Option<(f64, &'static str)>,
}

/// Draws all steps.
pub fn svg(shape: &Shape, steps: &[Step]) -> String {
    let mut out = String::new();
    let all = |of_each: usize| (of_each * shape.datacenters) as f64;
    let nodes = Scale::Log(all(shape.first), all(shape.most).max(all(shape.first) + 1.0));
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', \
         sans-serif\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut out,
        (76.0, 48.0),
        "A ring that grows and shrinks",
        (22.0, INK),
        "start\" font-weight=\"600",
    );
    text(&mut out, (76.0, 74.0), &sentence(shape), (14.0, FAINT), "start");
    for (x, colour, name) in [(76.0, GROWING, "growing"), (176.0, SHRINKING, "shrinking")] {
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"97\" x2=\"{}\" y2=\"97\" stroke=\"{colour}\" stroke-width=\"3\" stroke-linecap=\"round\"/>",
            x + 22.0
        );
        text(&mut out, (x + 30.0, 102.0), name, (13.0, INK), "start");
    }
    for (number, panel) in panels(steps).iter().enumerate() {
        let at = (COLUMNS[number % 2], ROWS[number / 2]);
        panel.draw(&mut out, at, nodes, steps);
    }
    out.push_str("</svg>\n");
    out
}

fn panels(steps: &[Step]) -> [Panel; 4] {
    let top = |of: fn(&Step) -> Option<f64>, least: f64| {
        steps.iter().filter_map(of).fold(least, f64::max)
    };
    let fullest = top(|step| Some(step.fullest()), 1.08);
    let excess = top(Step::excess, 1.08);
    let partners = top(|step| Some(step.measures.partners_most as f64), 20.0);
    let two = |step: &Step| Some(step.measures.pairs.chance()).filter(|chance| *chance > 0.0);
    let lowest = steps.iter().filter_map(two).fold(0.1, f64::min);
    let ratio = |value: f64| format!("{value:.2}");
    [
        Panel {
            title: "Load",
            note: "partition replicas of the fullest node, the mean being 1".into(),
            scale: Scale::Linear(1.0, fullest * 1.01),
            write: ratio,
            figures: vec![Figure { label: "", width: 2.5, of: |step| Some(step.fullest()) }],
            mark: None,
        },
        Panel {
            title: "Movement",
            note: "replicas moved in a step, what the shares alone force being 1".into(),
            scale: Scale::Linear(1.0, excess * 1.01),
            write: ratio,
            figures: vec![Figure { label: "", width: 2.5, of: Step::excess }],
            mark: Some((1.05, "bound 1.05")),
        },
        Panel {
            title: "Scatter",
            note: "with how many others a node shares partitions".into(),
            scale: Scale::Linear(0.0, partners * 1.05),
            write: |value| format!("{value:.0}"),
            figures: vec![
                Figure {
                    label: "most",
                    width: 1.25,
                    of: |s| Some(s.measures.partners_most as f64),
                },
                Figure { label: "mean", width: 2.5, of: |s| Some(s.measures.partners_mean) },
            ],
            mark: Some((16.0, "aim 16")),
        },
        Panel {
            title: "Risk",
            note: "chance that machines that die together cost a quorum of some partition".into(),
            scale: Scale::Log(10f64.powf(lowest.log10().floor()), 1.0),
            write: percent,
            figures: vec![
                Figure { label: "3 die", width: 1.25, of: |s| Some(s.measures.triples.chance()) },
                Figure { label: "2 die", width: 2.5, of: |s| Some(s.measures.pairs.chance()) },
            ],
            mark: None,
        },
    ]
}

impl Panel {
    fn draw(&self, out: &mut String, (left, top): (f64, f64), nodes: Scale, steps: &[Step]) {
        let (width, height) = PLOT;
        let x = |count: f64| left + nodes.of(count) * width;
        let y = |value: f64| top + height - self.scale.of(value) * height;
        text(out, (left, top - 34.0), self.title, (16.0, INK), "start\" font-weight=\"600");
        text(out, (left, top - 14.0), &self.note, (12.5, FAINT), "start");
        for value in self.scale.ticks() {
            rule(out, (left, y(value)), (left + width, y(value)), GRID, "");
            let label = (self.write)(value);
            text(out, (left - 10.0, y(value) + 4.0), &label, (12.0, FAINT), "end");
        }
        for count in nodes.ticks() {
            rule(out, (x(count), top + height), (x(count), top + height + 5.0), MARK, "");
            let label = crate::cli::output::grouped(count.round() as u64);
            text(out, (x(count), top + height + 20.0), &label, (12.0, FAINT), "middle");
        }
        rule(out, (left, top + height), (left + width, top + height), MARK, "");
        text(out, (left + width, top + height + 38.0), "nodes", (12.0, FAINT), "end");
        if let Some((value, name)) = self.mark {
            rule(out, (left, y(value)), (left + width, y(value)), MARK, "4 4");
            text(out, (left + width + 8.0, y(value) + 4.0), name, (12.0, FAINT), "start");
        }
        for figure in &self.figures {
            for (way, colour) in [(Way::Shrunk, SHRINKING), (Way::Grown, GROWING)] {
                let points = points(steps, way, figure.of);
                let placed = points.iter().map(|&(count, value)| (x(count), y(value)));
                line(out, &placed.collect::<Vec<_>>(), colour, figure.width);
            }
        }
        self.name_figures(out, (left + width, top), y, steps);
    }

    /// Names of the figures at the right ends of their lines, apart from each other and from the
    /// mark.
    fn name_figures(
        &self,
        out: &mut String,
        (right, top): (f64, f64),
        y: impl Fn(f64) -> f64,
        steps: &[Step],
    ) {
        let mut taken: Vec<f64> = self.mark.iter().map(|(value, _)| y(*value)).collect();
        for figure in self.figures.iter().filter(|figure| !figure.label.is_empty()) {
            let Some((_, last)) = points(steps, Way::Grown, figure.of).pop() else { continue };
            let mut at = y(last).max(top);
            while taken.iter().any(|other| (other - at).abs() < 14.0) {
                at -= 1.0;
            }
            taken.push(at);
            text(out, (right + 8.0, at + 4.0), figure.label, (12.0, INK), "start");
        }
    }
}

/// The figure at each number of nodes, on the way up or on the way down; both meet at the top.
fn points(steps: &[Step], way: Way, of: fn(&Step) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut up = steps.iter().filter(|step| step.way != Way::Shrunk);
    let down = steps.iter().filter(|step| step.way == Way::Shrunk);
    let chosen: Vec<&Step> = match way {
        Way::Shrunk => up.next_back().into_iter().chain(down).collect(),
        _ => up.collect(),
    };
    chosen.into_iter().filter_map(|step| Some((step.measures.nodes as f64, of(step)?))).collect()
}

fn text(
    out: &mut String,
    (x, y): (f64, f64),
    text: &str,
    (size, colour): (f64, &str),
    anchor: &str,
) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

fn rule(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, dashes: &str) {
    let dashes =
        if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") };
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"{dashes}/>",
        from.0, from.1, to.0, to.1
    );
}

fn line(out: &mut String, points: &[(f64, f64)], colour: &str, width: f64) {
    let places: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
         stroke-linejoin=\"round\" stroke-linecap=\"round\"/>",
        places.join(" ")
    );
    for (x, y) in points {
        let _ =
            writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{width}\" fill=\"{colour}\"/>");
    }
}
