//! What a power cut can leave of a recorded run: a disk in memory on which some changes arrived and some did not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use ferromq_store::Event;

/// A disk writes whole sectors, in any order.
const SECTOR: usize = 512;

/// Which of the changes that nobody forced to the disk arrived.
pub enum Fate<'a> {
    /// All: the process died, the machine did not.
    All,
    /// None.
    None,
    /// Each by a throw of dice, writes sector by sector.
    Random(&'a mut Dice),
}

impl Fate<'_> {
    fn keeps(&mut self) -> bool {
        match self {
            Fate::All => true,
            Fate::None => false,
            Fate::Random(dice) => dice.below(2) == 0,
        }
    }
}

/// Numbers that follow from a seed (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// Cuts the power at `count` places of a run of so many events, each with its own throws: `check` gets the place, what
/// becomes of the writes, and words for both.
#[allow(dead_code, reason = "the states of the broker are chosen in another way")]
pub fn torn_and_reordered(count: usize, events: usize, mut check: impl FnMut(usize, Fate<'_>, &str)) {
    for seed in 1..=count as u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let cut = 1 + dice.below(events);
        let what = format!("torn and reordered by seed {seed} after event {cut}");
        check(cut, Fate::Random(&mut dice), &what);
    }
}

/// Files and folders.
#[derive(Default)]
pub struct Disk {
    /// Names, each with the number of the event that made the file.
    names: BTreeMap<PathBuf, usize>,
    contents: HashMap<usize, Vec<u8>>,
    folders: BTreeSet<PathBuf>,
}

impl Disk {
    /// The disk after a power cut behind the first `events`.
    pub fn after(events: &[Event], mut fate: Fate<'_>) -> Disk {
        let durable = durable(events);
        let mut disk = Disk::default();
        // The file that each path meant when an event came, whether or not its name arrived.
        let mut meant: HashMap<&Path, usize> = HashMap::new();
        for (n, event) in events.iter().enumerate() {
            if let Event::Create { path } = event {
                meant.insert(path, n);
                disk.contents.insert(n, Vec::new());
            }
            if let Event::Rename { from, to } = event
                && let Some(file) = meant.remove(from.as_path())
            {
                meant.insert(to, file);
            }
            match event {
                Event::Write { path, at, bytes } => {
                    let Some(content) = meant.get(path.as_path()).and_then(|file| disk.contents.get_mut(file)) else {
                        continue;
                    };
                    write(content, *at as usize, bytes, durable[n], &mut fate);
                }
                _ if durable[n] || fate.keeps() => disk.apply(n, event, &meant),
                _ => {}
            }
        }
        disk
    }

    fn apply(&mut self, n: usize, event: &Event, meant: &HashMap<&Path, usize>) {
        let content = |path: &Path| meant.get(path).copied();
        match event {
            Event::Create { path } => drop(self.names.insert(path.clone(), n)),
            Event::MakeFolder { path } => drop(self.folders.insert(path.clone())),
            Event::Resize { path, len } => {
                if let Some(content) = content(path).and_then(|file| self.contents.get_mut(&file)) {
                    content.resize(*len as usize, 0);
                }
            }
            Event::Zero { path, at, len } => {
                if let Some(content) = content(path).and_then(|file| self.contents.get_mut(&file)) {
                    let end = content.len().min((at + len) as usize);
                    content[(*at as usize).min(end)..end].fill(0);
                }
            }
            Event::Remove { path } => drop(self.names.remove(path)),
            Event::Rename { from, to } => {
                // The name that goes may not have arrived; the file is the one that was meant.
                self.names.remove(from);
                self.names.extend(content(to).map(|file| (to.clone(), file)));
            }
            Event::RemoveFolder { path } => {
                self.names.retain(|name, _| !name.starts_with(path));
                self.folders.retain(|name| !name.starts_with(path));
            }
            Event::Write { .. } | Event::Sync { .. } | Event::SyncFolder { .. } | Event::SyncVolume { .. } => {}
        }
    }

    /// Makes the checkpoint one that another boot of the machine wrote, as it is after a power cut: what the kernel had
    /// then is not to be trusted. See `docs/formats.md` for the block.
    pub fn boot_again(&mut self, root: &Path) {
        const BLOCK: std::ops::Range<usize> = 512..696;
        const BOOT: std::ops::Range<usize> = 104..140;
        let file = self.names.get(&root.join("checkpoint"));
        let Some(content) = file.and_then(|file| self.contents.get_mut(file)) else { return };
        let Some((block, crc)) = content.get_mut(BLOCK).and_then(|block| block.split_last_chunk_mut::<4>()) else {
            return;
        };
        if crc32fast::hash(block).to_be_bytes() == *crc {
            block[BOOT].fill(b'x');
            *crc = crc32fast::hash(block).to_be_bytes();
        }
    }

    /// Writes it to real files. `root` is the folder of the recorded store.
    pub fn write_to(&self, root: &Path, target: &Path) {
        let place = |path: &Path| path.strip_prefix(root).ok().map(|inner| target.join(inner));
        for folder in self.folders.iter().filter_map(|folder| place(folder)) {
            // One whose parent did not arrive is not there either.
            let _ = fs::create_dir(folder);
        }
        for (name, file) in &self.names {
            if let Some(path) = place(name).filter(|path| path.parent().is_some_and(Path::is_dir)) {
                fs::write(path, &self.contents[file]).unwrap();
            }
        }
    }
}

/// Writes what arrives of a write.
fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8], is_durable: bool, fate: &mut Fate<'_>) {
    let mut from = 0;
    while from < bytes.len() {
        let to = bytes.len().min((at + from + 1).next_multiple_of(SECTOR) - at);
        if is_durable || fate.keeps() {
            if content.len() < at + to {
                content.resize(at + to, 0);
            }
            content[at + from..at + to].copy_from_slice(&bytes[from..to]);
        }
        from = to;
    }
}

/// Which events are on the disk for certain, because of the syncs behind them.
fn durable(events: &[Event]) -> Vec<bool> {
    let mut durable = vec![false; events.len()];
    // By path: the event that made the file, then what was done to it. By folder: what was done to its names.
    let mut of_file: HashMap<&Path, Vec<usize>> = HashMap::new();
    let mut of_folder: HashMap<&Path, Vec<usize>> = HashMap::new();
    let mut all: Vec<usize> = Vec::new();
    let mut settle = |numbers: &mut Vec<usize>, covers: usize| {
        numbers.retain(|n| {
            let is_covered = *n < covers;
            durable[*n] |= is_covered;
            !is_covered
        });
    };
    for (n, event) in events.iter().enumerate() {
        match event {
            Event::Create { path } => {
                // What was done to an earlier file of this name has nothing to do with this one.
                of_file.insert(path, Vec::new());
            }
            Event::Resize { path, .. } | Event::Write { path, .. } | Event::Zero { path, .. } => {
                of_file.entry(path).or_default().push(n);
            }
            Event::Sync { path, covers } => settle(of_file.entry(path).or_default(), *covers),
            Event::SyncFolder { path, covers } => settle(of_folder.entry(path).or_default(), *covers),
            Event::SyncVolume { covers } => settle(&mut all, *covers),
            Event::Rename { from, to } => {
                let done = of_file.remove(from.as_path()).unwrap_or_default();
                of_file.insert(to, done);
            }
            Event::MakeFolder { .. } | Event::Remove { .. } | Event::RemoveFolder { .. } => {}
        }
        if let Event::Create { path }
        | Event::MakeFolder { path }
        | Event::Remove { path }
        | Event::RemoveFolder { path }
        | Event::Rename { to: path, .. } = event
            && let Some(parent) = path.parent()
        {
            of_folder.entry(parent).or_default().push(n);
        }
        all.push(n);
    }
    durable
}
