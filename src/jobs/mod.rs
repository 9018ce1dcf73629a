//! Durable jobs: leases, events, retries, on SQLite or PostgreSQL.
//!
//! What holds on both, whoever is killed when:
//!
//! - **States.** `queued`, `running` and `cancelling` are active; `succeeded`, `failed` and `cancelled` are final,
//!   and a job comes to one of them once.
//! - **Leases.** A claim leases one job to one worker until a time, under an epoch that grows with every claim.
//!   A heartbeat renews the lease, writes the progress and reads whether somebody asked for the end. Whatever a
//!   worker does to a job names the epoch, and does nothing under an older one. Right before a ref moves it is
//!   checked once more, and renewed for the time of the move.
//! - **Attempts** are counted when a job is claimed. A lease that ran out, or a run that failed, puts the job back
//!   with a pause that doubles, until its attempts are used up: then it has failed. A worker that ends in good
//!   order hands its job over, and that run does not count.
//! - **Order.** The next job is of the tenant with the fewest running, among equals of the one served longest ago,
//!   so that a tenant that floods delays itself. Among a tenant's own: the higher priority, then the older.
//! - **Parts.** A job that several workers can share has parts, which are jobs of their own and are not listed. It is
//!   due when all of them have succeeded; a part that ends otherwise ends it likewise, and its end ends the others.
//! - **Joining.** A tenant has one active job per key, which stands for recipe, source and target: who submits the
//!   same gets that job, whose priority rises to the higher of both.
//! - **Events** of a job are numbered from 1 without gaps, in the order of their commits: who has seen number *n*
//!   misses nothing by asking for what comes after it.
//! - **Time** is the database's: PostgreSQL's clock, or for SQLite the one machine's. Where it went back, no lease
//!   and no pause lasts longer than one that begins now; where it went forward, leases run out, and epochs keep
//!   whoever lost one from publishing.
//!
//! There is no HTTP here, and nothing of models: a job is JSON, and a child process runs it.

mod child;
mod copy;
mod database;
mod error;
mod hooks;
mod job;
mod keyed;
mod lease;
mod ledger;
mod outbox;
mod parts;
mod queue;
mod rows;
mod worker;

pub use error::{DatabaseError, JobsError};
pub use hooks::{Delivery, Hook, Sent};
pub use job::{
    Beat, Event, Filter, Job, JobId, Lease, Outcome, Policy, Quota, State, Submission, Submitted,
    WorkerSeen,
};
pub use keyed::Key;
pub use ledger::{Deed, TenantJobs};
pub use parts::MAX_PARTS;
pub use queue::{Clock, Jobs};
pub use worker::{Call, Calls, Ended, Hears, Worker, WorkerError, WorkerOptions};
