//! Answers of many pieces, which a client takes one after the other, or does not take.
//!
//! Pieces wait on a shelf for as long as the client has no room for them. Nobody is told when it never has: what still lies
//! there after a while is taken away, so that a client that does not read costs no more than its place. The shelves of a
//! connection, and all together, take answers until they hold so many bytes. Whoever takes messages for an answer asks before
//! whether there is room: what is given back afterwards counts as another try of a message that nobody has seen.
//!
//! What HTTP/2 has taken to send, a slice of each stream, lies on no shelf any more and is not counted; nor is the piece it is
//! sending once the shelf's time is over.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::Status;

use crate::call::Caller;
use crate::pb::Code;
use crate::service::Answers;
use crate::status::Refused;

/// How long a client may take for all pieces of an answer.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// A connection that has not read so many bytes of answers gets no further ones.
const MAX_BYTES_OF_ONE: usize = 64 * 1024 * 1024;
/// Nobody gets further ones while so many bytes are not read, of all connections.
const MAX_BYTES: usize = 512 * 1024 * 1024;

/// Bytes of the answers on all shelves.
#[derive(Default)]
struct Taken {
    all: usize,
    /// By the address of the client's end; who has none is not in it.
    by_connection: HashMap<SocketAddr, usize>,
}

impl Taken {
    fn check(&self, peer: SocketAddr) -> Result<(), Refused> {
        let own = self.by_connection.get(&peer).copied().unwrap_or(0);
        if self.all < MAX_BYTES && own < MAX_BYTES_OF_ONE {
            return Ok(());
        }
        let why = format!(
            "answers of {MAX_BYTES_OF_ONE} bytes of this connection, or {MAX_BYTES} of all, are not read; read them, or try again"
        );
        Err(Refused::new(Code::TooManyRequests, why))
    }
}

/// All shelves.
#[derive(Clone, Default)]
pub(crate) struct Shelves(Arc<Mutex<Taken>>);

/// The room of one answer.
struct Room {
    shelves: Shelves,
    peer: SocketAddr,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.shelves.0.lock();
        taken.all -= self.bytes;
        if let Entry::Occupied(mut own) = taken.by_connection.entry(self.peer) {
            *own.get_mut() -= self.bytes;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// What lies on a shelf.
struct Pieces<T> {
    waiting: VecDeque<T>,
    room: Room,
}

/// The client's side of a shelf. Its end tells the other.
struct Shelf<T> {
    /// None: they have been taken away.
    pieces: Arc<Mutex<Option<Pieces<T>>>>,
    _here: oneshot::Sender<()>,
}

impl Shelves {
    /// Refuses a caller for whose answer there would be no room now.
    pub fn check(&self, caller: &Caller) -> Result<(), Refused> {
        self.0.lock().check(caller.ends.peer)
    }

    fn room(&self, peer: SocketAddr, bytes: usize) -> Result<Room, Refused> {
        let mut taken = self.0.lock();
        taken.check(peer)?;
        taken.all += bytes;
        *taken.by_connection.entry(peer).or_default() += bytes;
        Ok(Room { shelves: self.clone(), peer, bytes })
    }

    /// An answer. `left` is told what the client has not taken, when it is gone or its time is over, or everything if there
    /// is no room for it any more. What `left` returns may take its time, but has no room: the pieces themselves are not in it.
    pub fn answer<T, F>(
        &self,
        caller: &Caller,
        pieces: Vec<T>,
        left: impl FnOnce(VecDeque<T>) -> F + Send + 'static,
    ) -> Result<Answers<T>, Refused>
    where
        T: Message + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let room = match self.room(caller.ends.peer, pieces.iter().map(T::encoded_len).sum()) {
            Ok(room) => room,
            Err(refused) => {
                tokio::spawn(left(pieces.into()));
                return Err(refused);
            }
        };
        let pieces = Arc::new(Mutex::new(Some(Pieces { waiting: pieces.into(), room })));
        let (here, gone) = oneshot::channel();
        let shelf = Shelf { pieces: Arc::clone(&pieces), _here: here };
        tokio::spawn(async move {
            // Either way: it has read all it ever will.
            let _ = tokio::time::timeout(TAKEN_WITHIN, gone).await;
            let rest = pieces.lock().take();
            if let Some(Pieces { waiting, room }) = rest.filter(|rest| !rest.waiting.is_empty()) {
                let left = left(waiting);
                drop(room);
                left.await;
            }
        });
        Ok(Box::pin(shelf))
    }
}

impl<T> Stream for Shelf<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match &mut *self.pieces.lock() {
            Some(pieces) => pieces.waiting.pop_front().map(Ok),
            None => Some(Err(Status::deadline_exceeded(format!("the answer was not read within {TAKEN_WITHIN:?}")))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Ends;
    use tokio_stream::StreamExt;

    fn caller(client: u16) -> Caller {
        let ends = [client, 1].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Caller::of_http(Ends { peer: ends[0], local: ends[1] }, "client".to_owned())
    }

    fn shelf() -> (Answers<i32>, oneshot::Receiver<VecDeque<i32>>) {
        let (tell, told) = oneshot::channel();
        let answers = Shelves::default().answer(&caller(0), vec![1, 2, 3], |rest| async move { drop(tell.send(rest)) });
        (answers.unwrap(), told)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_does_not_take_is_taken_away() {
        let (mut answers, told) = shelf();
        assert_eq!(answers.next().await.unwrap().unwrap(), 1);
        assert_eq!(told.await.unwrap(), [2, 3], "its time is over");
        assert!(answers.next().await.unwrap().is_err(), "an answer that is cut says so");

        let (mut answers, told) = shelf();
        assert_eq!(answers.next().await.unwrap().unwrap(), 1);
        drop(answers);
        assert_eq!(told.await.unwrap(), [2, 3], "it is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_of_an_answer_that_was_read() {
        let (answers, told) = shelf();
        let read: Vec<i32> = answers.map(Result::unwrap).collect().await;
        assert_eq!(read, [1, 2, 3]);
        assert!(told.await.is_err(), "nobody is told");
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_have_a_bound() {
        let shelves = Shelves::default();
        let answer = |client: u16, bytes: usize| {
            let (tell, told) = oneshot::channel();
            let left = |rest: VecDeque<Vec<u8>>| async move { tell.send(rest.len()).unwrap_or_default() };
            (shelves.answer(&caller(client), vec![vec![0; bytes], Vec::new()], left), told)
        };
        // A piece is some bytes longer than what is in it.
        let half = MAX_BYTES_OF_ONE / 2;
        let (first, told_of_first) = answer(0, half);
        let (second, told_of_second) = answer(0, half);
        let (third, told) = answer(0, half);
        assert_eq!(third.err().unwrap().code, Code::TooManyRequests);
        assert_eq!(told.await.unwrap(), 2, "all of it is left");
        assert!(shelves.check(&caller(0)).is_err() && shelves.check(&caller(1)).is_ok(), "others have room");
        let mut others: Vec<_> =
            (1..).map(|client| answer(client, half)).take_while(|(answer, _)| answer.is_ok()).collect();
        assert_eq!(others.len() + 2, MAX_BYTES / half, "one does not keep others away, all of them do");
        assert!(shelves.check(&caller(1000)).is_err());
        for (answer, told) in [(first, told_of_first), (second, told_of_second)].into_iter().chain(others.pop()) {
            drop(answer);
            assert_eq!(told.await.unwrap(), 2);
        }
        let (again, told) = answer(0, MAX_BYTES_OF_ONE);
        assert_eq!(again.unwrap().collect::<Vec<_>>().await.len(), 2, "there is room again");
        assert!(told.await.is_err());
        for (answer, told) in others {
            drop(answer);
            assert_eq!(told.await.unwrap(), 2);
        }
        let taken = shelves.0.lock();
        assert_eq!((taken.all, taken.by_connection.len()), (0, 0));
    }
}
