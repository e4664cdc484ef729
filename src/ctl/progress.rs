//! Progress on standard error: a line that moves on a terminal, a line a second elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// How far a long replay is.
pub(super) struct Progress {
    bar: Option<indicatif::ProgressBar>,
    /// Standard error is no terminal but progress was asked for.
    plain: bool,
    started: Instant,
    ticked: Instant,
}

impl Progress {
    /// Shown when `is_asked`; else when `may_show` and only the messages go elsewhere. `count_max` is how many there will be.
    pub(super) fn new(is_asked: bool, may_show: bool, count_max: Option<u64>) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let by_itself = may_show && is_terminal && !std::io::stdout().is_terminal();
        let bar = (is_terminal && (is_asked || by_itself)).then(|| {
            let bar = match count_max {
                Some(count) => indicatif::ProgressBar::new(count),
                None => indicatif::ProgressBar::no_length(),
            };
            let template = match count_max {
                Some(_) => "{bar:30} {human_pos} of {human_len} messages, {per_sec}, {eta} left",
                None => "{spinner} {human_pos} messages, {per_sec}, {elapsed} {msg}",
            };
            let style = indicatif::ProgressStyle::with_template(template);
            bar.with_style(style.expect("the template is well-formed"))
        });
        let now = Instant::now();
        let plain = is_asked && bar.is_none();
        Progress { bar, plain, started: now, ticked: now }
    }

    /// Returns true when anybody sees it.
    pub(super) fn is_shown(&self) -> bool {
        self.plain || self.bar.is_some()
    }

    /// When to call [`Progress::tick`].
    pub(super) fn due(&self) -> Option<Instant> {
        let interval = match &self.bar {
            Some(_) => Duration::from_millis(100),
            None => Duration::from_secs(1),
        };
        self.is_shown().then_some(self.ticked + interval)
    }

    /// Shows how many messages there were, and how much of the whole is done where that is known.
    pub(super) fn tick(&mut self, now: Instant, count: u64, done: Option<(u64, u64)>) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_position(count);
            bar.set_message(done.map(percent).unwrap_or_default());
            bar.tick();
        }
        if self.plain {
            self.say(now, count, done);
        }
        self.ticked = now;
    }

    fn say(&self, now: Instant, count: u64, done: Option<(u64, u64)>) {
        let seconds = (now - self.started).as_secs_f64();
        let rate = count as f64 / seconds.max(0.001);
        let percent = done.map(percent).unwrap_or_default();
        let said = format!("{count} messages in {seconds:.0} s, {rate:.0}/s {percent}");
        let _ = writeln!(std::io::stderr(), "{}", said.trim_end());
    }

    /// Runs something that prints, out of the way of the moving line.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) if std::io::stdout().is_terminal() => bar.suspend(print),
            _ => print(),
        }
    }

    /// Takes the moving line away; elsewhere there is a last line, that of the whole.
    pub(super) fn finish(&self, count: u64, done: Option<(u64, u64)>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.plain {
            self.say(Instant::now(), count, done);
        }
    }
}

fn percent((done, whole): (u64, u64)) -> String {
    let percent = (done * 100).checked_div(whole);
    percent.map_or_else(String::new, |percent| format!("{percent} %"))
}
