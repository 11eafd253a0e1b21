//! The script of a history: what is done to each part of a server, and when it is killed. It follows from a seed alone, so that
//! two servers are put to the same.

use std::time::Duration;

/// Operations between two faults.
const OPERATIONS: u64 = 300;
/// Requests of each part that are under way at a kill, at most.
const UNDER_WAY: u64 = 12;
/// One of so many faults is a stop and no kill.
const STOPS: u64 = 4;
/// In one of so many kills the start is killed, too, within this time: ours is there after half of it.
const TWICE: u64 = 3;
const START_MS: u64 = 60;
/// The longest pause: with some of them, messages' times end.
const PAUSE_MS: u64 = 800;

/// The parts of a server, as places in the list that the driver has.
pub const PARTS: usize = 4;

/// One step. A roll is a random number: the part makes of it what it can at that moment.
#[derive(Debug)]
pub enum Step {
    Do {
        part: usize,
        roll: u64,
    },
    Pause(Duration),
    /// SIGTERM and a start.
    Stop,
    /// kill -9 and a start. Requests are under way to each part, and so many answers of each have come.
    Kill {
        rolls: [Vec<u64>; PARTS],
        answers: usize,
        /// The start is killed, too, after so long.
        again: Option<Duration>,
    },
}

/// A sequence of random numbers (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides
    }
}

/// The script of a seed with that many faults.
pub fn script(seed: u64, faults: u64) -> Vec<Step> {
    let mut dice = Dice(seed);
    let mut steps = Vec::new();
    for _ in 0..faults {
        for _ in 0..OPERATIONS {
            if dice.below(25) == 0 {
                steps.push(Step::Pause(Duration::from_millis(dice.below(PAUSE_MS))));
            }
            // Pop and order come more often than transactions, and these than timers.
            let part = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3][dice.below(12) as usize];
            steps.push(Step::Do { part, roll: dice.roll() });
        }
        if dice.below(STOPS) == 0 {
            steps.push(Step::Stop);
            continue;
        }
        let mut rolls = || (0..dice.below(UNDER_WAY + 1)).map(|_| dice.roll()).collect();
        let rolls = [rolls(), rolls(), rolls(), rolls()];
        let answers = dice.below(UNDER_WAY + 1) as usize;
        let again = (dice.below(TWICE) == 0).then(|| Duration::from_millis(dice.below(START_MS)));
        steps.push(Step::Kill { rolls, answers, again });
    }
    steps
}
