//! Has the disk fetch what is read next, while it is read: a disk gives its full rate only to several requests at once,
//! and nobody waits for a page that is there.

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::Advice;

/// How far ahead, and how much at once, bytes.
const AHEAD: u64 = 32 << 20;
const STEP: u64 = 8 << 20;

/// One who reads from a position on.
pub(crate) struct Ahead {
    /// Coming here, it asks for more.
    next: u64,
    /// What lies before was asked for, or is too near to be.
    asked: u64,
}

impl Ahead {
    /// Reading begins at `from`. Nothing is asked for during the first step: most starts read no more.
    pub fn new(from: u64) -> Ahead {
        Ahead { next: from + STEP, asked: from + STEP }
    }

    /// Reading has come to `position`. `ask` takes a position and how many bytes from there on are wanted soon; it
    /// returns where those end that it asked for, or `None` if there is nothing.
    pub fn reached(&mut self, position: u64, ask: impl Fn(u64, u64) -> Option<u64>) {
        if position < self.next {
            return;
        }
        self.next = position + STEP;
        self.asked = self.asked.max(position);
        while self.asked < position + AHEAD
            && let Some(end) = ask(self.asked, STEP)
        {
            self.asked = end;
        }
    }
}

/// `len` bytes of the file from `from` on are wanted soon. Only advice: who reads them waits if need be.
pub(crate) fn ask(file: &File, from: u64, len: u64) {
    let _ = rustix::fs::fadvise(file, from, NonZeroU64::new(len), Advice::WillNeed);
}

/// Nothing is wanted but what is read.
pub(crate) fn ask_no_more(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Random);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_behind_the_first_step_is_asked_for_once_and_not_too_early() {
        let (mut ahead, begin, end) = (Ahead::new(100), 100 + STEP, 20 * STEP);
        let asked = std::cell::RefCell::new(Vec::new());
        for position in (100..end).step_by(1000) {
            ahead.reached(position, |from, len| {
                assert!(from < position + AHEAD && position >= begin);
                // A file ends here.
                let to = (from + len).min(if from < 5 * STEP { 5 * STEP } else { end });
                asked.borrow_mut().push((from, to));
                (from < to).then_some(to)
            });
        }
        let asked = asked.into_inner();
        assert!(asked[0].0 >= begin && asked[0].0 < begin + 1000);
        assert!(asked.windows(2).all(|two| two[0].1 == two[1].0));
        assert_eq!(asked.last().map(|last| last.1), Some(end));
    }
}
