//! Tables of configuration keys. A table is data: a name and the field it fills. From it come reading a properties file, checking the
//! values, printing (`-p`, `-m`) and the suggestion for a misspelled key.
//!
//! Which keys exist stands in the tables of the `ferromq` crate, beside the structs they fill; no key is known here.

use crate::properties::Entry;
use std::fmt::{self, Display};
use std::path::PathBuf;

/// One key that has a meaning here.
pub struct Key<S> {
    /// Name in the properties file, RocketMQ's spelling.
    pub name: &'static str,
    /// Printed by `-m` (RocketMQ's `@ImportantField`).
    pub important: bool,
    /// The field it fills.
    pub slot: fn(&mut S) -> Slot<'_>,
}

/// A field and how its value is written.
pub enum Slot<'a> {
    /// Any text.
    Text(&'a mut String),
    /// Any text; empty or absent is `None`.
    Optional(&'a mut Option<String>),
    /// A file or folder.
    Path(&'a mut PathBuf),
    /// A file or folder; empty or absent is `None`.
    OptionalPath(&'a mut Option<PathBuf>),
    /// `true` or `false`.
    Bool(&'a mut bool),
    /// A whole number within bounds, both included.
    Int(Int<'a>, i64, i64),
    /// One of a few words; the field holds its position in the list.
    Word(&'a mut usize, &'static [&'static str]),
}

/// A number field of any width.
pub enum Int<'a> {
    /// A port or another 16-bit number.
    U16(&'a mut u16),
    /// 32 bits without a sign.
    U32(&'a mut u32),
    /// 64 bits without a sign.
    U64(&'a mut u64),
    /// A count or a size in memory.
    Usize(&'a mut usize),
    /// 32 bits.
    I32(&'a mut i32),
    /// 64 bits.
    I64(&'a mut i64),
}

impl Int<'_> {
    fn set(&mut self, value: i64) -> Option<()> {
        match self {
            Self::U16(field) => **field = value.try_into().ok()?,
            Self::U32(field) => **field = value.try_into().ok()?,
            Self::U64(field) => **field = value.try_into().ok()?,
            Self::Usize(field) => **field = value.try_into().ok()?,
            Self::I32(field) => **field = value.try_into().ok()?,
            Self::I64(field) => **field = value,
        }
        Some(())
    }
}

impl Display for Int<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U16(field) => field.fmt(f),
            Self::U32(field) => field.fmt(f),
            Self::U64(field) => field.fmt(f),
            Self::Usize(field) => field.fmt(f),
            Self::I32(field) => field.fmt(f),
            Self::I64(field) => field.fmt(f),
        }
    }
}

/// A value that its key does not take.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}={value} is not allowed{}: it must be {expected}", line_text(*.line))]
pub struct ValueError {
    key: String,
    value: String,
    line: usize,
    expected: String,
}

fn line_text(line: usize) -> String {
    if line == 0 { String::new() } else { format!(" (line {line})") }
}

impl Slot<'_> {
    /// Fills the field from text. Blanks around numbers, words and booleans do not matter. `Err` says what is expected.
    fn set(&mut self, text: &str) -> Result<(), String> {
        let trimmed = text.trim();
        let some = (!trimmed.is_empty()).then_some(trimmed);
        match self {
            Self::Text(field) => **field = trimmed.to_owned(),
            Self::Optional(field) => **field = some.map(str::to_owned),
            Self::Path(field) => **field = PathBuf::from(some.ok_or("a path")?),
            Self::OptionalPath(field) => **field = some.map(PathBuf::from),
            Self::Bool(field) if trimmed.eq_ignore_ascii_case("true") => **field = true,
            Self::Bool(field) if trimmed.eq_ignore_ascii_case("false") => **field = false,
            Self::Bool(_) => return Err("true or false".into()),
            Self::Int(field, least, most) => {
                let number = trimmed.parse::<i64>().ok().filter(|number| (*least..=*most).contains(number));
                number
                    .and_then(|number| field.set(number))
                    .ok_or_else(|| format!("a whole number from {least} to {most}"))?;
            }
            Self::Word(field, words) => {
                **field = words.iter().position(|word| *word == trimmed).ok_or_else(|| words.join(" or "))?;
            }
        }
        Ok(())
    }
}

impl Display for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(field) => field.fmt(f),
            Self::Optional(field) => field.as_deref().unwrap_or_default().fmt(f),
            Self::Path(field) => field.display().fmt(f),
            Self::OptionalPath(field) => match field.as_deref() {
                Some(path) => path.display().fmt(f),
                None => Ok(()),
            },
            Self::Bool(field) => field.fmt(f),
            Self::Int(field, ..) => field.fmt(f),
            Self::Word(field, words) => words.get(**field).copied().unwrap_or_default().fmt(f),
        }
    }
}

/// Fills fields from the entries of a file. What no table key took comes back, in file order, for the caller to judge.
pub fn apply<'e, S>(table: &[Key<S>], entries: &'e [Entry], target: &mut S) -> Result<Vec<&'e Entry>, ValueError> {
    let mut left = Vec::new();
    for entry in entries {
        match table.iter().find(|key| key.name == entry.key) {
            Some(key) => (key.slot)(target).set(&entry.value).map_err(|expected| ValueError {
                key: entry.key.clone(),
                value: entry.value.clone(),
                line: entry.line,
                expected,
            })?,
            None => left.push(entry),
        }
    }
    Ok(left)
}

/// `name=value` of every key, or of the important ones, in table order.
pub fn describe<S>(table: &[Key<S>], target: &mut S, important_only: bool) -> Vec<(&'static str, String)> {
    let wanted = table.iter().filter(|key| key.important || !important_only);
    wanted.map(|key| (key.name, (key.slot)(target).to_string())).collect()
}

/// The known name that looks most like `wrong`, if one looks enough like it to be meant.
pub fn nearest<'n>(wrong: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const LONGEST_COMPARED: usize = 100;
    if wrong.len() > LONGEST_COMPARED {
        return None;
    }
    let lowered = wrong.to_lowercase();
    let tolerated = (wrong.len() / 4).clamp(1, 4);
    let distances = known.map(|name| (edit_distance(&lowered, &name.to_lowercase()), name));
    distances.filter(|(distance, _)| *distance <= tolerated).min().map(|(_, name)| name)
}

/// Fewest insertions, deletions, replacements and swaps of neighbours that turn one text into the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in to.iter().enumerate() {
            let replaced = above[column] + usize::from(a != b);
            let mut best = replaced.min(above[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *a == to[column - 1] && from[row - 1] == *b {
                best = best.min(before[column - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::Properties;

    #[derive(Default)]
    struct Sample {
        name: String,
        address: Option<String>,
        port: u16,
        limit: i64,
        on: bool,
        mode: usize,
        root: PathBuf,
    }

    const TABLE: &[Key<Sample>] = &[
        Key { name: "brokerName", important: true, slot: |s| Slot::Text(&mut s.name) },
        Key { name: "namesrvAddr", important: true, slot: |s| Slot::Optional(&mut s.address) },
        Key { name: "listenPort", important: false, slot: |s| Slot::Int(Int::U16(&mut s.port), 0, 65535) },
        Key { name: "limit", important: false, slot: |s| Slot::Int(Int::I64(&mut s.limit), -1, 10) },
        Key { name: "autoCreate", important: false, slot: |s| Slot::Bool(&mut s.on) },
        Key { name: "flush", important: false, slot: |s| Slot::Word(&mut s.mode, &["ASYNC", "SYNC"]) },
        Key { name: "root", important: false, slot: |s| Slot::Path(&mut s.root) },
    ];

    fn read(text: &str) -> Result<(Sample, Vec<String>), ValueError> {
        let properties = Properties::parse(text.as_bytes()).unwrap();
        let mut sample = Sample::default();
        let left = apply(TABLE, properties.entries(), &mut sample)?.iter().map(|entry| entry.key.clone()).collect();
        Ok((sample, left))
    }

    #[test]
    fn values_reach_their_fields_and_print_back() {
        let text = "brokerName=a b\nnamesrvAddr=h:1;h:2\nlistenPort= 10911 \nlimit=-1\nautoCreate=TRUE \nflush=SYNC\nroot=/x y/store\n";
        let (mut sample, left) = read(text).unwrap();
        assert!(left.is_empty());
        assert_eq!((sample.port, sample.limit, sample.on, sample.mode), (10911, -1, true, 1));
        let printed: Vec<_> =
            describe(TABLE, &mut sample, false).into_iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            printed,
            [
                "brokerName=a b",
                "namesrvAddr=h:1;h:2",
                "listenPort=10911",
                "limit=-1",
                "autoCreate=true",
                "flush=SYNC",
                "root=/x y/store"
            ]
        );
        assert_eq!(describe(TABLE, &mut sample, true).len(), 2);
    }

    #[test]
    fn a_bad_value_names_key_line_and_what_is_expected() {
        for (text, expected) in [
            (
                "x=1\nlistenPort=70000",
                "listenPort=70000 is not allowed (line 2): it must be a whole number from 0 to 65535",
            ),
            ("limit=1G", "limit=1G is not allowed (line 1): it must be a whole number from -1 to 10"),
            ("autoCreate=yes", "autoCreate=yes is not allowed (line 1): it must be true or false"),
            ("flush=sync", "flush=sync is not allowed (line 1): it must be ASYNC or SYNC"),
            ("root=", "root= is not allowed (line 1): it must be a path"),
        ] {
            assert_eq!(read(text).err().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn unknown_keys_come_back() {
        let (sample, left) = read("brokername=b\nother=1\nnamesrvAddr=\n").unwrap();
        assert_eq!(left, ["brokername", "other"]);
        assert_eq!(sample.address, None);
    }

    #[test]
    fn the_nearest_name_is_suggested_only_when_it_is_near() {
        let names = || TABLE.iter().map(|key| key.name);
        assert_eq!(nearest("brokername", names()), Some("brokerName"));
        assert_eq!(nearest("namesrvAdr", names()), Some("namesrvAddr"));
        assert_eq!(nearest("lsitenPort", names()), Some("listenPort"));
        assert_eq!(nearest("completelyDifferent", names()), None);
        assert_eq!(nearest("", names()), None);
        assert_eq!(nearest(&"x".repeat(5000), names()), None);
    }
}
