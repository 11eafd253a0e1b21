//! What the parts of a server have in common for the driver: a connection with requests under way, and operations that a script
//! chooses.

use ferromq_contract::Outcome;
use ferromq_contract::wire::{Answer, Conn};
use ferromq_history::Tally;

/// A part of a server under test, with what is known of its messages.
pub trait Part {
    /// What the table calls it.
    fn name(&self) -> &'static str;
    fn lane(&mut self) -> &mut Lane;
    /// Writes a request that a random number chooses; nothing, if there is nothing to do.
    fn begin(&mut self, roll: u64) -> Outcome;
    /// Its answer came, or the connection ended before.
    fn settle(&mut self, opaque: i32, answer: Option<&Answer>) -> Outcome;
    /// The server was away, from one time to another, and is there again.
    fn fault(&mut self, from: i64, to: i64) -> Outcome;
    /// Takes what comes now and ends it; whether anything came.
    fn drain(&mut self) -> Outcome<bool>;
    /// Messages that still have to come.
    fn open(&self) -> usize;
    /// The judgement, when nothing comes any more.
    fn finish(&mut self) -> Tally;
}

/// A connection of a part.
pub struct Lane {
    addr: String,
    conn: Conn,
    under_way: Vec<i32>,
    /// Requests written.
    pub operations: u64,
    /// Answers with a code that the part did not expect.
    pub refused: u64,
}

impl Lane {
    pub fn open(addr: &str) -> Outcome<Lane> {
        let conn = Conn::open(addr)?;
        Ok(Lane { addr: addr.to_owned(), conn, under_way: Vec::new(), operations: 0, refused: 0 })
    }

    /// Writes a request; its opaque, by which the answer is known.
    pub fn begin(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Outcome<i32> {
        let opaque = self.conn.begin(code, fields, body)?;
        self.under_way.push(opaque);
        self.operations += 1;
        Ok(opaque)
    }

    /// A request and its answer, while none is under way.
    pub fn call(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Outcome<Answer> {
        self.operations += 1;
        self.conn.call(code, fields, body)
    }

    /// The connection, for a call that is no operation.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

/// Reads answers until so many are left under way.
pub fn settle(part: &mut dyn Part, left: usize) -> Outcome {
    while part.lane().under_way.len() > left {
        let answer = part.lane().conn.read()?;
        part.lane().under_way.retain(|opaque| *opaque != answer.opaque);
        part.settle(answer.opaque, Some(&answer))?;
    }
    Ok(())
}

/// Reads the answers that a killed server still gave, and leaves the others open.
pub fn cut(part: &mut dyn Part) -> Outcome {
    while !part.lane().under_way.is_empty() {
        let Ok(answer) = part.lane().conn.read() else { break };
        part.lane().under_way.retain(|opaque| *opaque != answer.opaque);
        part.settle(answer.opaque, Some(&answer))?;
    }
    for opaque in std::mem::take(&mut part.lane().under_way) {
        part.settle(opaque, None)?;
    }
    Ok(())
}

/// Connects to a server that was started again, and tells the part that it was away.
pub fn resume(part: &mut dyn Part, from: i64, to: i64) -> Outcome {
    let lane = part.lane();
    lane.conn = Conn::open(&lane.addr)?;
    part.fault(from, to)
}
