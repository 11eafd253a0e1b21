//! Answers of many pieces, which a client takes one after the other, or does not take.
//!
//! Pieces wait on a shelf for as long as the client has no room for them. Nobody is told when it never has: what still lies
//! there after a while is taken away, so that a client that does not read costs no more than its place.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::Status;

use crate::service::Answers;

/// How long a client may take for all pieces of an answer.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// The client's side of a shelf. Its end tells the other.
struct Shelf<T> {
    /// None: they have been taken away.
    pieces: Arc<Mutex<Option<VecDeque<T>>>>,
    _here: oneshot::Sender<()>,
}

/// An answer. `left` is told what the client has not taken, when it is gone or its time is over.
pub(crate) fn answer<T, F>(pieces: Vec<T>, left: impl FnOnce(VecDeque<T>) -> F + Send + 'static) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send,
{
    let pieces = Arc::new(Mutex::new(Some(VecDeque::from(pieces))));
    let (here, gone) = oneshot::channel();
    let shelf = Shelf { pieces: Arc::clone(&pieces), _here: here };
    tokio::spawn(async move {
        // Either way: it has read all it ever will.
        let _ = tokio::time::timeout(TAKEN_WITHIN, gone).await;
        let rest = pieces.lock().take();
        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
            left(rest).await;
        }
    });
    Box::pin(shelf)
}

impl<T> Stream for Shelf<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match &mut *self.pieces.lock() {
            Some(pieces) => pieces.pop_front().map(Ok),
            None => Some(Err(Status::deadline_exceeded(format!("the answer was not read within {TAKEN_WITHIN:?}")))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    fn shelf() -> (Answers<i32>, oneshot::Receiver<VecDeque<i32>>) {
        let (tell, told) = oneshot::channel();
        let answers = answer(vec![1, 2, 3], |rest| async move { drop(tell.send(rest)) });
        (answers, told)
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
}
