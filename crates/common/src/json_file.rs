//! Small files that are rewritten whole (`config/*.json` of a broker, `kvConfig.json` of a NameServer), in a way that a crash at
//! any moment leaves either the old or the new content readable.
//!
//! Layout as RocketMQ's `ConfigManager`: the file, its predecessor as `NAME.bak`, the one being written as `NAME.tmp`. The caller
//! brings the encoder and the decoder, because RocketMQ's files are in fastjson's dialect. One writer per file at a time.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Most bytes read from one such file (a topic table of 500,000 topics has about 100 MB).
pub const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// Most damaged files of one name that are kept.
const MAX_BROKEN: usize = 10;

/// Both the file and its `.bak` are there in part, and neither can be used.
#[derive(Debug, thiserror::Error)]
#[error("{}; repair one of the two, or move both away to start empty{advice}", self.what())]
pub struct LoadError {
    path: PathBuf,
    main: String,
    backup: String,
    advice: &'static str,
}

impl LoadError {
    /// The same, with words on what an empty table means.
    pub fn with_advice(self, advice: &'static str) -> Self {
        Self { advice, ..self }
    }

    /// What is wrong with the two, without advice.
    pub fn what(&self) -> String {
        let (path, copy) = (self.path.display(), with_suffix(&self.path, "bak"));
        format!("cannot use {path}: {}; its copy {}: {}", self.main, copy.display(), self.backup)
    }
}

/// What [`load`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// The file itself.
    Current(T),
    /// The file is missing, empty or damaged (the text says why); this is its predecessor. Worth a warning.
    Backup(T, String),
    /// Neither file nor copy exists: a first start.
    Absent,
}

impl<T> Loaded<T> {
    /// The content, with a warning in the log when it came from the copy. For whoever is going to [`store`] the file: one
    /// that is damaged is moved to `NAME.broken`, else it would become the copy, and a crash in the middle of that would
    /// leave nothing to read.
    pub fn into_option(self, path: &Path) -> Option<T> {
        match self {
            Self::Current(value) => Some(value),
            Self::Backup(value, why) => {
                tracing::warn!(
                    "{} is not usable ({why}), its copy {} is used",
                    path.display(),
                    with_suffix(path, "bak").display()
                );
                if let Err(error) = keep_broken(path) {
                    tracing::warn!("{} cannot be moved out of the way: {error}", path.display());
                }
                Some(value)
            }
            Self::Absent => None,
        }
    }
}

/// Reads a file, or its `.bak` when the file is missing, empty or refused by `decode`. Changes nothing.
pub fn load<T, E: Display>(path: &Path, decode: impl Fn(&[u8]) -> Result<T, E>) -> Result<Loaded<T>, LoadError> {
    let main = match read(path, &decode) {
        Ok(Some(value)) => return Ok(Loaded::Current(value)),
        Ok(None) => None,
        Err(why) => Some(why),
    };
    match (read(&with_suffix(path, "bak"), &decode), main) {
        (Ok(Some(value)), main) => Ok(Loaded::Backup(value, main.unwrap_or_else(|| "it does not exist".into()))),
        (Ok(None), None) => Ok(Loaded::Absent),
        (backup, main) => Err(LoadError {
            path: path.to_owned(),
            main: main.unwrap_or_else(|| "it does not exist".into()),
            backup: backup.err().unwrap_or_else(|| "it does not exist".into()),
            advice: "",
        }),
    }
}

/// Whether neither the file nor its copy is whole, as `is_whole` sees it: what is there is empty, zeroed, cut or garbage. One
/// that the system does not let us read, and one that is whole and says something unknown, are not damaged.
pub fn is_damaged(path: &Path, is_whole: impl Fn(&[u8]) -> bool) -> bool {
    let is_useless = |path: &Path| match fs::metadata(path) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => false,
        Ok(_) => fs::read(path).is_ok_and(|bytes| !is_whole(&bytes)),
    };
    is_useless(path) && is_useless(&with_suffix(path, "bak"))
}

/// Moves a file and its copy to `NAME.broken` and `NAME.bak.broken`, for whoever wants to look at them.
pub fn set_aside(path: &Path) -> io::Result<()> {
    keep_broken(path)?;
    keep_broken(&with_suffix(path, "bak"))
}

/// Moves a file, if it is there, to `NAME.broken`, or `NAME.broken.1` and so on beside older ones; the last of them is
/// replaced.
fn keep_broken(path: &Path) -> io::Result<()> {
    let names = std::iter::once("broken".to_owned()).chain((1..MAX_BROKEN).map(|n| format!("broken.{n}")));
    let mut free = PathBuf::new();
    for name in names {
        free = with_suffix(path, &name);
        if !free.try_exists()? {
            break;
        }
    }
    match fs::rename(path, free) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read<T, E: Display>(path: &Path, decode: impl Fn(&[u8]) -> Result<T, E>) -> Result<Option<T>, String> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    match size {
        0 => Err("it is empty".into()),
        size if size > MAX_FILE_BYTES => Err(format!("it has {size} bytes, more than the {MAX_FILE_BYTES} allowed")),
        _ => decode(&fs::read(path).map_err(|error| error.to_string())?).map(Some).map_err(|error| error.to_string()),
    }
}

/// Replaces a file: `.tmp` written and synced, the present file kept as `.bak`, `.tmp` renamed, directory synced.
/// Creates the directory when it is missing. Nothing is touched when the content is already there.
pub fn store(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() == content.len() as u64)
        && fs::read(path).is_ok_and(|present| present == content)
    {
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let written = with_suffix(path, "tmp");
    let mut file = File::create(&written)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    match fs::rename(path, with_suffix(path, "bak")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::rename(&written, path)?,
    }
    File::open(directory)?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Result<String, String> {
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
        if text.starts_with('{') { Ok(text) } else { Err("not an object".into()) }
    }

    #[test]
    fn a_file_comes_back_and_its_predecessor_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config/topics.json");
        assert_eq!(load(&path, text).unwrap(), Loaded::Absent);
        store(&path, b"{1}").unwrap();
        store(&path, b"{2}").unwrap();
        assert_eq!(load(&path, text).unwrap(), Loaded::Current("{2}".into()));
        assert_eq!(fs::read(dir.path().join("config/topics.json.bak")).unwrap(), b"{1}");
        assert!(!dir.path().join("config/topics.json.tmp").exists());
    }

    #[test]
    fn storing_the_same_again_keeps_the_older_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        store(&path, b"{1}").unwrap();
        store(&path, b"{2}").unwrap();
        store(&path, b"{2}").unwrap();
        assert_eq!(fs::read(dir.path().join("a.json.bak")).unwrap(), b"{1}");
    }

    #[test]
    fn a_missing_empty_or_damaged_file_falls_back_to_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        store(&path, b"{1}").unwrap();
        store(&path, b"{2}").unwrap();
        for (damage, kept) in [(Some(&b""[..]), "a.json.broken"), (Some(b"garbage"), "a.json.broken.1"), (None, "")] {
            match damage {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let loaded = load(&path, text).unwrap();
            assert!(matches!(&loaded, Loaded::Backup(value, _) if value == "{1}"), "{loaded:?}");
            assert_eq!(fs::read(&path).ok().as_deref(), damage, "reading changes nothing");
            assert_eq!(loaded.into_option(&path).as_deref(), Some("{1}"));
            if let Some(bytes) = damage {
                assert_eq!(fs::read(dir.path().join(kept)).unwrap(), bytes);
            }
            store(&path, b"{3}").unwrap();
            assert_eq!(fs::read(dir.path().join("a.json.bak")).unwrap(), b"{1}", "the good copy is kept");
            store(&path, b"{2}").unwrap();
            fs::write(dir.path().join("a.json.bak"), b"{1}").unwrap();
        }
    }

    #[test]
    fn two_damaged_files_can_be_set_aside_but_not_one_that_is_merely_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("a.json"), dir.path().join("a.json.bak"));
        let is_whole = |bytes: &[u8]| text(bytes).is_ok();
        assert!(is_damaged(&path, is_whole), "nothing is there");
        for (main, backup, damaged) in [
            (Some("x"), Some(""), true),
            (Some("x"), None, true),
            (None, Some("\0\0"), true),
            (Some("{1}"), Some("x"), false),
            (Some("x"), Some("{1}"), false),
        ] {
            for (path, content) in [(&path, main), (&copy, backup)] {
                let _ = fs::remove_file(path);
                content.into_iter().for_each(|content| fs::write(path, content).unwrap());
            }
            assert_eq!(is_damaged(&path, is_whole), damaged, "{main:?} {backup:?}");
        }
        fs::write(&path, "x").unwrap();
        fs::write(&copy, "y").unwrap();
        set_aside(&path).unwrap();
        assert_eq!(load(&path, text).unwrap(), Loaded::Absent);
        assert_eq!(fs::read(dir.path().join("a.json.broken")).unwrap(), b"x");
        assert_eq!(fs::read(dir.path().join("a.json.bak.broken")).unwrap(), b"y");
        // What cannot be read at all may be whole.
        fs::create_dir(&path).unwrap();
        assert!(!is_damaged(&path, is_whole));
    }

    #[test]
    fn what_was_set_aside_before_is_kept_up_to_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for n in 0..MAX_BROKEN + 3 {
            fs::write(&path, n.to_string()).unwrap();
            set_aside(&path).unwrap();
        }
        let kept = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((kept("a.json.broken"), kept("a.json.broken.1")), ("0".into(), "1".into()));
        assert_eq!(kept("a.json.broken.9"), (MAX_BROKEN + 2).to_string());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_BROKEN);
    }

    #[test]
    fn two_damaged_files_are_an_error_that_names_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "x").unwrap();
        fs::write(dir.path().join("a.json.bak"), "").unwrap();
        let error = load(&path, text).unwrap_err().to_string();
        assert!(error.contains("a.json: not an object") && error.contains("a.json.bak: it is empty"), "{error}");
        fs::remove_file(dir.path().join("a.json.bak")).unwrap();
        assert!(load(&path, text).is_err(), "a damaged file without a copy is not a first start");
    }
}
