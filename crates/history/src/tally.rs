//! What the judges of consumption count. A message that comes again has a reason: its time was over, or a fault came between;
//! the third kind has none.

/// Most findings kept in words; all are counted.
const MAX_FINDINGS: usize = 20;

/// What a server's deliveries came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Taken by the server and never seen to its end.
    pub lost: u64,
    /// Came again because its time was over, or may have been.
    pub by_expiry: u64,
    /// Came again too soon or after its end, and a fault lies between.
    pub by_fault: u64,
    /// Came again too soon or after its end, without any reason.
    pub unexplained: u64,
    /// Came before one that stands before it.
    pub disordered: u64,
    /// Came although it was to be dropped, or was never sent.
    pub unwanted: u64,
    /// Came before its time.
    pub early: u64,
    /// The longest that one came after its time, in a server that ran all the while.
    pub late: i64,
    /// The longest that one came after its time, or after the server was back if that was later.
    pub late_after_fault: i64,
    /// The first of what must not be, in words.
    pub findings: Vec<String>,
}

impl Tally {
    /// Adds what another judge counted.
    pub fn add(&mut self, other: Tally) {
        self.lost += other.lost;
        self.by_expiry += other.by_expiry;
        self.by_fault += other.by_fault;
        self.unexplained += other.unexplained;
        self.disordered += other.disordered;
        self.unwanted += other.unwanted;
        self.early += other.early;
        self.late = self.late.max(other.late);
        self.late_after_fault = self.late_after_fault.max(other.late_after_fault);
        other.findings.into_iter().for_each(|finding| self.say(finding));
    }

    /// Whether each message came as often as a consumer must expect, in order and not before its time.
    pub fn is_clean(&self) -> bool {
        [self.lost, self.unexplained, self.disordered, self.unwanted, self.early].iter().all(|count| *count == 0)
    }

    pub(crate) fn say(&mut self, finding: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// So many messages came again that should not have.
    pub(crate) fn again(&mut self, count: u64, with_fault: bool, finding: String) {
        if with_fault {
            self.by_fault += count;
            self.say(format!("{finding}, over a fault"));
        } else {
            self.unexplained += count;
            self.say(finding);
        }
    }
}
