//! What is shown, and what keys do to it.

use super::SortArg;
use super::rows::{Before, Row, order};
use super::sample::{Sample, Sampled};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On.
    Stay,
    /// Enough.
    Quit,
}

/// What covers the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cover {
    /// Nothing.
    #[default]
    None,
    /// What the keys do.
    Help,
    /// The endpoints of the selected line.
    Endpoints,
}

/// Everything that the screen depends on.
#[derive(Debug, Default)]
pub struct State {
    before: Before,
    /// The newest sample.
    pub sample: Option<Sample>,
    /// Why there is no newer one.
    pub problem: Option<String>,
    rows: Vec<Row>,
    /// Which rows, in which order.
    order: Vec<usize>,
    /// What comes first.
    pub sort: SortArg,
    /// The other way round.
    pub reversed: bool,
    /// Only what contains this.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    /// Samples are passed over.
    pub paused: bool,
    /// What covers the list.
    pub cover: Cover,
    selected: usize,
    top: usize,
    /// Lines of the list that fit.
    height: usize,
}

impl State {
    /// Before the first sample.
    pub fn new(sort: SortArg, filter: &str) -> Self {
        Self { sort, filter: filter.to_owned(), height: 1, ..Self::default() }
    }

    /// A new sample, or why there is none. Whether the screen differs by it.
    pub fn take(&mut self, sampled: Sampled) -> bool {
        match sampled {
            Err(problem) => self.problem = Some(problem),
            Ok(_) if self.paused => return false,
            Ok(sample) => {
                self.rows = self.before.rows(&sample);
                (self.sample, self.problem) = (Some(sample), None);
                self.arrange();
            }
        }
        true
    }

    fn arrange(&mut self) {
        self.order = order(&self.rows, self.sort, self.reversed, &self.filter);
        self.select(self.selected);
    }

    /// How many lines there are, and of how many.
    pub fn counts(&self) -> (usize, usize) {
        (self.order.len(), self.rows.len())
    }

    /// The selected line.
    pub fn selected(&self) -> Option<&Row> {
        self.order.get(self.selected).and_then(|index| self.rows.get(*index))
    }

    /// All lines, for sums.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The lines that fit, the selected one among them; and which of these that is.
    pub fn visible(&mut self, height: usize) -> (Vec<&Row>, usize) {
        self.height = height.max(1);
        self.scroll();
        let lines = self.order.iter().skip(self.top).take(self.height).filter_map(|index| self.rows.get(*index));
        (lines.collect(), self.selected - self.top)
    }

    /// The numbers of the first and of the last line that are shown, from 1.
    pub fn lines(&self) -> (usize, usize) {
        let last = (self.top + self.height).min(self.order.len());
        ((self.top + 1).min(last), last)
    }

    fn scroll(&mut self) {
        let last = self.order.len().saturating_sub(self.height);
        self.top = self.top.min(last).min(self.selected).max((self.selected + 1).saturating_sub(self.height));
    }

    fn select(&mut self, line: usize) {
        self.selected = line.min(self.order.len().saturating_sub(1));
    }

    /// A key.
    pub fn key(&mut self, key: KeyEvent) -> Verdict {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Verdict::Quit } else { Verdict::Stay };
        }
        if self.typing {
            self.type_filter(key.code);
            return Verdict::Stay;
        }
        if self.cover != Cover::None {
            let close = matches!(key.code, KeyCode::Char('q' | '?') | KeyCode::Esc | KeyCode::Enter);
            self.cover = if close { Cover::None } else { self.cover };
            return Verdict::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Verdict::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Verdict::Quit,
            KeyCode::Esc => {
                self.filter.clear();
                self.arrange();
            }
            KeyCode::Char('?' | 'h') => self.cover = Cover::Help,
            KeyCode::Enter => self.cover = if self.order.is_empty() { Cover::None } else { Cover::Endpoints },
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => {
                self.sort = next(self.sort);
                self.arrange();
            }
            KeyCode::Char('r') => {
                self.reversed = !self.reversed;
                self.arrange();
            }
            code => self.go(code),
        }
        Verdict::Stay
    }

    fn go(&mut self, code: KeyCode) {
        let (line, page) = (self.selected, self.height);
        match code {
            KeyCode::Up | KeyCode::Char('k') => self.select(line.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(line + 1),
            KeyCode::PageUp => self.select(line.saturating_sub(page)),
            KeyCode::PageDown => self.select(line + page),
            KeyCode::Home | KeyCode::Char('g') => self.select(0),
            KeyCode::End | KeyCode::Char('G') => self.select(usize::MAX),
            _ => {}
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
        self.arrange();
    }
}

fn next(sort: SortArg) -> SortArg {
    match sort {
        SortArg::Rate => SortArg::Connections,
        SortArg::Connections => SortArg::Errors,
        SortArg::Errors => SortArg::Name,
        SortArg::Name => SortArg::Rate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(lines: usize) -> State {
        let mut state = State::new(SortArg::Name, "");
        state.rows = (0..lines).map(|number| Row { name: format!("{number:05}"), ..Row::default() }).collect();
        state.arrange();
        state
    }

    fn press(state: &mut State, codes: &[KeyCode]) -> Verdict {
        let mut verdict = Verdict::Stay;
        for code in codes {
            verdict = state.key(KeyEvent::new(*code, KeyModifiers::NONE));
            state.visible(10);
        }
        verdict
    }

    fn shown(state: &mut State) -> (String, usize, usize) {
        let (lines, selected) = state.visible(10);
        (lines[selected].name.clone(), selected, lines.len())
    }

    #[test]
    fn the_selected_line_is_always_on_the_screen() {
        let mut state = state(10_000);
        assert_eq!(shown(&mut state), ("00000".into(), 0, 10));
        press(&mut state, &[KeyCode::Up, KeyCode::Down, KeyCode::PageDown]);
        assert_eq!(shown(&mut state), ("00011".into(), 9, 10));
        press(&mut state, &[KeyCode::End]);
        assert_eq!(shown(&mut state), ("09999".into(), 9, 10));
        press(&mut state, &[KeyCode::PageUp, KeyCode::Up]);
        assert_eq!(shown(&mut state), ("09988".into(), 0, 10));
        press(&mut state, &[KeyCode::Home]);
        assert_eq!(shown(&mut state), ("00000".into(), 0, 10));
    }

    #[test]
    fn a_filter_is_typed_and_cleared() {
        let mut state = state(100);
        press(&mut state, &[KeyCode::End, KeyCode::Char('/'), KeyCode::Char('7'), KeyCode::Char('q')]);
        assert_eq!((state.counts(), state.typing), ((0, 100), true), "q is a letter while one types");
        press(&mut state, &[KeyCode::Backspace, KeyCode::Enter]);
        assert_eq!((state.counts(), state.typing), ((19, 100), false));
        assert_eq!(shown(&mut state).2, 10);
        assert_eq!(press(&mut state, &[KeyCode::Esc]), Verdict::Stay);
        assert_eq!(state.counts(), (100, 100));
        assert_eq!(press(&mut state, &[KeyCode::Esc]), Verdict::Quit);
    }

    #[test]
    fn what_covers_the_list_is_closed_before_it_ends() {
        let mut state = state(3);
        press(&mut state, &[KeyCode::Char('?')]);
        assert_eq!(state.cover, Cover::Help);
        assert_eq!(press(&mut state, &[KeyCode::Char('q')]), Verdict::Stay);
        press(&mut state, &[KeyCode::Enter]);
        assert_eq!(state.cover, Cover::Endpoints);
        assert_eq!(press(&mut state, &[KeyCode::Esc, KeyCode::Char('q')]), Verdict::Quit);
        press(&mut state, &[KeyCode::Char('s'), KeyCode::Char('r')]);
        assert_eq!((state.sort, state.reversed), (SortArg::Rate, true));
    }

    #[test]
    fn an_empty_table_is_no_trouble() {
        let mut state = state(0);
        press(&mut state, &[KeyCode::Down, KeyCode::End, KeyCode::PageUp, KeyCode::Enter]);
        assert!(state.visible(10).0.is_empty());
        assert_eq!(state.cover, Cover::None);
    }
}
