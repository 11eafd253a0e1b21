//! Reader of Java properties files, by the rules of `java.util.Properties.load(InputStream)`: ISO-8859-1 bytes, `#` and `!`
//! comments, `=`, `:` or blanks between key and value, backslash escapes and continued lines.
//!
//! It gives keys, values and line numbers; what a key means is decided by [`crate::config`]. No state, no threads.

use std::path::{Path, PathBuf};

/// Most bytes a configuration file may have. A real one has a few kilobytes.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// One `key=value` of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, escapes resolved.
    pub key: String,
    /// The value, escapes resolved, blanks after it kept as Java keeps them.
    pub value: String,
    /// Line on which the key starts, counted from 1.
    pub line: usize,
}

/// The entries of one file in file order. Of a key given twice the later value counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    entries: Vec<Entry>,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PropertiesError {
    /// The file cannot be opened or read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is far larger than any configuration.
    #[error("the configuration file {} has {bytes} bytes, more than the {MAX_FILE_BYTES} allowed; is this the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// An escape that Java refuses, too.
    #[error(
        "line {line}: \\u must be followed by four hexadecimal digits; write a backslash that is meant as such twice"
    )]
    BadEscape {
        /// Line of the entry, counted from 1.
        line: usize,
    },
}

impl Properties {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, PropertiesError> {
        let io = |source| PropertiesError::Io { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(PropertiesError::TooLarge { path: path.to_owned(), bytes });
        }
        Self::parse(&std::fs::read(path).map_err(io)?)
    }

    /// Reads the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, PropertiesError> {
        let mut entries = Vec::new();
        let mut lines = NaturalLines { rest: bytes, number: 0 };
        while let Some((number, first)) = lines.next() {
            let first = skip_blanks(first);
            if first.is_empty() || matches!(first[0], b'#' | b'!') {
                continue;
            }
            let mut logical = first.to_vec();
            while ends_in_open_escape(&logical) {
                logical.pop();
                match lines.next() {
                    Some((_, continued)) => logical.extend_from_slice(skip_blanks(continued)),
                    None => break,
                }
            }
            let (key, value) = split(&logical);
            let resolve = |raw| unescape(raw).ok_or(PropertiesError::BadEscape { line: number });
            entries.push(Entry { key: resolve(key)?, value: resolve(value)?, line: number });
        }
        Ok(Self { entries })
    }

    /// The entries in file order, repeated keys included.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The value that counts for a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().rev().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// Lines as they stand in the file, ended by `\n`, `\r` or `\r\n`, each with its number.
struct NaturalLines<'a> {
    rest: &'a [u8],
    number: usize,
}

impl<'a> Iterator for NaturalLines<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let end = self.rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(self.rest.len());
        let (line, after) = self.rest.split_at(end);
        self.rest = match after {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => after,
        };
        Some((self.number, line))
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0c)
}

fn skip_blanks(line: &[u8]) -> &[u8] {
    &line[line.iter().position(|&byte| !is_blank(byte)).unwrap_or(line.len())..]
}

fn ends_in_open_escape(line: &[u8]) -> bool {
    line.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// Key and value of a logical line, escapes still in place.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let mut escaped = false;
    let key_end = line
        .iter()
        .position(|&byte| {
            let ends = !escaped && (matches!(byte, b'=' | b':') || is_blank(byte));
            escaped = byte == b'\\' && !escaped;
            ends
        })
        .unwrap_or(line.len());
    let (key, rest) = line.split_at(key_end);
    let rest = skip_blanks(rest);
    match rest {
        [b'=' | b':', value @ ..] => (key, skip_blanks(value)),
        value => (key, value),
    }
}

/// `None` for a `\u` without four hexadecimal digits. Surrogate pairs become one character, single surrogates U+FFFD.
fn unescape(raw: &[u8]) -> Option<String> {
    let mut units: Vec<u16> = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            units.push(u16::from(byte));
            continue;
        }
        match bytes.next() {
            Some(b't') => units.push(0x09),
            Some(b'n') => units.push(0x0a),
            Some(b'r') => units.push(0x0d),
            Some(b'f') => units.push(0x0c),
            Some(b'u') => {
                let mut unit = 0;
                for _ in 0..4 {
                    unit = unit << 4 | char::from(bytes.next()?).to_digit(16)? as u16;
                }
                units.push(unit);
            }
            Some(other) => units.push(u16::from(other)),
            None => {}
        }
    }
    Some(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> (String, String) {
        let parsed = Properties::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.entries().len(), 1, "{text:?}: {parsed:?}");
        (parsed.entries()[0].key.clone(), parsed.entries()[0].value.clone())
    }

    #[test]
    fn key_and_value_are_separated_as_java_does() {
        for text in ["a=b", "a:b", "a b", "  a = b", "\ta\t:\tb", "a=b\r\n", "a   b\r", "a=\\\n   b"] {
            assert_eq!(one(text), ("a".into(), "b".into()), "{text:?}");
        }
        assert_eq!(one("a==b"), ("a".into(), "=b".into()));
        assert_eq!(one("a\\=b\\:c\\ d=e"), ("a=b:c d".into(), "e".into()));
        assert_eq!(one("alone"), ("alone".into(), "".into()));
        assert_eq!(one("a=b  "), ("a".into(), "b  ".into()));
        assert_eq!(one("=b"), ("".into(), "b".into()));
    }

    #[test]
    fn escapes_and_bytes_above_127() {
        assert_eq!(one("a=\\t\\n\\r\\f\\q\\\\"), ("a".into(), "\t\n\r\x0cq\\".into()));
        assert_eq!(one("a=\\u4e2d\\uD83D\\uDE00"), ("a".into(), "\u{4e2d}\u{1f600}".into()));
        assert_eq!(Properties::parse(b"a=\xe4\xff").unwrap().get("a"), Some("\u{e4}\u{ff}"));
    }

    #[test]
    fn comments_blank_lines_and_continued_lines_keep_the_line_numbers() {
        let text = "# head\n\n! also\nfirst=1,\\\n  2,\\\n\t3\n   \nsecond=x\\\\\nthird=3\nthird=4\\";
        let parsed = Properties::parse(text.as_bytes()).unwrap();
        let seen: Vec<_> = parsed.entries().iter().map(|e| (e.line, e.key.as_str(), e.value.as_str())).collect();
        assert_eq!(seen, [(4, "first", "1,2,3"), (8, "second", "x\\"), (9, "third", "3"), (10, "third", "4")]);
        assert_eq!(parsed.get("third"), Some("4"));
    }

    #[test]
    fn a_broken_escape_names_its_line() {
        let error = Properties::parse(b"a=1\npath=C:\\users\n").unwrap_err();
        assert!(error.to_string().starts_with("line 2: \\u must be followed"), "{error}");
        assert!(Properties::parse(b"a=\\u12").is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Properties::load(Path::new("/nowhere/broker.conf")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/broker.conf"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_give_entries_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Properties::parse(&bytes);
        }

        #[test]
        fn plain_text_comes_back(key in "[a-zA-Z][a-zA-Z0-9.]{0,20}", value in "[!-\\[\\]-~]([ -\\[\\]-~]{0,30}[!-\\[\\]-~])?") {
            let value = value.trim_start_matches(['=', ':']).to_owned();
            let parsed = Properties::parse(format!("{key} = {value}\n").as_bytes()).unwrap();
            prop_assert_eq!(parsed.get(&key), Some(value.trim_start()));
        }
    }
}
