//! Load of which nothing is written down: so many messages, as fast as some connections can send them.

use crate::Outcome;
use crate::wire::{Conn, Header, code, frame, now_ms, send_fields};
use std::io::Write;
use std::ops::Range;

/// One message to send.
pub struct Message {
    pub topic: String,
    pub queue: i32,
    /// As they are stored.
    pub properties: String,
    pub body: Vec<u8>,
}

/// How many connections send, and how many sends each has under way.
#[derive(Clone, Copy, Debug)]
pub struct Width {
    pub connections: usize,
    pub under_way: usize,
}

/// Sends the messages of these numbers; each must be acknowledged. Connection `c` has every number that is `c` modulo
/// the number of connections, in their order.
pub fn flood(addr: &str, width: Width, numbers: Range<usize>, message: impl Fn(usize) -> Message + Sync) -> Outcome {
    let message = &message;
    let send = |first: usize| -> Outcome {
        let mut conn = Conn::open(addr)?;
        let born = now_ms().to_string();
        let mine: Vec<usize> = (numbers.start + first..numbers.end).step_by(width.connections).collect();
        let mut bytes = Vec::new();
        for window in mine.chunks(width.under_way) {
            bytes.clear();
            for number in window {
                let Message { topic, queue, properties, body } = message(*number);
                let queue_id = queue.to_string();
                let fields = send_fields(&topic, &queue_id, &born, &properties);
                bytes.extend(frame(Header::Binary, code::SEND_MESSAGE_V2, *number as i32, 0, &fields, &body));
            }
            conn.stream.write_all(&bytes)?;
            for _ in window {
                conn.read()?.ok()?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..width.connections).map(|first| scope.spawn(move || send(first))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a sender panicked".into())))
    })
}
