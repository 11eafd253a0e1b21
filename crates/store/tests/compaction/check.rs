//! A check of a stopped store reads the copies too, and a rebuild mends what the records or the log allow.

use std::fs;
use std::path::Path;

use ferromq_store::{Kind, Report, StoreConfig, check_store, rebuild_store};

use crate::common::{copy_as_killed, open};
use crate::support::{TOPIC, all, body, copies, newest, put, rounds, settings, short_lived, wait};

const MESSAGES: usize = 60;
const POSITIONS: &str = "compaction/position-checkpoint";

/// A store that stopped in order, with messages of as many keys in several pairs, all of them in the log too.
fn stopped() -> (tempfile::TempDir, StoreConfig) {
    let dir = tempfile::tempdir().unwrap();
    let config = settings(dir.path(), 3_600_000);
    let store = open(config.clone());
    put(&store, &rounds(0, MESSAGES, MESSAGES));
    drop(store);
    list_topic(dir.path());
    (dir, config)
}

fn list_topic(root: &Path) {
    let topic = format!(r#"{{"topicName":"{TOPIC}","attributes":{{"cleanup.policy":"COMPACTION"}}}}"#);
    fs::create_dir_all(root.join("config")).unwrap();
    fs::write(root.join("config/topics.json"), format!(r#"{{"topicConfigTable":{{"{TOPIC}":{topic}}}}}"#)).unwrap();
}

fn check(config: &StoreConfig) -> Report {
    check_store(config, true, &mut |_| ()).unwrap()
}

fn kinds(report: &Report) -> Vec<(Kind, u64)> {
    report.findings.iter().map(|(kind, finding)| (kind, finding.count)).collect()
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Where the body of a message stands in a file of records.
fn place_of(n: usize, bytes: &[u8]) -> usize {
    let text = format!("body-{n}-");
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

/// The file of records, or its file of entries, that has a message.
fn file_with(root: &Path, n: usize, which: usize) -> std::path::PathBuf {
    let [records, _] = copies(root);
    let text = format!("body-{n}-");
    let has = |path: &std::path::PathBuf| fs::read(path).unwrap().windows(text.len()).any(|w| w == text.as_bytes());
    let at = records.iter().position(has).unwrap();
    copies(root)[which][at].clone()
}

/// Changes a bit of a record, so many bytes before its body.
fn flip(root: &Path, n: usize, before: usize) {
    edit(&file_with(root, n, 0), |bytes| {
        let at = place_of(n, bytes) - before;
        bytes[at] ^= 1;
    });
}

#[test]
fn healthy_copies_have_no_findings_stopped_or_killed_before_and_behind_a_pass() {
    let (dir, config) = stopped();
    let report = check(&config);
    assert_eq!((kinds(&report), report.copies, report.copied_messages), (vec![], 1, MESSAGES as u64));

    let store = open(StoreConfig { compaction_schedule_internal: 50, ..config.clone() });
    put(&store, &rounds(1000, 150, 7));
    put(&store, &[("k3".to_owned(), Vec::new())]);
    wait("a pass", || all(&store).len() < MESSAGES + 100);
    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(dir.path(), killed.path());
    drop(store);
    assert_eq!(kinds(&check(&config)), []);
    let report = check(&settings(killed.path(), 3_600_000));
    assert!(report.is_safe(), "{:?}", report.findings);
}

#[test]
fn damage_is_found_where_it_is_and_mended_from_the_records_or_the_log() {
    type Harm = fn(&Path);
    let harms: [(Harm, &[(Kind, u64)]); 8] = [
        (
            |root| flip(root, 3, 0),
            // The log has it, and no newer one of its key.
            &[(Kind::CopyRecord, 1), (Kind::CopyMissing, 1)],
        ),
        (|root| edit(&file_with(root, 30, 1), |bytes| bytes[46 + 7] ^= 1), &[(Kind::CopyEntry, 1)]),
        (|root| edit(&file_with(root, 30, 1), |bytes| bytes[2 * 46..3 * 46].fill(0)), &[(Kind::CopyEntry, 17)]),
        (|root| fs::remove_file(file_with(root, 30, 1)).unwrap(), &[(Kind::CopyFile, 1)]),
        (|root| fs::remove_file(file_with(root, 30, 0)).unwrap(), &[(Kind::CopyFile, 1), (Kind::CopyMissing, 19)]),
        (
            // The user's flag, of which the CRC says nothing.
            |root| flip(root, 3, 88 - 16),
            &[(Kind::CopyDiffers, 1)],
        ),
        (|root| edit(&copies(root)[1][0].clone(), |bytes| bytes.truncate(100)), &[]),
        (|root| edit(&copies(root)[0][1].clone(), |bytes| bytes.truncate(1000)), &[]),
    ];
    for (n, (harm, expected)) in harms.into_iter().enumerate() {
        let (dir, config) = stopped();
        harm(dir.path());
        let report = check(&config);
        assert!(!report.is_safe(), "harm {n}");
        if !expected.is_empty() {
            assert_eq!(kinds(&report), expected, "harm {n}: {:?}", report.findings);
        }
        rebuild_store(&config, &report).unwrap();
        assert_eq!(kinds(&check(&config)), [], "harm {n}");
        let store = open(config);
        let left = all(&store);
        assert_eq!(left.len(), MESSAGES, "harm {n}");
        assert!(left.iter().enumerate().all(|(n, seen)| seen.body == body(n)), "harm {n}");
    }
}

#[test]
fn what_the_copy_alone_had_is_told_as_lost_and_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(short_lived(dir.path(), 3_600_000));
    put(&store, &rounds(0, 400, 1000));
    wait("old log files go", || store.min_physical_offset() > 32_000);
    drop(store);
    list_topic(dir.path());
    let config = settings(dir.path(), 3_600_000);
    assert_eq!(kinds(&check(&config)), []);
    flip(dir.path(), 5, 0);
    edit(&file_with(dir.path(), 40, 1), |bytes| bytes[3 * 46..4 * 46].fill(0));
    let report = check(&config);
    assert_eq!(report.findings.count(Kind::CopyRecord), 1, "{:?}", report.findings);
    assert!(report.findings.count(Kind::CopyEntry) > 0 && report.copied_messages == 399);
    rebuild_store(&config, &report).unwrap();
    assert_eq!(kinds(&check(&config)), [(Kind::CopyRecord, 1)]);
    let store = open(config);
    let left = newest(&all(&store));
    assert_eq!(left.len(), 399);
    assert!((0..400).filter(|n| *n != 5).all(|n| left[&format!("k{n}")].body == body(n)));
}

#[test]
fn what_a_start_copes_with_is_a_note() {
    let note = |harm: &dyn Fn(&Path), kind: Kind| {
        let (dir, config) = stopped();
        harm(dir.path());
        let report = check(&config);
        assert!(report.is_safe() && report.findings.count(kind) > 0, "{kind:?}: {:?}", report.findings);
        assert_eq!(all(&open(config)).len(), MESSAGES, "{kind:?}");
    };
    let torn = |root: &Path| {
        edit(&file_with(root, MESSAGES - 1, 0), |bytes| {
            let at = place_of(MESSAGES - 2, bytes);
            bytes[at..].fill(0);
        });
        fs::write(root.join("abort"), "1").unwrap();
    };
    note(&torn, Kind::CopyTorn);
    note(&|root| fs::write(root.join(POSITIONS), "{").unwrap(), Kind::CopyPosition);
    let far = format!(r#"{{"queueOffsetMap":{{"{TOPIC}_0":1000}}}}"#);
    note(&|root| fs::write(root.join(POSITIONS), &far).unwrap(), Kind::CopyPosition);
    let half = |root: &Path| {
        let folder = copies(root)[0][0].parent().unwrap().join("compacting");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("00000000000000000000"), [1; 100]).unwrap();
    };
    note(&half, Kind::CopyPass);
    let other = |root: &Path| {
        let folder = root.join("compaction/compactionLog/Deleted/0");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("00000000000000000000"), [1; 100]).unwrap();
    };
    note(&other, Kind::CopyUnused);
}

#[test]
fn the_copy_of_a_second_life_is_not_compared_with_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let config = settings(dir.path(), 3_600_000);
    let store = open(config.clone());
    put(&store, &rounds(500, 90, 1000));
    store.delete_topic(TOPIC).unwrap();
    put(&store, &rounds(0, 40, 1000));
    drop(store);
    list_topic(dir.path());
    let report = check(&config);
    assert_eq!((kinds(&report), report.copied_messages), (vec![], 40));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]

    /// Whatever is damaged of the copy: the check ends, and after a rebuild all is there that the log has.
    #[test]
    fn any_damage_of_a_copy_is_mended_from_the_log(
        damages in proptest::collection::vec((0..20_usize, 0..6000_usize, 1..300_usize, 0..=255_u8), 1..6)
    ) {
        let (dir, config) = stopped();
        let files: Vec<_> = copies(dir.path()).into_iter().flatten().collect();
        for (file, at, len, byte) in damages {
            edit(&files[file % files.len()], |bytes| {
                let from = at % bytes.len();
                let to = (from + len).min(bytes.len());
                bytes[from..to].fill(byte);
            });
        }
        rebuild_store(&config, &check(&config)).unwrap();
        assert_eq!(kinds(&check(&config)), []);
        let left = all(&open(config));
        assert!(left.len() == MESSAGES && left.iter().enumerate().all(|(n, seen)| seen.body == body(n)), "{}", left.len());
    }
}
