//! Gathers single events into batches for PostgreSQL; each caller hears of the commit of its own.
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::{mem, slice, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::{Client, Config, Error, NoTls, types::Type};
use tokio_util::task::AbortOnDropHandle;

// The id comes from the caller, so that whoever does not know whether its event was stored sends it again.
const INSERT: &str =
    "INSERT INTO events (id, body) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT (id) DO NOTHING";

#[derive(Clone)]
pub struct Settings {
    pub queue: usize,      // events that wait; times their size is memory
    pub batch: usize,      // events in one statement
    pub linger: Duration,  // how long the first of a batch waits for others
    pub attempt: Duration, // for one try, connecting included
    pub budget: Duration,  // for all tries of a batch, below the deadline of a request
    pub pause: Duration,   // between two tries
}

pub struct Event {
    pub id: String,
    pub body: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    Busy,    // not stored
    Refused, // not stored: the database does not take this one
    Unknown, // the database did not say: send it again under the same id
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Busy => crate::busy(),
            Failure::Refused => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
            Failure::Unknown => StatusCode::GATEWAY_TIMEOUT.into_response(),
        }
    }
}

struct Job {
    event: Event,
    done: oneshot::Sender<Result<(), Failure>>,
}

#[derive(Clone)]
pub struct Batcher(mpsc::Sender<Job>);

impl Batcher {
    /// The task ends when the last copy of the batcher is gone and the queue is empty.
    pub fn start(mut database: Config, settings: Settings) -> (Self, JoinHandle<()>) {
        let (jobs, queue) = mpsc::channel(settings.queue);
        // What was given up here should not go on there; nothing is acknowledged that is not on disk.
        let limit = settings.attempt.as_millis();
        database.options(format!("-c statement_timeout={limit} -c synchronous_commit=on"));
        (Self(jobs), tokio::spawn(Writer { database, settings, session: None }.run(queue)))
    }

    /// Returns when the event is committed, or says why not. Whoever drops this before takes back what still waits.
    pub async fn put(&self, event: Event) -> Result<(), Failure> {
        let (done, outcome) = oneshot::channel();
        self.0.try_send(Job { event, done }).map_err(|_| Failure::Busy)?;
        outcome.await.unwrap_or(Err(Failure::Unknown))
    }
}

struct Writer {
    database: Config,
    settings: Settings,
    // Its task would outlive the client for as long as the server owes it an answer.
    session: Option<(Client, AbortOnDropHandle<Result<(), Error>>)>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        while let Some(first) = queue.recv().await {
            batch.push(first);
            let due = Instant::now() + self.settings.linger;
            while batch.len() < self.settings.batch
                && let Ok(Some(job)) = timeout_at(due, queue.recv()).await
            {
                batch.push(job);
            }
            batch.retain(|job| !job.done.is_closed()); // for nobody: told 504, or gone
            if !batch.is_empty() {
                self.deliver(mem::take(&mut batch)).await;
            }
        }
    }

    async fn deliver(&mut self, batch: Vec<Job>) {
        let mut outcome = self.write(&batch).await;
        let apart = outcome == Err(Failure::Refused) && batch.len() > 1; // for one of them, so each for itself
        for job in batch {
            if apart && outcome != Err(Failure::Unknown) {
                outcome = self.write(slice::from_ref(&job)).await;
            }
            let _ = job.done.send(outcome);
        }
    }

    /// Repeats until the budget is used up: since an id is stored once, a commit whose answer was lost does no harm.
    async fn write(&mut self, batch: &[Job]) -> Result<(), Failure> {
        let end = Instant::now() + self.settings.budget;
        loop {
            let attempt = self.settings.attempt.min(end - Instant::now());
            match timeout(attempt, self.insert(batch)).await {
                Ok(Ok(())) => return Ok(()),
                // Data exceptions and violated constraints come back each time.
                Ok(Err(e)) if e.code().is_some_and(|c| matches!(&c.code()[..2], "22" | "23")) => {
                    tracing::warn!(error = ?e, events = batch.len(), "refused");
                    return Err(Failure::Refused);
                }
                Ok(Err(e)) => tracing::warn!(error = ?e, events = batch.len(), "not stored"),
                Err(_) => tracing::warn!(events = batch.len(), "no answer"),
            }
            self.session = None; // an answer to this try must not be taken for one to the next
            if Instant::now() + self.settings.pause >= end {
                return Err(Failure::Unknown);
            }
            sleep(self.settings.pause).await;
        }
    }

    async fn insert(&mut self, batch: &[Job]) -> Result<(), Error> {
        let session = match &mut self.session {
            Some(open) => open,
            none => {
                let (client, connection) = self.database.connect(NoTls).await?;
                none.insert((client, AbortOnDropHandle::new(tokio::spawn(connection))))
            }
        };
        let ids: Vec<&str> = batch.iter().map(|job| &*job.event.id).collect();
        let bodies: Vec<&str> = batch.iter().map(|job| &*job.event.body).collect();
        let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&ids, Type::TEXT_ARRAY), (&bodies, Type::TEXT_ARRAY)];
        session.0.execute_typed(INSERT, &values).await.map(drop) // no prepared statement, one round trip
    }
}
