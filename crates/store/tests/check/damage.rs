//! Random damage: the check always ends, and finds what can be found.

use std::fs;

use crate::support::*;

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 60, ..Default::default() })]

    /// Whatever is damaged: the check ends, and says so when it is more than bytes nobody reads.
    #[test]
    fn any_damage_is_survived(damages in proptest::collection::vec((0..15_usize, 0..40_000_usize, 1..300_usize, 0..=255_u8), 1..8)) {
        let (dir, config) = java_store();
        let mut files = Vec::new();
        let mut folders = vec![dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if entry.is_dir() { folders.push(entry) } else { files.push(entry) }
            }
        }
        files.sort();
        for (file, at, len, byte) in damages {
            edit(files[file % files.len()].clone(), |bytes| {
                let from = at % bytes.len().max(1);
                let to = (from + len).min(bytes.len());
                bytes[from..to].fill(byte);
            });
        }
        check(&config);
    }

    /// A flipped bit of a body, of an entry of a queue, of the index is damage, always.
    #[test]
    fn each_flipped_bit_is_found(file in 0..4_usize, at in 0..20_000_usize, bit in 0..8_u8) {
        let report = after(|root| {
            let path = [root.join(LOG), root.join(LAST_LOG), root.join(QUEUE), index_file(root, 0)][file].clone();
            edit(path, |bytes| {
                let at = match file {
                    0 | 1 => {
                        let all: Vec<usize> = bodies(bytes).into_iter().flatten().collect();
                        all[at % all.len()]
                    }
                    2 => at % bytes.len(),
                    // Of the last record's time the seconds count.
                    _ => [at % 14, 16 + at % 24, 40 + at % 2200][at % 3],
                };
                bytes[at] ^= 1 << bit;
            });
        });
        assert!(!report.is_safe(), "file {file}, byte {at}, bit {bit}: {:?}", report.findings);
    }
}
