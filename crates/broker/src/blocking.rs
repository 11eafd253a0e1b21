//! One thread for reads that may wait for a disk, so that the reading of sockets never does.
//!
//! A job answers its request by `Connection::push`. The line of waiting jobs is bounded; beyond it requests are
//! answered SYSTEM_BUSY. The thread ends with the broker. A job must not touch what only reactors may.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};

use ferromq_protocol::code::response;

use crate::handler::Refusal;

/// Most jobs that wait.
const MAX_JOBS: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The way to the thread.
pub struct Blocking {
    jobs: SyncSender<Job>,
}

impl Blocking {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, next) = sync_channel::<Job>(MAX_JOBS);
        std::thread::Builder::new().name("cold-read".into()).spawn(move || {
            for job in next {
                // The request of a job that panics stays unanswered; the others must not.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a read outside of memory has panicked; its request stays unanswered");
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs a job on the thread, after those before it.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        self.jobs.try_send(Box::new(job)).map_err(|_| {
            let remark = "[OVERLOAD]system busy, too many requests wait for messages that are not in memory";
            Refusal::new(response::SYSTEM_BUSY, remark)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel as channel;

    use super::*;

    #[test]
    fn jobs_run_in_order_past_one_that_panics_and_their_number_is_limited() {
        let blocking = Blocking::start().unwrap();
        let (started, is_started) = channel(MAX_JOBS);
        let (go, may_go) = channel::<()>(1);
        let (done, results) = channel(MAX_JOBS);
        blocking
            .run(move || {
                started.send(()).unwrap();
                may_go.recv().unwrap();
            })
            .unwrap();
        is_started.recv().unwrap();
        blocking.run(|| panic!("a test's panic")).unwrap();
        for n in 0..MAX_JOBS - 1 {
            let done = done.clone();
            blocking.run(move || done.send(n).unwrap()).unwrap();
        }
        assert_eq!(blocking.run(|| {}).unwrap_err().code, response::SYSTEM_BUSY);
        go.send(()).unwrap();
        drop(done);
        assert_eq!(results.iter().collect::<Vec<_>>(), (0..MAX_JOBS - 1).collect::<Vec<_>>());
    }
}
