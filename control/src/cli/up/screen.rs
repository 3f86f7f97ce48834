//! The live view: draws the board on a terminal and takes keys. The terminal is as it was afterwards, whatever happens.
//! Cold.

use std::io::{self, Stdout};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{self, EnterAlternateScreen};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use ratatui::{Frame, Terminal};

use super::app::BASE;
use super::board::Board;
use super::ledger::{LaneFigures, Totals};
use super::shop::{PLACES, SERVICES};

/// How long a key may wait, and figures may be old.
const PERIOD: Duration = Duration::from_millis(200);
/// Keys that may wait.
const KEYS_MAX: usize = 64;
const KEYS: [&str; 2] = [
    "1-4 service  b which  s slow  f failing  d dead  o ok  t trace  k kill",
    "r restart  R restart all  c control  l lane green  q end",
];
/// Where there is more room than this, tables are apart.
const HEIGHT_USUAL: u16 = 26;

/// Whether a thread of the process has panicked: the screen is gone then.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// A terminal that is given back.
struct Screen(ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>);

impl Screen {
    fn take() -> io::Result<Screen> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // First, so that its words are seen. Told to nobody if the terminal is gone: a panic in here would abort.
            let _ = ratatui::try_restore();
            PANICKED.store(true, Relaxed);
            before(panic);
        }));
        terminal::enable_raw_mode()?;
        // From here on it is given back whatever fails.
        let screen = Screen(ManuallyDrop::new(Terminal::new(CrosstermBackend::new(io::stdout()))?));
        execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // ratatui's own end of a terminal complains to standard error, which panics if that terminal is gone.
        let _ = ratatui::try_restore();
        let _ = execute!(io::stdout(), Show);
    }
}

/// Shows the board and takes keys, until it is over.
pub fn run(board: impl Fn() -> Board, is_over: impl Fn() -> bool, press: impl Fn(char)) -> io::Result<()> {
    let mut screen = Screen::take()?;
    let keys = hear_keys();
    while !is_over() && !PANICKED.load(Relaxed) {
        let shown = board();
        screen.0.draw(|frame| draw(frame, &shown))?;
        // Figures that change five times a second are enough; a key is answered at once.
        match keys.recv_timeout(PERIOD) {
            Ok(key) => press(key),
            Err(RecvTimeoutError::Timeout) => {}
            // There is nobody at the terminal; signals end it still.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(PERIOD),
        }
    }
    Ok(())
}

/// Keys by a thread that lives as long as the process: what reads them may hang when the terminal is closed.
fn hear_keys() -> Receiver<char> {
    let (sender, keys) = sync_channel(KEYS_MAX);
    let hear = move || {
        while let Ok(event) = event::read() {
            if pressed(&event).is_some_and(|key| sender.send(key).is_err()) {
                break;
            }
        }
    };
    // Without it the view is only looked at.
    let _ = std::thread::Builder::new().name("keys".into()).spawn(hear);
    keys
}

/// The key of an event; in raw mode Ctrl-C is one, too.
fn pressed(event: &Event) -> Option<char> {
    let Event::Key(key) = event else { return None };
    match key.code {
        _ if key.kind == KeyEventKind::Release => None,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some('q'),
        KeyCode::Char(character) => Some(character),
        _ => None,
    }
}

/// Draws everything.
fn draw(frame: &mut Frame<'_>, board: &Board) {
    let gap = usize::from(frame.area().height > HEIGHT_USUAL);
    let problems = board.problems.len().min(2);
    let heights = [5, gap, 1 + board.lanes.len(), gap, 1 + SERVICES.len(), gap, board.policies.len(), problems];
    let rows = heights.map(|height| Constraint::Length(height as u16)).into_iter();
    let areas = Layout::vertical(rows.chain([Constraint::Min(1), Constraint::Length(2)])).split(frame.area());
    frame.render_widget(head(board), areas[0]);
    frame.render_widget(lanes(board), areas[2]);
    frame.render_widget(services(board), areas[4]);
    let lines = board.policies.iter().map(|policy| {
        let line = Line::from(policy.words());
        if policy.is_open() { line.red() } else { line }
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), areas[6]);
    let lines = board.problems.iter().take(problems);
    let lines = lines.map(|(problem, count)| Line::from(format!("{count} times {problem}")).red());
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), areas[7]);
    let first = board.events.len().saturating_sub(areas[8].height.into());
    let lines = board.events[first..].iter().map(|event| Line::from(&event[..]).dim());
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), areas[8]);
    frame.render_widget(Paragraph::new(KEYS.map(Line::from).to_vec()), areas[9]);
}

fn head(board: &Board) -> Paragraph<'_> {
    let Totals { answered, failed, wrong, limited, fallbacks } = board.totals;
    let chosen = Span::styled(format!(" {} ", board.selection.name()), Style::new().reversed());
    let there = board.instances.iter().filter(|instance| instance.name.is_some()).count();
    let uptime = format!("   up {} s, {there} instances   ", board.uptime.as_secs());
    let first = ["evenkeel  ".bold(), board.edge[..].into(), uptime.into(), chosen];
    let control = Span::from(board.control());
    let control = if board.control_gone.is_some() { control.red() } else { control };
    let retries = board.retries;
    let so_far = format!("{answered} answered, {limited} limited, {fallbacks} fallbacks, {retries} retries, ");
    let bad = Span::from(format!("{failed} failed, {wrong} wrong lane"));
    Paragraph::new(vec![
        Line::from(first.to_vec()),
        Line::from(format!("rules     {} (edit them)", board.rules)),
        Line::from(vec![format!("control   EVENKEEL_SERVER={} ", board.api).into(), control]),
        Line::from(board.drain()),
        Line::from(vec![so_far.into(), if failed + wrong > 0 { bad.red() } else { bad.green() }]),
    ])
}

fn lanes(board: &Board) -> Table<'_> {
    let chain = SERVICES.join(" > ");
    let names = ["lane", "req/s", "share", "p50", "p99", "failed", "wrong", "limited", &chain];
    let names = Row::new(names.map(String::from)).bold();
    let row = |figures: &LaneFigures| {
        let cells = figures.cells().into_iter().enumerate().map(|(column, text)| {
            let is_bad = matches!(column, 5 | 6) && text != "0";
            Cell::from(text).style(if is_bad { Style::new().fg(Color::Red) } else { Style::new() })
        });
        Row::new(cells.collect::<Vec<_>>())
    };
    let widths = [5, 5, 5, 4, 4, 6, 5, 7].map(Constraint::Length).into_iter().chain([Constraint::Min(8)]);
    Table::new(board.lanes.iter().map(row), widths).header(names)
}

fn services(board: &Board) -> Table<'static> {
    let text = |index: usize| {
        let instance = &board.instances[index];
        let style = if instance.is_well() { Style::new() } else { Style::new().fg(Color::Yellow) };
        let lane = if instance.lane == BASE { String::new() } else { format!("{} ", instance.lane) };
        let style = if board.selection.has(index) { style.reversed() } else { style };
        Cell::from(Span::styled(format!("{lane}{}", instance.words()), style))
    };
    let rows = SERVICES.iter().enumerate().map(|(service, name)| {
        let own = (service * PLACES..(service + 1) * PLACES).filter(|index| *index < board.instances.len());
        Row::new(std::iter::once(Cell::from(format!("{} {name}", service + 1))).chain(own.map(text)))
    });
    let widths = [8, 16, 16, 18, 18].map(Constraint::Length);
    Table::new(rows, widths).header(Row::new(["service", "base", "base", "in its lane", "in its lane"]).bold())
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    fn drawn(width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory takes all");
        let board = super::super::board::tests::sample();
        terminal.draw(|frame| draw(frame, &board)).expect("memory takes all");
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_on_a_usual_terminal() {
        let screen = drawn(80, 24);
        for words in [
            "evenkeel  http://127.0.0.1:8080   up 61 s, 3 instances    web base ",
            "rules     /tmp/rules.yaml",
            "control   EVENKEEL_SERVER=127.0.0.1:43211 DEAD for 3 s, rules 61 s old",
            "drains 116 price-12 forgotten by 18 of 18 after 14.1 ms, gone after 110 ms",
            "6000 answered, 7 limited, 0 fallbacks, 5 retries, 3 failed, 1 wrong lane",
            "lane  req/s share p50  p99  failed wrong limited web > cart > price > stock",
            "base  70    70%   24   31   3      0     7       base > base",
            "1 web    #1 12/s          #12 FAILING      #3 NO TRACE        nobody",
            "CircuitBreaker price        9 passed     2 refused  OPEN at 1 of 4, 1 openings",
            "ConcurrencyLimit stock      9 passed     2 refused  3 of 16 under way, 0 wait",
            "RateLimit per-user          9 passed     2 refused  6 users",
            "3 times unexpected: 503",
            "1 times wrong lane: price > stock",
            "price-12 is failing",
            "k kill",
            "q end",
        ] {
            assert!(screen.contains(words), "{words:?} is missing:\n{screen}");
        }
    }

    #[test]
    fn a_small_terminal_does_no_harm() {
        for (width, height) in [(1, 1), (10, 3), (40, 10), (200, 60)] {
            drawn(width, height);
        }
    }

    #[test]
    fn control_c_ends_it() {
        let key = |code, modifiers| Event::Key(event::KeyEvent::new(code, modifiers));
        assert_eq!(pressed(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some('q'));
        assert_eq!(pressed(&key(KeyCode::Char('s'), KeyModifiers::NONE)), Some('s'));
        assert_eq!(pressed(&key(KeyCode::Esc, KeyModifiers::NONE)), None);
        assert_eq!(pressed(&Event::FocusGained), None);
    }
}
