//! What the broker says about itself: statistics, and log events to standard error, as text for people or as JSON, one per line.
//!
//! The level is a filter that can name parts of the program: `info,fluxmq::partition=debug`. Never logs payloads or secrets:
//! that is up to whoever writes an event.

pub mod statistics;

use std::io::{IsTerminal, Write};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};

/// Why nothing would be logged.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The level means nothing.
    #[error("log.level '{level}' is not a filter: {reason}")]
    Level {
        /// As configured.
        level: String,
        /// Why.
        reason: String,
    },
    /// Somebody else set the process's logger.
    #[error("the logger was set up twice")]
    AlreadySet,
}

/// Sends the process's events to standard error from here on. Call once, before anything that logs.
pub fn install(log: &Log) -> Result<(), TelemetryError> {
    let colours = log.format == LogFormat::Text && std::io::stderr().is_terminal();
    let subscriber = subscriber(log, std::io::stderr, colours)?;
    tracing::dispatcher::set_global_default(subscriber).map_err(|_| TelemetryError::AlreadySet)
}

/// Makes a logger that writes to `writer`.
fn subscriber<W>(log: &Log, writer: W, colours: bool) -> Result<tracing::Dispatch, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    for<'a> <W as MakeWriter<'a>>::Writer: Write,
{
    let filter = EnvFilter::builder().parse(&log.level).map_err(|error| TelemetryError::Level {
        level: log.level.clone(),
        reason: error.to_string(),
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match log.format {
        LogFormat::Text => tracing::Dispatch::new(builder.with_ansi(colours).finish()),
        LogFormat::Json => tracing::Dispatch::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log_into(level: &str, format: LogFormat) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let log = Log { level: level.to_owned(), format };
        let dispatch = subscriber(&log, move || writer.clone(), false).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(target: "fluxmq::one", client_id = "a", "shown");
            tracing::debug!(target: "fluxmq::one", "hidden");
            tracing::debug!(target: "fluxmq::two", "deep");
        });
        captured.text()
    }

    #[test]
    fn a_level_can_be_raised_for_one_part_of_the_program() {
        let text = log_into("info,fluxmq::two=debug", LogFormat::Text);

        assert!(text.contains("shown") && text.contains("client_id=\"a\""), "{text}");
        assert!(text.contains("deep"), "{text}");
        assert!(!text.contains("hidden"), "{text}");
        assert!(!text.contains('\u{1b}'), "colours belong on terminals: {text}");
    }

    #[test]
    fn json_is_one_object_per_line_with_its_fields_at_the_top() {
        let text = log_into("info", LogFormat::Json);

        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["client_id"], "a");
        assert_eq!(lines[0]["message"], "shown");
        assert_eq!(lines[0]["level"], "INFO");
    }

    #[test]
    fn a_level_that_is_no_filter_is_refused_with_its_text() {
        let log = Log { level: "info,x=loud".to_owned(), format: LogFormat::Text };

        let error = subscriber(&log, std::io::sink, false).unwrap_err();

        assert!(error.to_string().contains("info,x=loud"), "{error}");
    }
}
