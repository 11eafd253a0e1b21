//! What goes down the telemetry stream of a client, while it waits to be read.

use std::sync::Arc;

use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::pb::TelemetryCommand;

/// Most commands that wait for one client.
const MAX_COMMANDS: usize = 64;
/// Most bytes of them; a larger command waits alone.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Most bytes of the commands that wait for all clients together, of those that carry messages.
const MAX_BYTES_OF_ALL: usize = 256 * 1024 * 1024;

type Told = Result<TelemetryCommand, Status>;

/// A command, and the places it takes until it is read.
struct Waiting {
    told: Told,
    _places: [Option<OwnedSemaphorePermit>; 2],
}

/// Why a command was not taken: too much waits for the client already, or it has gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("the client does not read: {MAX_COMMANDS} commands or {MAX_BYTES} bytes wait for it")]
    OfClient,
    #[error("clients do not read: {MAX_BYTES_OF_ALL} bytes wait for all of them")]
    OfAll,
    #[error("the client has gone")]
    Gone,
}

/// The bytes that wait for all clients.
#[derive(Clone)]
pub(crate) struct All(Arc<Semaphore>);

impl Default for All {
    fn default() -> Self {
        All(Arc::new(Semaphore::new(MAX_BYTES_OF_ALL)))
    }
}

/// The server's side of one stream.
#[derive(Clone)]
pub(crate) struct Commands {
    queue: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
    all: All,
}

impl Commands {
    /// A stream, and what the client reads of it.
    pub fn stream(all: All) -> (Self, impl Stream<Item = Told> + Send + 'static) {
        let (queue, told) = mpsc::channel(MAX_COMMANDS);
        let commands = Commands { queue, bytes: Arc::new(Semaphore::new(MAX_BYTES)), all };
        (commands, ReceiverStream::new(told).map(|waiting: Waiting| waiting.told))
    }

    pub fn is_of(&self, other: &Self) -> bool {
        self.queue.same_channel(&other.queue)
    }

    /// Asks the client something, unless too much waits already: whoever asks asks again.
    pub fn ask(&self, command: TelemetryCommand) -> Result<(), NotTaken> {
        let size = size(&command);
        let own = Arc::clone(&self.bytes).try_acquire_many_owned(size).map_err(|_| NotTaken::OfClient)?;
        let common = Arc::clone(&self.all.0).try_acquire_many_owned(size).map_err(|_| NotTaken::OfAll)?;
        let waiting = Waiting { told: Ok(command), _places: [Some(own), Some(common)] };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotTaken::OfClient,
            mpsc::error::TrySendError::Closed(_) => NotTaken::Gone,
        })
    }

    /// Answers what the client has told, when there is room for it. One that has gone hears nothing.
    pub async fn answer(&self, told: Told) {
        let size = told.as_ref().map_or(0, size);
        // Nobody closes it: there is no error.
        let own = Arc::clone(&self.bytes).acquire_many_owned(size).await.ok();
        let _ = self.queue.send(Waiting { told, _places: [own, None] }).await;
    }
}

fn size(command: &TelemetryCommand) -> u32 {
    u32::try_from(command.encoded_len().min(MAX_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::telemetry_command::Command;
    use crate::pb::{Message as Carried, VerifyMessageCommand};

    fn with(bytes: usize) -> TelemetryCommand {
        let message = Carried { body: vec![0; bytes].into(), ..Carried::default() };
        let command = VerifyMessageCommand { nonce: String::new(), message: Some(message) };
        TelemetryCommand { status: None, command: Some(Command::VerifyMessageCommand(command)) }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_bytes_within_bounds_and_frees_them_by_reading() {
        let all = All::default();
        let (commands, mut read) = Commands::stream(all.clone());
        commands.ask(with(MAX_BYTES / 2)).unwrap();
        assert!(matches!(commands.ask(with(MAX_BYTES / 2)), Err(NotTaken::OfClient)));
        commands.ask(with(10)).unwrap();
        assert!(read.next().await.unwrap().is_ok());
        assert!(read.next().await.unwrap().is_ok());
        assert_eq!(all.0.available_permits(), MAX_BYTES_OF_ALL, "what was read takes no place");
        commands.ask(with(2 * MAX_BYTES)).unwrap();
        assert!(matches!(commands.ask(with(0)), Err(NotTaken::OfClient)), "one above the limit waits alone");
        drop(read);
        assert_eq!(all.0.available_permits(), MAX_BYTES_OF_ALL, "nor what nobody will read");
        assert!(matches!(commands.ask(with(0)), Err(NotTaken::Gone)));
    }

    #[tokio::test]
    async fn all_clients_together_have_a_bound() {
        let all = All::default();
        let streams: Vec<_> = (0..MAX_BYTES_OF_ALL / MAX_BYTES).map(|_| Commands::stream(all.clone())).collect();
        streams.iter().try_for_each(|(commands, _)| commands.ask(with(MAX_BYTES))).unwrap();
        let (commands, mut read) = Commands::stream(all);
        assert!(matches!(commands.ask(with(10)), Err(NotTaken::OfAll)));
        commands.answer(Ok(with(10))).await;
        assert!(read.next().await.unwrap().is_ok(), "answers do not wait for others");
    }

    #[tokio::test]
    async fn there_is_a_bound_of_their_number() {
        let (commands, _read) = Commands::stream(All::default());
        (0..MAX_COMMANDS).try_for_each(|_| commands.ask(with(0))).unwrap();
        assert!(matches!(commands.ask(with(0)), Err(NotTaken::OfClient)));
    }
}
