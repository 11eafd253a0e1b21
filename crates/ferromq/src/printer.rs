//! The only place that writes to standard output and standard error for a person. Log lines go through `tracing` instead.
//!
//! A reader that goes away (`ferromq tail T | head -3`) is not an error: [`line()`] says so, and the command ends quietly.

use std::io::{self, Write};

/// One line on standard output, visible at once. `false`: nobody reads any more.
#[must_use = "a command that prints in a loop ends when nobody reads"]
pub fn line(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).is_ok()
}

/// Lines on standard output whose reader does not matter.
pub fn lines<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) {
    texts.into_iter().all(|text| line(text.as_ref()));
}

/// One line on standard error.
pub fn error(text: &str) {
    // Nothing can be done, or said, when standard error is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether a person watches standard error.
pub fn is_watched() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}

/// A line on standard error that replaces the one before it, when a person watches.
pub fn progress(text: &str) {
    let mut err = io::stderr().lock();
    if is_watched() {
        let _ = write!(err, "\r\x1b[2K{text}").and_then(|()| err.flush());
    }
}

/// Ends a sequence of [`progress`] lines.
pub fn progress_end() {
    progress("");
}
