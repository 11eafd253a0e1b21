//! Pops of lite topics that wait for messages, by client (RocketMQ's `PopLiteLongPollingService`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::take::{self, LitePop};
use super::{Lites, State};
use crate::broker::Shared;
use crate::config::PopConfig;
use crate::pop::polls::Woken;

/// A pop that waits.
pub(crate) struct Waiter {
    pub pop: LitePop,
    pub deadline: Instant,
    /// Whether anybody would read the answer.
    pub is_open: Box<dyn Fn() -> bool + Send>,
    pub reply: Box<dyn FnOnce(Woken<'_>) + Send>,
}

/// All that wait, and those that are to look again.
#[derive(Default)]
pub(super) struct Polls {
    waiting: HashMap<Arc<str>, VecDeque<Waiter>>,
    count: usize,
    pub ready: Vec<Waiter>,
}

impl Polls {
    fn park(&mut self, waiter: Waiter, config: &PopConfig) -> Result<(), Box<Waiter>> {
        let line = self.waiting.entry(Arc::clone(&waiter.pop.client)).or_default();
        if self.count >= config.max_pop_polling_size || line.len() > config.pop_polling_size {
            return Err(Box::new(waiter));
        }
        line.push_back(waiter);
        self.count += 1;
        Ok(())
    }

    /// Lets the first pop of a client look again; whether one waits.
    pub fn wake(&mut self, client: &str) -> bool {
        let Some(line) = self.waiting.get_mut(client) else { return false };
        while let Some(waiter) = line.pop_front() {
            self.count -= 1;
            if (waiter.is_open)() {
                self.ready.push(waiter);
                return true;
            }
        }
        false
    }

    /// Whether a pop of the client waits.
    pub fn is_waiting(&self, client: &str) -> bool {
        self.waiting.get(client).is_some_and(|line| !line.is_empty())
    }

    /// Drops waiters nobody listens to, and returns those whose time is over.
    fn sweep(&mut self, now: Instant) -> Vec<Waiter> {
        let mut due = Vec::new();
        let mut left = 0;
        self.waiting.retain(|_, line| {
            let before = line.len();
            let mut kept = VecDeque::with_capacity(before);
            for waiter in line.drain(..).filter(|waiter| (waiter.is_open)()) {
                if waiter.deadline <= now { due.push(waiter) } else { kept.push_back(waiter) }
            }
            left += before - kept.len();
            *line = kept;
            !line.is_empty()
        });
        self.count -= left;
        due
    }
}

impl Lites {
    /// Answers the waiters that messages have made ready.
    pub fn answer_ready(&self, broker: &Arc<Shared>) {
        self.spread_arrivals(broker);
        if !self.any_ready.load(Ordering::Acquire) || !self.any_ready.swap(false, Ordering::AcqRel) {
            return;
        }
        let ready = std::mem::take(&mut self.state.lock().polls.ready);
        for waiter in ready {
            if take::is_cold(broker, &waiter.pop) {
                let shared = Arc::clone(broker);
                // When too many wait already, the client asks again after its own time-out.
                let _ = broker.blocking.run(move || serve(&shared, waiter));
            } else {
                serve(broker, waiter);
            }
        }
    }

    /// The waiters whose time is over; the caller tells them.
    pub fn sweep_polls(&self, now: Instant) -> Vec<Waiter> {
        self.state.lock().polls.sweep(now)
    }

    /// Tells whoever runs dispatch next that waiters are ready.
    pub(super) fn note_ready(&self, state: &State) {
        if !state.polls.ready.is_empty() {
            self.any_ready.store(true, Ordering::Release);
        }
    }
}

/// Pops and answers; a waiter that finds nothing is parked until its deadline.
pub(crate) fn serve(broker: &Arc<Shared>, waiter: Waiter) {
    let mut records = Vec::new();
    loop {
        if !(waiter.is_open)() {
            // What made it ready is still noted, for the client's next pop.
            return;
        }
        match take::take(broker, &waiter.pop, &mut records) {
            Ok(popped) if popped.count > 0 => return (waiter.reply)(Woken::Found(&popped, &records)),
            Ok(_) => {}
            Err(refusal) => return (waiter.reply)(Woken::Refused(refusal)),
        }
        let mut state = broker.lites.state.lock();
        let State { registry, polls, .. } = &mut *state;
        let noted = registry.get(&waiter.pop.client).is_some_and(|of| !of.events.is_empty() && waiter.pop.is_of(of));
        // Noted since the pop has looked; a group that reads too fast waits for the sweep.
        if !noted || waiter.pop.is_held(broker) {
            let full = polls.park(waiter, &broker.config.pop);
            drop(state);
            if let Err(waiter) = full {
                (waiter.reply)(Woken::Full);
            }
            return;
        }
    }
}
