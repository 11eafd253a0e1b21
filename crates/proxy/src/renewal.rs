//! Receipt handles that the proxy keeps alive while a push consumer works on their messages
//! (`DefaultReceiptHandleManager`): the consumer keeps the handle it was given, the proxy knows the one that counts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ferromq_common::clock;
use parking_lot::Mutex;

use crate::call::Caller;
use crate::handle::Handle;
use crate::pb::Code;
use crate::rpc::invisible;
use crate::service::Service;
use crate::status::Refused;

/// Most handles kept alive; messages beyond that come back when their time is over.
const MAX_HELD: usize = 1_000_000;
/// A handle is renewed when its message is visible again within this time, milliseconds (`renewAheadTimeMillis`).
const AHEAD_MS: i64 = 10_000;
/// How long the first renewals last, minutes; the last step goes on.
const STEPS_MIN: [i64; 6] = [1, 3, 5, 10, 30, 60];
/// After this time a message is not kept from others any longer (`renewMaxTimeMillis`).
const MAX_HELD_FOR: Duration = Duration::from_secs(3 * 3600);
/// Tries that may fail.
const MAX_FAILURES: u32 = 3;
/// Messages of a client that is gone are visible again after this time, milliseconds.
const GIVEN_BACK_MS: i64 = 1000;

/// A message that is kept from others.
#[derive(Clone)]
pub(crate) struct Held {
    caller: Caller,
    topic: String,
    group: String,
    handle: Handle,
    since: Instant,
    renewals: usize,
    failures: u32,
}

impl Held {
    pub fn new(caller: &Caller, topic: &str, group: &str, handle: Handle) -> Self {
        let (caller, topic, group) = (caller.clone(), topic.to_owned(), group.to_owned());
        Held { caller, topic, group, handle, since: Instant::now(), renewals: 0, failures: 0 }
    }
}

/// All of them, by the handle that the consumer was given.
#[derive(Default)]
pub(crate) struct Renewals {
    held: Mutex<HashMap<String, Held>>,
}

impl Renewals {
    pub fn hold(&self, message: Held) {
        let mut held = self.held.lock();
        if held.len() < MAX_HELD {
            held.insert(message.handle.text().to_owned(), message);
        }
    }

    /// The handle that counts for one that a client names.
    pub fn latest(&self, text: &str) -> Result<Handle, Refused> {
        match self.held.lock().get(text) {
            Some(held) => Ok(held.handle.clone()),
            None => Handle::read(text),
        }
    }

    /// The message is done with.
    pub fn release(&self, text: &str) {
        self.held.lock().remove(text);
    }

    /// Renews what would be visible again soon.
    pub async fn renew_due(&self, service: &Service) {
        let soon = clock::now_millis() + AHEAD_MS;
        let due: Vec<(String, Held)> = {
            let held = self.held.lock();
            let due = held.iter().filter(|(_, message)| message.handle.visible_at() <= soon);
            due.map(|(text, message)| (text.clone(), message.clone())).collect()
        };
        for (text, mut message) in due {
            let is_here = service.clients.get(&message.caller.client_id).is_some();
            let over = message.since.elapsed() >= MAX_HELD_FOR;
            if !is_here || over {
                self.give_up(service, &text, &message).await;
                continue;
            }
            let minutes = STEPS_MIN[message.renewals.min(STEPS_MIN.len() - 1)];
            match renew(service, &message, minutes * 60_000).await {
                Ok(handle) => {
                    message.handle = handle;
                    message.renewals += 1;
                    message.failures = 0;
                }
                Err(refused) if refused.code == Code::InvalidReceiptHandle || message.failures >= MAX_FAILURES => {
                    tracing::debug!(handle = text, ?refused, "a receipt handle cannot be renewed");
                    self.release(&text);
                    continue;
                }
                Err(_) => message.failures += 1,
            }
            // Unless it was acknowledged meanwhile.
            if let Some(held) = self.held.lock().get_mut(&text) {
                *held = message;
            }
        }
    }

    /// The messages of a client that leaves are for others.
    pub async fn give_back(&self, service: &Service, client_id: &str) {
        let of_client: Vec<(String, Held)> = {
            let held = self.held.lock();
            let of_client = held.iter().filter(|(_, message)| message.caller.client_id == client_id);
            of_client.map(|(text, message)| (text.clone(), message.clone())).collect()
        };
        for (text, message) in of_client {
            self.give_up(service, &text, &message).await;
        }
    }

    async fn give_up(&self, service: &Service, text: &str, message: &Held) {
        self.release(text);
        if let Err(refused) = renew(service, message, GIVEN_BACK_MS).await {
            tracing::debug!(handle = text, ?refused, "a message is visible again only when its time is over");
        }
    }
}

async fn renew(service: &Service, message: &Held, invisible_ms: i64) -> Result<Handle, Refused> {
    let line = service.door.line(&message.caller);
    invisible::one(&line, &message.topic, &message.group, &message.handle, invisible_ms).await
}
