//! Where log lines go.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};

use super::args::{GlobalArgs, LogFormat};

/// Bytes of an owner's log after which a new one is begun at its next start: enough for weeks of warnings.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// Logs to standard error.
///
/// # Errors
/// `Usage` for a level that is none.
pub(super) fn to_stderr(global: &GlobalArgs) -> Result<()> {
    start(global, std::io::stderr, true)
}

/// Logs to the file at `path`, after what it holds; a large one is first renamed to `PATH.old`.
///
/// # Errors
/// `Usage` for a level that is none; `Io` when the file cannot be opened.
pub(super) fn to_file(global: &GlobalArgs, path: &Path) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        // Without a rename, the log just goes on growing.
        let _ = std::fs::rename(path, path.with_extension("log.old"));
    }
    let file: File = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .context(|| format!("cannot open the log {}", path.display()))?;
    start(global, Mutex::new(file), false)?;
    // Standard error leads nowhere then, and a panic is what must not go unseen.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
}

fn start<W>(global: &GlobalArgs, writer: W, on_terminal: bool) -> Result<()>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let mut filter = filter(&global.log_level)?;
    // It reports every reply to a reader that was interrupted as an error; what is one, we say ourselves.
    if !global.log_level.contains("fuser")
        && let Ok(quiet) = "fuser=off".parse()
    {
        filter = filter.add_directive(quiet);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let ansi = on_terminal && std::io::IsTerminal::is_terminal(&std::io::stderr());
    // The journal has a clock of its own (systemd.exec(5)).
    let in_journal = on_terminal && std::env::var_os("JOURNAL_STREAM").is_some();
    let started = match global.log_format {
        LogFormat::Text if in_journal => builder.with_ansi(false).without_time().try_init(),
        LogFormat::Text => builder.with_ansi(ansi).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Only a second start in one process fails, which is no harm: the first one counts.
    let _ = started;
    Ok(())
}

/// The filter that `text` asks for. What the filter's own grammar takes for the name of a target, without a level, is
/// refused: it is a level misspelt, and would silence everything.
fn filter(text: &str) -> Result<EnvFilter> {
    let bad = |why: &str| {
        let text = format!(
            "bad --log-level {text:?}: {why}; expected error, warn, info, debug, trace, or a filter of the form \
             TARGET=LEVEL such as refmount=debug, several of these with commas between them"
        );
        Error::new(ErrorKind::Usage, text)
    };
    for directive in text.split(',') {
        let level = match directive.rsplit_once('=') {
            Some(("", _)) => return Err(bad("a target is missing")),
            Some((_, level)) => level,
            None => directive,
        };
        if level.parse::<LevelFilter>().is_err() || level.is_empty() {
            return Err(bad(&format!("{level:?} is no level")));
        }
    }
    EnvFilter::try_new(text).map_err(|error| bad(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_and_not_taken_for_a_target() {
        for text in ["error", "WARN", "off", "refmount=debug", "info,refmount::fetch=trace"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in [
            "chatty",
            "",
            "warn,",
            "refmount",
            "refmount=",
            "=debug",
            "refmount=loud",
            "warn,chatty",
            "warn, info",
        ] {
            let error = filter(text).err().map(|error| error.kind());
            assert_eq!(error, Some(ErrorKind::Usage), "{text}");
        }
    }
}
