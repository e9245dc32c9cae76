//! What goes on by itself: deadlines, presence, sums.

use std::{
    collections::HashSet,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ciphertune_round::{Context, Digest, Plan, ShareIndex};
use ciphertune_wire::Refusal;

use super::{Coordinator, Jobs};
use crate::{
    error::{Error, Refused, Result, fault},
    phase::{Effect, Input, Machine},
};

/// How long until what failed of a sum is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often contexts are looked for that are nobody's.
const SWEEP: Duration = Duration::from_secs(30);

impl Coordinator {
    pub(super) fn start_sum(self: &Arc<Self>, job: Digest, machine: &Machine, effect: Effect) {
        let (Effect::StartSum { context, seats }, Some(attempt)) = (effect, machine.current())
        else {
            return;
        };
        let (this, plan) = (Arc::clone(self), Arc::clone(&attempt.plan));
        if !self.being_added().insert(context) {
            return;
        }
        tokio::spawn(async move {
            let summed = this.sum(&context, &plan, &seats).await;
            this.being_added().remove(&context);
            let input = match summed {
                Ok(sum) => Input::Summed { context, sum },
                Err(Error::Refused(refused)) if refused.code == Refusal::Closing => return,
                Err(error) => {
                    tracing::error!(%context, %error, "no sum");
                    Input::SumFailed { context }
                }
            };
            // Nothing else ends this phase: what may pass is tried again.
            loop {
                match this.feed(&job, input.clone()).await {
                    Ok(()) => return,
                    Err(Error::Refused(refused)) if refused.code != Refusal::Full => {
                        tracing::warn!(%context, %refused, "a sum came too late");
                        return;
                    }
                    Err(error) => tracing::error!(%context, %error, "a sum waits"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    fn being_added(&self) -> MutexGuard<'_, HashSet<Context>> {
        self.adding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bodies, as soon as there is room for their sum.
    async fn sum(&self, context: &Context, plan: &Plan, seats: &[ShareIndex]) -> Result<Digest> {
        const DOING: &str = "adding bodies";
        let parameters = plan.parameters().map_err(|error| fault(DOING, error))?;
        let length = plan.length().map_err(|error| fault(DOING, error))?;
        loop {
            let added = self.bulk.add(context, parameters, length, seats).await;
            match added {
                Err(Error::Refused(refused)) if refused.code == Refusal::Full => {
                    tracing::error!(%context, %refused, "a sum waits");
                }
                added => return added,
            }
            if *self.closing.borrow() {
                return Err(Refused::new(Refusal::Closing, "shutting down").into());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Wakes jobs at their deadlines and when presence changes, until the server closes.
    pub async fn conduct(self: Arc<Self>) {
        {
            let jobs = self.jobs.lock().await;
            for (job, machine) in &jobs.running {
                for effect in machine.unfinished() {
                    self.start_sum(*job, machine, effect);
                }
            }
        }
        let mut closing = self.closing.subscribe();
        let mut swept = Instant::now();
        while !*closing.borrow() {
            let sleep = self.wake().await;
            if swept.elapsed() > SWEEP {
                swept = Instant::now();
                self.sweep().await;
            }
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.poke.notified() => {}
                _ = closing.changed() => {}
            }
        }
    }

    /// Removes what came into a context after its end: an upload hears of that a moment later.
    async fn sweep(&self) {
        let jobs = self.jobs.lock().await;
        let running = jobs.running.values();
        let current: Vec<_> = running
            .filter_map(|machine| machine.current().map(|attempt| attempt.context))
            .collect();
        if let Err(error) = self.bulk.sweep(&current).await {
            tracing::error!(%error, "old contexts stay for a while");
        }
    }

    /// Lets every job go on; returns how long until one wants to be woken. At most a second: clocks are set.
    async fn wake(self: &Arc<Self>) -> Duration {
        self.look_at_disk();
        let mut jobs = self.jobs.lock().await;
        let running: Vec<Digest> = jobs.running.keys().copied().collect();
        for job in running {
            match self.go_on(&mut jobs, &job).await {
                Ok(()) | Err(Error::Refused(_)) => {}
                Err(error) => tracing::error!(%job, %error, "a job cannot go on"),
            }
        }
        let now = self.now();
        jobs.running
            .iter()
            .filter(|(job, _)| !jobs.held.contains_key(*job))
            .map(|(_, machine)| machine)
            .filter_map(|machine| machine.wakes_at(now))
            .map(|moment| moment.since(now).max(Duration::from_millis(20)))
            .min()
            .unwrap_or(Duration::MAX)
            .min(Duration::from_secs(1))
    }

    async fn go_on(self: &Arc<Self>, jobs: &mut Jobs, job: &Digest) -> Result<()> {
        if self.waits_for_room(jobs, job).await? {
            return Ok(());
        }
        self.step(jobs, job, &Input::Deadline).await?;
        self.poll(jobs, job).await
    }
}
