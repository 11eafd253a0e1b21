//! The checker. It takes events as they come, keeps one entry for each message and each place of a queue, and judges the
//! order of sends at the end.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::report::{Report, Violation};
use crate::{Event, Outcome, Scan, Send};

/// What is known of one place of a queue.
#[derive(Clone, Copy)]
struct Place {
    message: u64,
    /// When it was acknowledged.
    acked: Option<u64>,
    /// When it was first seen, by a consumer or a scan.
    seen: Option<u64>,
    /// It was found missing, and that was reported.
    is_gone: bool,
}

#[derive(Default)]
struct Queue {
    places: BTreeMap<i64, Place>,
    /// The end as last told, and when.
    end: i64,
    end_at: u64,
}

/// A fault as it bears on what came before it.
#[derive(Clone, Copy)]
struct Fault {
    at: u64,
    before: u64,
    after: u64,
}

impl Fault {
    /// Whether what was told or shown at `time` may be taken back.
    fn excuses(&self, time: u64) -> bool {
        (self.at.saturating_sub(self.before)..self.at.saturating_add(self.after)).contains(&time)
    }
}

/// Judges one history, event by event.
#[derive(Default)]
pub struct Checker {
    queues: HashMap<u32, Queue>,
    sends: HashMap<u64, Send>,
    /// Where each message stands.
    stands: HashMap<u64, (u32, i64)>,
    /// Consumer, queue and offset of every delivery.
    given: HashSet<(u32, u32, i64)>,
    fault: Option<Fault>,
    report: Report,
}

impl Checker {
    /// Takes the next event. A scan after a fault stands for what the fault left: scan every queue before the next fault.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::Send(send) => self.send(send),
            Event::Delivery { consumer, at, queue, offset, message } => {
                self.report.delivered += 1;
                if !self.given.insert((*consumer, *queue, *offset)) {
                    self.report.delivered_again += 1;
                }
                self.see(*queue, *offset, *message, *at);
            }
            Event::Scan(scan) => self.scan(scan),
            Event::Fault { at, before, after } => {
                self.report.faults += 1;
                self.fault = Some(Fault { at: *at, before: *before, after: *after });
            }
        }
    }

    /// What is known so far, without what can be judged at the end only.
    pub fn so_far(&self) -> &Report {
        &self.report
    }

    /// How many acknowledged messages are expected in a queue.
    pub fn expected(&self, queue: u32) -> usize {
        let acked = |place: &&Place| place.acked.is_some() && !place.is_gone;
        self.queues.get(&queue).map_or(0, |q| q.places.values().filter(acked).count())
    }

    /// Judges the order of sends and what nobody sent, and reports.
    pub fn finish(mut self) -> Report {
        for (message, (queue, offset)) in &self.stands {
            let (message, queue, offset) = (*message, *queue, *offset);
            match self.sends.get(&message).map(|send| send.outcome) {
                None => self.report.add(Violation::NeverSent { queue, offset, message }),
                Some(Outcome::Refused) => self.report.add(Violation::RefusedButStored { message, queue, offset }),
                Some(_) => {}
            }
        }
        for (number, queue) in &self.queues {
            order_of_sends(*number, queue, &self.sends, &mut self.report);
        }
        self.report
    }

    fn send(&mut self, send: &Send) {
        match send.outcome {
            Outcome::Ok { queue, offset } => {
                self.report.acked += 1;
                self.stand(queue, offset, send.message).acked = Some(send.ended);
            }
            Outcome::Refused => self.report.refused += 1,
            Outcome::Unknown => self.report.unknown += 1,
        }
        self.sends.insert(send.message, *send);
    }

    fn see(&mut self, queue: u32, offset: i64, message: Option<u64>, at: u64) {
        let Some(message) = message else {
            return self.report.add(Violation::Damaged { queue, offset });
        };
        let place = self.stand(queue, offset, message);
        place.seen.get_or_insert(at);
        place.is_gone = false;
    }

    /// Notes that a message stands at a place, and what contradicts it.
    fn stand(&mut self, queue: u32, offset: i64, message: u64) -> &mut Place {
        if let Some(first) = self.stands.insert(message, (queue, offset))
            && first != (queue, offset)
        {
            self.report.add(Violation::Duplicated { message, first, second: (queue, offset) });
        }
        let new = Place { message, acked: None, seen: None, is_gone: false };
        let place = self.queues.entry(queue).or_default().places.entry(offset).or_insert(new);
        if place.message != message {
            let first = place.message;
            self.report.add(Violation::OffsetUsedTwice { queue, offset, first, second: message });
            *place = new;
        }
        place
    }

    fn scan(&mut self, scan: &Scan) {
        for (offset, message) in &scan.found {
            self.see(scan.queue, *offset, *message, scan.at);
        }
        let found: HashSet<i64> = scan.found.iter().map(|(offset, _)| *offset).collect();
        let queue = self.queues.entry(scan.queue).or_default();
        let missing: Vec<i64> = queue
            .places
            .range(scan.from..)
            .filter(|(offset, place)| !place.is_gone && !found.contains(offset))
            .map(|(offset, _)| *offset)
            .collect();
        let (was, was_at) = (queue.end, queue.end_at);
        (queue.end, queue.end_at) = (scan.end, scan.at);
        if scan.end < was && !self.fault.is_some_and(|fault| fault.excuses(was_at)) {
            self.report.add(Violation::WentBack { queue: scan.queue, was, is: scan.end });
        }
        for offset in missing {
            self.miss(scan.queue, offset);
        }
    }

    /// A place that was taken reads as nothing.
    fn miss(&mut self, queue: u32, offset: i64) {
        let places = &mut self.queues.entry(queue).or_default().places;
        let Some(place) = places.get_mut(&offset) else { return };
        let message = place.message;
        // The acknowledgement counts; without one, the moment a consumer saw it.
        let Some(told) = place.acked.or(place.seen) else { return };
        let age = self.fault.map_or(0, |fault| fault.at.cast_signed().wrapping_sub(told.cast_signed()));
        if place.acked.is_some() {
            self.report.loss_window = self.report.loss_window.max(age.max(0).cast_unsigned());
        }
        if self.fault.is_some_and(|fault| fault.excuses(told)) {
            self.report.lost_within_window += u64::from(place.acked.is_some());
            places.remove(&offset);
            self.stands.remove(&message);
            return;
        }
        place.is_gone = true;
        if place.acked.is_some() {
            self.report.add(Violation::Lost { message, queue, offset, age });
        } else {
            self.report.add(Violation::Vanished { message, queue, offset });
        }
    }
}

/// Two sends to one queue of which one ended before the other began stand in that order; and so do all of one producer,
/// which may have several under way.
fn order_of_sends(number: u32, queue: &Queue, sends: &HashMap<u64, Send>, report: &mut Report) {
    let acked = queue.places.values().filter(|place| place.acked.is_some());
    let in_order: Vec<&Send> = acked.filter_map(|place| sends.get(&place.message)).collect();
    let mut last_of: HashMap<u32, &Send> = HashMap::new();
    for send in &in_order {
        if let Some(before) = last_of.insert(send.producer, send)
            && before.begun > send.begun
        {
            report.add(Violation::Reordered { queue: number, earlier: send.message, later: before.message });
        }
    }
    let mut first_ended: Option<&Send> = None;
    for send in in_order.iter().rev() {
        if let Some(behind) = first_ended
            && behind.ended < send.begun
            && behind.producer != send.producer
        {
            report.add(Violation::Reordered { queue: number, earlier: behind.message, later: send.message });
        }
        if first_ended.is_none_or(|behind| send.ended < behind.ended) {
            first_ended = Some(send);
        }
    }
}
