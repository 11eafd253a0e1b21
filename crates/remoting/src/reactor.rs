//! Reactor threads, the end of their turns, and how pushes reach the sockets that live on them.
//!
//! A *turn* is what a reactor does between two looks at its sockets: it serves those that are ready, one after the other,
//! then ends the turn once for all of them. So sixty clients with one message each cost one append, not sixty.
//!
//! A push made by a reactor thread while it serves a drain is *collected*: when the drain is over, the thread writes to
//! those sockets itself, one write per connection, without waking the thread they live on: fewer wake-ups and no eventfd
//! write per message (0.3 of them otherwise, at 5,000 messages a second). A push from any other thread wakes the connection's task; wake-ups for one reactor are
//! gathered in its mailbox, so that a burst of them (a group commit) costs one wake-up of the thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Poll, Waker};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::Service;
use crate::connection::Connection;

/// Connections one drain writes to on its own; pushes to more of them go through the mailboxes, so that a message for
/// a thousand waiting consumers does not keep one thread from its work.
const COLLECTED_CONNECTIONS: usize = 64;

thread_local! {
    /// The reactor this thread is, as the address of its state; 0 elsewhere.
    static HERE: Cell<usize> = const { Cell::new(0) };
    static COLLECTING: Cell<bool> = const { Cell::new(false) };
    static COLLECTED: RefCell<Vec<Arc<Connection>>> = const { RefCell::new(Vec::new()) };
    /// Requests were served since the last turn ended.
    static TURN_HAS_WORK: Cell<bool> = const { Cell::new(false) };
    /// Wakes the task that ends the turns of this thread.
    static TURN_ENDER: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// One reactor thread, as others see it.
#[derive(Debug)]
pub(crate) struct Reactor {
    pub handle: Handle,
    /// Connections that live here.
    pub connections: AtomicUsize,
    mailbox: Mutex<Mailbox>,
}

/// Tasks to be woken. At most one entry per connection: its waker is taken, and comes back when the task has run.
#[derive(Debug, Default)]
struct Mailbox {
    sleepers: Vec<Waker>,
    /// Present while the task that empties this sleeps.
    postman: Option<Waker>,
}

/// Ends a reactor thread when sent or dropped.
pub(crate) type Stop = oneshot::Sender<()>;

impl Reactor {
    pub fn start(index: usize, service: Arc<dyn Service>) -> io::Result<(Arc<Reactor>, Stop, JoinHandle<()>)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let reactor = Arc::new(Reactor { handle, connections: AtomicUsize::new(0), mailbox: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let here = reactor.clone();
        let thread = std::thread::Builder::new().name(format!("reactor-{index}")).spawn(move || {
            HERE.set(Arc::as_ptr(&here).addr());
            runtime.spawn(deliver(here));
            runtime.spawn(end_turns(service));
            // Ends when told to, or when the server was dropped.
            let _ = runtime.block_on(stopped);
        })?;
        Ok((reactor, stop, thread))
    }

    /// Whether this thread is it.
    pub fn is_here(&self) -> bool {
        HERE.get() == std::ptr::from_ref(self).addr()
    }

    /// Wakes a task of this reactor, from any thread.
    pub fn wake(&self, sleeper: Waker) {
        if self.is_here() {
            return sleeper.wake();
        }
        let postman = {
            let mut mailbox = self.mailbox.lock();
            mailbox.sleepers.push(sleeper);
            mailbox.postman.take()
        };
        if let Some(postman) = postman {
            postman.wake();
        }
    }
}

/// Requests were served on this reactor: its turn is to be ended, behind the sockets that are ready now.
pub(crate) fn end_turn_soon() {
    if !TURN_HAS_WORK.replace(true) {
        TURN_ENDER.with_borrow(|ender| ender.as_ref().map(Waker::wake_by_ref));
    }
}

/// Ends the turns of this thread.
async fn end_turns(service: Arc<dyn Service>) {
    poll_fn(|cx| {
        TURN_ENDER.with_borrow_mut(|ender| ender.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker()));
        // The runtime queues this behind the tasks whose sockets are ready, so that it runs when they have run.
        if TURN_HAS_WORK.take() && catch_unwind(AssertUnwindSafe(|| end_turn(&*service))).is_err() {
            tracing::error!("ending a turn has panicked: some of its requests stay unanswered");
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Answers what the turn has left, then does what need not delay the answers.
pub(crate) fn end_turn(service: &dyn Service) {
    {
        let _writes_at_its_end = Collecting::start();
        service.end_turn();
    }
    let _writes_at_its_end = Collecting::start();
    service.after_answers();
}

/// Wakes whoever the mailbox names, on the thread they live on.
async fn deliver(reactor: Arc<Reactor>) {
    let mut sleepers = Vec::new();
    poll_fn(|cx| {
        {
            let mut mailbox = reactor.mailbox.lock();
            std::mem::swap(&mut mailbox.sleepers, &mut sleepers);
            mailbox.postman = Some(cx.waker().clone());
        }
        sleepers.drain(..).for_each(Waker::wake);
        Poll::<()>::Pending
    })
    .await;
}

/// While this lives, pushes of this thread are collected; its end writes them.
pub(crate) struct Collecting(());

impl Collecting {
    pub fn start() -> Self {
        COLLECTING.set(true);
        Collecting(())
    }

    /// Whether a push on this thread is to be collected.
    pub fn is_on() -> bool {
        COLLECTING.get() && COLLECTED.with_borrow(|collected| collected.len() < COLLECTED_CONNECTIONS)
    }

    pub fn add(connection: Arc<Connection>) {
        COLLECTED.with_borrow_mut(|collected| collected.push(connection));
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        COLLECTING.set(false);
        while let Some(connection) = COLLECTED.with_borrow_mut(Vec::pop) {
            connection.write_collected();
        }
    }
}
