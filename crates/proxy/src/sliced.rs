//! Answers of any size in slices: HTTP/2 keeps what it is given until it is sent, however little the client reads. It asks for
//! more only when the client has room, so that what is not read waits where it is counted.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes};

/// Most bytes that HTTP/2 is given at once.
const SLICE: usize = 32 * 1024;

/// The body of an answer.
pub(crate) struct Sliced<B = Body> {
    body: B,
    /// What is left of the piece in hand.
    rest: Bytes,
}

impl<B> Sliced<B> {
    pub fn new(body: B) -> Self {
        Sliced { body, rest: Bytes::new() }
    }
}

impl<B: HttpBody<Data = Bytes, Error = Status> + Unpin> HttpBody for Sliced<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let slice = self.rest.len().min(SLICE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(slice)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::future::poll_fn;

    struct Pieces(VecDeque<Bytes>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[tokio::test]
    async fn a_piece_is_asked_for_when_the_one_before_is_given() {
        let long: Vec<u8> = (0..=255).cycle().take(2 * SLICE + 7).collect();
        let pieces = [long.clone(), b"short".to_vec()].map(Bytes::from);
        let mut sliced = Sliced::new(Pieces(pieces.into()));
        let (mut got, mut lengths) = (Vec::new(), Vec::new());
        while !sliced.is_end_stream() {
            let frame = poll_fn(|cx| Pin::new(&mut sliced).poll_frame(cx)).await.unwrap().unwrap();
            let slice = frame.into_data().unwrap();
            lengths.push((slice.len(), sliced.body.0.len()));
            got.extend_from_slice(&slice);
        }
        assert_eq!(lengths, [(SLICE, 1), (SLICE, 1), (7, 1), (5, 0)]);
        assert_eq!(got, [&long[..], b"short"].concat());
    }
}
