//! The rules as a slow model in memory, run beside the database on random histories.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use tenpak::jobs::{Beat, Filter, JobId, Jobs, Lease, Outcome, Policy, State, Submission};

use super::world::{START, World, submission};

#[derive(Debug, Clone)]
enum Step {
    Submit { tenant: u8, key: u8, priority: i64, max_attempts: i64 },
    Claim,
    Beat(prop::sample::Index),
    Fence(prop::sample::Index),
    Finish(prop::sample::Index, u8),
    Cancel(prop::sample::Index),
    Expire,
    Time(i64),
}

fn step() -> impl Strategy<Value = Step> {
    use prop::sample::Index;
    prop_oneof![
        4 => (0..3u8, 0..4u8, 0..3i64, 1..4i64).prop_map(|(tenant, key, priority, max_attempts)| {
            Step::Submit { tenant, key, priority, max_attempts }
        }),
        4 => Just(Step::Claim),
        2 => any::<Index>().prop_map(Step::Beat),
        1 => any::<Index>().prop_map(Step::Fence),
        3 => (any::<Index>(), 0..4u8).prop_map(|(lease, how)| Step::Finish(lease, how)),
        1 => any::<Index>().prop_map(Step::Cancel),
        1 => Just(Step::Expire),
        3 => (0..40_000i64).prop_map(Step::Time),
        1 => (-100_000..400_000i64).prop_map(Step::Time),
    ]
}

#[derive(Debug, Clone)]
struct ModelJob {
    id: JobId,
    tenant: String,
    key: String,
    priority: i64,
    state: State,
    attempts: i64,
    max_attempts: i64,
    epoch: i64,
    lease_until: Option<i64>,
    run_at: i64,
    created_at: i64,
    ended: u32,
}

struct Model {
    policy: Policy,
    now: i64,
    jobs: Vec<ModelJob>,
    served: BTreeMap<String, i64>,
}

impl Model {
    fn lease(&self) -> i64 {
        self.policy.lease.as_millis() as i64
    }

    fn running(&self, tenant: &str) -> usize {
        self.jobs.iter().filter(|job| job.tenant == tenant && job.lease_until.is_some()).count()
    }

    fn expire(&mut self) {
        let (now, lease, policy) = (self.now, self.lease(), self.policy);
        let pause = policy.longest_pause.as_millis() as i64;
        for job in &mut self.jobs {
            if job.state == State::Queued {
                job.run_at = job.run_at.min(now + pause);
            }
            let Some(until) = &mut job.lease_until else { continue };
            *until = (*until).min(now + lease);
            if *until >= now {
                continue;
            }
            job.lease_until = None;
            job.run_at = now;
            if job.state == State::Cancelling {
                job.state = State::Cancelled;
            } else if job.attempts < job.max_attempts {
                job.state = State::Queued;
                job.run_at = now + policy.pause(job.attempts);
            } else {
                job.state = State::Failed;
            }
            job.ended += u32::from(job.state.is_final());
        }
    }

    fn claim(&mut self) -> Option<usize> {
        self.expire();
        let due = |job: &ModelJob| job.state == State::Queued && job.run_at <= self.now;
        let mut found: Vec<usize> =
            (0..self.jobs.len()).filter(|at| due(&self.jobs[*at])).collect();
        found.sort_by_key(|at| {
            let job = &self.jobs[*at];
            let turn = (self.running(&job.tenant), self.served[&job.tenant], job.tenant.clone());
            (turn, -job.priority, job.created_at, job.id.clone())
        });
        let at = *found.first()?;
        let next = self.served.values().max().unwrap() + 1;
        let until = self.now + self.lease();
        let job = &mut self.jobs[at];
        self.served.insert(job.tenant.clone(), next);
        job.state = State::Running;
        job.attempts += 1;
        job.epoch += 1;
        job.lease_until = Some(until);
        Some(at)
    }

    fn holds(&mut self, lease: &Lease) -> Option<&mut ModelJob> {
        let job = self.jobs.iter_mut().find(|job| job.id == lease.job)?;
        (job.epoch == lease.epoch && job.lease_until.is_some()).then_some(job)
    }

    fn finish(&mut self, lease: &Lease, outcome: &Outcome) -> Option<State> {
        let (now, policy) = (self.now, self.policy);
        let job = self.holds(lease)?;
        let retry = job.attempts < job.max_attempts;
        job.lease_until = None;
        job.state = match outcome {
            Outcome::Succeeded(_) => State::Succeeded,
            _ if job.state == State::Cancelling => State::Cancelled,
            Outcome::HandedOver => {
                (job.run_at, job.attempts) = (now, job.attempts - 1);
                State::Queued
            }
            Outcome::Failed { again: true, .. } if retry => {
                job.run_at = now + policy.pause(job.attempts);
                State::Queued
            }
            Outcome::Failed { .. } => State::Failed,
        };
        job.ended += u32::from(job.state.is_final());
        Some(job.state)
    }
}

fn outcome(how: u8) -> Outcome {
    match how {
        0 => Outcome::Succeeded(json!(how)),
        1 => Outcome::HandedOver,
        how => Outcome::Failed { error: "e".to_owned(), again: how == 2, found: None },
    }
}

fn run(jobs: &Jobs, time: &AtomicI64, steps: &[Step]) {
    let mut model =
        Model { policy: *jobs.policy(), now: START, jobs: Vec::new(), served: BTreeMap::new() };
    let mut leases = Vec::<Lease>::new();
    for step in steps {
        // Jobs of one millisecond have no order.
        model.now += 1;
        time.store(model.now, Ordering::SeqCst);
        match step {
            Step::Submit { tenant, key, priority, max_attempts } => {
                let (tenant, key) = (format!("t{tenant}"), format!("k{key}"));
                let wanted = Submission {
                    priority: *priority,
                    max_attempts: *max_attempts,
                    ..submission(&tenant, &key)
                };
                let given = jobs.submit(&wanted).unwrap();
                model.served.entry(tenant.clone()).or_insert(0);
                let active = model
                    .jobs
                    .iter_mut()
                    .find(|job| job.tenant == tenant && job.key == key && !job.state.is_final());
                assert_eq!(given.joined, active.is_some());
                match active {
                    Some(job) => {
                        assert_eq!(given.job.id, job.id);
                        job.priority = job.priority.max(*priority);
                    }
                    None => model.jobs.push(ModelJob {
                        id: given.job.id,
                        tenant,
                        key,
                        priority: *priority,
                        state: State::Queued,
                        attempts: 0,
                        max_attempts: *max_attempts,
                        epoch: 0,
                        lease_until: None,
                        run_at: model.now,
                        created_at: model.now,
                        ended: 0,
                    }),
                }
            }
            Step::Claim => {
                let claimed = jobs.claim("w").unwrap();
                let expected = model.claim().map(|at| model.jobs[at].id.clone());
                assert_eq!(claimed.as_ref().map(|(job, _)| job.id.clone()), expected);
                leases.extend(claimed.map(|(_, lease)| lease));
            }
            Step::Beat(_) | Step::Fence(_) | Step::Finish(..) if leases.is_empty() => {}
            Step::Beat(which) => {
                let lease = which.get(&leases);
                let until = model.now + model.lease();
                let expected = match model.holds(lease) {
                    None => Beat::Lost,
                    Some(job) => {
                        job.lease_until = Some(until);
                        if job.state == State::Cancelling { Beat::Cancel } else { Beat::Go }
                    }
                };
                assert_eq!(jobs.heartbeat(lease, None).unwrap(), expected);
            }
            Step::Fence(which) => {
                let lease = which.get(&leases);
                let until = model.now + model.lease();
                let job = model.holds(lease).filter(|job| job.state == State::Running);
                let expected = job.map(|job| job.lease_until = Some(until)).is_some();
                assert_eq!(jobs.may_publish(lease).unwrap(), expected);
            }
            Step::Finish(which, how) => {
                let (lease, outcome) = (which.get(&leases), outcome(*how));
                let expected = model.finish(lease, &outcome);
                assert_eq!(jobs.finish(lease, &outcome).unwrap(), expected);
            }
            Step::Cancel(_) if model.jobs.is_empty() => {}
            Step::Cancel(which) => {
                let at = which.index(model.jobs.len());
                let job = &mut model.jobs[at];
                job.state = match job.state {
                    State::Queued => State::Cancelled,
                    State::Running => State::Cancelling,
                    other => other,
                };
                if job.state == State::Cancelled && job.ended == 0 {
                    job.ended = 1;
                }
                assert_eq!(jobs.cancel(&job.id).unwrap().state, job.state);
            }
            Step::Expire => {
                model.expire();
                jobs.expire().unwrap();
            }
            Step::Time(by) => model.now += by,
        }
        let all = jobs.list(&Filter { limit: 1000, ..Filter::default() }).unwrap();
        assert_eq!(all.len(), model.jobs.len());
        for own in &model.jobs {
            let job = all.iter().find(|job| job.id == own.id).unwrap();
            let theirs = (job.state, job.attempts, job.epoch, job.lease_until, job.priority);
            assert_eq!(theirs, (own.state, own.attempts, own.epoch, own.lease_until, own.priority));
            if job.state == State::Queued {
                assert_eq!(job.run_at, own.run_at);
            }
        }
    }
    // Each came to an end at most once, and its events have no gap.
    for own in &model.jobs {
        let events = jobs.events(&own.id, 0, 10_000).unwrap();
        assert!(events.iter().zip(1..).all(|(event, n)| event.n == n));
        let ends = events.iter().filter(|event| {
            let state = event.data["state"].as_str().and_then(|state| state.parse().ok());
            event.kind == "state" && state.is_some_and(State::is_final)
        });
        assert_eq!(ends.count(), own.ended as usize);
        assert_eq!(own.ended, u32::from(own.state.is_final()));
    }
}

fn histories(world: &World, cases: u32) {
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    runner
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            let (jobs, time) = world.set(Policy::default());
            run(&jobs, &time, &steps);
            Ok(())
        })
        .unwrap();
}

#[test]
fn sqlite_does_what_the_model_does() {
    histories(&World::sqlite(), 100);
}

#[test]
fn postgres_does_what_the_model_does() {
    histories(&World::postgres(), 30);
}
