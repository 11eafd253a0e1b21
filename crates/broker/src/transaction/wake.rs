//! How the thread that checks transactions sleeps and is woken. Owns no half; a send pays one atomic for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferromq_common::clock;
use parking_lot::{Condvar, Mutex};

/// How the thread is woken.
#[derive(Default)]
pub(super) struct Wake {
    state: Mutex<WakeState>,
    condition: Condvar,
    /// The thread sleeps without knowing of any half.
    idle: AtomicBool,
}

#[derive(Default)]
struct WakeState {
    poked: bool,
    stop: bool,
}

impl Wake {
    /// A half message was appended.
    pub fn for_new_half(&self) {
        if self.idle.swap(false, Ordering::AcqRel) {
            self.state.lock().poked = true;
            self.condition.notify_one();
        }
    }

    /// Whether a new half wakes the thread from here on: it knows of none that it waits for.
    pub fn listen(&self, to_new: bool) {
        self.idle.store(to_new, Ordering::Release);
    }

    /// Ends the thread's next sleep, and all after it.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.condition.notify_one();
    }

    /// Sleeps until then (milliseconds since 1970), or until the next half. Whether the thread goes on.
    pub fn sleep_until(&self, then: Option<i64>) -> bool {
        let mut state = self.state.lock();
        if !state.poked && !state.stop {
            match then {
                Some(then) => {
                    let millis = u64::try_from(then - clock::now_millis()).unwrap_or(0).max(1);
                    self.condition.wait_for(&mut state, Duration::from_millis(millis));
                }
                None => self.condition.wait(&mut state),
            }
        }
        state.poked = false;
        !state.stop
    }
}
