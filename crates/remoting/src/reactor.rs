//! Reactor threads, and how pushes reach the sockets that live on them.
//!
//! A push made by a reactor thread while it serves a drain is *collected*: when the drain is over, the thread writes to
//! those sockets itself, one write per connection, without waking the thread they live on: fewer wake-ups and no eventfd
//! write per message (0.3 of them otherwise, at 5,000 messages a second). A push from any other thread wakes the connection's task; wake-ups for one reactor are
//! gathered in its mailbox, so that a burst of them (a group commit) costs one wake-up of the thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Poll, Waker};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::connection::Connection;

/// Connections one drain writes to on its own; pushes to more of them go through the mailboxes, so that a message for
/// a thousand waiting consumers does not keep one thread from its work.
const COLLECTED_CONNECTIONS: usize = 16;

thread_local! {
    /// The reactor this thread is, as the address of its state; 0 elsewhere.
    static HERE: Cell<usize> = const { Cell::new(0) };
    static COLLECTING: Cell<bool> = const { Cell::new(false) };
    static COLLECTED: RefCell<Vec<Arc<Connection>>> = const { RefCell::new(Vec::new()) };
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
    pub fn start(index: usize) -> io::Result<(Arc<Reactor>, Stop, JoinHandle<()>)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let reactor = Arc::new(Reactor { handle, connections: AtomicUsize::new(0), mailbox: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let here = reactor.clone();
        let thread = std::thread::Builder::new().name(format!("reactor-{index}")).spawn(move || {
            HERE.set(Arc::as_ptr(&here).addr());
            runtime.spawn(deliver(here));
            // Ends when told to, or when the server was dropped.
            let _ = runtime.block_on(stopped);
        })?;
        Ok((reactor, stop, thread))
    }

    /// Wakes a task of this reactor, from any thread.
    pub fn wake(&self, sleeper: Waker) {
        if HERE.get() == std::ptr::from_ref(self).addr() {
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
