//! The screen.

use super::SortArg;
use super::rows::{Row, Trouble};
use super::state::{Cover, State};
use crate::commands::list::named::{Namer, RealRow};
use crate::commands::output::colors_allowed;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

/// Lines above the list, and below.
const HEAD: u16 = 2;
const FOOT: u16 = 1;
/// The column at the end.
const ERROR: usize = 18;
/// From this width on there are packets and bytes as well.
const WIDE: usize = 120;
/// Narrower screens go without kind and address.
const KIND: usize = 20;
const PLACE: usize = 26;

const HELP: &[&str] = &[
    "q, Ctrl-C       quit",
    "up, down, j, k  select        PgUp, PgDn, Home, End  scroll",
    "Enter           the endpoints of the selected line",
    "s               sort by rate, connections, errors, name",
    "r               the other way round",
    "/               filter by name, kind or address; Esc clears it",
    "p, space        pause",
    "?               this",
    "",
    "CONN/S  new connections in a second     EP  endpoints that get new ones, of all",
    "PKT/S   packets both ways (IPVS only)   IN/S, OUT/S  bytes from and to clients (IPVS only)",
    "ACTIVE, INACT  open connections (IPVS only; in iptables mode only conntrack knows)",
    "ERR/S   packets refused for want of endpoints (iptables mode only: IPVS does not count them)",
];

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let area = frame.area();
    let list = Rect { y: HEAD.min(area.height), height: area.height.saturating_sub(HEAD + FOOT), ..area };
    let width = usize::from(area.width);
    frame.render_widget(
        Paragraph::new(vec![summary(state), titles(state, width)]),
        Rect { height: HEAD.min(area.height), ..area },
    );
    let (rows, selected) = state.visible(usize::from(list.height));
    let lines: Vec<Line<'_>> =
        rows.into_iter().enumerate().map(|(number, row)| line(row, width, number == selected)).collect();
    frame.render_widget(Paragraph::new(lines), list);
    let foot = Rect { y: area.height.saturating_sub(FOOT), height: FOOT.min(area.height), ..area };
    frame.render_widget(Paragraph::new(footer(state)), foot);
    match state.cover {
        Cover::None => {}
        Cover::Help => cover(frame, " Keys and columns ", HELP.iter().map(|line| Line::from(*line)).collect()),
        Cover::Endpoints => endpoints(frame, state),
    }
}

/// `IPVS  10000 virtual servers  1.2k conn/s …`
fn summary(state: &State) -> Line<'static> {
    let Some(sample) = &state.sample else { return Line::from("reading …") };
    let rows = state.rows();
    let sum = |value: fn(&Row) -> f64| rows.iter().map(value).sum::<f64>();
    let (active, inactive): (u64, u64) =
        rows.iter().fold((0, 0), |(active, inactive), row| (active + row.active, inactive + row.inactive));
    let troubled = rows.iter().filter(|row| row.trouble != Trouble::None).count();
    let text = format!(
        "kube-ipvs top  {}  {} virtual servers  {} conn/s  {active} active {inactive} inactive  {} err/s  {troubled} troubled  read in {} ms",
        sample.mode,
        rows.len(),
        short(sum(|row| row.rates.connections)),
        short(sum(|row| row.rates.refused)),
        sample.took.as_millis(),
    );
    Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

fn titles(state: &State, width: usize) -> Line<'static> {
    let mark = |sort: SortArg, text: &str| {
        let arrow = if state.reversed { "^" } else { "v" };
        if state.sort == sort { format!("{text}{arrow}") } else { text.to_owned() }
    };
    let text = columns(
        width,
        [&mark(SortArg::Name, "SERVICE"), "KIND", "ADDRESS"],
        [
            "EP",
            &mark(SortArg::Rate, "CONN/S"),
            "PKT/S",
            "IN/S",
            "OUT/S",
            &mark(SortArg::Connections, "ACTIVE"),
            "INACT",
        ],
        &mark(SortArg::Errors, "ERR/S"),
    );
    Line::styled(text, Style::new().add_modifier(Modifier::REVERSED))
}

fn line(row: &Row, width: usize, selected: bool) -> Line<'static> {
    let (serving, all) = row.endpoints;
    let trouble = match row.trouble {
        Trouble::NoEndpoints => format!("{} no endpoints", short(row.rates.refused)),
        Trouble::NotReady(count) => format!("{} {count} not ready", short(row.rates.refused)),
        Trouble::None => short(row.rates.refused),
    };
    let text = columns(
        width,
        [&row.name, &row.kind, &row.place],
        [
            &format!("{serving}/{all}"),
            &short(row.rates.connections),
            &short(row.rates.packets),
            &short(row.rates.incoming),
            &short(row.rates.outgoing),
            &row.active.to_string(),
            &row.inactive.to_string(),
        ],
        &trouble,
    );
    let style = match row.trouble {
        Trouble::NoEndpoints => colored(Color::Red),
        Trouble::NotReady(_) => colored(Color::Yellow),
        Trouble::None => Style::new(),
    };
    Line::styled(text, if selected { style.add_modifier(Modifier::REVERSED) } else { style })
}

fn colored(color: Color) -> Style {
    if colors_allowed() { Style::new().fg(color) } else { Style::new() }
}

/// One line as wide as the screen: names take what the numbers leave.
fn columns(width: usize, names: [&str; 3], numbers: [&str; 7], error: &str) -> String {
    let [endpoints, connections, traffic @ .., active, inactive] = numbers;
    let mut counts = format!(" {endpoints:>6} {connections:>8}");
    if width >= WIDE {
        traffic.iter().for_each(|number| counts.push_str(&format!(" {number:>8}")));
    }
    counts.push_str(&format!(" {active:>8} {inactive:>8}  {error:<ERROR$}"));
    let ([name, kind, place], left) = (names, width.saturating_sub(counts.chars().count()));
    let start = if left >= KIND + PLACE + 20 {
        let service = left - KIND - PLACE - 2;
        format!("{} {} {}", fit(name, service), fit(kind, KIND), fit(place, PLACE))
    } else {
        fit(if name == "-" { place } else { name }, left)
    };
    start + &counts
}

/// Exactly so wide.
fn fit(text: &str, width: usize) -> String {
    let cut: String = text.chars().take(width).collect();
    format!("{cut:<width$}")
}

/// Four digits at most: `7`, `0.5`, `1.2k`, `35M`.
fn short(number: f64) -> String {
    let (mut number, mut units) = (number, ["", "k", "M", "G", "T"].into_iter());
    let mut unit = units.next().unwrap_or_default();
    while number >= 999.5 {
        let Some(next) = units.next() else { break };
        (number, unit) = (number / 1000.0, next);
    }
    if number == 0.0 || number >= 9.95 || (unit.is_empty() && number.fract() == 0.0) {
        format!("{number:.0}{unit}")
    } else {
        format!("{number:.1}{unit}")
    }
}

fn footer(state: &State) -> Line<'static> {
    if let Some(problem) = &state.problem {
        return Line::styled(problem.clone(), colored(Color::Red));
    }
    let (shown, all) = state.counts();
    let filter = match (&state.filter, state.typing) {
        (text, true) => format!("  /{text}_"),
        (text, false) if !text.is_empty() => format!("  filter: {text}"),
        _ => String::new(),
    };
    let paused = if state.paused { "  PAUSED" } else { "" };
    let names = match state.sample.as_ref().and_then(|sample| sample.names.missing()) {
        Some(_) => "  no names: no daemon, no --manifests, no --kubeconfig",
        None => "",
    };
    let (first, last) = state.lines();
    let of = if shown == all { shown.to_string() } else { format!("{shown} (all: {all})") };
    Line::from(format!(
        "{first}-{last} of {of}{filter}{paused}  q quit  s sort  / filter  Enter endpoints  ? help{names}"
    ))
}

fn endpoints(frame: &mut Frame<'_>, state: &State) {
    let (Some(row), Some(sample)) = (state.selected(), &state.sample) else { return };
    let Some(server) = sample.servers.get(row.server) else { return };
    let namer = Namer::new(&sample.names, sample.own.iter().copied());
    let mut named = namer.server(server);
    namer.real_servers(server, &mut named);
    let title = format!(" {} {} {} ", row.name, row.kind, row.place);
    let head = format!(
        "{:<29} {:<30} {:<20} {:<12} {:>6} {:>7} {:>8}",
        "ENDPOINT", "POD", "NODE", "STATE", "WEIGHT", "ACTIVE", "INACTIVE"
    );
    let mut lines = vec![Line::styled(head, Style::new().add_modifier(Modifier::BOLD))];
    lines.extend(named.real_servers.iter().map(endpoint));
    cover(frame, &title, lines);
}

fn endpoint(real: &RealRow<'_>) -> Line<'static> {
    let place = std::net::SocketAddr::new(real.address, real.port).to_string();
    let color = match real.state {
        "serving" => colored(Color::Green),
        "draining" | "terminating" => colored(Color::Yellow),
        "not-ready" | "unlisted" => colored(Color::Red),
        _ => Style::new(),
    };
    Line::from(vec![
        Span::raw(format!("{place:<29} {:<30} {:<20} ", fit(real.pod, 30), fit(real.node, 20))),
        Span::styled(format!("{:<12}", real.state), color),
        Span::raw(format!(" {:>6} {:>7} {:>8}", real.weight, real.active, real.inactive)),
    ])
}

/// In the middle, over the list.
fn cover(frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'_>>) {
    let area = frame.area();
    let width = lines.iter().map(Line::width).max().unwrap_or(0).max(title.len()) + 4;
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title.to_owned())), place);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shorts = [0.0, 0.46, 3.0, 3.25, 99.6, 999.0, 1000.0, 12_345.0, 1.5e9].map(short);
        assert_eq!(shorts, ["0", "0.5", "3", "3.2", "100", "999", "1.0k", "12k", "1.5G"]);
    }

    #[test]
    fn a_line_fits_the_screen() {
        for width in [80, 100, 160, 240] {
            let text = columns(
                width,
                ["shop/web:http", "ClusterIP", "TCP 10.96.0.1:80"],
                ["1/2", "3", "4", "5", "6", "7", "8"],
                "0",
            );
            assert_eq!(text.chars().count(), width, "{text:?}");
            assert!(text.contains("shop/web:http"), "{text}");
        }
    }
}
