//! Telemetry: a client tells its settings, gets them back completed, and hears what the broker asks.

use std::sync::Arc;

use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use crate::call::{self, Caller};
use crate::clients::Clients;
use crate::commands::Commands;
use crate::pb::TelemetryCommand;
use crate::pb::telemetry_command::Command;
use crate::service::{Answers, Service};
use crate::status::{self, Refused};

pub(crate) fn talk(
    service: &Service,
    caller: Result<Caller, Refused>,
    request: Request<Streaming<TelemetryCommand>>,
) -> Result<Response<Answers<TelemetryCommand>>, Status> {
    let caller = caller.map_err(|refused| ended(&refused))?;
    let (commands, told) = Commands::stream(service.clients.waiting.clone());
    let clients = Arc::clone(&service.clients);
    let mut stopped = service.stopped.clone();
    let mut asked = request.into_inner();
    tokio::spawn(async move {
        let listen = async {
            while let Some(Ok(command)) = asked.next().await {
                // In a box of its own: it may ask brokers, and a stream that only waits need not have room for that.
                if let Err(refused) = Box::pin(hear(&clients, &caller, command, &commands)).await {
                    commands.answer(Err(ended(&refused))).await;
                    return;
                }
            }
        };
        let over = async {
            match caller.timeout {
                Some(timeout) => {
                    // Few streams have one that counts, and the others need not have room for it.
                    Box::pin(tokio::time::sleep(timeout)).await;
                    commands.answer(Err(call::too_late(timeout))).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = listen => {}
            () = over => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        clients.hung_up(&caller, &commands);
    });
    Ok(Response::new(Box::pin(told)))
}

async fn hear(clients: &Clients, caller: &Caller, told: TelemetryCommand, commands: &Commands) -> Result<(), Refused> {
    match told.command {
        Some(Command::Settings(settings)) => {
            let settings = clients.settle(caller, settings, commands).await?;
            let answer = TelemetryCommand { status: Some(status::ok()), command: Some(Command::Settings(settings)) };
            commands.answer(Ok(answer)).await;
        }
        Some(Command::ThreadStackTrace(trace)) => {
            clients.known(caller)?.traced(&trace.nonce, &told.status.unwrap_or_default(), trace.thread_stack_trace);
        }
        Some(Command::VerifyMessageResult(result)) => {
            clients.known(caller)?.verified(&result.nonce, &told.status.unwrap_or_default());
        }
        Some(other) => tracing::debug!(client = caller.client_id, ?other, "a command that no server takes"),
        None => {}
    }
    Ok(())
}

/// Settings that cannot be end the stream: what is wrong with the client as INVALID_ARGUMENT, the rest as INTERNAL.
fn ended(refused: &Refused) -> Status {
    let text = format!("{}: {}", refused.code.as_str_name(), refused.message);
    match refused.code as i32 {
        40_000..=49_999 => Status::invalid_argument(text),
        _ => Status::internal(text),
    }
}
